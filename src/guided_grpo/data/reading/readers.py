"""Readers by name: a record of a published schema → a `Draft`. Every command accepts these names.

What was seen of each schema, and where, stands with its reader; hub pages were not reachable when this was written, so
columns come from the data set cards' mirrors and from public code that reads the sets. A column that is missing is a
rejected record with the columns that are there, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from guided_grpo.data.reading import code_readers as code
from guided_grpo.data.reading.drafts import (
    MATHS,
    Draft,
    RejectedError,
    Trace,
    asks_for_proof,
    list_of,
    maybe_text,
    split_thought,
    text_of,
    tidy,
)
from guided_grpo.data.reading.streams import Record, exact_text
from guided_grpo.errors import InputError
from guided_grpo.grading.answers import declared_answer

GSM8K_INSTRUCTION = "Reason step by step, one step a line, then write the final answer alone after ####."
GSM8K_MARK = "####"

_NOTE = re.compile(r"<<[^<>]*>>")
_UNSEEN = str.maketrans({"\u2212": "-", "\u00a0": " ", **dict.fromkeys("\u200b\u200c\u200d\ufeff", "")})
_NO_ANSWER = {"", "notfound", "not found", "none", "null", "n/a", "nan"}
_BARE = 60  # characters: a longer solution without a declared answer is prose


def read_plain(record: Record) -> Draft:
    """Our own column names (after the mapping): prompt, answer or tests, guidance, difficulty; the rest is kept."""
    if "prompt" not in record:
        raise RejectedError("missing-field", f"no prompt; the columns are {', '.join(record)}")
    trace, answer, limit = (record.get(name) for name in ("guidance", "answer", "guidance_limit"))
    if trace is not None and not isinstance(trace, str):
        raise RejectedError("bad-value", f"guidance: {trace!r:.80} is no trace")
    body, closed = split_thought(trace) if trace else ("", None)
    ours = ("prompt", "answer", "tests", "guidance", "difficulty", "task", "guidance_limit", "source")
    draft = Draft(
        problem=record["prompt"],
        answer=_answer(answer),
        tests=record.get("tests"),
        traces=[Trace(body, "guidance", complete=closed)] if body else [],
        task=str(record.get("task") or ("code" if answer is None and "tests" in record else "math")),
        tier=record["source"] if isinstance(record.get("source"), str) else None,
        difficulty=record.get("difficulty"),
        columns={name: value for name, value in record.items() if name not in ours},
    )
    if limit is not None and body == trace:  # a figure for another text would be wrong
        draft.columns["guidance_limit"] = limit
    return draft


def is_gsm8k(record: Record) -> bool:
    """Whether a record has exactly the two columns of GSM8K and an answer after `####`."""
    return (
        set(record) == {"question", "answer"} and isinstance(record["answer"], str) and GSM8K_MARK in record["answer"]
    )


def read_gsm8k(record: Record) -> Draft:
    """GSM8K: `{"question": …, "answer": "worked steps … #### 18"}`.

    The trace is the worked steps without the calculator notes `<<48/2=24>>` (the last note is not the answer in 470 of
    8,792 records, so nothing is read from them) and without the `####` line. Difficulty is the number of steps, the
    lines of the trace.
    """
    for name in ("question", "answer"):
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise RejectedError("missing-field", f"field '{name}': {record.get(name)!r:.80} is not a text")
    steps, _, answer = record["answer"].partition(GSM8K_MARK)
    marks = record["answer"].count(GSM8K_MARK)
    if marks != 1:
        raise RejectedError("missing-field", f"field 'answer': holds {GSM8K_MARK} {marks} times")
    trace = _NOTE.sub("", steps).rstrip()
    return Draft(
        problem=record["question"],
        answer=answer.translate(_UNSEEN).replace(",", "").strip(),
        traces=[Trace(trace, "answer", gold=True)] if trace else [],
        difficulty=sum(1 for step in trace.split("\n") if step.strip()),
        instruction=GSM8K_INSTRUCTION,
    )


def read_math220k(record: Record) -> Draft:
    """Open-R1 Math-220k: 1–4 generations a problem, two of them usually; columns seen in public code that reads it.

    The flags are lists of booleans, one a generation (some shorter, or null).
    """
    draft = read_numina15(record)
    if not isinstance(record.get("generations"), list | tuple):
        raise RejectedError("missing-field", f"generations is no list; the columns are {', '.join(record)}")
    traces = []
    for number, text in enumerate(record["generations"]):
        if isinstance(text, str) and text.strip():
            body, closed = split_thought(text)
            complete = False if closed is False else _flag(record, "is_reasoning_complete", number)
            correct = _flag(record, "correctness_math_verify", number)
            traces.append(Trace(body, f"generations[{number}]", complete, correct))
    draft.traces = traces + draft.traces
    return draft


def read_numina15(record: Record) -> Draft:
    """NuminaMath-1.5: columns as on the card of nlile/NuminaMath-1.5-RL-Verifiable, a subset.

    An answer "proof" or "notfound" is none; `problem_is_valid` other than "Yes" is the data's own warning.
    """
    for flag in ("problem_is_valid", "solution_is_valid"):
        word = record.get(flag)
        if isinstance(word, str) and word.strip().lower() not in ("yes", ""):
            raise RejectedError("flagged", f"{flag} is {word}")
    problem = text_of(record, "problem")
    if str(record.get("question_type") or "").lower() == "proof":
        raise RejectedError("proof", "question_type is proof")
    return Draft(
        problem=problem,
        answer=_gold(_answer(record.get("answer")), problem),
        traces=_solution(record, gold=False),
        tier=maybe_text(record, "source"),
        instruction=MATHS,
        columns=_as_text(record, "uuid", "problem_type", "question_type"),
    )


def read_problems(record: Record) -> Draft:
    r"""Sets of problem, solution and at most an answer: NuminaMath-CoT, MATH (level "Level 5"),
    hkgc/math3to5_olympiads_aime (its recipe names the column problem), DeepScaleR-Preview (its solution is often
    empty), LIMO (question).

    Without an answer column the gold answer is what the solution declares, by the verifier's own reading: the last
    `\boxed`, so that MATH records with two or three have one answer.
    """
    problem = text_of(record, "problem", "question")
    answer = _answer(record.get("answer"))
    gold = declared_answer(maybe_text(record, "solution") or "") if answer is None else answer
    return Draft(
        problem=problem,
        answer=_gold(gold, problem),
        traces=_solution(record, gold=answer is None),
        tier=maybe_text(record, "source", "data_source"),
        difficulty=_level(record.get("level", record.get("difficulty"))),
        instruction=MATHS,
        columns=_as_text(record, "id", "uuid", "unique_id", "type", "subject"),
    )


def read_s1k(record: Record) -> Draft:
    """s1K-1.1: two teachers a problem, thinking and attempt apart; the trace is both, `</think>` between.

    Columns seen in public code; grades are "Yes" or "No". The solution is the answer alone in 375 records and a proof
    in 108.
    """
    problem, solution = text_of(record, "question", "problem"), maybe_text(record, "solution") or ""
    answer = declared_answer(solution)
    if answer is None and len(solution) <= _BARE and "\n" not in solution:
        answer = solution
    traces = []
    for teacher in ("deepseek", "gemini"):
        thinking = maybe_text(record, f"{teacher}_thinking_trajectory")
        attempt = maybe_text(record, f"{teacher}_attempt")
        if thinking:
            text = f"{thinking}\n</think>\n\n{attempt}" if attempt else thinking
            grade = record.get(f"{teacher}_grade")
            correct = grade.strip().lower() == "yes" if isinstance(grade, str) and grade.strip() else None
            traces.append(Trace(text, f"{teacher}_thinking_trajectory", attempt is not None, correct))
    if len(solution) > _BARE:
        traces.append(Trace(solution, "solution", gold=True))
    return Draft(
        problem=problem,
        answer=_gold(answer, problem),
        traces=traces,
        tier=maybe_text(record, "source_type"),
        instruction=MATHS,
        columns=_as_text(record, "cot_type"),
    )


def read_reasoning_gym(record: Record) -> Draft:
    """reasoning-gym entries: question, answer, metadata with an optional difficulty; no traces.

    Its tasks score answers themselves; here an answer must be one that the maths verifier grades, else it is rejected.
    """
    meta = record.get("metadata")
    difficulty, task = (
        meta.get(key) if isinstance(meta, Mapping) else None for key in ("difficulty", "source_dataset")
    )
    problem = text_of(record, "question")
    return Draft(
        problem=problem,
        answer=_gold(_answer(record.get("answer")), problem),
        tier=task if isinstance(task, str) else None,
        difficulty=difficulty if isinstance(difficulty, int | float) else None,
        instruction=MATHS,
    )


@dataclass(frozen=True)
class Schema:
    """The form of a published set: the columns that tell it, its reader, and the other columns that it may have."""

    tells: frozenset[str]
    read: Callable[[Record], Draft]
    others: frozenset[str]


def _schema(tells: str, read: Callable[[Record], Draft], others: str = "") -> Schema:
    return Schema(frozenset(tells.split()), read, frozenset(others.split()))


_OF_NUMINA = "solution problem_type question_type source uuid solution_is_valid synthetic"
_OF_PROBLEMS = (
    "problem question solution answer messages level difficulty source data_source type subject id uuid unique_id"
)
_OF_S1K = (
    "problem cot_type source_type metadata gemini_thinking_trajectory gemini_attempt deepseek_attempt gemini_grade "
    "deepseek_grade"
)

# The first whose columns a record has is taken where none is named.
READERS: dict[str, Schema] = {
    "math220k": _schema(
        "problem answer generations is_reasoning_complete",
        read_math220k,
        f"{_OF_NUMINA} correctness_math_verify correctness_llama finish_reasons correctness_count messages",
    ),
    "s1k": _schema("question solution deepseek_thinking_trajectory", read_s1k, _OF_S1K),
    "numina15": _schema("problem solution answer problem_is_valid", read_numina15, _OF_NUMINA),
    "reasoning-gym": _schema("question answer metadata", read_reasoning_gym),
    "gsm8k": _schema("question answer", read_gsm8k),
    "coding": _schema("verification_info", code.read_coding, code.OF_CODING),
    "humaneval": _schema("prompt canonical_solution test entry_point", code.read_humaneval, "task_id"),
    "mbpp-plus": _schema("prompt entry_point assertion", code.read_mbpp_plus, code.OF_MBPP_PLUS),
    "mbpp": _schema("code test_list", code.read_mbpp, "text prompt task_id test_setup_code challenge_test_list"),
    "numina-cot": _schema("problem solution messages", read_problems, _OF_PROBLEMS),
    "math": _schema("problem solution level", read_problems, _OF_PROBLEMS),
    "math3to5": _schema("problem solution", read_problems, _OF_PROBLEMS),
    "deepscaler": _schema("problem answer solution", read_problems, _OF_PROBLEMS),
    "limo": _schema("question solution answer", read_problems, _OF_PROBLEMS),
    "plain": _schema("prompt", read_plain),
}


def find_reader(
    name: str | None, first: Record, mapping: Mapping[str, str] | None = None, default: str | None = None
) -> str:
    """The name of the reader of a data set.

    Args:
        name: the one asked for; None = `plain` with a mapping or where our columns are, else by the columns.
        first: the first record.
        mapping: of our columns to the data's; {} and None = none.
        default: the reader where none knows the columns; None = an error.

    Raises InputError for a name that is unknown, and where no reader knows the columns.
    """
    if name is not None and name not in READERS:
        raise InputError("is no reader", field="reader", value=name, fix=f"choose from {', '.join(READERS)}")
    if name is not None or mapping or ("prompt" in first and ("answer" in first or "tests" in first)):
        return name or "plain"
    for reader, schema in READERS.items():
        if schema.tells <= set(first) and (reader != "gsm8k" or is_gsm8k(first)):
            return reader
    if default is not None:
        return default
    raise InputError(
        f"fits no reader: the columns are {', '.join(first)}",
        field="reader",
        fix="name a reader, or map your columns (--map prompt=COLUMN --map answer=COLUMN --map guidance=COLUMN)",
    )


def _gold(answer: str | None, problem: str) -> str:
    """The answer, or what it means that there is none."""
    text = tidy(answer or "")
    if text.lower() == "proof":
        raise RejectedError("proof", "the answer is 'proof'")
    if text.lower() in _NO_ANSWER:
        if asks_for_proof(problem):
            raise RejectedError("proof", "no answer, and the problem asks to prove")
        raise RejectedError("no-answer", f"the answer is {text!r}" if text else "there is none")
    return text


def _answer(value: Any) -> str | None:
    return None if value is None or isinstance(value, bool) else exact_text(value)


def _flag(record: Record, name: str, number: int) -> bool | None:
    value = dict(enumerate(list_of(record, name))).get(number)
    return value if isinstance(value, bool) else None


def _solution(record: Record, *, gold: bool) -> list[Trace]:
    text = maybe_text(record, "solution")
    if text is None:
        return []
    body, closed = split_thought(text)
    return [Trace(body, "solution", complete=closed, gold=gold)]


def _level(value: Any) -> Any:
    """`Level 5` → 5; numbers stay, anything else is no difficulty."""
    if isinstance(value, str):
        digits = value.removeprefix("Level").strip()
        return int(digits) if digits.isdigit() and digits.isascii() and len(digits) < 5 else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _as_text(record: Record, *names: str) -> dict[str, Any]:
    return {name: str(record[name]) for name in names if record.get(name) is not None}
