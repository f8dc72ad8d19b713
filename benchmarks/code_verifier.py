"""Programs a second through the sandbox on one core, beside a fresh interpreter for each program.

    .venv/bin/python benchmarks/code_verifier.py                 programs/s and tests/s in tiers A and B
    .venv/bin/python benchmarks/code_verifier.py --many 10000    and whether descriptors, processes or memory grow
    .venv/bin/python benchmarks/code_verifier.py --load          and whether correct programs pass on a busy machine

Every repetition measures all of them in turn, in an order that rotates; the figures are medians. Programs, and the
memory they leave behind, are real; `--many` takes crashes, limits, files and threads among them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from guided_grpo.errors import InputError
from guided_grpo.grading.code import check_programs
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.sandbox import End, Job, Limits, Outcome, SandboxPool
from guided_grpo.types import Status

PROGRAM = "def f(n):\n    return [k for k in range(2, n) if all(k % d for d in range(2, k))]\nprint(len(f(20)))\n"
SOLUTION = "n = int(input())\nprint(sum(k for k in range(1, n + 1) if n % k == 0))\n"
SQUARE = "def f(x):\n    return x * x\n"
BURN = "import time\nwhile time.process_time() < 0.25: pass\nprint('done')"
CALLS = parse_tests([f"assert f({n}) == {n * n}" for n in range(10)])
STDIN = parse_tests(
    [{"input": f"{n}\n", "output": f"{sum(k for k in range(1, n + 1) if n % k == 0)}\n"} for n in range(5, 15)]
)
STDIN_PROGRAMS = {  # and how many of its ten tests pass
    "all pass": (SOLUTION, 10),
    "one fails": (f"{SOLUTION}if n == 9: print()\nif n == 9: print(1)\n", 9),
    "all fail": ("print(-1)\n", 0),
    "all raise": ("n = int(input())\nprint(m)\n", 0),
    "all crash": ("import os\nos.abort()\n", 0),
}
PAGE = os.sysconf("SC_PAGE_SIZE")


def fresh(count: int) -> int:
    """`count` programs, each in an interpreter of its own, without any wall."""
    for _ in range(count):
        ran = subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM], capture_output=True, check=True)
        assert ran.stdout == b"8\n"
    return count


def programs(pool: SandboxPool, count: int) -> int:
    """`count` main programs."""
    outcomes = pool.run([Job(PROGRAM)] * count)
    assert all(outcome.stdout == b"8\n" for outcome in outcomes)
    return count


def call_tests(pool: SandboxPool, count: int) -> int:
    """`count` tests, ten calls a program; the programs differ, since equal ones run once."""
    sources = [f"{SQUARE}# {n}" for n in range(count // len(CALLS))]
    verdicts = check_programs(pool, sources, [CALLS] * len(sources))
    assert all(verdict.status is Status.CORRECT for verdict in verdicts)
    return sum(verdict.passed for verdict in verdicts)


class OneEach:
    """A pool in which no run comes to a clean end beside others, so that each input gets a process of its own."""

    def __init__(self, pool: SandboxPool) -> None:
        self._pool, self.limits = pool, pool.limits

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        alone = iter(self._pool.run([job for job in jobs if not job.inputs]))
        return [Outcome(End.EXITED, runs=(None,) * len(job.inputs)) if job.inputs else next(alone) for job in jobs]


def stdin_tests(pool: SandboxPool | OneEach, count: int, program: str, passed: int) -> int:
    """`count` tests of input and output, ten a program, of which `passed` pass."""
    sources = [f"{program}# {n}" for n in range(count // len(STDIN))]
    verdicts = check_programs(pool, sources, [STDIN] * len(sources))
    assert all(verdict.passed == passed for verdict in verdicts)
    return sum(verdict.total for verdict in verdicts)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Units a second on one core: medians, and the ratio to fresh interpreters in the same repetition."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measured: dict[str, Callable[[], int]] = {"fresh interpreter: programs": lambda: fresh(options.size)}
    missing = {}
    with ExitStack() as stack:
        for tier in options.tiers:
            try:
                pool = stack.enter_context(SandboxPool(1, tier))
            except InputError as error:
                missing[tier] = str(error)
                continue
            measured[f"tier {tier}: programs"] = lambda pool=pool: programs(pool, options.size)
            measured[f"tier {tier}: call tests"] = lambda pool=pool: call_tests(pool, 10 * options.size)
            for kind, (program, passed) in STDIN_PROGRAMS.items():
                for way, executor in (("", pool), (", a process each", OneEach(pool))):
                    measured[f"tier {tier}: stdin tests, {kind}{way}"] = (
                        lambda executor=executor, program=program, passed=passed: stdin_tests(
                            executor, options.size, program, passed
                        )
                    )
        rates: dict[str, list[float]] = {name: [] for name in measured}
        for repetition in tqdm(range(options.repetitions + 1), desc="repetitions", disable=options.json or None):
            names = list(measured)
            turn = repetition % len(names)
            for name in names[turn:] + names[:turn]:
                started = time.perf_counter()
                count = measured[name]()
                if repetition:  # the first warms up
                    rates[name].append(count / (time.perf_counter() - started))
    base = rates["fresh interpreter: programs"]
    return {
        "per_second": {name: round(statistics.median(each)) for name, each in rates.items()},
        "range": {name: [round(min(each)), round(max(each))] for name, each in rates.items()},
        "programs_against_fresh": {
            name: round(statistics.median(ours / theirs for ours, theirs in zip(each, base, strict=True)), 2)
            for name, each in rates.items()
            if name.endswith("programs")
        },
        "missing": missing,
    }


def state() -> dict[str, dict[str, int]]:
    """Descriptors and memory (KiB) of this process and of every one below it, and how many are zombies."""
    found: dict[str, dict[str, int]] = {}
    level, depth = [os.getpid()], 0
    while level:
        for number, pid in enumerate(level):
            status = Path(f"/proc/{pid}/status").read_text()
            zombie = "\nState:\tZ" in status
            found[f"{('trainer', 'launcher', 'zygote', 'job')[min(depth, 3)]} {number}"] = {
                "descriptors": 0 if zombie else sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
                "resident_kib": 0 if zombie else int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE // 1_024,
                "zombie": int(zombie),
            }
        below = [Path(f"/proc/{pid}/task/{pid}/children") for pid in level]
        level = [int(child) for path in below if path.exists() for child in path.read_text().split()]
        depth += 1
    return found


def many(options: argparse.Namespace) -> dict[str, Any]:
    """Growth of the processes of one pool over `--many` programs."""
    expected = {
        "print(1)": End.EXITED,
        "open('f', 'w').write('x' * 10_000)": End.EXITED,
        "import os; os._exit(3)": End.EXITED,
        "import os; os.abort()": End.CRASHED,
        "import threading\nfor _ in range(5): threading.Thread(target=print).start()": End.EXITED,
        "x = [bytes(2**20) for _ in range(50)]": End.EXITED,
        "raise SystemExit(2)": End.EXITED,
        "1/0": End.EXITED,
        "while True: print('x' * 2**16)": End.OUTPUT,
        "while True: pass": End.CPU,
    }
    jobs = [Job(source, limits=Limits(cpu_seconds=0.05 if end is End.CPU else 5.0)) for source, end in expected.items()]
    ends = Counter[str]()
    samples = []
    with SandboxPool(options.workers, "A") as pool:

        def hundred() -> Counter[str]:
            """One round; its outcomes, of which a tenth holds a MiB, are gone when it returns."""
            found = Counter[str]()
            for end, outcome in zip(list(expected.values()) * 10, pool.run(jobs * 10), strict=True):
                found[outcome.end] += 1
                found["unexpected"] += outcome.end is not end
            return found

        hundred()
        before = state()
        for _ in tqdm(range(options.many // 100), desc="hundreds of programs", disable=options.json or None):
            ends += hundred()
            samples.append(sum(each["resident_kib"] for each in state().values()))
        after = state()
    growth = {
        name: {key: after.get(name, {}).get(key, 0) - number for key, number in each.items()}
        for name, each in before.items()
    }
    return {
        "programs": sum(ends.values()) - ends["unexpected"], "ends": dict(ends),
        "ends_other_than_expected": ends["unexpected"], "processes": [len(before), len(after)],
        "growth": growth, "zombies": sum(each["zombie"] for each in after.values()),
        "resident_kib_over_time": samples[:: max(1, len(samples) // 10)],
    }  # fmt: skip


def load(options: argparse.Namespace) -> dict[str, Any]:
    """How many of 100 correct programs of 0.25 s pass with sixteen workers a core."""
    workers = 16 * len(os.sched_getaffinity(0))
    with SandboxPool(workers, "A", limits=Limits(cpu_seconds=1.0)) as pool:
        outcomes = pool.run([Job(BURN)] * 100)
    walls = sorted(outcome.wall_seconds for outcome in outcomes)
    return {
        "workers": workers,
        "passed": sum(outcome.end is End.EXITED and outcome.stdout == b"done\n" for outcome in outcomes),
        "of": len(outcomes),
        "wall_seconds_median_and_most": [round(walls[len(walls) // 2], 2), round(walls[-1], 2)],
        "cpu_seconds_most": round(max(outcome.cpu_seconds for outcome in outcomes), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", nargs="+", choices=("A", "B"), default=["A", "B"])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--size", type=int, default=100, help="programs (and tests / 10) in one repetition")
    parser.add_argument("--many", type=int, default=0, help="programs through one pool; 0 = skip")
    parser.add_argument("--workers", type=int, default=2, help="of the pool of --many")
    parser.add_argument("--load", action="store_true", help="correct programs at 16 times the load")
    parser.add_argument("--json", action="store_true", help="one JSON object and no progress")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    try:
        if options.many:
            result["many"] = many(options)
        if options.load:
            result["load"] = load(options)
        result = result or speed(options)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
