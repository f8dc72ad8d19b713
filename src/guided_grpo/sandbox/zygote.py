"""The worker process: builds its walls once, then forks one process per job and watches it.

Three processes a worker. The *launcher* is the trainer's child and does nothing but end the zygote when the trainer is
gone. The *zygote* is PID 1 of its own process namespace (tier A): its death ends every job. It never reads a program or
a result: they pass it by as descriptors, so that no job inherits what another wrote. The *job* closes itself in and
runs.

On the control socket, one message each way per job: `struct REQUEST` with the descriptors (request, results, stdout,
stdin); then one JSON object. At the start one JSON object: {"ready": …} or {"missing": …, "fix": …}.
"""

from __future__ import annotations

import builtins
import ctypes  # noqa: F401 - loaded once here, not in every job
import gc
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from guided_grpo.sandbox import (
    idioms,
    jail,
    kernel,
    script,  # noqa: F401 - loaded once here, not in every job
    seccomp,
)
from guided_grpo.sandbox.inputs import SEED, place_inputs, remember_modules, run_inputs
from guided_grpo.sandbox.program import run_program

REQUEST = struct.Struct("=dd5Q")
FIELDS = ("cpu_seconds", "wall_seconds", "memory_bytes", "output_bytes", "disk_bytes", "threads", "steps")
DESCRIPTORS = 4
_PRELOADED = (
    "abc ast bisect cmath collections collections.abc copy dataclasses datetime decimal enum fractions functools "
    "hashlib heapq io itertools json math operator re statistics string textwrap threading time traceback types typing"
)
_LONGEST_SLEEP, _SHORTEST_SLEEP = 1.0, 0.005  # seconds between two looks at a job's CPU clock


@dataclass(frozen=True)
class Place:
    """Where the jobs of a zygote run."""

    tier: str
    landlock: int  # ABI version; 0 = none
    readable: list[str]  # what tier B may read
    nothing: int  # descriptor of /dev/null
    namespace: int  # descriptor of the zygote itself: setns takes a process for its namespace (Linux 5.8)
    pid: int  # of the zygote, as its children see it


def main(control: int, trainer: int, tier: str, packages: dict[str, str]) -> None:
    """The launcher: make the zygote, and end it with the trainer.

    Args:
        control: descriptor of the control socket.
        trainer: process id of the trainer.
        tier: "A", "B" or "C".
        packages: names and folders of what programs may import beside the standard library.
    """
    os.environ.clear()  # the interpreter itself sets LC_CTYPE
    channel = socket.socket(fileno=control)
    trainer_alive = os.pidfd_open(trainer)
    if os.getppid() != trainer:
        return
    try:
        beside = [f"{path}.libs" for path in packages.values()]  # shared libraries of wheels
        readable = jail.interpreter_paths([*packages.values(), *beside])
        landlock = kernel.landlock_version()
        _check_kernel(tier, landlock)
        for name in _PRELOADED.split():
            import_module(name)
        vars(builtins).update(exit=sys.exit, quit=sys.exit)  # what `site` would bring
        idioms.install()
        if tier == "A":
            jail.enter_namespaces(readable, [*packages.values(), *beside])
        else:
            jail.become_ordinary()
        jail.check_readable(readable)
        _import_packages(packages)
    except jail.JailError as error:
        channel.send(json.dumps({"missing": error.missing, "fix": error.fix}).encode()[:4_000])
        return
    zygote = os.fork()
    if zygote == 0:
        kernel.die_with_parent()
        os.close(trainer_alive)
        _serve(channel, tier, landlock, readable)
    channel.close()
    zygote_alive = os.pidfd_open(zygote)
    poll = select.poll()
    poll.register(trainer_alive, select.POLLIN)
    poll.register(zygote_alive, select.POLLIN)
    poll.poll()
    os.kill(zygote, signal.SIGKILL)
    os.waitpid(zygote, 0)


def _import_packages(packages: dict[str, str]) -> None:
    """Once, for all jobs; from behind the walls, where nothing else of their folder is."""
    sys.path += dict.fromkeys(os.path.dirname(path) for path in packages.values())
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    for name in packages:
        try:
            import_module(name)
        except Exception as error:
            raise jail.JailError(
                f"the package {name} cannot be imported ({type(error).__name__}: {str(error)[:300]})",
                "name what it needs among the packages too, or leave it out",
            ) from None
    os.environ.clear()


def _check_kernel(tier: str, landlock: int) -> None:
    if tier != "C" and not seccomp.supported():
        raise jail.JailError("the sandbox knows the system calls of x86-64 and aarch64 only", "use such a machine")
    if tier == "B" and not landlock:
        raise jail.JailError("the kernel has no Landlock (Linux 5.13, `landlock` in its `lsm=` list)", "switch it on")


def _serve(channel: socket.socket, tier: str, landlock: int, readable: list[str]) -> NoReturn:
    """The zygote: one job after the other until the control socket closes."""
    nothing, namespace = os.open("/dev/null", os.O_RDWR), os.pidfd_open(os.getpid())
    place = Place(tier, landlock, readable, nothing, namespace, os.getpid())
    if tier == "A":
        seccomp.program_filter(1, writable=True)  # every job is PID 1: built once, here
    temporary = jail.Temporary()
    remember_modules()
    gc.collect()
    gc.freeze()
    channel.send(json.dumps({"ready": tier, "landlock": landlock, "pid": os.getpid(), "uid": os.getuid()}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, REQUEST.size, DESCRIPTORS)
        if len(message) != REQUEST.size:
            os._exit(0)
        limits = dict(zip(FIELDS, REQUEST.unpack(message), strict=True))
        if tier == "A":
            temporary.renew(int(limits["disk_bytes"]))
        # No name for the reply: the next job is a copy of this process, and could read how the one before it ended.
        channel.send(json.dumps(_run_job(place, channel, limits, descriptors)).encode()[:4_000])


def _run_job(place: Place, channel: socket.socket, limits: dict[str, float], descriptors: list[int]) -> dict[str, Any]:
    """Fork, watch, reply: how the job's process ended, or why its walls could not be built."""
    trouble, report = os.pipe()
    if place.tier == "A":
        kernel.unshare(kernel.CLONE_NEWPID)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become_job(place, limits, descriptors, report)
    os.close(report)
    if place.tier == "A":
        kernel.setns(place.namespace, kernel.CLONE_NEWPID)
    limit, usage, status = _watch(channel, child, limits, started, descriptors[1])
    for descriptor in descriptors:
        os.close(descriptor)
    with os.fdopen(trouble, "rb") as file:
        setup = file.read(1_000)
    return {
        "setup": setup.decode(errors="replace"),
        "limit": limit,
        "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.monotonic() - started,
    }


def _become_job(place: Place, limits: dict[str, float], descriptors: list[int], report: int) -> NoReturn:
    """In the new process: keep four descriptors, close the walls, run. What fails is reported, and nothing runs."""
    try:
        request, results, stdout, stdin = (os.dup(descriptor) for descriptor in descriptors)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(place.nothing, 2)
        with os.fdopen(request, "rb") as source:
            job = json.loads(source.read())
        top = max(results, report) + 1
        report, results = os.dup2(report, top + 1, False), os.dup2(results, top, False)
        os.closerange(3, top)
        os.closerange(top + 2, 2**20)
        results = os.dup2(results, 3, False)
        os.close(top)
        inputs = place_inputs(job["inputs"])
        random.seed(SEED)
        jail.close_in(place.tier, limits, landlock=place.landlock, readable=place.readable)
        if place.tier != "A" and os.getppid() != place.pid:  # it was gone before it could take this one along
            os._exit(1)
        os.close(report)
    except BaseException as error:  # the walls are not all there: nothing of the program may run
        os.write(report, f"{type(error).__name__}: {error}".encode()[:1_000] or b"failed")
        os._exit(1)
    if inputs:
        run_inputs(job["prelude"], job["program"], inputs, results)
    run_program(job, results)


def _watch(
    channel: socket.socket, child: int, limits: dict[str, float], started: float, results: int
) -> tuple[str, Any, int]:
    """Wait for the job's end, or bring it about: which limit it met ("" = none), its usage, its wait status."""
    alive = os.pidfd_open(child)
    poll = select.poll()
    poll.register(alive, select.POLLIN)
    poll.register(channel, select.POLLHUP)
    clock = (~child << 3) | 2  # the CPU clock of a process, as clock_getcpuclockid makes it
    cores = len(os.sched_getaffinity(0))
    cpu_limit, wall_limit, steps = limits["cpu_seconds"], limits["wall_seconds"], limits["steps"]
    longest = _LONGEST_SLEEP if steps == 1 else min(_LONGEST_SLEEP, cpu_limit / 10)  # between looks for answers
    cpu_from = wall_from = 0.0  # when the last answer was seen
    written = 0
    limit = ""
    while True:
        cpu, wall, size = _clock(clock), time.monotonic() - started, os.fstat(results).st_size
        if size != written:
            written, cpu_from, wall_from = size, cpu, wall
        cpu_left = min(cpu_from + cpu_limit, cpu_limit * steps) - cpu
        wall_left = min(wall_from + wall_limit, wall_limit * steps) - wall
        if cpu_left <= 0 or wall_left <= 0:
            limit = "cpu" if cpu_left <= 0 else "wall"
            break
        sleep = min(wall_left, longest, max(cpu_left / cores, _SHORTEST_SLEEP))
        events = dict(poll.poll(sleep * 1_000 + 1))
        if channel.fileno() in events:  # the trainer closed the pool or is gone
            os._exit(0)
        if alive in events:
            break
    os.close(alive)
    if limit:
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    if limit and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        limit = ""  # it ended by itself just before
    return limit, usage, status


def _clock(clock: int) -> float:
    try:
        return time.clock_gettime(clock)
    except OSError:  # it has just ended
        return 0.0
