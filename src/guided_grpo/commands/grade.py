"""`guided-grpo grade`: grade completions offline, with the graders that training and evaluation use."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from guided_grpo.commands.options import OneLineParser, wants_bars
from guided_grpo.errors import InputError
from guided_grpo.grading.code import CodeVerdict
from guided_grpo.grading.code_forms import read_tests
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.grading.strict import KINDS
from guided_grpo.grading.worth import GradingSettings
from guided_grpo.settings import add_options, read_options
from guided_grpo.types import Verdict

BATCH = 512  # lines that are graded together
_OF_REWARDS = (  # settings that no verdict depends on
    "verdict_rewards", "infra_limit", "code_partial", "code_weak", "repeat_ngram", "repeat_penalty", "overlong_tokens",
)  # fmt: skip


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Grade a JSONL file; a line of verdicts for each of its lines, in its order."""
    options = _parse(arguments)
    settings = read_options(options, GradingSettings, infra_limit=1.0)
    total = sum(1 for _ in _submissions(options))  # says what is wrong, first
    totals: Counter[str] = Counter()
    partial = Path(os.devnull)
    if options.output is not None:
        partial = options.output.with_name(f"{options.output.name}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
    with (
        Grader(settings) as grader,
        tqdm(total=total, unit="line", disable=not wants_bars(options.quiet)) as bar,
        partial.open("w", encoding="utf-8", errors="backslashreplace") as out,
    ):
        grader.start([options.task])
        submissions = _submissions(options)
        while batch := list(islice(submissions, BATCH)):
            for verdict in grader.grade(batch):
                assert verdict is not None
                totals[verdict.status.value] += 1
                out.write(json.dumps(_line(verdict), ensure_ascii=False) + "\n")
            bar.update(len(batch))
    if options.output is not None:
        partial.replace(options.output)
    if as_json:
        print(json.dumps({"lines": total, "verdicts": dict(totals)}, indent=2))
    else:
        print("\n".join(f"{count:>8}  {name}" for name, count in totals.most_common()))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="guided-grpo grade", description="Verdicts for completions, line by line.")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="JSONL: {completion, answer} or {completion, tests[, entry_point, setup]} a line, other keys ignored",
    )
    parser.add_argument("--task", choices=("math", "code"), default="math")
    parser.add_argument("--output", type=Path, help="JSONL: {verdict, extracted, reason} for each line")
    parser.add_argument("--answer-kind", choices=KINDS, default="math", help="how answers of mathematics are compared")
    add_options(parser, GradingSettings, without=_OF_REWARDS)
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    if not options.data.is_file():
        raise InputError("does not exist", field="data", value=str(options.data), fix="check the path")
    return options


def _line(verdict: Verdict) -> dict[str, Any]:
    line: dict[str, Any] = {"verdict": verdict.status.value, "extracted": verdict.extracted, "reason": verdict.reason}
    if isinstance(verdict, CodeVerdict):
        line |= {"passed": verdict.passed, "total": verdict.total, "weak": verdict.weak}
    return line


def _submissions(options: argparse.Namespace) -> Iterator[Submission]:
    """One a line. Raises `InputError` with the line."""
    with options.data.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield _submission(text, number, options)


def _submission(text: str, number: int, options: argparse.Namespace) -> Submission:
    def wrong(problem: str, fix: str, field: str | None = None, value: Any = None) -> InputError:
        return InputError(problem, file=options.data, line=number, field=field, value=value, fix=fix)

    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise wrong(f"is not JSON ({error})", "correct the line") from None
    row = row if isinstance(row, dict) else {}
    maths = options.task == "math"
    columns = [name for name in ("entry_point", "setup") if row.get(name) is not None and not maths]
    for name in ["completion", *(["answer"] if maths else columns)]:
        if not isinstance(row.get(name), str):
            raise wrong("is not a string", "write it as text", name, row.get(name))
    if maths:
        gold = {"task": "math", "answer": row["answer"], "answer_kind": options.answer_kind}
        return Submission(row["completion"], gold)
    around = {name: row[name] for name in columns}
    try:
        read_tests(row.get("tests"), **around)
    except ValueError as error:
        raise wrong(str(error), "see docs/verifiers.md", "tests", row.get("tests")) from None
    return Submission(row["completion"], {"task": "code", "tests": row["tests"], **around})
