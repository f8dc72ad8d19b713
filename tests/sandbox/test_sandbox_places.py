"""Where the sandbox has to live: full disks, folders that cannot be written, interpreters that not everyone may read."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from guided_grpo.errors import InputError
from guided_grpo.sandbox import End, Job, Kind, Limits, SandboxPool, jail, same
from sandbox_places import ORDINARY_UID, ordinary_user, place, readable_source

FILL = """
import os
def fill():
    with open("full", "wb", buffering=0) as file:
        while True: file.write(bytes(2**16))
def left():
    return os.listdir("/tmp")
"""


@pytest.mark.parametrize("where", ["A", "A-user"])
def test_a_full_private_folder(where: str) -> None:
    """[26]: the program is told, goes on, and the next job finds its folder empty."""
    limits = Limits(disk_bytes=2**20, output_bytes=2**22)
    with place(where) as sealed:
        full, after = sealed.run(
            [Job(FILL, calls=("fill()", "1 + 1"), limits=limits), Job(FILL, calls=("left()",), limits=limits)]
        )
        assert full.results[0].error == "OSError: [Errno 28] No space left on device"
        assert same(2, full.results[1].value) and full.end is End.EXITED
        assert same([], after.results[0].value)


@pytest.fixture
def full_folder() -> Iterator[Path]:
    """A file system of its own without a free byte."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix="sandbox-full-") as name:
        if libc.mount(b"none", name.encode(), b"tmpfs", 0, b"size=64k,mode=1777") != 0:
            pytest.skip("no right to mount a small file system")
        try:
            with pytest.raises(OSError, match="No space left"), Path(name, "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4_096))
            yield Path(name)
        finally:
            libc.umount2(name.encode(), 2)


TRAINER = """
import json, sys, types
package = types.ModuleType("guided_grpo")
package.__path__ = [sys.argv[1] + "/guided_grpo"]
sys.modules["guided_grpo"] = package
from guided_grpo.sandbox import Job, SandboxPool
jobs = [Job(f"print({n})") for n in range(10)] + [Job("open('own', 'w').write('x' * 100_000); print('wrote')"), Job("", calls=("6 * 7",))]
with SandboxPool(2, "A") as pool:
    outcomes = pool.run(jobs)
print(json.dumps([outcome.stdout.decode() for outcome in outcomes] + [outcomes[-1].results[0].value]))
"""


def batch_in(folder: Path, **user: object) -> list[object]:
    """A pool started and used in a process whose working and temporary folder is `folder`."""
    with readable_source() as source:
        interpreter = sys.executable if not user else place_interpreter()
        ran = subprocess.run(
            [interpreter, "-B", "-c", textwrap.dedent(TRAINER), source], cwd=folder, capture_output=True, text=True,
            env={"TMPDIR": str(folder), "TMP": str(folder), "TEMP": str(folder)}, timeout=200, **user,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def place_interpreter() -> str:
    from sandbox_places import ordinary_interpreter

    return ordinary_interpreter()


EXPECTED = [*(f"{n}\n" for n in range(10)), "wrote\n", "", 42]


def test_a_full_folder_of_the_machine(full_folder: Path) -> None:
    """[26]: nothing of a batch goes through the disk, so that it completes with the right outcomes."""
    with place("A"):
        pass
    assert batch_in(full_folder) == EXPECTED
    assert [path.name for path in full_folder.iterdir()] == ["filler"]


def test_a_folder_of_the_machine_that_cannot_be_written() -> None:
    """[26]: as an ordinary user, since nothing stops root."""
    with place("A-user"):
        pass
    with tempfile.TemporaryDirectory(prefix="sandbox-shut-") as name:
        Path(name).chmod(0o555)
        assert batch_in(Path(name), **ordinary_user()) == EXPECTED


def test_what_an_ordinary_user_may_not_read(tmp_path: Path) -> None:
    """The check behind it, in a process that gave up root: it names the folder that is shut, or the file."""
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    with tempfile.TemporaryDirectory(prefix="sandbox-shut-") as name:
        open_folder, shut, file = Path(name) / "open", Path(name) / "shut", Path(name) / "open" / "file"
        (shut / "lib").mkdir(parents=True)
        open_folder.mkdir()
        file.write_text("x")
        for path, mode in ((Path(name), 0o755), (open_folder, 0o755), (shut, 0o700), (file, 0o600)):
            path.chmod(mode)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            jail.become_ordinary()
            for path in (open_folder, shut / "lib", file):
                try:
                    jail.check_readable([str(path)])
                    os.write(tell, b"readable\n")
                except jail.JailError as error:
                    os.write(tell, f"{error.missing}; {error.fix}\n".encode())
            os._exit(0)
        os.close(tell)
        os.waitpid(pid, 0)
        first, second, third = os.fdopen(told).read().splitlines()
    assert first == "readable"
    assert f"uid {ORDINARY_UID}, which programs run as, may not enter {shut}, and" in second
    assert f"chmod o+x {shut}" in second
    assert f"may not read {file}, and" in third and f"chmod o+rX {file}" in third


def test_tier_b_as_root_with_an_interpreter_of_root_alone() -> None:
    """One line that names the folder, the uid and the way out; and auto never starts half."""
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    library = Path(os.path.realpath(os.__file__)).parent
    if all(folder.stat().st_mode & 0o001 for folder in [library, *library.parents]):
        pytest.skip(f"everybody may read {library}")
    with pytest.raises(InputError) as caught:
        SandboxPool(1, "B")
    message = str(caught.value)
    if "has no Landlock" in message:
        pytest.skip(message)
    assert message.startswith(
        "the code sandbox cannot start: tier B: uid 65534, which programs run as, may not enter /"
    )
    assert "fix: use a Python that all may read" in message and "chmod o+x /" in message and "\n" not in message


def test_tier_a_as_root_with_the_same_interpreter() -> None:
    """Its root is built before root is given up: any interpreter will do."""
    with place("A") as sealed:
        assert sealed.run([Job("", calls=("6 * 7",))])[0].results[0].kind is Kind.VALUE
