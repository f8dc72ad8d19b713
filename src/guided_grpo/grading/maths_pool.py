"""Maths verdicts: batches in, verdicts out in the same order, whatever a response does.

    responses ──▶ declared answers ──▶ exact and textual comparison here, repeated pairs once ──▶ verdicts in order
                                       └─▶ what needs algebra ──▶ killable worker 0, 1, … ──┘

A pair on which a worker makes no progress for `seconds` is a TIMEOUT: the worker is killed and another takes its place.
A worker that dies (out of memory, a crash in C) is replaced too, and the pair that it died of is tried once more; then
it is an INFRA_ERROR, which says nothing of the response. Workers start when they are first needed.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from guided_grpo.grading.answers import FORMS, declared_answer
from guided_grpo.grading.maths import compare_exactly, undeclared
from guided_grpo.types import Status, Verdict

Pair = tuple[str, str]  # response, or declared answer, and gold answer
CHUNK = 32  # pairs that a worker has in hand: enough to hide the way there and back
_TRIES = 2
_SERVES = 2_000  # pairs after which a worker makes way for a new one: the parser of math-verify keeps what it has read


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    ready: bool = False
    served: int = 0
    asked: deque[int] = field(default_factory=deque)  # numbers of the pairs it has in hand, in order
    deadline: float = 0.0
    outgoing: bytes = b""  # does not fit into the pipe yet: a worker that hangs must not hang us
    received: bytes = b""


class MathsPool:
    """Grades pairs of response and gold answer, algebra in processes of its own; a context manager.

    Args:
        workers: processes; each is single-threaded.
        seconds: most time for one pair; a start of a worker may take ten times as long.
        memory_bytes: address space of a worker.
        forms: of `answers.FORMS`, those that declare an answer.
    """

    def __init__(
        self,
        workers: int = 1,
        seconds: float = 6.0,
        memory_bytes: int = 2 << 30,
        *,
        forms: Sequence[str] = FORMS,
    ) -> None:
        self.seconds, self.memory_bytes, self.forms = seconds, memory_bytes, forms
        self.restarts = 0
        self._wanted = workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> MathsPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair of response and gold answer, in order."""
        found = [declared_answer(response, forms=self.forms) for response, _ in pairs]
        declared = iter(self.compare([(text, gold) for text, (_, gold) in zip(found, pairs, strict=True) if text]))
        return [next(declared) if text else undeclared() for text in found]

    def compare(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair of declared and gold answer, in order. Equal pairs are graded once."""
        verdicts: dict[Pair, Verdict | None] = dict.fromkeys(pairs)
        for pair in verdicts:
            verdicts[pair] = compare_exactly(*pair)
        left = [pair for pair, verdict in verdicts.items() if verdict is None]
        decided = dict(zip(left, self._check_different(left), strict=True))
        return [verdicts[pair] or decided[pair] for pair in pairs]

    def close(self) -> None:
        """End all workers; the pool can be used again."""
        while self._workers:
            self._end(self._workers[-1])

    def _check_different(self, pairs: list[Pair]) -> list[Verdict]:
        verdicts: list[Verdict | None] = [None] * len(pairs)
        waiting, tries = deque(range(len(pairs))), [0] * len(pairs)
        try:
            while waiting or any(worker.asked for worker in self._workers):
                self._staff(len(waiting))
                for worker in self._workers:
                    self._hand_out(worker, waiting, pairs)
                self._collect(verdicts)
                for worker in list(self._workers):
                    self._bury(worker, waiting, tries, verdicts)
        except BaseException:  # an interrupt: verdicts on their way belong to nobody any more
            self.close()
            raise
        return [verdict for verdict in verdicts if verdict is not None]

    def _staff(self, waiting: int) -> None:
        for worker in [worker for worker in self._workers if worker.served >= _SERVES and not worker.asked]:
            self._end(worker)
        while len(self._workers) < min(self._wanted, max(1, waiting)):
            command = [sys.executable, "-m", "guided_grpo.grading.maths_worker", str(self.memory_bytes)]
            source = str(Path(__file__).parents[2])
            path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, **threads, "PYTHONPATH": path},
            )
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
            self._workers.append(_Worker(process, deadline=time.monotonic() + 10 * self.seconds))

    def _hand_out(self, worker: _Worker, waiting: deque[int], pairs: list[Pair]) -> None:
        if not worker.ready or worker.asked or not waiting:
            return
        share = -(-len(waiting) // len(self._workers))
        worker.asked.extend(waiting.popleft() for _ in range(min(CHUNK, share)))
        worker.deadline = time.monotonic() + self.seconds
        lines = "".join(json.dumps(pairs[number]) + "\n" for number in worker.asked)
        worker.outgoing = lines.encode()
        _send(worker)

    def _collect(self, verdicts: list[Verdict | None]) -> None:
        """Take what has come in, waiting until something does or the next deadline is over."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                if worker.outgoing:
                    assert worker.process.stdin is not None
                    selector.register(worker.process.stdin, selectors.EVENT_WRITE, worker)
            nearest = min((worker.deadline for worker in self._workers if _busy(worker)), default=0.0)
            for key, event in selector.select(max(0.0, nearest - time.monotonic())):
                if event & selectors.EVENT_WRITE:
                    _send(key.data)
                else:
                    self._take(key.data, verdicts)

    def _take(self, worker: _Worker, verdicts: list[Verdict | None]) -> None:
        assert worker.process.stdout is not None
        data = os.read(worker.process.stdout.fileno(), 1 << 20)
        if not data:
            worker.deadline = 0.0  # its end is closed
            return
        *lines, worker.received = (worker.received + data).split(b"\n")
        for line in lines:
            if not worker.ready:
                worker.ready = line == b"ready"
                continue
            status, extracted, reason = json.loads(line)
            verdicts[worker.asked.popleft()] = Verdict(Status(status), extracted, reason)
            worker.served += 1
        worker.deadline = time.monotonic() + self.seconds

    def _bury(self, worker: _Worker, waiting: deque[int], tries: list[int], verdicts: list[Verdict | None]) -> None:
        """Replace a worker that died or is over its deadline; what it had in hand goes back, but for the first pair."""
        died = worker.process.poll() is not None or worker.deadline == 0.0
        if not died and not (_busy(worker) and time.monotonic() > worker.deadline):
            return
        started = worker.ready
        self._end(worker)
        self.restarts += 1
        if not started and self.restarts > 3 * self._wanted:
            raise RuntimeError(
                "the maths workers do not start; run 'python -m guided_grpo.grading.maths_worker 0' to see why"
            )
        if not worker.asked:
            return
        first = worker.asked.popleft()
        waiting.extendleft(reversed(worker.asked))
        tries[first] += 1
        if not died:
            verdicts[first] = Verdict(Status.TIMEOUT, None, f"no verdict within {self.seconds:g} s")
        elif tries[first] >= _TRIES:
            verdicts[first] = Verdict(Status.INFRA_ERROR, None, "the worker died of it twice")
        else:
            waiting.appendleft(first)

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        for pipe in (worker.process.stdin, worker.process.stdout):
            assert pipe is not None
            pipe.close()
        worker.process.wait()


def _busy(worker: _Worker) -> bool:
    return bool(worker.asked) or not worker.ready


def _send(worker: _Worker) -> None:
    """Hand over as much as the pipe takes."""
    assert worker.process.stdin is not None
    try:
        while worker.outgoing:
            worker.outgoing = worker.outgoing[os.write(worker.process.stdin.fileno(), worker.outgoing) :]
    except BlockingIOError:
        pass  # the rest when it has read
    except BrokenPipeError:
        worker.outgoing, worker.deadline = b"", 0.0  # it is dead: buried after this round
