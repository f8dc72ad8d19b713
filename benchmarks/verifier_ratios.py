"""Speed of both verifiers beside that of another checkout, in turns: a busy machine slows both.

    .venv/bin/python benchmarks/verifier_ratios.py --before ../older --turns 7 --data ../shared/data

Each checkout has one process, which imports its own `src` and its own benchmarks/*_verifier.py; they take turns on one
core, in an order that alternates. The figures are medians over turns: units a second here, in the other checkout, and
of the ratio within a turn, by wall time and by CPU time of all processes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
COSTLY = r"\frac{x^{20}-1}{x-1}"  # gold answer of the labelled pairs whose responses are there to stall
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """CPU time so far of this process and of all below it, ended ones included."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # it has ended: its parent counts it
            continue
        total += sum(map(int, fields[11:15]))
    return total / TICK


def load(root: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, root / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tasks(root: Path, options: argparse.Namespace, stack: ExitStack) -> dict[str, Callable[[], int]]:
    """What is measured, by name: each does a number of units and returns it."""
    code = load(root, "code_verifier")
    measured: dict[str, Callable[[], int]] = {}
    for tier in options.tiers:
        pool = stack.enter_context(code.SandboxPool(1, tier))
        measured |= {
            f"tier {tier}: programs": partial(code.programs, pool, options.size),
            f"tier {tier}: call tests": partial(code.call_tests, pool, 10 * options.size),
            f"tier {tier}: stdin tests": partial(code.stdin_tests, pool, 5 * options.size, code.SOLUTION, 10),
        }
    if options.data:
        maths = load(root, "maths_verifier")
        solutions = maths.solutions(options.data / "gsm8k" / "example_model_solutions.jsonl")[:: options.stride]
        gsm8k = [(response, gold) for response, gold, _ in solutions]
        rows = [json.loads(line) for line in (options.data / "answers" / "pairs.jsonl").open(encoding="utf-8")]
        stalls = {row["completion"] for row in rows if row["answer"] == COSTLY}  # only limits of time would be compared
        pairs = [(row["completion"], row["answer"]) for row in rows if row["completion"] not in stalls]
        pairs = pairs[:: max(1, options.stride // 4)]
        pool = stack.enter_context(maths.MathsPool(1))
        pool.check([("\\boxed{x+x}", "2x")])
        measured["maths: GSM8K solutions"] = lambda: len(pool.check(gsm8k))
        measured["maths: labelled pairs"] = lambda: sum(len(pool.check([pair])) for pair in pairs)
    return measured


def serve(root: Path, options: argparse.Namespace) -> None:
    """Answer each line, a name, with its units and what they took."""
    with ExitStack() as stack:
        measured = tasks(root, options, stack)
        print(json.dumps(list(measured)), flush=True)
        for line in sys.stdin:
            cpu, wall = cpu_seconds(), time.perf_counter()
            count = measured[line.strip()]()
            print(json.dumps([count, time.perf_counter() - wall, cpu_seconds() - cpu]), flush=True)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    roots = {"now": HERE, "before": options.before.resolve()}
    command = [sys.executable, __file__, "--size", str(options.size), "--stride", str(options.stride)]
    command += ["--tiers", *options.tiers, *(["--data", str(options.data.resolve())] if options.data else [])]
    servers = {
        name: subprocess.Popen(
            [*command, "--serve", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])},
        )
        for name, root in roots.items()
    }  # fmt: skip
    try:
        known = [json.loads(server.stdout.readline()) for server in servers.values() if server.stdout]
        names = [name for name in known[0] if name in known[1]]
        found: dict[str, dict[str, list[list[float]]]] = {name: {which: [] for which in servers} for name in names}
        for turn in range(options.turns + 1):
            for name in names:
                for which in list(servers)[:: 1 if turn % 2 else -1]:
                    server = servers[which]
                    assert server.stdin and server.stdout
                    server.stdin.write(f"{name}\n")
                    server.stdin.flush()
                    answer = json.loads(server.stdout.readline())
                    if turn:  # the first warms up
                        found[name][which].append(answer)
    finally:
        for server in servers.values():
            server.terminate()
            server.wait()
    return {name: figures(each["now"], each["before"]) for name, each in found.items()}


def figures(now: list[list[float]], before: list[list[float]]) -> dict[str, Any]:
    """Units a second, and the speed now as a multiple of the speed before."""

    def rates(rows: list[list[float]], column: int) -> list[float]:
        return [row[0] / max(row[column], 1e-9) for row in rows]

    def ratios(column: int) -> list[float]:
        return [one / other for one, other in zip(rates(now, column), rates(before, column), strict=True)]

    return {
        "now": round(statistics.median(rates(now, 1))),
        "before": round(statistics.median(rates(before, 1))),
        "ratio": round(statistics.median(ratios(1)), 2),
        "ratio_by_cpu": round(statistics.median(ratios(2)), 2),
        "ratios": [round(ratio, 2) for ratio in ratios(1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="root of the other checkout")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tiers", nargs="*", choices=("A", "B"), default=["A", "B"])
    parser.add_argument("--size", type=int, default=60, help="programs in one turn")
    parser.add_argument("--data", type=Path, help="folder with gsm8k and answers; none = no mathematics")
    parser.add_argument("--stride", type=int, default=10, help="every so many of the GSM8K solutions")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.serve:
        serve(options.serve, options)
    else:
        print(json.dumps(compare(options), indent=1))


if __name__ == "__main__":
    main()
