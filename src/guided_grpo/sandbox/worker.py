"""One worker seen from the trainer: its process, its control socket, the memory files of its current job."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.sandbox.jail import JailError
from guided_grpo.sandbox.jobs import Job, Limits
from guided_grpo.sandbox.zygote import FIELDS, REQUEST

START_SECONDS = 60.0  # for a worker to build its walls
CLOSE_SECONDS = 5.0  # for it to go by itself

# The package without its __init__: a worker imports nothing but the standard library and these few files.
_BOOTSTRAP = """
import sys, types
for name, path in (("guided_grpo", sys.argv[4]), ("guided_grpo.sandbox", sys.argv[4] + "/sandbox")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from guided_grpo.sandbox.zygote import main
main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], dict(part.split("=", 1) for part in sys.argv[5:]))
"""


@dataclass(frozen=True)
class WorkerReply:
    """How a job's process ended, from the worker, and what the process wrote."""

    end: dict[str, Any]
    results: bytes
    stdout: bytes


class Worker:
    """A running worker. `start` a job, wait until it is readable, take the `reply`."""

    def __init__(self, tier: str, packages: Mapping[str, str] | None = None) -> None:
        """Start it, with `packages` (names and folders); raises JailError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._files: list[int] = []
        self.closed = False
        home = str(Path(__file__).resolve().parents[1])
        interpreter = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)  # not a venv's link
        command = [interpreter, "-I", "-S", "-B", "-c", _BOOTSTRAP, str(theirs.fileno()), str(os.getpid()), tier, home]
        command += [f"{name}={path}" for name, path in (packages or {}).items()]
        complaints = os.memfd_create("complaints")
        try:
            self._process = subprocess.Popen(
                command, env={}, cwd="/", pass_fds=[theirs.fileno()], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints,
            )  # fmt: skip
            theirs.close()
            greeting = self._greeting()
            if "ready" not in greeting:
                self.close()
                lines = os.pread(complaints, 100_000, 0).decode(errors="replace").strip().splitlines()
                raise JailError(
                    greeting.get("missing")
                    or f"its worker ended at the start ({lines[-1] if lines else 'no message'})",
                    greeting.get("fix") or "see that this interpreter runs with `python -I -S`, or report it",
                )
        finally:
            os.close(complaints)
        self.tier = str(greeting["ready"])
        self.landlock = int(greeting["landlock"])
        self.uid = int(greeting["uid"])

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._process.pid

    @property
    def busy(self) -> bool:
        """Whether a job was started whose reply was not taken."""
        return bool(self._files)

    def fileno(self) -> int:
        """For selectors: readable when the job has ended, or the worker."""
        return self._socket.fileno()

    def start(self, job: Job, limits: Limits) -> None:
        """Send one job; raises OSError where the worker is gone or no memory file can be made."""
        request: dict[str, Any] = {
            name: getattr(job, name) for name in ("prelude", "program", "setup", "calls", "checks")
        }
        request["inputs"] = [len(each) for each in job.inputs]  # which follow each other in `stdin`
        source = _sealed(json.dumps(request).encode())
        self._files = [os.memfd_create("results"), os.memfd_create("stdout")]
        stdin = _sealed(b"".join(job.inputs) or job.stdin)
        try:
            message = REQUEST.pack(*(getattr(limits, name) for name in FIELDS[:-1]), job.steps)
            socket.send_fds(self._socket, [message], [source, *self._files, stdin])
        except BaseException:
            self._drop_files()
            raise
        finally:
            os.close(source)
            os.close(stdin)

    def reply(self) -> WorkerReply | str:
        """The reply of the job that has ended; a string = the worker is lost, and why."""
        try:
            message = self._socket.recv(8_192)
            if not message:
                return "the worker was killed"
            end = json.loads(message)
            results, stdout = (os.pread(file, os.fstat(file).st_size, 0) for file in self._files)
            return WorkerReply(end, results, stdout)
        except (OSError, ValueError) as error:
            return f"the worker broke ({error})"
        finally:
            self._drop_files()

    def close(self) -> None:
        """End it, and what runs in it; waits until it is gone."""
        if self.closed:
            return
        self.closed = True
        self._socket.close()
        self._drop_files()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:  # stopped or stuck: the kernel ends its zygote with it
            self._process.kill()
            self._process.wait()

    def _greeting(self) -> dict[str, Any]:
        self._socket.settimeout(START_SECONDS)
        try:
            greeting = json.loads(self._socket.recv(8_192) or b"{}")
        except (OSError, ValueError):
            greeting = {}
        self._socket.settimeout(None)
        return dict(greeting)

    def _drop_files(self) -> None:
        while self._files:
            os.close(self._files.pop())


def package_paths(names: Sequence[str]) -> dict[str, str]:
    """Where packages of this interpreter are. Raises InputError for one that is not there."""
    paths = {}
    for name in names:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        places = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        if not places or not os.path.exists(places[0]):
            raise InputError("is no package that is installed here", field="packages", value=name, fix="install it")
        paths[name] = os.path.realpath(places[0])
    return paths


def _sealed(content: bytes) -> int:
    """A memory file that can only be read."""
    file = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return file
