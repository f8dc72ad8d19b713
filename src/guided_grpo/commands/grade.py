"""`guided-grpo grade`: grade completions offline, with the graders that training and evaluation use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
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
    total = sum(1 for _ in _questions(options.data, options.task, options.answer_kind))  # says what is wrong, first
    totals: Counter[str] = Counter()
    partial = None if options.output is None else options.output.with_name(f"{options.output.name}.partial")
    if partial is not None:
        partial.parent.mkdir(parents=True, exist_ok=True)
    with (
        Grader(settings) as grader,
        tqdm(total=total, unit="line", disable=not wants_bars(options.quiet)) as bar,
        open("/dev/null" if partial is None else partial, "w", encoding="utf-8") as out,  # noqa: PTH123
    ):
        grader.start([options.task])
        for batch in _batches(_questions(options.data, options.task, options.answer_kind)):
            for verdict in grader.grade(batch):
                assert verdict is not None
                totals[verdict.status.value] += 1
                out.write(json.dumps(_line(verdict), ensure_ascii=False) + "\n")
            bar.update(len(batch))
    if partial is not None:
        partial.replace(options.output)
    if as_json:
        print(json.dumps({"lines": total, "verdicts": dict(totals)}, indent=2))
    else:
        print("\n".join(f"{count:>8}  {name}" for name, count in totals.most_common()))
    return 0


def _parse(arguments: list[str]) -> Any:
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


def _batches(questions: Iterable[Submission]) -> Iterator[list[Submission]]:
    left = iter(questions)
    while batch := list(islice(left, BATCH)):
        yield batch


def _questions(path: Path, task: str, kind: str) -> Iterator[Submission]:
    """What each line asks. Raises `InputError` with the line."""
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row: Any = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"is not JSON ({error})", file=path, line=number, fix="correct the line") from None
            row = row if isinstance(row, dict) else {}
            for name in ("completion", "answer") if task == "math" else ("completion",):
                if not isinstance(row.get(name), str):
                    raise InputError(
                        "is not a string",
                        file=path, line=number, field=name, value=row.get(name), fix="write it as text",
                    )  # fmt: skip
            if task == "math":
                yield Submission(row["completion"], {"task": task, "answer": row["answer"], "answer_kind": kind})
            else:
                yield _code_question(row, path, number)


def _code_question(row: dict[str, Any], path: Path, number: int) -> Submission:
    names = [name for name in ("entry_point", "setup") if row.get(name) is not None]
    for name in names:
        if not isinstance(row[name], str):
            raise InputError(
                "is not a string", file=path, line=number, field=name, value=row[name], fix="write it as text"
            )
    try:
        read_tests(row.get("tests"), **{name: row[name] for name in names})
    except ValueError as error:
        raise InputError(
            str(error), file=path, line=number, field="tests", value=row.get("tests"), fix="see docs/verifiers.md"
        ) from None
    return Submission(row["completion"], {"task": "code", "tests": row["tests"], **{name: row[name] for name in names}})
