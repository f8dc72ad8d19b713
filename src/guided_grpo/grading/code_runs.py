"""The runs of programs that read standard input: which run decides each test.

A process per test is what the right verdict is measured by. The sandbox takes several inputs in one process
(`sandbox/inputs.py`), and a program's tests go there first. What happens there decides, but a test without a clean end
there (a limit, a crash, `os._exit`, a thread left behind, …) is run alone. Nothing else is run again: each test is
decided by one run, chosen without a look at what is expected. Otherwise a program that tells a shared process from one
of its own would have two chances.

Why a test that passes there is passed. Expected outputs are not in the sandbox, so that to pass a program must have
written them from what it read, in a part of the time that one run may take. What earlier runs leave to a program that
means to use it is no more than the inputs of other tests (it can read them all) and what it made of them; the order of
the inputs is drawn anew each time, so that to count the runs tells nothing. An honest program must not rely on what
`sandbox/inputs.py` neither puts back nor finds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from guided_grpo.sandbox import End, Job, Limits, Outcome, SandboxPool
from guided_grpo.sandbox.jobs import MAX_INPUTS, MAX_STEPS, MIB

_WAVE = 4  # tests of one program that run at once, before it is known how they end
SHARE = 0.2  # of the time limits, for all runs of one process: what a program that meets them costs in vain

_dice = random.Random()  # not the global one, which training seeds


class Runs:
    """One program on the inputs of its tests: `plan`, run the jobs, `receive`, `settle`, then its `outcomes`."""

    def __init__(
        self,
        program: str,
        inputs: Sequence[bytes],
        right: Callable[[int, Outcome], bool],
        *,
        prelude: str = "",
        output_bytes: int = 0,
    ) -> None:
        """`right`: whether an outcome is the one expected for the input at an index; `output_bytes`: of the longest."""
        self.program, self.inputs, self.right, self.prelude, self._output = (
            program,
            inputs,
            right,
            prelude,
            output_bytes,
        )
        self.outcomes: list[Outcome] = []
        self.absent: list[int] = []  # inputs without an outcome so far, between `receive` and `settle`
        self._order = list(range(len(inputs)))  # of the inputs, through the jobs
        self._together = len(inputs) > 1  # whether several share a process

    def plan(self, pool: SandboxPool) -> list[Job]:
        """The first jobs: several inputs each where that can be."""
        if not self._together:
            return [self.alone(index, pool) for index in self._order]
        _dice.shuffle(self._order)
        limits = replace(
            self._limits(pool, MAX_INPUTS),
            cpu_seconds=pool.limits.cpu_seconds * SHARE,
            wall_seconds=pool.limits.wall_seconds * SHARE,
        )
        parts = [self._order[start : start + MAX_INPUTS] for start in range(0, len(self._order), MAX_INPUTS)]
        return [
            Job(self.program, prelude=self.prelude, inputs=tuple(self.inputs[i] for i in part), limits=limits)
            for part in parts
        ]

    def receive(self, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of the first jobs."""
        runs = [run for outcome in outcomes for run in (outcome.runs if self._together else (outcome,))]
        by_index = dict(zip(self._order, runs, strict=True))
        self.absent = sorted(index for index, run in by_index.items() if run is None)
        self.outcomes = [by_index[index] or Outcome(End.INFRA_ERROR) for index in range(len(self.inputs))]

    def alone(self, index: int, pool: SandboxPool) -> Job:
        """One input in a process of its own."""
        return Job(self.program, prelude=self.prelude, stdin=self.inputs[index], limits=self._limits(pool, 1))

    def _limits(self, pool: SandboxPool, runs: int) -> Limits:
        """With room for long outputs, by powers of two: a limit must not tell how long the expected one is."""
        limits = pool.limits
        while limits.output_bytes < 2 * self._output * min(runs, len(self.inputs)) and self._output > MIB // 2:
            limits = replace(limits, output_bytes=2 * limits.output_bytes)
        return limits

    def fails(self) -> Outcome | None:
        """The outcome of a test that is known to have failed; None = none is."""
        ran = [index for index in range(len(self.inputs)) if index not in self.absent]
        index = next((index for index in ran if not self.right(index, self.outcomes[index])), None)
        return None if index is None else self.outcomes[index]

    def skip(self, failure: Outcome) -> None:
        """Leave what has not run as failed, for the reason of another."""
        end = failure.end if failure.end is not End.EXITED or failure.exit_code else End.EXITED
        error = failure.error or ("" if end is not End.EXITED else "not run, since another test failed")
        for index in self.absent:
            self.outcomes[index] = Outcome(end, exit_code=failure.exit_code or 1, signal=failure.signal, error=error)
        self.absent = []


def settle(pool: SandboxPool, programs: Sequence[Runs], *, partial: bool = True) -> None:
    """Complete the outcomes of programs that have received those of their first jobs on `pool`.

    A program has a budget for all its tests, MAX_STEPS times the limit of one; without `partial` its first failure ends
    it.
    """
    spent = dict.fromkeys(range(len(programs)), 0.0)
    while True:
        for number, each in enumerate(programs):
            failure = None if partial or not each.absent else each.fails()
            if each.absent and (failure or spent[number] >= MAX_STEPS * pool.limits.cpu_seconds):
                each.skip(failure or Outcome(End.CPU))
        turn = [
            (number, index)
            for number, each in enumerate(programs)
            for index in each.absent[: _WAVE if spent[number] else 1]
        ]
        if not turn:
            return
        outcomes = pool.run([programs[number].alone(index, pool) for number, index in turn])
        for (number, index), outcome in zip(turn, outcomes, strict=True):
            programs[number].outcomes[index] = outcome
            programs[number].absent.remove(index)
            spent[number] += outcome.cpu_seconds
