"""`guided-grpo grade`: grade completions offline, with the graders that training and evaluation use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from guided_grpo.commands.report import OneLineParser
from guided_grpo.errors import InputError
from guided_grpo.progress import wants_bars
from guided_grpo.rundir import write_text
from guided_grpo.types import Verdict
from guided_grpo.verifiers.pool import MathsPool

BATCH = 2048  # lines in memory at a time


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Grade a JSONL file; a line of verdicts for each of its lines, in its order."""
    parser = OneLineParser(prog="guided-grpo grade", description="Verdicts for lines of completion and answer.")
    parser.add_argument(
        "--data", type=Path, required=True, help="JSONL: {completion, answer} a line, other keys ignored"
    )
    parser.add_argument("--task", choices=("math",), default="math")
    parser.add_argument("--output", type=Path, help="JSONL: {verdict, extracted, reason} for each line")
    parser.add_argument("--workers", type=int, default=1, help="processes that grade")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        raise InputError("is below 1", field="workers", value=options.workers, fix="use 1 or more")
    pairs = list(_pairs(options.data))
    verdicts: list[Verdict] = []
    with (
        MathsPool(options.workers) as pool,
        tqdm(total=len(pairs), unit="line", disable=not wants_bars(options.quiet)) as bar,
    ):
        for start in range(0, len(pairs), BATCH):
            verdicts += pool.check(pairs[start : start + BATCH])
            bar.update(len(verdicts) - bar.n)
    if options.output:
        lines = (
            {"verdict": verdict.status.value, "extracted": verdict.extracted, "reason": verdict.reason}
            for verdict in verdicts
        )
        write_text(options.output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    totals = Counter(verdict.status.value for verdict in verdicts)
    if as_json:
        print(json.dumps({"lines": len(verdicts), "verdicts": dict(totals)}, indent=2))
    else:
        print("\n".join(f"{count:>8}  {name}" for name, count in totals.most_common()))
    return 0


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Completion and answer of each line. Raises `InputError` with the line."""
    if not path.is_file():
        raise InputError("does not exist", field="data", value=str(path), fix="check the path")
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row: Any = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"is not JSON ({error.msg})", file=path, line=number, fix="correct the line") from None
            for name in ("completion", "answer"):
                value = row.get(name) if isinstance(row, dict) else None
                if not isinstance(value, str):
                    raise InputError(
                        "is not a string", file=path, line=number, field=name, value=value, fix="write it as text"
                    )
            yield row["completion"], row["answer"]
