"""The code verifier: does a response's program pass the tests of its problem?

The program runs in the sandbox; what comes back is compared here, value by value (`code_tests.py`). A program is never
right because its process ended well, nor because it says so. Weak tests run in a process of their own, so that the
source of a test, with what it expects, is never beside a call whose value counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guided_grpo.grading.code_blocks import declared_code
from guided_grpo.grading.code_judge import Hearing, hold
from guided_grpo.grading.code_runs import Runs, settle
from guided_grpo.grading.code_tests import CallTest, Close, CodeTests, Equal, EqualJson, Near
from guided_grpo.sandbox import End, Job, Kind, Outcome, Result, SandboxPool, decode
from guided_grpo.types import Status, Verdict


@dataclass(frozen=True)
class CodeVerdict(Verdict):
    """A graded program. CORRECT = all tests passed; the counts are for partial credit and for reports."""

    passed: int = 0
    total: int = 0
    weak: int = 0  # of the passed ones: those that the program could have forged


def check_code(
    pool: SandboxPool, responses: Sequence[str], tests: Sequence[CodeTests], *, partial: bool = True
) -> list[CodeVerdict]:
    """Grade responses, each against its tests, in one batch; repeated pairs run once.

    Args:
        pool: where the programs run, with its limits per process: one for all calls, one for each weak test, one for
            each test of input and output (but see `code_runs.py`).
        responses: what the policy wrote (_B).
        tests: of each response's problem (_B).
        partial: False = only whether all tests pass is asked for; the first that fails ends a program.
    """
    codes = [declared_code(response) for response in responses]
    verdicts = check_programs(pool, [code or "" for code in codes], tests, partial=partial)
    return [
        CodeVerdict(Status.NO_ANSWER, None, "no block of Python", total=len(each)) if code is None else verdict
        for code, each, verdict in zip(codes, tests, verdicts, strict=True)
    ]


def check_programs(
    pool: SandboxPool, programs: Sequence[str], tests: Sequence[CodeTests], *, partial: bool = True
) -> list[CodeVerdict]:
    """As `check_code`, for bare programs."""
    firsts: dict[tuple[str, int], int] = {}
    for row, (program, each) in enumerate(zip(programs, tests, strict=True)):
        firsts.setdefault((program, id(each)), row)
    runs = {row: _runs(programs[row], tests[row]) for row in firsts.values()}
    jobs = {row: (each.plan(pool), _jobs(programs[row], tests[row])) for row, each in runs.items()}
    stream = iter(pool.run([job for first, others in jobs.values() for job in (*first, *others)]))
    outcomes: dict[int, list[Outcome]] = {}
    for row, (first, others) in jobs.items():
        runs[row].receive([next(stream) for _ in first])
        outcomes[row] = [next(stream) for _ in others]
    settle(pool, list(runs.values()), partial=partial)
    trials = {
        row: Hearing(programs[row], _prelude(programs[row], tests[row]), tests[row].setup, script)
        for row in runs
        if (script := tests[row].script)
    }
    hold(pool, list(trials.values()))
    whole = [row for row, trial in trials.items() if not trial.portable]
    alone = [
        Job(programs[row], prelude=trials[row].prelude, setup=tests[row].setup, checks=(trials[row].script.whole,))
        for row in whole
    ]
    forgeable = dict(zip(whole, pool.run(alone) if alone else [], strict=True))
    verdicts = {
        row: _verdict(programs[row], tests[row], each.outcomes + outcomes[row], trials.get(row), forgeable.get(row))
        for row, each in runs.items()
    }
    return [verdicts[firsts[program, id(each)]] for program, each in zip(programs, tests, strict=True)]


def reference_tests(
    pool: SandboxPool, reference: str, entry_point: str, inputs: Sequence[Sequence[Any]], *, tolerance: float = 0.0
) -> CodeTests:
    """Tests from inputs and a trusted solution, as in MBPP+: what the reference returns is what is expected.

    Args:
        pool: where the reference runs; one process, so that its limits bound all inputs together.
        reference: the solution.
        entry_point: name of its function.
        inputs: the arguments of each call, plain data.
        tolerance: absolute, for floats, in containers too; 0 = exact. A NaN of the reference equals itself.

    Raises ValueError where the reference does not answer every input with plain data.
    """
    setup = "inf, nan = float('inf'), float('nan')"  # as repr writes them
    calls = tuple(f"{entry_point}({', '.join(map(repr, arguments))})" for arguments in inputs)
    [outcome] = pool.run([Job(reference, setup=setup, calls=calls)])
    tests = []
    for call, result in zip(calls, outcome.results, strict=True):
        if result.kind is not Kind.VALUE:
            raise ValueError(f"the reference has no result for {_short(call)}: {_failure(outcome, result)[1]}")
        value = decode(result.value)
        if tolerance > 0 and isinstance(value, float) and math.isfinite(value):
            expected: Equal | Close = Close(value, tolerance)
        else:
            expected = Near(value, tolerance) if _has_float(value, nan=not tolerance) else Equal(value)
        tests.append(CallTest(call, expected))
    return CodeTests(calls=tuple(tests), setup=setup)


def same_output(expected: str, received: bytes, *, exact: bool = False) -> bool:
    """Equality of whole outputs, line by line; blanks at the ends of lines and blank lines at the end do not count.

    Within a line, as the judges of programming contests compare: word by word, a number with a decimal point to a
    relative and absolute 1e-6. With `exact`, and where the expected output sets its words out by blanks, as they stand.
    """
    try:
        text = received.decode()
    except UnicodeDecodeError:
        return False
    ours, theirs = _lines(expected), _lines(text)
    if ours == theirs or exact or len(ours) != len(theirs) or any(_LAYOUT.search(line) for line in ours):
        return ours == theirs
    return all(_same_words(*pair) for pair in zip(ours, theirs, strict=True))


def _has_float(value: Any, *, nan: bool) -> bool:
    """Whether a float (`nan`: a NaN) is in it."""
    if isinstance(value, float):
        return value != value or not nan
    inside = [*value.values()] if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return any(_has_float(each, nan=nan) for each in inside)


_LAYOUT = re.compile(r"^[ \t]|[ \t]{2}")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d{1,3})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,3})?", re.ASCII)


def _same_words(expected: str, received: str) -> bool:
    ours, theirs = expected.split(), received.split()
    return len(ours) == len(theirs) and all(
        one == other
        or (
            _DECIMAL.fullmatch(one) is not None
            and _NUMBER.fullmatch(other) is not None
            and math.isclose(float(one), float(other), rel_tol=1e-6, abs_tol=1e-6)
        )
        for one, other in zip(ours, theirs, strict=True)
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _runs(program: str, tests: CodeTests) -> Runs:
    def right(index: int, outcome: Outcome) -> bool:
        clean = outcome.end is End.EXITED and outcome.exit_code == 0
        test = tests.stdin[index]
        return clean and same_output(test.expected, outcome.stdout, exact=test.exact)

    inputs = [test.stdin.encode(errors="replace") for test in tests.stdin]
    longest = max((len(test.expected.encode(errors="replace")) for test in tests.stdin), default=0)
    return Runs(program, inputs, right, prelude=_prelude(program, tests), output_bytes=longest)


def _jobs(program: str, tests: CodeTests) -> list[Job]:
    calls = tuple(test.call for test in tests.calls)
    return [Job(program, prelude=_prelude(program, tests), setup=_setup(program, tests), calls=calls)] if calls else []


_MODULES = "bisect collections copy functools heapq itertools math operator os random re statistics string sys"
_NAMES = (
    "from typing import *\nfrom collections import *\nfrom heapq import *\nfrom bisect import *\n"
    "from itertools import *\nfrom functools import *\nfrom math import inf, gcd, ceil, floor, sqrt, log, log2, comb"
)


def _prelude(program: str, tests: CodeTests) -> str:
    """What the benchmarks run before a program: the names of annotations; for methods of `Solution`, and functions by
    name, also the modules that their sites import."""
    named = any(isinstance(test.expected, EqualJson) or "Solution" in test.call for test in tests.calls)
    if named or "class Solution" in program:
        return "\n".join([*(f"import {name}" for name in _MODULES.split()), _NAMES])
    return "from typing import *" if _TYPING.search(program) and "typing" not in program else ""


_TYPING = re.compile(r"\b(?:List|Dict|Set|Tuple|Optional|Union|Callable|Iterable|Any)\b")


def _setup(program: str, tests: CodeTests) -> str:
    """The set-up; a function that is called by name may be a method of `Solution`, as on LeetCode."""
    if "class Solution" not in program:
        return tests.setup
    lines = [
        f"if {name!r} not in globals() and hasattr(globals().get('Solution'), {name!r}):\n"
        f"    {name} = lambda *a, **k: Solution().{name}(*a, **k)"
        for name in dict.fromkeys(test.call.removeprefix("not ").partition("(")[0] for test in tests.calls)
        if name.isidentifier()
    ]
    return "\n".join(filter(None, [*lines, tests.setup]))


def _verdict(
    program: str, tests: CodeTests, outcomes: Sequence[Outcome], trial: Hearing | None, whole: Outcome | None
) -> CodeVerdict:
    """From the outcomes of input and output and of calls, of a script's trial, and of a script run with the program."""
    stream = iter(outcomes)
    failures: list[tuple[Status, str]] = []
    for test in tests.stdin:
        outcome = next(stream)
        if outcome.end is not End.EXITED or outcome.exit_code != 0:
            failures.append(_failure(outcome, Result(Kind.ABSENT)))
        elif not same_output(test.expected, outcome.stdout, exact=test.exact):
            failures.append((Status.WRONG, f"wrong output for {_short(test.stdin)}"))
    if tests.calls:
        outcome = next(stream)
        for call, result in zip(tests.calls, outcome.results, strict=True):
            if result.kind is not Kind.VALUE:
                failures.append(_failure(outcome, result))
            elif not call.expected.accepts(result.value):
                failures.append((Status.WRONG, f"wrong value of {_short(call.call)}"))
    total, weak = len(tests), 0
    if whole is not None:
        total = weak = 1
        if whole.results[0].kind is not Kind.PASSED or whole.end is not End.EXITED:
            weak = 0
            failures.append(_failure(whole, whole.results[0]))
    elif trial is not None:
        total += len(trial.results) - (tests.script.count if tests.script else 0) if trial.results else 0
        weak = sum(result[0] == "forged" for result in trial.results)
        failures += [_fault(trial, result) for result in trial.results if result[0] not in ("passed", "forged")]
        if trial.judgement is not None:
            failures.append(_failure(trial.judgement, trial.judgement.results[0]))
        elif not trial.results:
            failures.append((Status.WRONG, "no test ran"))
    ours = next((failure for failure in failures if failure[0] is Status.INFRA_ERROR), None)
    status, reason = ours or (failures[0] if failures else (Status.CORRECT, f"{total} tests passed"))
    return CodeVerdict(status, program, reason, passed=max(0, total - len(failures)), total=total, weak=weak)


def _fault(trial: Hearing, result: Sequence[Any]) -> tuple[Status, str]:
    """Why a test of a script failed: what the program raised, or the test."""
    fault, outcome = result[-1], trial.outcome
    if outcome is not None and (outcome.error or outcome.end is End.INFRA_ERROR):
        return _failure(outcome, Result(Kind.ABSENT))
    if outcome is not None and isinstance(fault, int) and 0 <= fault < len(outcome.results):
        return _failure(outcome, outcome.results[fault])
    return Status.WRONG, str(result[1])


_ENDS = {
    End.CPU: (Status.TIMEOUT, "over the CPU limit"),
    End.WALL: (Status.TIMEOUT, "over the wall limit"),
    End.OUTPUT: (Status.RESOURCE, "over the output limit"),
}


def _failure(outcome: Outcome, result: Result) -> tuple[Status, str]:
    """Why a test has no value to compare."""
    error = outcome.error or result.error
    if outcome.end is End.INFRA_ERROR:
        return Status.INFRA_ERROR, error
    if result.kind is Kind.RAISED or outcome.error:
        if error.startswith(("SyntaxError", "IndentationError", "TabError")) and outcome.error:
            return Status.UNPARSEABLE, error
        return (Status.RESOURCE if error.startswith("MemoryError") else Status.WRONG), error
    if outcome.end in _ENDS:
        return _ENDS[outcome.end]
    how = f"ended by signal {outcome.signal}" if outcome.signal else f"exited with {outcome.exit_code}"
    return Status.WRONG, f"the program {how} before its result"


def _short(text: str, limit: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
