"""One grader for all verifiers: rows and responses in, verdicts out, in order; and what a verdict is worth.

    (response, row) ──▶ task and kind ──▶ maths: exact here, algebra in `maths_pool.py`   ──▶ verdicts
                        repeats once  └─▶ code: programs in the sandbox, `code.py`  ──┘

Pools start when the first response needs them, or at `start`, which says early that a sandbox cannot be had. `begin`
grades in a thread of its own while the caller goes on sampling or computing log-probs; the same submissions to
`grade` after that wait for those verdicts instead of grading again.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Self

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

Key = tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """One response and what decides whether it is right."""

    response: str
    row: Mapping[str, Any]

    @property
    def task(self) -> str:
        """`math` or `code`; "" = nothing here to grade it by."""
        name = self.row.get("task")
        tasks = [task for task, column in (("math", "answer"), ("code", "tests")) if self.row.get(column) is not None]
        return str(name) if name in tasks else tasks[0] if tasks and name not in WORTH else ""

    @property
    def key(self) -> Key:
        """Equal for submissions that have one and the same verdict."""
        names = ("answer", "answer_kind") if self.task == "math" else ("tests", "entry_point", "setup")
        return (self.response, self.task, *(_text(self.row.get(name)) for name in names))


class Grader:
    """Grades responses of any task; safe to use from several threads. A context manager."""

    def __init__(self, settings: GradingSettings | None = None) -> None:
        self.settings = settings or GradingSettings()
        self.counts: Counter[Status] = Counter()  # of all verdicts so far
        self._worth = read_worth(self.settings.verdict_rewards)
        self._lock = threading.RLock()  # one batch at a time: the pools serve one caller
        self._maths: MathsPool | None = None
        self._code: SandboxPool | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._futures: dict[Key, Future[dict[Key, Verdict]]] = {}  # of what `begin` was given
        self._failures: deque[bool] = deque(maxlen=_WINDOW)  # of the last verdicts: whether each is a failure of ours
        self._reason = ""  # of the last one
        self._tests: dict[Key, CodeTests] = {}

    def __enter__(self) -> Self:
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
            wait(self._futures.values(), timeout=_PATIENCE)  # then its processes end under it
        for pool in (self._maths, self._code):
            if pool is not None:
                pool.close()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._maths = self._code = self._thread = None
        self._futures, self._tests = {}, {}

    def begin(self, submissions: Sequence[Submission]) -> None:
        """Grade in the background; `grade` of the same submissions takes the verdicts from here, once."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "grader")
        future = self._thread.submit(self._grade_different, list(submissions))
        self._futures = {submission.key: future for submission in submissions}

    def grade(self, submissions: Sequence[Submission]) -> list[Verdict | None]:
        """One verdict a submission, in order; None = the row has nothing to be graded by.

        Raises InfraLimitError where too many of the last verdicts are infrastructure errors.
        """
        futures, self._futures = self._futures, {}
        keys = [submission.key for submission in submissions]
        verdicts: dict[Key, Verdict] = {}
        for future in {id(futures[key]): futures[key] for key in keys if key in futures}.values():
            verdicts |= future.result()
        verdicts |= self._grade_different([s for s, key in zip(submissions, keys, strict=True) if key not in verdicts])
        row = [verdicts.get(key) for key in keys]
        self._count([verdict for verdict in row if verdict is not None])
        return row

    def worth(self, submission: Submission, verdict: Verdict | None) -> float | None:
        """The reward of a verdict; None = masked."""
        if verdict is None:
            return None
        table = self._worth[submission.task]
        if not isinstance(verdict, CodeVerdict) or table[verdict.status] is None or not verdict.total:
            return table[verdict.status]
        passed = verdict.passed if self.settings.code_weak else verdict.passed - verdict.weak
        if passed == verdict.total:
            return table[Status.CORRECT]
        failed = table[Status.WRONG if verdict.status is Status.CORRECT else verdict.status] or 0.0
        share = passed / verdict.total if self.settings.code_partial else 0.0
        return failed + share * ((table[Status.CORRECT] or 0.0) - failed)

    def _grade_different(self, submissions: Sequence[Submission]) -> dict[Key, Verdict]:
        different = {submission.key: submission for submission in submissions if submission.task}
        maths = {key: submission for key, submission in different.items() if submission.task == "math"}
        code = {key: submission for key, submission in different.items() if submission.task == "code"}
        with self._lock:
            return {**self._grade_maths(maths), **self._grade_code(code)}

    def _grade_maths(self, submissions: Mapping[Key, Submission]) -> dict[Key, Verdict]:
        verdicts: dict[Key, Verdict] = {}
        pairs: dict[Key, tuple[str, str]] = {}
        for key, submission in submissions.items():
            answer = declared_answer(submission.response, forms=self.settings.answer_forms)
            kind, gold = submission.row.get("answer_kind") or "math", str(submission.row["answer"])
            if kind not in KINDS:
                reason = f"answer_kind {kind!r} is none of {', '.join(KINDS)}"
                verdicts[key] = Verdict(Status.INFRA_ERROR, answer, reason)
            elif answer is None:
                verdicts[key] = undeclared()
            elif kind != "math":
                verdicts[key] = compare_as(kind, answer, gold)
            else:
                pairs[key] = (answer, gold)
        if pairs:
            if self._maths is None:
                self._maths = MathsPool(self.settings.maths_workers, self.settings.maths_seconds)
            verdicts |= zip(pairs, self._maths.compare(list(pairs.values())), strict=True)
        return verdicts

    def _grade_code(self, submissions: Mapping[Key, Submission]) -> dict[Key, Verdict]:
        verdicts: dict[Key, Verdict] = {}
        tests: dict[Key, CodeTests] = {}
        for key in submissions:
            try:
                tests[key] = self._tests_of(key[2:])
            except ValueError as error:
                verdicts[key] = CodeVerdict(Status.INFRA_ERROR, None, f"the tests {error}")
        if tests:
            responses = [submissions[key].response for key in tests]
            partial = self.settings.code_partial
            graded = check_code(self._programs(), responses, list(tests.values()), partial=partial)
            verdicts |= zip(tests, graded, strict=True)
        return verdicts

    def _tests_of(self, key: Key) -> CodeTests:
        """The tests of a problem; those by reference are known once the reference has run."""
        if key not in self._tests:
            source, entry_point, setup = key
            tests = read_tests(source, entry_point=entry_point, setup=setup)
            if isinstance(tests, ByReference):
                tests = reference_tests(
                    self._programs(), tests.reference, tests.entry_point, tests.inputs, tolerance=tests.tolerance
                )
            if len(self._tests) >= _PROBLEMS:
                del self._tests[next(iter(self._tests))]
            self._tests[key] = tests
        return self._tests[key]

    def _programs(self) -> SandboxPool:
        if self._code is None:
            settings = self.settings
            self._code = SandboxPool(
                settings.code_workers,
                settings.code_tier,
                limits=settings.code_limits,
                packages=settings.code_packages,
            )
        return self._code

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        self.counts.update(verdict.status for verdict in verdicts)
        for verdict in verdicts:
            self._failures.append(verdict.status is Status.INFRA_ERROR)
            self._reason = verdict.reason if verdict.status is Status.INFRA_ERROR else self._reason
        failures, of = sum(self._failures), len(self._failures)
        if of >= _LEAST and failures > self.settings.infra_limit * of:
            raise InfraLimitError(
                f"{failures} of the last {of} responses could not be graded (infra_error, infra_limit "
                f"{self.settings.infra_limit:g}), so that what is left is noise; the last reason: {self._reason}; "
                "fix: mend it, which 'guided-grpo grade' shows, or raise infra_limit"
            )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)
