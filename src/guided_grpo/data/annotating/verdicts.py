"""Verdicts beside asking: a thread that takes what has come in, batch by batch, and gives it to our grader.

Grading blocks, so it may not run in the thread of the event loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress

from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.types import Status

BATCH = 32  # answers in hand; an interrupt does not wait for them
Judgement = tuple[Status, bool]  # how an answer does, and whether that says anything of it


class Verdicts:
    """Grades answers in a thread of its own. A context manager, which closes the grader."""

    def __init__(self, grader: Grader) -> None:
        self._grader = grader
        self._waiting: queue.SimpleQueue[tuple[Submission, asyncio.Future[Judgement]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="verdicts", daemon=True)
        self._thread.start()

    def __enter__(self) -> Verdicts:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the processes; after an error without waiting for what they have in hand."""
        self._waiting.put(None)
        if kind is None:
            self._thread.join()

    async def of(self, submission: Submission) -> Judgement:
        """How a response does."""
        future: asyncio.Future[Judgement] = asyncio.get_running_loop().create_future()
        self._waiting.put((submission, future))
        return await future

    def _work(self) -> None:
        try:
            while (first := self._waiting.get()) is not None:
                batch = [first]
                with suppress(queue.Empty):
                    while len(batch) < BATCH:
                        more = self._waiting.get_nowait()
                        if more is None:
                            return  # nobody waits for the batch any more
                        batch.append(more)
                self._grade(batch)
        finally:
            self._grader.close()

    def _grade(self, batch: Sequence[tuple[Submission, asyncio.Future[Judgement]]]) -> None:
        try:
            verdicts = self._grader.grade([submission for submission, _ in batch])
        except Exception as error:  # it belongs to whoever waits, not to this thread
            for _, future in batch:
                _tell(future, error)
            return
        for (submission, future), verdict in zip(batch, verdicts, strict=True):
            assert verdict is not None
            _tell(future, (verdict.status, self._grader.worth(submission, verdict) is not None))


def _tell(future: asyncio.Future[Judgement], outcome: Judgement | Exception) -> None:
    def settle() -> None:
        if future.done():  # cancelled meanwhile
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    with suppress(RuntimeError):  # the loop is closed: the run was interrupted
        future.get_loop().call_soon_threadsafe(settle)
