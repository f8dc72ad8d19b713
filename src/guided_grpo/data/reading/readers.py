"""Readers of maths sets: a record of a published schema → a `Draft`.

What was seen of each schema, and where, stands with its reader; hub pages were not reachable when this was written, so
columns come from the data set cards' mirrors and from public code that reads the sets. A column that is missing is a
rejected record with the columns found, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guided_grpo.data.reading.code_readers import CODE_READERS
from guided_grpo.data.reading.drafts import (
    MATHS,
    Draft,
    RejectedError,
    Trace,
    asks_for_proof,
    maybe_text,
    text_of,
    thought,
    tidy,
)
from guided_grpo.data.reading.gsm8k import INSTRUCTION, is_gsm8k, read_gsm8k
from guided_grpo.data.reading.rows import Written
from guided_grpo.errors import InputError
from guided_grpo.grading.answers import declared_answer

Record = Mapping[str, Any]
DraftReader = Callable[[Record], Draft]

_NO_ANSWER = {"", "notfound", "not found", "none", "null", "n/a", "nan"}
_BARE = 60  # characters: a longer solution without a declared answer is prose


def read_plain(record: Record) -> Draft:
    """Our own column names (after the mapping): prompt, answer or tests, guidance, difficulty; the rest is kept."""
    if "prompt" not in record:
        raise RejectedError("missing-field", f"no prompt; the columns are {', '.join(record)}")
    trace, answer = record.get("guidance"), record.get("answer")
    if trace is not None and not isinstance(trace, str):
        raise RejectedError("bad-value", f"guidance: {type(trace).__name__} is no trace")
    body, closed = thought(trace) if trace else ("", None)
    given = record.get("guidance_limit")
    traces = [Trace(body, "guidance", complete=closed)] if body else []
    ours = ("prompt", "answer", "tests", "guidance", "difficulty", "task", "guidance_limit", "source")
    draft = Draft(
        problem=record["prompt"],
        answer=_number(answer),
        tests=record.get("tests"),
        traces=traces,
        task=str(record.get("task") or ("code" if answer is None and "tests" in record else "math")),
        tier=record["source"] if isinstance(record.get("source"), str) else None,
        difficulty=record.get("difficulty"),
        columns={name: value for name, value in record.items() if name not in ours},
    )
    if given is not None and body == trace:  # a figure for another text would be wrong
        draft.columns["guidance_limit"] = given
    return draft


def read_gsm8k_draft(record: Record) -> Draft:
    """GSM8K (`question`, `answer` with `#### N`): see gsm8k.py. Difficulty is the number of steps."""
    try:
        row = read_gsm8k(record, file="gsm8k", line=0)
    except InputError as error:
        raise RejectedError("missing-field", str(error).partition(": ")[2]) from None
    trace = row["guidance"]
    return Draft(
        problem=text_of(record, "question"),
        answer=row["answer"],
        traces=[Trace(trace, "answer", gold=True)] if trace else [],
        difficulty=row["difficulty"],
        instruction=INSTRUCTION,
    )


def read_math220k(record: Record) -> Draft:
    """Open-R1 Math-220k: 1–4 generations a problem, two of them usually.

    Seen in public code that reads it: problem, solution, answer, problem_type, question_type, source, uuid,
    is_reasoning_complete, generations, correctness_math_verify, correctness_llama, finish_reasons,
    correctness_count, messages; the flags are lists of booleans, one a generation (some shorter, or null).
    """
    draft = _numina(record)
    generations = record.get("generations")
    if not isinstance(generations, list | tuple):
        raise RejectedError("missing-field", f"generations is no list; the columns are {', '.join(record)}")
    draft.traces = []
    for number, text in enumerate(generations):
        if isinstance(text, str) and text.strip():
            body, closed = thought(text)
            told = _flag(record, "is_reasoning_complete", number)
            complete = False if closed is False else told
            correct = _flag(record, "correctness_math_verify", number)
            draft.traces.append(Trace(body, f"generations[{number}]", complete, correct))
    draft.traces += _solution(record, gold=False)
    return draft


def read_numina15(record: Record) -> Draft:
    """NuminaMath-1.5: problem, solution, answer, problem_type, question_type, problem_is_valid, solution_is_valid,
    source, synthetic (the card of nlile/NuminaMath-1.5-RL-Verifiable, a subset with the same columns).

    An answer "proof" or "notfound" is none; `problem_is_valid` other than "Yes" is the data's own warning.
    """
    draft = _numina(record)
    draft.traces = _solution(record, gold=False)
    return draft


def read_problems(record: Record) -> Draft:
    r"""Sets of problem, solution and at most an answer: NuminaMath-CoT (source, problem, solution, messages), MATH
    (problem, level "Level 5", type, solution), hkgc/math3to5_olympiads_aime (its recipe names the column problem),
    DeepScaleR-Preview (problem, answer, solution, which is often empty), LIMO (question, solution, answer).

    Without an answer column the gold answer is what the solution declares, by the verifier's own reading: the last
    `\boxed`, so that MATH records with two or three have one answer.
    """
    problem = text_of(record, "problem", "question")
    solution = maybe_text(record, "solution")
    given = _number(record.get("answer"))
    answer = given if given is not None else declared_answer(solution or "")
    return Draft(
        problem=problem,
        answer=_gold(answer, problem),
        traces=_solution(record, gold=given is None),
        tier=maybe_text(record, "source", "data_source"),
        difficulty=_level(record.get("level", record.get("difficulty"))),
        instruction=MATHS,
        columns=_names(record, "id", "uuid", "unique_id", "type", "subject"),
    )


def read_s1k(record: Record) -> Draft:
    """s1K-1.1: two teachers a problem, thinking and attempt apart; the trace is both, `</think>` between.

    Seen in public code: question, solution, cot_type, source_type, metadata, gemini_thinking_trajectory,
    gemini_attempt, deepseek_thinking_trajectory, deepseek_attempt, gemini_grade, deepseek_grade ("Yes"/"No"). The
    solution is the answer alone in 375 records and a proof in 108.
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
        columns=_names(record, "cot_type"),
    )


def read_reasoning_gym(record: Record) -> Draft:
    """reasoning-gym entries: question, answer, metadata with an optional difficulty; no traces.

    Its tasks score answers themselves; here an answer must be one that the maths verifier grades, else it is rejected.
    """
    meta = record.get("metadata")
    difficulty = meta.get("difficulty") if isinstance(meta, Mapping) else None
    task = meta.get("source_dataset") if isinstance(meta, Mapping) else None
    problem = text_of(record, "question")
    return Draft(
        problem=problem,
        answer=_gold(_number(record.get("answer")), problem),
        tier=task if isinstance(task, str) else None,
        difficulty=difficulty if isinstance(difficulty, int | float) else None,
        instruction=MATHS,
    )


# Name → (columns that tell it, reader). The first whose columns a record has is taken where none is named.
READERS: dict[str, tuple[frozenset[str], DraftReader]] = {
    "math220k": (frozenset({"problem", "answer", "generations", "is_reasoning_complete"}), read_math220k),
    "s1k": (frozenset({"question", "solution", "deepseek_thinking_trajectory"}), read_s1k),
    "numina15": (frozenset({"problem", "solution", "answer", "problem_is_valid"}), read_numina15),
    "reasoning-gym": (frozenset({"question", "answer", "metadata"}), read_reasoning_gym),
    "gsm8k": (frozenset({"question", "answer"}), read_gsm8k_draft),
    **CODE_READERS,
    "numina-cot": (frozenset({"problem", "solution", "messages"}), read_problems),
    "math": (frozenset({"problem", "solution", "level"}), read_problems),
    "math3to5": (frozenset({"problem", "solution"}), read_problems),
    "deepscaler": (frozenset({"problem", "answer", "solution"}), read_problems),
    "limo": (frozenset({"question", "solution", "answer"}), read_problems),
    "plain": (frozenset({"prompt"}), read_plain),
}


def find_reader(name: str | None, first: Record, mapping: Mapping[str, str] | None = None) -> str:
    """The name of the reader: the one asked for, `plain` with a mapping, else by the columns of the first record.

    Raises InputError for a name that is unknown, and where no reader knows the columns.
    """
    if name is not None and name not in READERS:
        raise InputError("is no reader", field="reader", value=name, fix=f"choose from {', '.join(READERS)}")
    if name is not None or mapping:
        return name or "plain"
    for known, (columns, _) in READERS.items():
        if columns <= set(first) and (known != "gsm8k" or is_gsm8k(first)):
            return known
    raise InputError(
        f"fits no reader: the columns are {', '.join(first)}",
        field="reader",
        fix="name a reader, or map your columns (--map prompt=COLUMN --map answer=COLUMN --map guidance=COLUMN)",
    )


def _numina(record: Record) -> Draft:
    for flag in ("problem_is_valid", "solution_is_valid"):
        told = record.get(flag)
        if isinstance(told, str) and told.strip().lower() not in ("yes", ""):
            raise RejectedError("flagged", f"{flag} is {told}")
    problem = text_of(record, "problem")
    if str(record.get("question_type") or "").lower() == "proof":
        raise RejectedError("proof", "question_type is proof")
    return Draft(
        problem=problem,
        answer=_gold(_number(record.get("answer")), problem),
        tier=maybe_text(record, "source"),
        instruction=MATHS,
        columns=_names(record, "uuid", "problem_type", "question_type"),
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


def _number(value: Any) -> str | None:
    if isinstance(value, Written):
        return value.text
    return None if value is None or isinstance(value, bool) else str(value)


def _flag(record: Record, name: str, number: int) -> bool | None:
    flags = record.get(name)
    value = flags[number] if isinstance(flags, list | tuple) and number < len(flags) else None
    return value if isinstance(value, bool) else None


def _solution(record: Record, *, gold: bool) -> list[Trace]:
    text = maybe_text(record, "solution")
    if text is None:
        return []
    body, closed = thought(text)
    return [Trace(body, "solution", complete=closed, gold=gold)]


def _level(value: Any) -> Any:
    """`Level 5` → 5; numbers stay, anything else is no difficulty."""
    if isinstance(value, str):
        digits = value.removeprefix("Level").strip()
        return int(digits) if digits.isdigit() and digits.isascii() and len(digits) < 5 else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _names(record: Record, *names: str) -> dict[str, Any]:
    return {name: str(record[name]) for name in names if record.get(name) is not None}
