"""What one job could learn of another, or of the machine's other files: each works without its wall."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from guided_grpo.sandbox import Job, Kind, SandboxPool, decode
from sandbox_places import Place, place

pytestmark = pytest.mark.slow

INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@pytest.fixture(scope="module")
def sealed() -> Iterator[Place]:
    with place("A") as found:
        yield found


def asked(where: Place | SandboxPool, program: str, call: str = "look()") -> object:
    [outcome] = where.run([Job(program, calls=(call,))])
    [result] = outcome.results
    return decode(result.value) if result.kind is Kind.VALUE else result.error or str(outcome.end)


PACKAGES = """
import os, sysconfig
def look():
    return sorted(os.listdir(sysconfig.get_path("purelib")))
"""


def test_packages_of_the_interpreter_are_not_there(sealed: Place) -> None:
    plain = subprocess.run(
        [INTERPRETER, "-I", "-S", "-c", f"{PACKAGES}\nprint(look())"], check=True, capture_output=True, text=True
    ).stdout
    if "pip" not in plain:
        pytest.skip("this interpreter has no packages")
    assert asked(sealed, PACKAGES) == []


def test_a_package_of_the_interpreter_is_there_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = subprocess.run(
        [INTERPRETER, "-I", "-S", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    if not Path(folder, "pip").is_dir():
        pytest.skip("this interpreter has no pip")
    monkeypatch.setattr("guided_grpo.sandbox.pool.package_paths", lambda names: {"pip": f"{folder}/pip"})
    with SandboxPool(1, "A", packages=["pip"]) as pool:
        assert asked(pool, PACKAGES) == ["pip"]
        assert asked(pool, "import pip\ndef look(): return pip.__name__") == "pip"


def test_folders_of_other_programs_are_not_there(sealed: Place) -> None:
    if not any(path.name.startswith("python") or path.name == "gcc" for path in Path("/usr/lib").iterdir()):
        pytest.skip("no such folder here")
    names = asked(sealed, "import os\ndef look(): return os.listdir('/usr/lib')")
    assert isinstance(names, list) and not {"gcc", "python3", "apt", "git-core"} & set(names)


MESSAGES = {  # what one job leaves in /tmp, and how another would read it
    "the time of the folder": (
        "import os\ndef look():\n    open('/tmp/x', 'w').close()\n    os.unlink('/tmp/x')\n    os.utime('/tmp', ns=(1, 12345))",
        "import os\ndef look(): return os.stat('/tmp').st_mtime_ns == 12345",
    ),
    "when it was listed": (
        "import os\ndef look():\n    os.listdir('/tmp')\n    os.utime('/tmp', ns=(777, 1))",
        "import os\ndef look(): return os.stat('/tmp').st_atime_ns == 777",
    ),
    "the counter of inodes": (
        "import os\ndef look():\n    for n in range(60):\n        open('/tmp/x', 'w').close()\n        os.unlink('/tmp/x')",
        "import os\ndef look():\n    open('/tmp/y', 'w').close()\n    return os.stat('/tmp/y').st_ino > 30",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_one_job_leaves_nothing_in_the_folder_of_the_next(name: str) -> None:
    left, read = MESSAGES[name]
    with SandboxPool(1, "A") as pool:
        assert asked(pool, left) is None
        assert asked(pool, read) is False
    both = f"{left}\nleave = look\n{read}\ndef both():\n    leave()\n    return look()"
    with SandboxPool(1, "A") as pool:  # within one job it is there to be read
        assert asked(pool, both, "both()") is True


def test_files_without_a_name_are_refused_and_tempfile_does_without(sealed: Place) -> None:
    program = "import os, tempfile\ndef bare(): return os.open('/tmp', os.O_TMPFILE | os.O_RDWR)\ndef look():\n    with tempfile.TemporaryFile() as f: return f.write(b'abc')"
    assert "Operation not supported" in str(asked(sealed, program, "bare()"))
    assert asked(sealed, program) == 3
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # it works on such a file system
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR))


FRAMES = """
import sys
def look():
    frame, found = sys._getframe(), []
    while frame:
        found += [(name, value) for name, value in frame.f_locals.items()
                  if isinstance(value, dict) and ("exit" in value or "cpu" in value)]
        frame = frame.f_back
    return [name for name, _ in found]
"""


def test_how_the_job_before_ended_is_not_in_the_frames_of_the_worker(sealed: Place) -> None:
    assert asked(sealed, "def look(): return 1") == 1
    assert asked(sealed, FRAMES) == []
    space: dict[str, object] = {}
    exec(FRAMES, space)
    reply = {"exit": 0, "cpu": 0.1}
    assert reply and "reply" in space["look"]()  # type: ignore[operator]  # where a frame has it, it is found


LOCKS = {
    "flock": "fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)",
    "a record": "fcntl.lockf(f, fcntl.LOCK_SH | fcntl.LOCK_NB)",
    "the question for one": "fcntl.fcntl(f, fcntl.F_GETLK, bytes(64))",
}


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("where", ["A", "B-user"])
def test_no_lock_passes_from_one_worker_to_another(where: str, name: str) -> None:
    program = f"import fcntl, os\ndef look():\n    f = open(os.__file__)\n    {LOCKS[name]}\n    return True"
    with place(where) as sealed:
        assert "PermissionError" in str(asked(sealed, program))
    with Path(os.__file__).open() as f:  # without the sandbox each goes through
        eval(LOCKS[name], {"fcntl": fcntl, "f": f})


OTHERS = {
    "getpgid": "os.getpgid(pid)", "getsid": "os.getsid(pid)", "affinity": "os.sched_getaffinity(pid)",
    "a clock": "time.clock_gettime((~pid << 3) | 2)",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_tier_b_does_not_tell_which_processes_there_are(name: str) -> None:
    program = f"import os, time\ndef look(pid): return bool({OTHERS[name]} or True)"
    with place("B-user") as sealed:
        there, nowhere = (str(asked(sealed, program, f"look({pid})")) for pid in (os.getpid(), 2**22 - 3))
        assert there == nowhere and "Error" in there
        own = "import os, time\ndef look(): return os.getpgid(0) >= 0 and len(os.sched_getaffinity(0)) > 0 and time.process_time() >= 0"
        assert asked(sealed, own) is True
    space: dict[str, object] = {}
    exec(program, space)
    assert space["look"](os.getpid()) is True  # type: ignore[operator]
    with pytest.raises(OSError, match=r".*"):
        space["look"](2**22 - 3)  # type: ignore[operator]
