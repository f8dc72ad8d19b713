"""Benchmarks by name: where each is published, how its records are read, how often and how long it is asked.

A file, or another hub id, of the same schema can stand in for the published one. The hub was not reachable when this
was written: ids, splits and columns are what cards, viewers and public code that loads them show, as noted with each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from guided_grpo.data.reading import benchmark_readers as readers
from guided_grpo.data.reading.drafts import RejectedError
from guided_grpo.data.reading.rows import gold_fault
from guided_grpo.data.reading.streams import records
from guided_grpo.errors import InputError
from guided_grpo.grading.code_forms import read_tests
from guided_grpo.grading.strict import check_gold

LONG = 25_000  # tokens: the most of G²RPO-A's evaluation


@dataclass(frozen=True)
class Benchmark:
    """One published set of held-out problems."""

    source: str  # hub id, or id:subset
    split: str
    read: Callable[[Mapping[str, Any], int], dict[str, Any] | None]  # (record, seed) → row; None = not of this set
    problems: int  # as published
    samples: int  # a problem, unless told otherwise
    max_tokens: int  # of a response, unless told otherwise
    licence: str
    seen: str  # what is known of id and columns, and from where


BENCHMARKS: dict[str, Benchmark] = {
    "math500": Benchmark(
        "HuggingFaceH4/MATH-500", "test", readers.read_maths, 500, 4, 8192, "MIT (MATH)",
        "problem, solution, answer, subject, level (1–5), unique_id: records quoted in public code and tests",
    ),
    "minerva": Benchmark(
        "math-ai/minervamath", "test", readers.read_maths, 272, 4, 8192, "not stated",
        "question, answer: public code that loads it; 272 rows: a copy's card",
    ),
    "olympiadbench": Benchmark(
        "Hothan/OlympiadBench:OE_TO_maths_en_COMP", "train", readers.read_olympiad, 674, 4, 8192, "Apache-2.0",
        "question, context, solution, final_answer (list), is_multiple_answer, unit, answer_type, error, subfield: "
        "public loaders; licence: its hub page. `error`, a tolerance, is not used: decimals must be equal",
    ),
    "amc23": Benchmark(
        "math-ai/amc23", "test", readers.read_maths, 40, 16, 8192, "Apache-2.0",
        "id, question, answer, url, 40 rows: a public loader that checks them at revision 80815d3; answers are floats",
    ),
    "aime24": Benchmark(
        "math-ai/aime24", "test", readers.read_integer, 30, 32, LONG, "Apache-2.0",
        "id, problem, solution (the answer in \\boxed), url, 30 rows: a public loader that checks them at 83a7f38. "
        "HuggingFaceH4/aime_2024 (train; has answer) and Maxwell-Jia/AIME_2024 read too",
    ),
    "aime25": Benchmark(
        "math-ai/aime25", "test", readers.read_integer, 30, 32, LONG, "Apache-2.0",
        "problem, answer, id, 30 rows: its card, and a public loader that checks them at 563bb84",
    ),
    "gpqa": Benchmark(
        "Idavidrein/gpqa:gpqa_diamond", "train", readers.read_gpqa, 198, 4, 8192,
        "CC-BY-4.0, gated: accept its terms on the hub and log in; keep its text off the open web",
        "Question, Correct Answer, Incorrect Answer 1–3: public code; domains: High-level domain, where there",
    ),
    "gsm8k": Benchmark(
        "openai/gsm8k:main", "test", readers.read_gsm8k_row, 1319, 1, 2048, "MIT",
        "question, answer with ####: the published files",
    ),
    "humaneval": Benchmark(
        "openai/openai_humaneval", "test", readers.read_humaneval_row, 164, 8, 4096, "MIT",
        "task_id, prompt, canonical_solution, test, entry_point: the published file",
    ),
    "mbpp": Benchmark(
        "google-research-datasets/mbpp:full", "test", readers.read_mbpp_row, 500, 8, 4096, "CC-BY-4.0",
        "task_id, text, code, test_list, test_setup_code, challenge_test_list, 500 of 974 rows: its card, and the "
        "published file, of which tasks 11–510 are taken",
    ),
    "livecodebench": Benchmark(
        "lighteval/code_generation_lite:release_v6", "test", readers.read_livecodebench, 1055, 4, LONG, "CC",
        "question_content, starter_code, difficulty, public_test_cases, private_test_cases, metadata: the project's "
        "own loader, and one that checks them at 0fe84c3. The original, livecodebench/code_generation_lite, is a "
        "loading script, which `datasets` no longer runs: its test*.jsonl can be given as files",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """The problems of a benchmark, prompts as text, and how many records were left out, by reason."""

    name: str
    source: str
    rows: list[dict[str, Any]]
    skipped: dict[str, int]


def load_benchmark(name: str, source: str | None = None, *, limit: int | None = None, seed: int = 0) -> Loaded:
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
    rows: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    first = ""
    for line, record in records(source or entry.source, entry.split):
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
        raise InputError(
            f"holds no problem of {name} ({first or 'no record'})",
            file=source or entry.source,
            fix="give data of the published schema",
        )
    return Loaded(name, source or entry.source, rows, dict(skipped))


def _check(row: Mapping[str, Any]) -> None:
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
        raise RejectedError(
            "bad-tests" if row["task"] == "code" else "bad-answer", f"{row.get('answer', '')!r} {fault}"
        )
