r"""Benchmarks by name: where each is published, how its records are read, how often and how long it is asked.

A file, or another hub id, of the same schema can stand in for the published one. The hub was not reachable when this
was written: ids, splits and columns are what cards, viewers and public code that loads them show, as noted with each.

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
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from guided_grpo.data.reading.code_readers import read_humaneval
from guided_grpo.data.reading.drafts import (
    FUNCTION,
    MATHS,
    PROGRAM,
    RejectedError,
    asserts_of,
    fence,
    maybe_text,
    text_of,
)
from guided_grpo.data.reading.readers import GSM8K_INSTRUCTION, read_gsm8k
from guided_grpo.data.reading.rows import gold_fault
from guided_grpo.data.reading.streams import Record, exact_text, records
from guided_grpo.errors import InputError
from guided_grpo.grading.answers import declared_answer
from guided_grpo.grading.code_forms import read_tests
from guided_grpo.grading.strict import check_gold

CHOICE = "Reason step by step, and put the letter of the one right answer in \\boxed{}."
LONG = 25_000  # tokens: the most of G²RPO-A's evaluation

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

BenchmarkRow = dict[str, Any]  # prompt (text), task, answer and answer_kind or tests, difficulty where the data has one


def read_gsm8k_row(record: Record, seed: int) -> BenchmarkRow:
    """question, answer with `#### N`."""
    draft = read_gsm8k(record)
    prompt = f"{text_of(record, 'question')}\n{GSM8K_INSTRUCTION}"
    return {"prompt": prompt, "task": "math", "answer": draft.answer, "difficulty": draft.difficulty}


def read_maths(record: Record, seed: int) -> BenchmarkRow:
    r"""problem or question; answer, or the `\boxed` of solution; level where there is one."""
    answer = record.get("answer", record.get("Answer"))
    text = _number(answer) if answer is not None else declared_answer(maybe_text(record, "solution") or "")
    if not text:
        raise RejectedError("no-answer", f"neither answer nor a solution that declares one in {', '.join(record)}")
    return _row(_problem(record), MATHS, record.get("level"), answer=_mend(text))


def read_integer(record: Record, seed: int) -> BenchmarkRow:
    """The same with whole numbers as answers (AIME)."""
    row = read_maths(record, seed)
    return {**row, "answer": _DEGREES.sub("", row["answer"]), "answer_kind": "integer"}


def read_olympiad(record: Record, seed: int) -> BenchmarkRow:
    """question, context, final_answer (a list), subfield. Several answers are right in any order, all of them."""
    final = record.get("final_answer", record.get("answer"))
    golds = [final] if isinstance(final, str) else final
    if not isinstance(golds, list | tuple) or not golds or not all(isinstance(gold, str) for gold in golds):
        raise RejectedError("no-answer", f"final_answer is no list of texts; the columns are {', '.join(record)}")
    problem, context = _problem(record), maybe_text(record, "context")
    answer = ", ".join(gold.replace("$", "").strip() for gold in golds)
    problem = f"{context}\n\n{problem}" if context else problem
    return _row(problem, MATHS, record.get("subfield") or None, answer=answer)


def read_gpqa(record: Record, seed: int) -> BenchmarkRow:
    """Question, Correct Answer, Incorrect Answer 1–3. The order of the options comes from `seed` and the question."""
    question = text_of(record, "Question")
    options = [text_of(record, name) for name in _OPTIONS]
    order = list(range(len(options)))
    random.Random(f"{seed}\0{question}").shuffle(order)
    lines = "\n".join(f"{letter}) {options[place]}" for letter, place in zip("ABCD", order, strict=True))
    domain = maybe_text(record, "High-level domain")
    return _row(f"{question}\n\n{lines}", CHOICE, domain, answer="ABCD"[order.index(0)], answer_kind="choice")


def read_humaneval_row(record: Record, seed: int) -> BenchmarkRow:
    """prompt, test, entry_point, canonical_solution."""
    draft = read_humaneval(record)
    return _row(draft.problem, FUNCTION, tests=draft.tests, entry_point=draft.columns["entry_point"])


def read_mbpp_row(record: Record, seed: int) -> BenchmarkRow | None:
    """text, test_list, test_setup_code; all tests are shown, as published. None = of another split."""
    number = record.get("task_id")
    if isinstance(number, int) and number not in _MBPP_TEST:
        return None
    tests, setup = asserts_of(record), maybe_text(record, "test_setup_code")
    block = fence("\n".join(tests))
    problem = f"{text_of(record, 'text', 'prompt')}\n\nIt must pass these tests:\n\n{block}"
    return _row(problem, FUNCTION, tests=tests, **({"setup": setup} if setup else {}))


def read_livecodebench(record: Record, seed: int) -> BenchmarkRow:
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
    if starter:
        problem = f"{problem}\n\nComplete this code:\n\n{fence(starter)}"
    difficulty = text_of(record, "difficulty")
    tests = {"inputs": [case["input"] for case in cases], "outputs": [case["output"] for case in cases]}
    if not name:
        return _row(problem, PROGRAM, difficulty, tests=json.dumps(tests))
    setup = f"if 'Solution' in globals(): {name} = Solution().{name}"
    return _row(problem, FUNCTION, difficulty, tests=json.dumps({**tests, "fn_name": name}), setup=setup)


@dataclass(frozen=True)
class Benchmark:
    """One published set of held-out problems."""

    source: str  # hub id, or id:subset
    split: str
    read: Callable[[Record, int], BenchmarkRow | None]  # (record, seed) → row; None = not of this set
    problems: int  # as published
    samples: int  # a problem, unless told otherwise
    max_tokens: int  # of a response, unless told otherwise
    licence: str


BENCHMARKS: dict[str, Benchmark] = {
    # problem, solution, answer, subject, level (1–5), unique_id: records quoted in public code and tests
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", read_maths, 500, 4, 8192, "MIT (MATH)"),
    # question, answer: public code that loads it; 272 rows: a copy's card
    "minerva": Benchmark("math-ai/minervamath", "test", read_maths, 272, 4, 8192, "not stated"),
    # question, context, solution, final_answer (list), is_multiple_answer, unit, answer_type, error, subfield: public
    # loaders; licence: its hub page. `error`, a tolerance, is not used: decimals must be equal
    "olympiadbench": Benchmark(
        "Hothan/OlympiadBench:OE_TO_maths_en_COMP", "train", read_olympiad, 674, 4, 8192, "Apache-2.0"
    ),
    # id, question, answer, url, 40 rows: a public loader that checks them at revision 80815d3; answers are floats
    "amc23": Benchmark("math-ai/amc23", "test", read_maths, 40, 16, 8192, "Apache-2.0"),
    # id, problem, solution (the answer in \boxed), url, 30 rows: a public loader that checks them at 83a7f38.
    # HuggingFaceH4/aime_2024 (train; has answer) and Maxwell-Jia/AIME_2024 read too
    "aime24": Benchmark("math-ai/aime24", "test", read_integer, 30, 32, LONG, "Apache-2.0"),
    # problem, answer, id, 30 rows: its card, and a public loader that checks them at 563bb84
    "aime25": Benchmark("math-ai/aime25", "test", read_integer, 30, 32, LONG, "Apache-2.0"),
    # Question, Correct Answer, Incorrect Answer 1–3: public code; domains: High-level domain, where there
    "gpqa": Benchmark(
        "Idavidrein/gpqa:gpqa_diamond", "train", read_gpqa, 198, 4, 8192,
        "CC-BY-4.0, gated: accept its terms on the hub and log in; keep its text off the open web",
    ),
    # question, answer with ####: the published files
    "gsm8k": Benchmark("openai/gsm8k:main", "test", read_gsm8k_row, 1319, 1, 2048, "MIT"),
    # task_id, prompt, canonical_solution, test, entry_point: the published file
    "humaneval": Benchmark("openai/openai_humaneval", "test", read_humaneval_row, 164, 8, 4096, "MIT"),
    # task_id, text, code, test_list, test_setup_code, challenge_test_list, 500 of 974 rows: its card, and the published
    # file, of which tasks 11–510 are taken
    "mbpp": Benchmark("google-research-datasets/mbpp:full", "test", read_mbpp_row, 500, 8, 4096, "CC-BY-4.0"),
    # question_content, starter_code, difficulty, public_test_cases, private_test_cases, metadata: the project's own
    # loader, and one that checks them at 0fe84c3. The original, livecodebench/code_generation_lite, is a script, which
    # `datasets` no longer runs: its test*.jsonl can be given as files
    "livecodebench": Benchmark(
        "lighteval/code_generation_lite:release_v6", "test", read_livecodebench, 1055, 4, LONG, "CC"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BenchmarkProblems:
    """The problems of a benchmark, prompts as text, and how many records were left out, by reason."""

    source: str
    rows: list[BenchmarkRow]
    skipped: dict[str, int]


def load_benchmark(
    name: str, source: str | None = None, *, limit: int | None = None, seed: int = 0
) -> BenchmarkProblems:
    """The problems of a benchmark.

    Args:
        name: in BENCHMARKS.
        source: what stands in for the published data: a file or hub id of the same schema; None = the published data.
        limit: the first so many problems; None = all.
        seed: for the order of options (GPQA).

    Raises InputError for an unknown name, data that cannot be read, and where no record makes a problem.
    """
    if name not in BENCHMARKS:
        raise InputError("is no benchmark", field="benchmark", value=name, fix=f"choose from {', '.join(BENCHMARKS)}")
    if limit is not None and limit < 1:
        raise InputError("is below 1", field="limit", value=limit, fix="give at least 1, or leave it out")
    entry = BENCHMARKS[name]
    source = source or entry.source
    rows: list[BenchmarkRow] = []
    skipped: Counter[str] = Counter()
    first = ""
    for line, record in records(source, entry.split):
        try:
            row = entry.read(record, seed)
            if row is not None:
                _check(row)
                rows.append(row)
        except RejectedError as error:
            skipped[error.reason] += 1
            first = first or f"record {line}: {error.reason}, {error.detail}"
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        problem = f"holds no problem of {name} ({first or 'no record'})"
        raise InputError(problem, file=source, fix="give data of the published schema")
    return BenchmarkProblems(source, rows, dict(skipped))


def _check(row: BenchmarkRow) -> None:
    """Raise RejectedError where the row cannot be graded."""
    try:
        if row["task"] == "code":
            read_tests(row["tests"], entry_point=row.get("entry_point", ""), setup=row.get("setup", ""))
            return
        kind = row.get("answer_kind", "math")
        check_gold(kind, row["answer"])
        fault = gold_fault(row["answer"]) if kind == "math" else ""
    except ValueError as error:
        fault = str(error)
    if fault:
        reason = "bad-tests" if row["task"] == "code" else "bad-answer"
        raise RejectedError(reason, f"{row.get('answer', '')!r} {fault}")


def _row(problem: str, instruction: str, difficulty: Any = None, **columns: Any) -> BenchmarkRow:
    task = "code" if "tests" in columns else "math"
    row = {"prompt": f"{problem}\n\n{instruction}", "task": task, **columns}
    return row if difficulty is None else {**row, "difficulty": difficulty}


def _number(value: Any) -> str:
    """An answer as text; a whole number that was stored as a float (27.0) as a whole number."""
    text = exact_text(value).strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _mend(text: str) -> str:
    """A text with the LaTeX commands whose backslash a JSON parser ate."""
    for pattern, command in _EATEN:
        text = pattern.sub(lambda _, command=command: command, text)  # type: ignore[misc]  # bound at once
    return text


def _problem(record: Record) -> str:
    names = ("problem", "question", "Problem", "Question")
    return text_of(
        {**record, **{name: _mend(text) for name in names if isinstance(text := record.get(name), str)}}, *names
    )


def _cases(record: Record, name: str) -> list[dict[str, str]]:
    """Test cases: a list, its JSON text, or base64 of zlib of a pickle of that text, as the hidden ones come."""
    value = record.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = _unpack(value, name)
    if not isinstance(value, list) or not all(isinstance(c, Mapping) and {"input", "output"} <= set(c) for c in value):
        raise RejectedError("bad-tests", f"{name} holds no pairs of input and output")
    return [dict(case) for case in value]


class _TextOnly(pickle.Unpickler):
    """A pickle may hold text and nothing that runs."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}")


def _unpack(text: str, name: str) -> Any:
    try:
        return json.loads(_TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load())
    except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError, IndexError, KeyError) as error:
        raise RejectedError("bad-tests", f"{name} cannot be unpacked ({error})") from None
