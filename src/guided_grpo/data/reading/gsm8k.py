"""Reader of GSM8K records: `{"question": …, "answer": "worked steps … #### 18"}`.

The trace is the worked steps without the calculator notes `<<48/2=24>>` (the last note is not the answer in 470 of
8,792 records, so nothing is read from them) and without the `####` line. Difficulty is the number of steps, the lines
of the trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.types import Row

INSTRUCTION = "Reason step by step, one step a line, then write the final answer alone after ####."
MARK = "####"

_NOTE = re.compile(r"<<[^<>]*>>")
_UNSEEN = str.maketrans({"\u2212": "-", "\u00a0": " ", **dict.fromkeys("\u200b\u200c\u200d\ufeff", "")})


def is_gsm8k(record: Mapping[str, Any]) -> bool:
    """Whether a record has exactly the two columns of GSM8K and an answer after `####`."""
    return set(record) == {"question", "answer"} and isinstance(record["answer"], str) and MARK in record["answer"]


def read_gsm8k(record: Mapping[str, Any], *, file: str, line: int) -> dict[str, Any]:
    """One record as a row; its other columns are kept. `file` and `line` are for messages.

    Raises InputError where a field is missing or no text, and where `####` does not stand exactly once.
    """
    for field in ("question", "answer"):
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise InputError(
                "is not a text",
                file=file,
                line=line,
                field=field,
                value=record.get(field),
                fix="give GSM8K's fields question and answer, or set the reader to plain with a mapping",
            )
    if record["answer"].count(MARK) != 1:
        raise InputError(
            f"holds {MARK} {record['answer'].count(MARK)} times",
            file=file,
            line=line,
            field="answer",
            fix=f"write the worked steps, one {MARK}, and the final answer",
        )
    steps, _, answer = record["answer"].partition(MARK)
    trace = _NOTE.sub("", steps).rstrip()
    row: Row = {
        "prompt": [{"role": "user", "content": f"{record['question']}\n{INSTRUCTION}"}],
        "answer": answer.translate(_UNSEEN).replace(",", "").strip(),
        "guidance": trace or None,
        "difficulty": sum(1 for step in trace.split("\n") if step.strip()),
        "task": "math",
    }
    return {**{name: value for name, value in record.items() if name not in ("question", "answer")}, **row}
