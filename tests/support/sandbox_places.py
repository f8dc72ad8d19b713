"""Where the tests of the sandbox run their programs: as whoever runs the tests, and as an ordinary user, in each tier."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

import guided_grpo
from guided_grpo.errors import InputError
from guided_grpo.sandbox import Job, Limits, Outcome, SandboxPool

ORDINARY_UID = 65_534
# Time enough on any machine for what ends by itself; a test of a limit brings its own.
LIMITS = Limits(cpu_seconds=30.0, wall_seconds=120.0)


class Place(Protocol):
    tier: str

    def run(self, jobs: Sequence[Job]) -> list[Outcome]: ...


class Server:
    """A pool in a process of an ordinary user."""

    def __init__(self, process: subprocess.Popen[bytes], marker: str = "") -> None:
        self._process = process
        self.marker = marker  # in the command line of the process and of its workers
        self.pid = process.pid
        self.tier = self._load()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        assert self._process.stdin
        self._process.stdin.write(pickle.dumps(list(jobs)))
        self._process.stdin.flush()
        return self._load()

    def _load(self):
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            raise InputError(self._process.stderr.read().decode().strip().splitlines()[-1], fix="see there") from None


@cache
def ordinary_interpreter() -> str:
    """An interpreter that an ordinary user may run; root's own may lie in root's home."""
    for path in (os.path.realpath(sys._base_executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        check = "import sys, ctypes; sys.exit(sys.version_info < (3, 11))"
        try:
            if subprocess.run([path, "-c", check], **ordinary_user(), capture_output=True, cwd="/").returncode == 0:
                return path
        except OSError:
            continue
    pytest.skip("no Python 3.11 that an ordinary user may run")


def ordinary_user() -> dict[str, object]:
    """Arguments for subprocess: root becomes an ordinary user, anyone else stays."""
    return {"user": ORDINARY_UID, "group": ORDINARY_UID, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def bare(source: str, who: str, folder: Path | str = "/", **fields: object) -> Iterator[subprocess.Popen[bytes]]:
    """`source` in a plain interpreter, without any sandbox, below a shell whose descriptor 3 is standard output.

    Args:
        source: the program.
        who: "root" (skips where the tests do not run as root) or "user".
        folder: where it runs.
        fields: more of subprocess.Popen.

    It and all it leaves in its session are killed at the end.
    """
    if who == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    user = ordinary_user() if who == "user" else {}
    command = ["/bin/sh", "-c", 'exec 3>&1; "$@"; exit $?', "sh", ordinary_interpreter(), "-I", "-c", source]
    fields = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {}, **user, **fields}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder, start_new_session=True, **fields)
    with process:
        try:
            yield process
        finally:
            kill_session(process.pid)


@contextmanager
def few_cores(count: int) -> Iterator[None]:
    """At most `count` cores for this process and those it starts: sixteen times the load, not a thousand processes."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def kill_session(leader: int) -> None:
    """SIGKILL for every process of a session, also where a process group was left."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)
            except (OSError, IndexError):  # it is gone
                continue


def marked(marker: str) -> list[int]:
    """Processes with `marker` in their environment or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and marker.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:  # gone, or somebody else's
            continue
    return found


@contextmanager
def readable_source() -> Iterator[str]:
    """A copy of the package and of these helpers in a folder that everyone may read."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-source-"))
    try:
        shutil.copytree(
            Path(guided_grpo.__file__).parent, folder / "guided_grpo", ignore=shutil.ignore_patterns("__pycache__")
        )
        for helper in Path(__file__).parent.glob("sandbox_*.py"):
            shutil.copy(helper, folder)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield str(folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def place(name: str) -> Iterator[Place]:
    """`"A"`: a pool of whoever runs the tests. `"A-user"`, `"B-user"`, `"C-user"`: of an ordinary user, in that tier.

    `"B-root"`: of root, with an interpreter that everyone may read, as tier B asks of root.
    """
    try:
        if name == "A":
            with SandboxPool(1, "A", limits=LIMITS) as pool:
                yield pool
            return
        if name == "B-root" and os.geteuid() != 0:
            pytest.skip("the tests do not run as root")
        user = {} if name == "B-root" else ordinary_user()
        with readable_source() as source:
            command = [ordinary_interpreter(), "-B", f"{source}/sandbox_server.py", source, name[0]]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env={"SECRET_OF_THE_TRAINER": "hunter2"},
                **user,
            )
            with process:
                yield Server(process, source)
                process.stdin.close()
    except InputError as error:
        if "user namespaces are not allowed" in str(error) or "has no Landlock" in str(error):
            pytest.skip(f"this kernel or container lacks it: {error}")
        raise
