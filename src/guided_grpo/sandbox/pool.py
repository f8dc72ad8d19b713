"""The trainer's side: workers, jobs in, outcomes out.

Nothing that a program wrote is trusted. A worker says how the process ended; what the process wrote is read from memory
files that it could fill up to `output_bytes` and no further, and is only ever compared.
"""

from __future__ import annotations

import logging
import os
import platform
import selectors
import threading
import time
from collections import deque
from collections.abc import Sequence

from guided_grpo.errors import InputError
from guided_grpo.sandbox.canaries import canaries, weakness
from guided_grpo.sandbox.jail import JailError
from guided_grpo.sandbox.jobs import Job, Limits, Outcome
from guided_grpo.sandbox.outcomes import outcome_of
from guided_grpo.sandbox.worker import Worker, package_paths

ATTEMPTS = 2  # per job, where the sandbox itself failed
PATIENCE = 30.0  # seconds past a job's wall limit after which its worker counts as lost

_LOOK = 0.5  # seconds after which a batch looks whether the pool is being closed

log = logging.getLogger(__name__)


class SandboxPool:
    """Workers that run untrusted Python, each one job at a time. Use as a context manager, or call `close`.

    Safe to use from several threads (one `run` at a time). Not across a fork: make a pool in the process that uses it.
    """

    def __init__(
        self,
        workers: int | None = None,
        tier: str = "auto",
        *,
        limits: Limits | None = None,
        unsafe: bool = False,
        packages: Sequence[str] = (),
    ) -> None:
        """Start the workers and see that nothing escapes from the first of them.

        Args:
            workers: jobs at once; None = the cores this process may use.
            tier: "A" (namespaces, Landlock, seccomp), "B" (Landlock, seccomp), "auto" (A, else B with a logged
                warning), "C" (resource limits alone: no boundary).
            limits: of each job that brings none; None = `Limits()`.
            unsafe: True = tier "C" may be used.
            packages: which programs may import beside the standard library, read-only; name what they need too.

        Raises InputError where the tier cannot be had or a canary escapes: what is missing, and the fix.
        """
        if platform.system() != "Linux":
            raise InputError(
                "the code sandbox needs Linux", fix="train on code there, in a virtual machine for example"
            )
        count = len(os.sched_getaffinity(0)) if workers is None else workers
        if count < 1:
            raise InputError("is no number of workers", field="workers", value=workers, fix="give at least 1")
        if tier not in ("auto", "A", "B", "C"):
            raise InputError("is no tier", field="tier", value=tier, fix="choose auto, A, B or C")
        if tier == "C" and not unsafe:
            raise InputError(
                "is no boundary: programs could read files, open sockets and kill processes",
                field="tier", value=tier, fix="choose A or B, or say unsafe=True where every program is trusted",
            )  # fmt: skip
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._closing = False
        self._packages = package_paths(packages)
        first = self._first_worker(tier)
        self.tier = first.tier
        self.landlock = first.landlock  # ABI version; 0 = tier A goes without
        self._workers: list[Worker] = [first]
        try:
            if self.tier != "C":
                self._release_canaries()
            self._workers += [Worker(self.tier, self._packages) for _ in range(count - 1)]
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run the jobs; one outcome each, in their order. A failure of the sandbox is an outcome, not an exception."""
        if os.getpid() != self._owner:
            raise RuntimeError("a SandboxPool does not survive a fork: make one in this process")
        with self._lock:
            try:
                return self._run(jobs)
            except BaseException:  # Ctrl-C above all: an answer left behind would be taken for the next job's
                for worker in self._workers:
                    if worker.busy:
                        worker.close()
                raise

    def close(self) -> None:
        """End all workers and whatever runs in them, a `run` of another thread too. Safe to call twice."""
        if os.getpid() != self._owner:
            return
        self._closing = True
        try:
            with self._lock:
                for worker in self._workers:
                    worker.close()
        finally:
            self._closing = False

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first_worker(self, tier: str) -> Worker:
        tiers = ["A", "B"] if tier == "auto" else [tier]
        failures: list[JailError] = []
        for name in tiers:
            try:
                worker = Worker(name, self._packages)
            except JailError as error:
                failures.append(error)
                continue
            if failures:
                log.warning("code sandbox: tier B (no namespaces), because %s; for tier A: %s", *failures[0].args)
            return worker
        missing = "; ".join(f"tier {name}: {error.missing}" for name, error in zip(tiers, failures, strict=True))
        raise InputError(f"the code sandbox cannot start: {missing}", fix=failures[0].fix)

    def _release_canaries(self) -> None:
        """Run programs that try to escape; InputError when one does, or when an honest one is hindered."""
        problem = weakness(self.tier, self._run(canaries(self.tier)))
        if problem:
            raise InputError(
                f"the code sandbox is not tight: {problem}",
                fix="report it with the kernel's version; do not train on code rewards here",
            )

    def _run(self, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(jobs)
        waiting = deque((index, 1) for index in range(len(jobs)))
        running: dict[Worker, tuple[int, int, float]] = {}  # job, attempt, deadline of the worker
        with selectors.DefaultSelector() as selector:
            while waiting or running:
                self._dispatch(jobs, waiting, running, outcomes, selector)
                nearest = min((deadline for _, _, deadline in running.values()), default=0.0)
                ready = {key.data for key, _ in selector.select(min(max(0.0, nearest - time.monotonic()), _LOOK))}
                if self._closing:
                    raise RuntimeError("the sandbox was closed while programs ran")
                for worker, (index, attempt, deadline) in list(running.items()):
                    if worker not in ready and time.monotonic() < deadline:
                        continue
                    selector.unregister(worker)
                    del running[worker]
                    job = jobs[index]
                    reply = worker.reply() if worker in ready else "it did not answer"
                    outcome = outcome_of(job, job.limits or self.limits, reply, last=attempt == ATTEMPTS)
                    if outcome is None:
                        waiting.append((index, attempt + 1))
                    outcomes[index] = outcome
                    if isinstance(reply, str):
                        worker.close()
        return [outcome for outcome in outcomes if outcome is not None]

    def _dispatch(
        self,
        jobs: Sequence[Job],
        waiting: deque[tuple[int, int]],
        running: dict[Worker, tuple[int, int, float]],
        outcomes: list[Outcome | None],
        selector: selectors.BaseSelector,
    ) -> None:
        """Give waiting jobs to idle workers; replace the dead among them first."""
        for slot, worker in enumerate(self._workers):
            if not waiting:
                return
            if worker in running:
                continue
            index, attempt = waiting.popleft()
            limits = jobs[index].limits or self.limits
            try:
                if worker.closed:
                    worker = self._workers[slot] = Worker(self.tier, self._packages)
                worker.start(jobs[index], limits)
            except (JailError, OSError) as error:  # a worker that was killed while idle, or no memory to make one
                worker.close()
                if attempt < ATTEMPTS:
                    waiting.append((index, attempt + 1))
                else:
                    outcomes[index] = outcome_of(jobs[index], limits, f"no worker: {error}", last=True)
                continue
            longest = limits.wall_seconds * jobs[index].steps + PATIENCE
            running[worker] = (index, attempt, time.monotonic() + longest)
            selector.register(worker, selectors.EVENT_READ, worker)
