"""Tests that are more than calls with their values: loops, helpers, objects, `check`, pytest's functions and classes.

They run in a sandbox without the program (`sandbox/script.py`), where calls of the program are questions. The
program answers them in its own sandbox, all in one process, in order. Since later questions may depend on answers, the
two take turns until nothing is left to ask. Every turn asks all questions anew, and the last process alone decides:
what the program answered before counts for nothing, so that a further turn is no further chance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from guided_grpo.grading.code_tests import Script
from guided_grpo.sandbox import End, Job, Kind, Outcome, Result, SandboxPool
from guided_grpo.sandbox.jobs import MAX_STEPS

TURNS = 40
_ABSENT = Result(Kind.ABSENT)


@dataclass
class Hearing:
    """One program before one script; `results` has an entry of `script.run_tests` for each test."""

    program: str
    prelude: str
    setup: str
    script: Script
    questions: list[tuple[str, bool]] = field(default_factory=list)
    outcome: Outcome | None = None  # of the program's process with these questions
    results: list[list[Any]] = field(default_factory=list)
    cpu_seconds: float = 0.0  # that the program has used so far
    judgement: Outcome | None = None  # of the tests' process, where it failed

    @property
    def portable(self) -> bool:
        """False = the tests can only run beside the program."""
        return not any(result[0] == "unportable" for result in self.results)

    def inquiry(self) -> Job:
        """The questions, for the program."""
        return Job(
            self.program,
            prelude=self.prelude,
            setup=self.setup,
            calls=tuple(question for question, _ in self.questions),
        )

    def hearing(self) -> Job:
        """The tests, with the program's answers."""
        written = [_answer(result) for result in self.outcome.results] if self.outcome else []
        script = self.script
        arguments = (script.source, script.shared, script.names, script.entry_point, self.questions)
        call = f"run_tests({', '.join(map(ascii, arguments))}, {json.dumps(written)!a})"
        return Job("from guided_grpo.sandbox.script import run_tests", calls=(call,))

    def take(self, outcome: Outcome) -> bool:
        """Read what the tests' process returned; False = there is more to ask."""
        try:
            self.results, questions, complete = json.loads(outcome.results[0].value)
        except (TypeError, ValueError):  # over a limit, or the sandbox failed
            self.judgement = outcome
            return True
        if not complete:
            self.questions = questions
        return bool(complete) or not self.portable


def _answer(result: Result) -> list[Any]:
    if result.kind is Kind.RAISED:
        return ["raised", [result.error, result.classes]]
    return [str(result.kind), result.value]


def hold(pool: SandboxPool, trials: Sequence[Hearing]) -> None:
    """Complete the trials."""
    if not trials:
        return
    first: dict[Script, Outcome] = {}
    scripts = list(dict.fromkeys(trial.script for trial in trials))
    first.update(zip(scripts, pool.run([Hearing("", "", "", script).hearing() for script in scripts]), strict=True))
    left = [trial for trial in trials if not trial.take(first[trial.script])]
    for _ in range(TURNS):
        if not left:
            return
        for trial, outcome in zip(left, pool.run([trial.inquiry() for trial in left]), strict=True):
            trial.outcome = outcome
            trial.cpu_seconds += outcome.cpu_seconds
        hearings = pool.run([trial.hearing() for trial in left])
        left = [trial for trial, outcome in zip(left, hearings, strict=True) if not trial.take(outcome)]
        spent = [trial for trial in left if trial.cpu_seconds > MAX_STEPS * pool.limits.cpu_seconds]
        for trial in spent:
            trial.judgement, trial.results = Outcome(End.CPU, results=(_ABSENT,)), []
        left = [trial for trial in left if trial not in spent]
    for trial in left:
        trial.results = [["failed", "the tests ask ever more of the program", -1]]
