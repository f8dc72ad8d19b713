r"""Readers of benchmarks: a record of a published schema → a row without guidance.

Gold answers come in the forms that the copies have: AMC's as floats (27.0), AIME's with leading zeros, OlympiadBench's
as a list of texts in `$…$`, degrees (336^\circ). One copy of AIME 2025 lost its escapes (a form feed for the \f of
\frac): they are put back.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import random
import re
import zlib
from collections.abc import Mapping
from typing import Any

from guided_grpo.data.reading.code_readers import read_humaneval
from guided_grpo.data.reading.drafts import FUNCTION, MATHS, PROGRAM, RejectedError, fenced, maybe_text, text_of
from guided_grpo.data.reading.gsm8k import INSTRUCTION, read_gsm8k
from guided_grpo.data.reading.rows import Written
from guided_grpo.errors import InputError
from guided_grpo.grading.answers import declared_answer

Record = Mapping[str, Any]
Row = dict[str, Any]  # prompt (text), task, answer and answer_kind or tests, difficulty where the data has one

CHOICE = "Reason step by step, and put the letter of the one right answer in \\boxed{}."
_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\\circ\}?|°)\s*$")
_WHOLE = re.compile(r"(-?\d+)\.0+")
# What a JSON parser made of a LaTeX command, and how that command goes on. A form feed or a backspace is never text.
_EATEN = (
    (re.compile("\f"), r"\f"),
    (re.compile("\b"), r"\b"),
    (re.compile(r"\t(?=imes|heta|ext|frac|riangle|an\b|au\b|o\b)"), r"\t"),
    (re.compile(r"\r(?=ight|angle|floor|ceil|ho\b)"), r"\r"),
)
_MBPP_TEST = range(11, 511)  # task_id of its test split; 1–10 are for prompts, the rest for training


class _TextOnly(pickle.Unpickler):
    """A pickle may hold text and nothing that runs."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}")


def read_gsm8k_row(record: Record, seed: int) -> Row:
    """question, answer with `#### N`."""
    try:
        row = read_gsm8k(record, file="gsm8k", line=0)
    except InputError as error:
        raise RejectedError("missing-field", str(error).partition(": ")[2]) from None
    problem = text_of(record, "question")
    return {
        "prompt": f"{problem}\n{INSTRUCTION}",
        "task": "math",
        "answer": row["answer"],
        "difficulty": row["difficulty"],
    }


def read_maths(record: Record, seed: int) -> Row:
    r"""problem or question; answer, or the `\boxed` of solution; level where there is one."""
    answer = record.get("answer", record.get("Answer"))
    text = number_text(answer) if answer is not None else declared_answer(maybe_text(record, "solution") or "")
    if not text:
        raise RejectedError("no-answer", f"neither answer nor a solution that declares one in {', '.join(record)}")
    row = {"prompt": _asked(_problem(record), MATHS), "task": "math", "answer": mended(text)}
    return {**row, "difficulty": record["level"]} if record.get("level") is not None else row


def read_integer(record: Record, seed: int) -> Row:
    """The same with whole numbers as answers (AIME)."""
    row = read_maths(record, seed)
    return {**row, "answer": _DEGREES.sub("", row["answer"]), "answer_kind": "integer"}


def read_olympiad(record: Record, seed: int) -> Row:
    """question, context, final_answer (a list), subfield. Several answers are right in any order, all of them."""
    final = record.get("final_answer", record.get("answer"))
    golds = [final] if isinstance(final, str) else final
    if not isinstance(golds, list | tuple) or not golds or not all(isinstance(gold, str) for gold in golds):
        raise RejectedError("no-answer", f"final_answer is no list of texts; the columns are {', '.join(record)}")
    problem, context = _problem(record), maybe_text(record, "context")
    row = {
        "prompt": _asked(f"{context}\n\n{problem}" if context else problem, MATHS),
        "task": "math",
        "answer": ", ".join(gold.replace("$", "").strip() for gold in golds),
    }
    return {**row, "difficulty": record["subfield"]} if record.get("subfield") else row


def read_gpqa(record: Record, seed: int) -> Row:
    """Question, Correct Answer, Incorrect Answer 1–3. The order of the options comes from `seed` and the question."""
    question = text_of(record, "Question")
    options = [text_of(record, name) for name in _OPTIONS]
    order = list(range(len(options)))
    random.Random(f"{seed}\0{question}").shuffle(order)
    listed = "\n".join(f"{letter}) {options[place]}" for letter, place in zip("ABCD", order, strict=True))
    row = {
        "prompt": _asked(f"{question}\n\n{listed}", CHOICE),
        "task": "math",
        "answer": "ABCD"[order.index(0)],
        "answer_kind": "choice",
    }
    domain = maybe_text(record, "High-level domain")
    return {**row, "difficulty": domain} if domain else row


def read_humaneval_row(record: Record, seed: int) -> Row:
    """prompt, test, entry_point, canonical_solution."""
    draft = read_humaneval(record)
    entry = draft.columns["entry_point"]
    return {"prompt": _asked(draft.problem, FUNCTION), "task": "code", "tests": draft.tests, "entry_point": entry}


def read_mbpp_row(record: Record, seed: int) -> Row | None:
    """text, test_list, test_setup_code; all tests are shown, as published. None = of another split."""
    number = record.get("task_id")
    if isinstance(number, int) and number not in _MBPP_TEST:
        return None
    tests = record.get("test_list")
    if not isinstance(tests, list | tuple) or not tests or not all(isinstance(test, str) for test in tests):
        raise RejectedError("bad-tests", f"test_list holds no asserts; the columns are {', '.join(record)}")
    shown = fenced("\n".join(tests))
    row = {
        "prompt": _asked(f"{text_of(record, 'text', 'prompt')}\n\nIt must pass these tests:\n\n{shown}", FUNCTION),
        "task": "code",
        "tests": list(tests),
    }
    setup = maybe_text(record, "test_setup_code")
    return {**row, "setup": setup} if setup else row


def read_livecodebench(record: Record, seed: int) -> Row:
    """question_content, starter_code, public_test_cases, private_test_cases, metadata {func_name}, difficulty.

    With a func_name the tests call that method of `Solution`, arguments as JSON, one a line; without one they are
    standard input and output. Hidden tests count, shown ones too.
    """
    cases = [*_cases(record, "public_test_cases"), *_cases(record, "private_test_cases")]
    if not cases:
        raise RejectedError("bad-tests", "no test cases")
    meta = json.loads(record.get("metadata") or "{}") if isinstance(record.get("metadata"), str) else {}
    name = meta.get("func_name")
    problem, starter = text_of(record, "question_content"), maybe_text(record, "starter_code")
    asked = f"{problem}\n\nComplete this code:\n\n{fenced(starter)}" if starter else problem
    inputs, outputs = [case["input"] for case in cases], [case["output"] for case in cases]
    row = {"task": "code", "difficulty": text_of(record, "difficulty")}
    if not name:
        tests = {"inputs": inputs, "outputs": outputs}
        return {**row, "prompt": _asked(asked, PROGRAM), "tests": json.dumps(tests)}
    return {
        **row,
        "prompt": _asked(asked, FUNCTION),
        "tests": json.dumps({"inputs": inputs, "outputs": outputs, "fn_name": name}),
        "setup": f"if 'Solution' in globals(): {name} = Solution().{name}",
    }


def number_text(value: Any) -> str:
    """An answer as text; a whole number that was stored as a float (27.0) as a whole number."""
    text = value.text if isinstance(value, Written) else str(value)
    whole = _WHOLE.fullmatch(text.strip())
    return whole[1] if whole else text.strip()


def mended(text: str) -> str:
    """A text with the LaTeX commands whose backslash a JSON parser ate."""
    for pattern, command in _EATEN:
        text = pattern.sub(lambda _, command=command: command, text)  # type: ignore[misc]  # bound at once
    return text


def _problem(record: Record) -> str:
    names = ("problem", "question", "Problem", "Question")
    return text_of(
        {name: mended(value) if name in names and isinstance(value, str) else value for name, value in record.items()},
        *names,
    )


def _asked(problem: str, instruction: str) -> str:
    return f"{problem}\n\n{instruction}"


def _cases(record: Record, name: str) -> list[dict[str, str]]:
    """Test cases: a list, its JSON text, or base64 of zlib of a pickle of that text, as the hidden ones come."""
    value = record.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = _unpacked(value, name)
    if not isinstance(value, list) or not all(isinstance(c, Mapping) and {"input", "output"} <= set(c) for c in value):
        raise RejectedError("bad-tests", f"{name} holds no pairs of input and output")
    return [dict(case) for case in value]


def _unpacked(text: str, name: str) -> Any:
    try:
        return json.loads(_TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load())
    except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError, IndexError, KeyError) as error:
        raise RejectedError("bad-tests", f"{name} cannot be unpacked ({error})") from None
