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

from guided_grpo.sandbox import End, Job, Outcome, SandboxPool
from guided_grpo.sandbox.jobs import MAX_INPUTS

SHARE = 0.2  # of the time limits, for all runs of one process: what a program that meets them costs in vain

_dice = random.Random()  # not the global one, which training seeds


class Runs:
    """One program on the inputs of its tests: `plan`, run the jobs, `receive`, `settle`, then its `outcomes`."""

    def __init__(self, program: str, inputs: Sequence[bytes], right: Callable[[int, Outcome], bool]) -> None:
        """`right`: whether an outcome is the one expected for the input at an index."""
        self.program, self.inputs, self.right = program, inputs, right
        self.outcomes: list[Outcome] = []
        self.absent: list[int] = []  # inputs without an outcome so far, between `receive` and `settle`
        self._order = list(range(len(inputs)))  # of the inputs, through the jobs
        self._together = len(inputs) > 1  # whether several share a process

    def plan(self, pool: SandboxPool) -> list[Job]:
        """The first jobs: several inputs each where that can be."""
        if not self._together:
            return [self.alone(index) for index in self._order]
        _dice.shuffle(self._order)
        limits = replace(
            pool.limits, cpu_seconds=pool.limits.cpu_seconds * SHARE, wall_seconds=pool.limits.wall_seconds * SHARE
        )
        parts = [self._order[start : start + MAX_INPUTS] for start in range(0, len(self._order), MAX_INPUTS)]
        return [Job(self.program, inputs=tuple(self.inputs[i] for i in part), limits=limits) for part in parts]

    def receive(self, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of the first jobs."""
        runs = [run for outcome in outcomes for run in (outcome.runs if self._together else (outcome,))]
        by_index = dict(zip(self._order, runs, strict=True))
        self.absent = sorted(index for index, run in by_index.items() if run is None)
        self.outcomes = [by_index[index] or Outcome(End.INFRA_ERROR) for index in range(len(self.inputs))]

    def alone(self, index: int) -> Job:
        """One input in a process of its own."""
        return Job(self.program, stdin=self.inputs[index])


def settle(pool: SandboxPool, programs: Sequence[Runs]) -> None:
    """Complete the outcomes of programs that have received those of their first jobs on `pool`."""
    absent = [(each, index) for each in programs for index in each.absent]
    outcomes = pool.run([each.alone(index) for each, index in absent]) if absent else []
    for (each, index), outcome in zip(absent, outcomes, strict=True):
        each.outcomes[index] = outcome
