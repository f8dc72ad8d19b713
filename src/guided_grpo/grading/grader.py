"""One grader for all verifiers: rows and responses in, verdicts out, in order; and what a verdict is worth.

    (response, row) ──▶ task and kind ──▶ maths: exact here, algebra in `pool.py`   ──▶ verdicts
                        repeats once  └─▶ code: programs in the sandbox, `code.py`  ──┘

Pools start when the first response needs them, or at `start`, which says early that a sandbox cannot be had. `begin`
grades in a thread of its own while the caller goes on sampling or computing log-probs; the same questions asked by
`grade` after that wait for those verdicts instead of grading again.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from guided_grpo.errors import InfraLimitError
from guided_grpo.grading.answers import declared_answer
from guided_grpo.grading.code import CodeVerdict, check_code, reference_tests
from guided_grpo.grading.code_forms import ByReference, read_tests
from guided_grpo.grading.code_tests import CodeTests
from guided_grpo.grading.maths import undeclared
from guided_grpo.grading.maths_pool import MathsPool
from guided_grpo.grading.strict import KINDS, compare_as
from guided_grpo.grading.worth import WORTH, GradingSettings, read_worth
from guided_grpo.sandbox import SandboxPool
from guided_grpo.types import Status, Verdict

_WINDOW, _LEAST = 1_000, 100  # responses over which the share of infrastructure errors is taken; fewer say nothing
_PROBLEMS = 10_000  # whose tests are kept read
_PATIENCE = 2.0  # seconds that a batch under way has at the end


@dataclass(frozen=True)
class Submission:
    """One response and what decides whether it is right."""

    response: str
    row: Mapping[str, Any]

    @property
    def task(self) -> str:
        """`math` or `code`; "" = nothing here to grade it by."""
        given = self.row.get("task")
        able = [task for task, column in (("math", "answer"), ("code", "tests")) if self.row.get(column) is not None]
        return str(given) if given in able else able[0] if able and given not in WORTH else ""

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for questions that have one and the same verdict."""
        names = ("answer", "answer_kind") if self.task == "math" else ("tests", "entry_point", "setup")
        return (self.response, self.task, *(_text(self.row.get(name)) for name in names))


class Grader:
    """Grades responses of any task; safe to use from several threads. A context manager."""

    def __init__(self, settings: GradingSettings | None = None) -> None:
        self.settings = settings or GradingSettings()
        self._worth = read_worth(self.settings.verdict_rewards)
        self.counts: Counter[Status] = Counter()  # of all verdicts so far
        self._lock = threading.RLock()  # one batch at a time: the pools serve one caller
        self._maths: MathsPool | None = None
        self._code: SandboxPool | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._begun: dict[tuple[str, ...], Future[dict[tuple[str, ...], Verdict]]] = {}
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self._reason = ""
        self._known_tests: dict[tuple[str, ...], CodeTests] = {}

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, tasks: Sequence[str]) -> None:
        """Make ready what these tasks need. Raises InputError where the sandbox cannot be had."""
        if "code" in tasks:
            self._programs()

    def close(self) -> None:
        """End the processes; the grader can be used again."""
        if self._thread is not None:
            wait(self._begun.values(), timeout=_PATIENCE)  # then its processes end under it
        for pool in (self._maths, self._code):
            if pool is not None:
                pool.close()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._maths = self._code = self._thread = None
        self._begun, self._known_tests = {}, {}

    def begin(self, questions: Sequence[Submission]) -> None:
        """Grade in the background; `grade` of the same questions takes the verdicts from here, once."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "grader")
        future = self._thread.submit(self._grade_different, list(questions))
        self._begun = {question.key: future for question in questions}

    def grade(self, questions: Sequence[Submission]) -> list[Verdict | None]:
        """One verdict a question, in order; None = the row has nothing to be graded by.

        Raises InfraLimitError where too many of the last verdicts are infrastructure errors.
        """
        begun, self._begun = self._begun, {}
        keys = [question.key for question in questions]
        known: dict[tuple[str, ...], Verdict] = {}
        for future in {id(begun[key]): begun[key] for key in keys if key in begun}.values():
            known |= future.result()
        known |= self._grade_different([q for q, key in zip(questions, keys, strict=True) if key not in known])
        verdicts = [known.get(key) for key in keys]
        self._count([verdict for verdict in verdicts if verdict is not None])
        return verdicts

    def worth(self, question: Submission, verdict: Verdict | None) -> float | None:
        """The reward of a verdict; None = masked."""
        if verdict is None:
            return None
        table = self._worth[question.task]
        if not isinstance(verdict, CodeVerdict) or table[verdict.status] is None or not verdict.total:
            return table[verdict.status]
        passed = verdict.passed if self.settings.code_weak else verdict.passed - verdict.weak
        if passed == verdict.total:
            return table[Status.CORRECT]
        failed = table[Status.WRONG if verdict.status is Status.CORRECT else verdict.status] or 0.0
        share = passed / verdict.total if self.settings.code_partial else 0.0
        return failed + share * ((table[Status.CORRECT] or 0.0) - failed)

    def _grade_different(self, questions: Sequence[Submission]) -> dict[tuple[str, ...], Verdict]:
        different = {question.key: question for question in questions if question.task}
        maths = {key: question for key, question in different.items() if question.task == "math"}
        code = {key: question for key, question in different.items() if question.task == "code"}
        with self._lock:
            return {**self._grade_maths(maths), **self._grade_code(code)}

    def _grade_maths(self, questions: Mapping[tuple[str, ...], Submission]) -> dict[tuple[str, ...], Verdict]:
        verdicts: dict[tuple[str, ...], Verdict] = {}
        left: dict[tuple[str, ...], tuple[str, str]] = {}
        for key, question in questions.items():
            found = declared_answer(question.response, forms=self.settings.answer_forms)
            kind, gold = question.row.get("answer_kind") or "math", str(question.row["answer"])
            if kind not in KINDS:
                verdicts[key] = Verdict(
                    Status.INFRA_ERROR, found, f"answer_kind {kind!r} is none of {', '.join(KINDS)}"
                )
            elif found is None:
                verdicts[key] = undeclared()
            elif kind != "math":
                verdicts[key] = compare_as(kind, found, gold)
            else:
                left[key] = (found, gold)
        if left:
            if self._maths is None:
                self._maths = MathsPool(self.settings.maths_workers, self.settings.maths_seconds)
            verdicts |= zip(left, self._maths.compare(list(left.values())), strict=True)
        return verdicts

    def _grade_code(self, questions: Mapping[tuple[str, ...], Submission]) -> dict[tuple[str, ...], Verdict]:
        verdicts: dict[tuple[str, ...], Verdict] = {}
        ready: dict[tuple[str, ...], CodeTests] = {}
        for key in questions:
            try:
                ready[key] = self._tests(*key[2:])
            except ValueError as error:
                verdicts[key] = CodeVerdict(Status.INFRA_ERROR, None, f"the tests {error}")
        if ready:
            responses = [questions[key].response for key in ready]
            verdicts |= zip(ready, check_code(self._programs(), responses, list(ready.values())), strict=True)
        return verdicts

    def _tests(self, *written: str) -> CodeTests:
        """The tests of a problem; those by reference are known once the reference has run."""
        if written not in self._known_tests:
            tests, entry_point, setup = written
            found = read_tests(tests, entry_point=entry_point, setup=setup)
            if isinstance(found, ByReference):
                found = reference_tests(
                    self._programs(), found.reference, found.entry_point, found.inputs, tolerance=found.tolerance
                )
            if len(self._known_tests) >= _PROBLEMS:
                del self._known_tests[next(iter(self._known_tests))]
            self._known_tests[written] = found
        return self._known_tests[written]

    def _programs(self) -> SandboxPool:
        if self._code is None:
            settings = self.settings
            self._code = SandboxPool(settings.code_workers, settings.code_tier, limits=settings.code_limits)
        return self._code

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        self.counts.update(verdict.status for verdict in verdicts)
        failures = [verdict for verdict in verdicts if verdict.status is Status.INFRA_ERROR]
        self._recent.extend(verdict.status is Status.INFRA_ERROR for verdict in verdicts)
        self._reason = failures[-1].reason if failures else self._reason
        failed, of = sum(self._recent), len(self._recent)
        if of >= _LEAST and failed > self.settings.infra_limit * of:
            raise InfraLimitError(
                f"{failed} of the last {of} responses could not be graded (infra_error, infra_limit "
                f"{self.settings.infra_limit:g}), so that what is left is noise; the last reason: {self._reason}; "
                "fix: mend it, which 'guided-grpo grade' shows, or raise infra_limit"
            )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)
