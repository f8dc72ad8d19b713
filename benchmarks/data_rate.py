"""Rate and memory of `data check` and `data prepare` on a generated JSONL: data_rate.py --rows 1000000

Rows are worked sums with integer answers; of every thousand 20 repeat the row before, 5 have no answer, 5 state a wrong
one in their trace and 1 is no JSON, so that the counts of reasons are known beforehand and checked here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    """`count` lines of problem, solution and answer, with the faults above."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        line = ""
        for number in range(count):
            place = number % 1000
            if not (place and place <= 20):
                a, b, c = number, rng.randrange(2, 999), rng.randrange(2, 99)
                total = (a + b) * c
                answer = total + 1 if 30 <= place < 35 else total
                row = {
                    "problem": f"Shelf {a} holds {a} books, {b} come, {c} shops do so. How many?",
                    "solution": f"One shop has {a} + {b} = {a + b} books.\nAll shops have {a + b} * {c} books.\n"
                    f"The answer is \\boxed{{{answer}}}.",
                    "answer": "" if 40 <= place < 45 else str(total),
                }
                line = "{ broken" if place == 50 else json.dumps(row)
            file.write(line + "\n")


def run(arguments: list[str]) -> tuple[dict[str, object], float, int]:
    """What a command printed as JSON, its seconds, and its largest resident size in KiB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "guided_grpo.cli", "data", *arguments, "--quiet", "--json"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"data {arguments[0]} ended with {status}")
    return json.loads(printed), time.perf_counter() - started, usage.ru_maxrss


def main() -> None:
    """Write the rows, run both commands, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        write_rows(data, count)
        columns = [f"--map={pair}" for pair in ("prompt=problem", "guidance=solution", "answer=answer")]
        print(f"{count:,} rows, {data.stat().st_size / 2**20:.0f} MiB")
        for arguments in (
            ["check", str(data), "--verify", *columns],
            ["prepare", "--source", str(data), *columns, "--output", str(Path(folder) / "set")],
        ):
            figures, seconds, kib = run(arguments)
            expected = {"duplicate": 20, "wrong-trace": 5, "no-answer": 5, "not-json": 1}
            expected = {name: each * count // 1000 for name, each in expected.items()}
            if arguments[0] == "check":  # without require_trace a wrong trace is a row without guidance
                wrong = {"wrong-trace": expected.pop("wrong-trace")}
                assert figures["without_trace"] == wrong, figures["without_trace"]
            assert figures["rejected"] == expected, (figures["rejected"], expected)
            print(f"{arguments[0]:8} {seconds:7.1f} s {count / seconds:9,.0f} rows/s {kib / 1024:7.0f} MiB resident")


if __name__ == "__main__":
    main()
