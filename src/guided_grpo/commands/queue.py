"""Training runs side by side: each a process of its own, with its GPU or its share of the cores, and a log of its own.

The parent holds no run's state: a run that is cut off goes on from its checkpoint when the queue is started again. A
child holds the lock of its log as long as it lives, even where its parent was killed, so that no run is trained twice
at once.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from guided_grpo.commands.parsing import TrainSettings, tell
from guided_grpo.errors import InputError
from guided_grpo.store import rundir

GRACE = 10.0  # seconds that a child has for its own end after an interrupt
POLL = 0.2  # seconds between two looks at the children
_TAIL = 1 << 16  # bytes of a log or of metrics.jsonl that are looked at


@dataclass(frozen=True)
class QueuedRun:
    """One run of a comparison."""

    variant: str
    seed: int
    words: list[str]  # arguments of `guided-grpo train`
    settings: TrainSettings  # the same, parsed

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.settings.output

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / rundir.SUMMARY).exists()

    def result(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The run's summary with its place in the comparison."""
        return {"variant": self.variant, **summary, "seed": self.seed, "run": str(self.folder)}


def run_queue(queue: Sequence[QueuedRun], slots: int, *, bar: bool = False) -> list[dict[str, Any]]:
    """Train what is not finished, `slots` runs at a time; the results in the queue's order.

    Args:
        queue: checked runs.
        slots: processes at a time. Slot k gets the k-th visible GPU (round robin), or on the CPU its share of the cores
            as OMP_NUM_THREADS, unless that is set.
        bar: whether to show a bar; otherwise a line for every run that starts or ends.

    A run that fails is a result with `error`, which names its log. On an interrupt (SIGINT, SIGTERM, SIGHUP) all
    children are stopped before KeyboardInterrupt goes on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("does not go with a launcher of several ranks", field="jobs", value=slots, fix="use --jobs 1")
    waiting = [run for run in queue if not run.finished]
    places = _environments(waiting, slots)
    results = {run.folder: run.result(rundir.read_json(run.folder / rundir.SUMMARY)) for run in queue if run.finished}
    running: dict[int, tuple[QueuedRun, subprocess.Popen[bytes]]] = {}
    with (
        _interrupts() as signals,
        tqdm(total=len(queue), initial=len(results), desc="runs", unit="run", disable=not bar) as progress,
    ):

        def end(run: QueuedRun, summary: Mapping[str, Any]) -> None:
            results[run.folder] = run.result(summary)
            _tell(progress, f"[{len(results)}/{len(queue)}] {run.folder}: {summary.get('error', 'finished')}")
            progress.update()

        try:
            while (waiting or running) and not signals:
                for slot in [slot for slot in range(slots) if slot not in running][: len(waiting)]:
                    run = waiting.pop(0)
                    child = _start(run, places[slot])
                    if child is None:
                        end(run, {"error": f"another process trains it (it holds {run.folder / rundir.LOG})"})
                        continue
                    running[slot] = run, child
                    _tell(progress, f"started {run.folder}")
                time.sleep(POLL)
                for slot, (run, child) in list(running.items()):
                    if child.poll() is not None:
                        del running[slot]
                        end(run, _outcome(run, child.returncode))
                if bar:
                    steps = [f"{run.folder.name} step {_step(run.folder)}" for run, _ in running.values()]
                    progress.set_postfix_str(", ".join(steps))
        finally:
            _stop([child for _, child in running.values()], signals)  # some are left only after an interrupt
    if signals:
        raise KeyboardInterrupt
    return [results[run.folder] for run in queue]


def _environments(queue: Sequence[QueuedRun], slots: int) -> list[dict[str, str]]:
    """The environment of each slot."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(n) for n in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    devices = [name.strip() for name in devices if name.strip()]
    if not torch.cuda.is_available() or all(run.settings.training.use_cpu for run in queue):
        threads = str(max(1, len(os.sched_getaffinity(0)) // slots))
        return [{"OMP_NUM_THREADS": threads, **os.environ}] * slots
    return [{**os.environ, "CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} for slot in range(slots)]


def _start(run: QueuedRun, environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """The child, in a session of its own: an interrupt of the terminal reaches it through its parent alone.

    None where another process trains this run. The lock is on the log's open file, which the child inherits.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / rundir.LOG).open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        words = [sys.executable, "-m", "guided_grpo.cli", "train", *run.words]
        words += [] if "--quiet" in run.words else ["--quiet"]
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )


def _outcome(run: QueuedRun, code: int) -> dict[str, Any]:
    if code == 0 and run.finished:
        return dict(rundir.read_json(run.folder / rundir.SUMMARY))
    log = run.folder / rundir.LOG
    lines = [line for line in _tail(log).splitlines() if line.strip()]
    end = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return {"error": f"{lines[-1].strip() if lines else 'no output'} ({end}; see {log})"}


def _stop(children: Sequence[subprocess.Popen[bytes]], signals: Sequence[int]) -> None:
    """Interrupt all at once, wait a little (not after a second interrupt), kill what is left, graders too."""
    for child in children:
        _signal(child, signal.SIGINT)
    end = time.monotonic() + GRACE
    while len(signals) < 2 and time.monotonic() < end and any(child.poll() is None for child in children):
        time.sleep(POLL)
    for child in children:
        _signal(child, signal.SIGKILL)
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The signals that came so far, of those that would end this process and leave its children behind.

    They are only noted: an exception in the middle of a start could lose a child.
    """
    signals: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(bar: Any, text: str) -> None:
    if bar.disable:
        tell(text)
    else:
        bar.write(text, file=sys.stderr)


def _step(run: Path) -> int:
    """The last step in metrics.jsonl; 0 before the first."""
    for line in reversed(_tail(run / rundir.METRICS).splitlines()):
        if line.startswith('{"step": '):
            return int(line.removeprefix('{"step": ').split(",", 1)[0])
    return 0


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read().decode(errors="replace")
