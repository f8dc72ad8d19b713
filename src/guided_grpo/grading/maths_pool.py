"""Maths verdicts: batches in, verdicts out in the same order, whatever a response does.

    responses ──▶ declared answers ──▶ exact and textual comparison here, repeated pairs once ──▶ verdicts in order
                                       └─▶ what needs algebra ──▶ killable worker 0, 1, … ──┘

A pair on which a worker makes no progress for `seconds` is a TIMEOUT: the worker is killed and another takes its place.
Against a gold answer that is a number it is WRONG instead: what cannot be decided there is not the number.
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

from guided_grpo.grading.answers import declared_answer
from guided_grpo.grading.maths import compare_exactly, is_simple, undeclared
from guided_grpo.types import Status, Verdict

Pair = tuple[str, str]  # response, or declared answer, and gold answer
CHUNK = 32  # pairs that a worker has in hand: enough to hide the way there and back
_TRIES = 2
_SERVES = 2_000  # pairs after which a worker makes way for a new one: the parser of math-verify keeps what it has read


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    deadline: float  # 0 = it is dead
    ready: bool = False
    served: int = 0
    batch: deque[int] = field(default_factory=deque)  # numbers of the pairs it has in hand, in order
    output: bytes = b""  # does not fit into the pipe yet: a worker that hangs must not hang us
    input: bytes = b""  # of a line that has not ended

    @property
    def busy(self) -> bool:
        return bool(self.batch) or not self.ready

    @property
    def pipes(self) -> tuple[int, int]:
        """Descriptors: where it is written to, where it is read from."""
        assert self.process.stdin is not None and self.process.stdout is not None
        return self.process.stdin.fileno(), self.process.stdout.fileno()


class MathsPool:
    """Grades pairs of response and gold answer, algebra in processes of its own; a context manager.

    Args:
        workers: processes; each is single-threaded.
        seconds: most time for one pair; a start of a worker may take ten times as long.
        memory_bytes: address space of a worker.
    """

    def __init__(self, workers: int = 1, seconds: float = 6.0, memory_bytes: int = 2 << 30) -> None:
        self.workers, self.seconds, self.memory_bytes = workers, seconds, memory_bytes
        self.restarts = 0
        self._workers: list[_Worker] = []

    def __enter__(self) -> MathsPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair of response and gold answer, in order."""
        answers = [declared_answer(response) for response, _ in pairs]
        verdicts = iter(self.compare([(text, gold) for text, (_, gold) in zip(answers, pairs, strict=True) if text]))
        return [next(verdicts) if text else undeclared() for text in answers]

    def compare(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair of declared and gold answer, in order. Equal pairs are graded once."""
        exact = {pair: compare_exactly(*pair) for pair in dict.fromkeys(pairs)}
        rest = [pair for pair, verdict in exact.items() if verdict is None]
        algebra = dict(zip(rest, self._check_different(rest), strict=True))
        return [exact[pair] or algebra[pair] for pair in pairs]

    def close(self) -> None:
        """End all workers; the pool can be used again."""
        while self._workers:
            self._end(self._workers[-1])

    def _check_different(self, pairs: list[Pair]) -> list[Verdict]:
        verdicts: list[Verdict | None] = [None] * len(pairs)
        waiting, tries = deque(range(len(pairs))), [0] * len(pairs)
        try:
            while waiting or any(worker.batch for worker in self._workers):
                self._staff(len(waiting))
                for worker in self._workers:
                    self._hand_out(worker, waiting, pairs)
                self._collect(verdicts)
                for worker in list(self._workers):
                    self._bury(worker, pairs, waiting, tries, verdicts)
        except BaseException:  # an interrupt: verdicts on their way belong to nobody any more
            self.close()
            raise
        return [verdict for verdict in verdicts if verdict is not None]

    def _staff(self, waiting: int) -> None:
        for worker in [worker for worker in self._workers if worker.served >= _SERVES and not worker.batch]:
            self._end(worker)
        while len(self._workers) < min(self.workers, max(1, waiting)):
            source = str(Path(__file__).parents[2])
            path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            process = subprocess.Popen(
                [sys.executable, "-m", "guided_grpo.grading.maths_worker", str(self.memory_bytes)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                env={**os.environ, **threads, "PYTHONPATH": path},
            )  # fmt: skip
            worker = _Worker(process, deadline=time.monotonic() + 10 * self.seconds)
            for pipe in worker.pipes:
                os.set_blocking(pipe, False)
            self._workers.append(worker)

    def _hand_out(self, worker: _Worker, waiting: deque[int], pairs: list[Pair]) -> None:
        if not worker.ready or worker.batch or not waiting:
            return
        share = -(-len(waiting) // len(self._workers))
        worker.batch.extend(waiting.popleft() for _ in range(min(CHUNK, share)))
        worker.deadline = time.monotonic() + self.seconds
        worker.output = "".join(json.dumps(pairs[number]) + "\n" for number in worker.batch).encode()
        _send(worker)

    def _collect(self, verdicts: list[Verdict | None]) -> None:
        """Take what has come in, waiting until something does or the next deadline is over."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                stdin, stdout = worker.pipes
                selector.register(stdout, selectors.EVENT_READ, worker)
                if worker.output:
                    selector.register(stdin, selectors.EVENT_WRITE, worker)
            nearest = min((worker.deadline for worker in self._workers if worker.busy), default=0.0)
            for key, event in selector.select(max(0.0, nearest - time.monotonic())):
                if event & selectors.EVENT_WRITE:
                    _send(key.data)
                else:
                    self._take(key.data, verdicts)

    def _take(self, worker: _Worker, verdicts: list[Verdict | None]) -> None:
        data = os.read(worker.pipes[1], 1 << 20)
        if not data:
            worker.deadline = 0.0  # its end is closed
            return
        *lines, worker.input = (worker.input + data).split(b"\n")
        for line in lines:
            if not worker.ready:
                worker.ready = line == b"ready"
                continue
            status, extracted, reason = json.loads(line)
            verdicts[worker.batch.popleft()] = Verdict(Status(status), extracted, reason)
            worker.served += 1
        worker.deadline = time.monotonic() + self.seconds

    def _bury(
        self,
        worker: _Worker,
        pairs: list[Pair],
        waiting: deque[int],
        tries: list[int],
        verdicts: list[Verdict | None],
    ) -> None:
        """Replace a worker that died or is over its deadline; what it had in hand goes back, but for the first pair."""
        dead = worker.process.poll() is not None or worker.deadline == 0.0
        if not dead and not (worker.busy and time.monotonic() > worker.deadline):
            return
        self._end(worker)
        self.restarts += 1
        if not worker.ready and self.restarts > 3 * self.workers:
            raise RuntimeError(
                "the maths workers do not start; run 'python -m guided_grpo.grading.maths_worker 0' to see why"
            )
        if not worker.batch:
            return
        first = worker.batch.popleft()
        waiting.extendleft(reversed(worker.batch))
        tries[first] += 1
        if not dead:
            status = Status.WRONG if is_simple(pairs[first][1]) else Status.TIMEOUT
            verdicts[first] = Verdict(status, None, f"no verdict within {self.seconds:g} s")
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


def _send(worker: _Worker) -> None:
    """Hand over as much as the pipe takes."""
    try:
        while worker.output:
            worker.output = worker.output[os.write(worker.pipes[0], worker.output) :]
    except BlockingIOError:
        pass  # the rest when it has read
    except BrokenPipeError:
        worker.output, worker.deadline = b"", 0.0  # it is dead: buried after this round
