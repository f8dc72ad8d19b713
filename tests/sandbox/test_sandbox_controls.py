"""Positive controls: the attacks of test_sandbox.py and test_code.py succeed in a plain interpreter, as root and as an
ordinary user, and against graders as they are often written. Each is bounded, and what it leaves behind is removed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from code_cheats import CHEATS
from sandbox_attacks import ATTACKS, program
from sandbox_places import bare, few_cores, marked, ordinary_interpreter

pytestmark = pytest.mark.slow

MIB = 2**20
WHO = pytest.mark.parametrize("who", ["root", "user"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a secret, open to everyone."""
    with tempfile.TemporaryDirectory(prefix="sandbox-control-") as name:
        found = Path(name)
        found.chmod(0o777)
        (found / "secret").write_text("hunter2")
        (found / "secret").chmod(0o666)
        yield found


def soon(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def printed(source: str, who: str, folder: Path | str = "/", **fields: object) -> bytes:
    with bare(source, who, folder, **fields) as process:
        return process.communicate(timeout=200)[0]


@WHO
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_works(who: str, folder: Path, name: str) -> None:
    source = program(ATTACKS[name], folder) + "\nprint('through' if attack() is True else 'stopped')"
    assert printed(source, who, folder) in (b"through\n", b'["value", true]\n')


def test_core_pattern_can_be_written_by_root() -> None:
    """[17]: opened for writing, and left as it is. With it root has any program run on the machine."""
    assert printed("open('/proc/sys/kernel/core_pattern', 'r+').close(); print('through')", "root") == b"through\n"


IGNORE = "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"


@WHO
def test_an_endless_loop_survives_sigterm(who: str) -> None:
    """[1]"""
    with bare(f"{IGNORE}import os\nprint(os.getpid(), flush=True)\nwhile True: pass", who) as process:
        pid = int(process.stdout.readline())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXCPU):
            os.kill(pid, number)
        assert not soon(lambda: process.poll() is not None, 0.2)
        os.kill(pid, signal.SIGKILL)
        assert soon(lambda: process.poll() == 128 + signal.SIGKILL)


@WHO
def test_an_endless_sleep_goes_on(who: str) -> None:
    """[2]: with its descriptors closed, so that nobody waits for its output."""
    marker = f"sandbox-sleeper-{random.Random().randrange(10**9)}"
    with bare("import os, time\nos.closerange(0, 64)\ntime.sleep(1e9)", who, env={"MARKER": marker}) as process:
        assert not soon(lambda: process.poll() is not None, 0.3)
        assert len(marked(marker)) == 2  # it and its shell


@WHO
def test_forks(who: str) -> None:
    """[3]: twenty processes; root's in spite of a limit of five, which does not bind root."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (5, 5))\n" if who == "root" else ""
    source = f"{limit}import os, time\nfor _ in range(20):\n    if not os.fork(): time.sleep(60)\nprint(len(open(f'/proc/self/task/{{os.getpid()}}/children').read().split()), flush=True)\ntime.sleep(60)"
    with bare(source, who) as process:
        assert process.stdout.readline() == b"20\n"


RESIDENT = "int(open('/proc/self/statm').read().split()[1]) * 4096 // 2**20"


@WHO
def test_memory_grows_over_the_limit(who: str) -> None:
    """[5]: one process without a limit."""
    assert int(printed(f"x = b'x' * 300 * 2**20\nprint({RESIDENT})", who)) >= 300


@WHO
def test_memory_of_many_processes(who: str) -> None:
    """[5]: RLIMIT_AS is per process: four hold more than the 256 MiB that each may have."""
    source = f"""
import os, resource
resource.setrlimit(resource.RLIMIT_AS, (256 * 2**20,) * 2)
r, w = os.pipe()
go, gone = os.pipe()
for _ in range(4):
    if not os.fork():
        os.close(gone)
        x = b"x" * (90 * 2**20)
        os.write(w, str({RESIDENT}).encode() + b"\\n")
        os.read(go, 1)  # all hold it at once
        os._exit(0)
found = b""
while found.count(b"\\n") < 4:
    found += os.read(r, 100)
print(sum(map(int, found.split())))
os.close(gone)
"""
    assert int(printed(source, who)) > 4 * 80


@WHO
def test_memory_files_escape_the_limit_of_memory(who: str) -> None:
    """[5]: 200 MiB in a memory file under a limit of 100 MiB."""
    source = "import os, resource\nresource.setrlimit(resource.RLIMIT_AS, (100 * 2**20,) * 2)\nf = os.memfd_create('x')\nfor _ in range(200): os.write(f, bytes(2**20))\nprint(os.fstat(f).st_blocks * 512 // 2**20)"
    assert printed(source, who) == b"200\n"


@WHO
def test_files_grow(who: str, folder: Path) -> None:
    """[6]: beyond the 16 MiB and the 1,088 files of the private folder."""
    source = "for _ in range(40): open('huge', 'ab').write(bytes(2**20))\nfor n in range(2_000): open(f'small{n}', 'w').close()\nprint('through')"
    assert printed(source, who, folder) == b"through\n"
    assert (folder / "huge").stat().st_size == 40 * MIB and len(list(folder.glob("small*"))) == 2_000


@WHO
@pytest.mark.parametrize("descriptor", [1, 2])
def test_output_has_no_end(who: str, descriptor: int) -> None:
    """[7]"""
    with bare(f"import os\nwhile True: os.write({descriptor}, b'x' * 65536)", who, stderr=subprocess.STDOUT) as process:
        assert len(process.stdout.read(4 * MIB)) == 4 * MIB


@pytest.mark.parametrize(("hostile", "error"), [("os.write(1, b'\\xff\\xfe')", "UnicodeDecodeError"), ("os.write(1, b'[' * 10**6)", "RecursionError")])  # fmt: skip
def test_what_a_plain_reader_dies_of(hostile: str, error: str) -> None:
    """[8]: a grader that reads `json.loads(output.decode())`, prepared for JSON that is wrong."""
    grader = f"import json, subprocess, sys\nout = subprocess.run([sys.executable, '-c', {f'import os; {hostile}'!r}], capture_output=True).stdout\ntry: json.loads(out.decode())\nexcept json.JSONDecodeError: pass"
    ran = subprocess.run([sys.executable, "-I", "-c", grader], capture_output=True, text=True)
    assert ran.returncode != 0 and error in ran.stderr


@pytest.mark.parametrize("source", ["'-' * 10**5 + '1'", "'lambda: ' * 10**5 + '1'"])
def test_what_a_plain_compiler_dies_of(source: str) -> None:
    """[8]: prepared for a SyntaxError."""
    grader = f"try: compile({source}, 'p', 'exec')\nexcept (SyntaxError, ValueError): pass"
    assert subprocess.run([sys.executable, "-I", "-c", grader], capture_output=True).returncode != 0


@WHO
@pytest.mark.parametrize("crash", ["import ctypes; ctypes.string_at(0)", "import os; os.abort()"])
def test_a_crash_takes_the_grader_along(who: str, crash: str) -> None:
    """[9]: a grader that executes programs in its own process, whatever it catches."""
    with bare(f"try:\n    exec({crash!r})\nexcept BaseException: pass\nprint('graded')", who) as process:
        assert process.communicate(timeout=200)[0] == b""
        assert process.returncode in (128 + signal.SIGSEGV, 128 + signal.SIGABRT)


@WHO
@pytest.mark.parametrize("stall", ["-1 in __import__('itertools').count()", "__import__('re').match('(a*)*b', 'a' * 60)", "10 ** 10 ** 9"])  # fmt: skip
def test_a_stall_outlives_the_limit(who: str, stall: str) -> None:
    """[10]: and the first of them an alarm, since no handler of Python runs inside C code."""
    alarm = "def late(*_): raise TimeoutError\nimport signal\nsignal.signal(14, late); signal.setitimer(0, 0.1)\n"
    with bare((alarm if "count" in stall else "") + stall, who) as process:
        assert not soon(lambda: process.poll() is not None, 0.5)


@WHO
def test_a_daemon_outlives_its_parent(who: str) -> None:
    """[11]: forked twice, in a session of its own: found by its environment alone."""
    marker = f"sandbox-daemon-{random.Random().randrange(10**9)}"
    source = "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        for n in range(4): os.close(n)\n        time.sleep(30)\n    os._exit(0)"
    with bare(source, who, env={"MARKER": marker}) as process:
        process.wait(200)
    left = marked(marker)
    try:
        assert len(left) == 1
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


@WHO
def test_the_parent_can_be_killed(who: str) -> None:
    """[12]"""
    with bare("import os; os.kill(os.getppid(), 9)", who) as process:
        assert process.wait(200) == -signal.SIGKILL


def test_kill_all_kills_a_neighbour() -> None:
    """[12]: kill(-1), as a user whom nobody else here is."""
    if os.geteuid() != 0:
        pytest.skip("it would end the session of whoever runs the tests")
    nobody_else = random.Random().randrange(70_000, 2**31)
    user = {"user": nobody_else, "group": nobody_else, "extra_groups": [], "cwd": "/"}
    with subprocess.Popen(["/bin/sleep", "300"], **user) as neighbour:
        subprocess.run([ordinary_interpreter(), "-I", "-c", "import os; os.kill(-1, 9)"], **user)
        assert neighbour.wait(200) == -signal.SIGKILL


@WHO
def test_environment_and_descriptors_are_inherited(who: str) -> None:
    """[14]"""
    with tempfile.TemporaryFile() as file:
        file.write(b"of the trainer")
        file.flush()
        source = f"import os; print(os.environ['SECRET_OF_THE_TRAINER'], os.pread({file.fileno()}, 99, 0))"
        found = printed(source, who, env={"SECRET_OF_THE_TRAINER": "hunter2"}, pass_fds=[file.fileno()])
    assert found == b"hunter2 b'of the trainer'\n"


def fooled(grader: str, cheat: str) -> bool:
    """Whether a grader, a program of its own that has the cheat in `program`, prints that it passed."""
    source = f"program = {cheat!r}\n{grader}"
    ran = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, text=True, timeout=200)
    return "PASSED" in ran.stdout.split() or (ran.returncode == 0 and grader is EXIT_CODE)


EXIT_CODE = "exec(program)\nassert f(3) == 9\nassert f(-2) == 4"
SAME_PROCESS = "space = {}\nexec(program, space)\nfor argument, expected in ((3, 9), (-2, 4)):\n    assert space['f'](argument) == expected\nprint('PASSED')"
CHILD = "import subprocess, sys\nran = subprocess.run([sys.executable, '-c', program + TESTS], capture_output=True, text=True)\n"
MESSAGES = f"TESTS = '\\nprint(f(3) == 9)'\n{CHILD}print('PASSED' if '\"passed\"' in ran.stdout else 'FAILED')"
JSON = f"import json\nTESTS = '\\nimport json; print(json.dumps([\"passed\" if f(3) == 9 else \"failed\"]))'\n{CHILD}print('PASSED' if json.loads(ran.stdout) == ['passed'] else 'FAILED')"
SILENCE = f"TESTS = '\\nif f(3) != 9: print(\"failed\")'\n{CHILD}print('PASSED' if not ran.stdout else 'FAILED')"
EVAL = "exec(program)\nprint('PASSED' if eval('f(3)') == eval('9') and isinstance(f(3), int) else 'FAILED')"
PICKLE = "import pickle\nTESTS = '\\nimport pickle, sys; sys.stdout.buffer.write(pickle.dumps(f(3)))'\nimport subprocess, sys\nran = subprocess.run([sys.executable, '-c', program + TESTS], capture_output=True)\npickle.loads(ran.stdout)"
MESSAGE_OF_ERROR = "exec(program)\ntry: f(3)\nexcept AssertionError as error: print(str(error).upper())"
NOT_APART = "exec(program)\nprint('FAILED' if f(3) < 9 or f(3) > 9 else 'PASSED')"
AS_TEXT = "exec(program)\nprint('PASSED' if str(f(3)) == '9' else 'FAILED')"
CONTAINED = "exec(program)\nprint('PASSED' if '9' in str(f(3)) else 'FAILED')"


@pytest.mark.parametrize(("name", "grader"), [
    ("[18] always equal", EXIT_CODE), ("[18] an int that is always equal", SAME_PROCESS), ("[19] frame walk", SAME_PROCESS),
    ("[20] sys.exit", EXIT_CODE), ("[20] os._exit", EXIT_CODE), ("[20] sys.exit in the call", EXIT_CODE), ("[20] os._exit in the call", EXIT_CODE),
    ("[21] patched json", JSON), ("[21] patched builtins", EVAL), ("[21] patched print", SILENCE), ("[22] forged results", MESSAGES),
    ("[24] raises what a grader catches", MESSAGE_OF_ERROR), ("[24] nan", NOT_APART), ("[24] string of the number", AS_TEXT), ("[24] one in a list", CONTAINED),
])  # fmt: skip
def test_cheats_pass_other_graders(name: str, grader: str) -> None:
    """[18–24]: and honest programs that are wrong do not."""
    cheat = CHEATS[name].replace("os.write(3,", "os.write(1,")  # where this grader listens
    assert fooled(grader, cheat)
    assert not fooled(grader, "def f(x): return 7")


def test_a_pickled_payload_runs_in_the_grader() -> None:
    """[23]"""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", f"program = {CHEATS['[23] pickled payload']!r}\n{PICKLE}"], capture_output=True
    )
    assert ran.stdout == b"x\n"  # printed by the grader itself


@pytest.mark.parametrize("output", ["", "\n", "\n4"])
def test_a_comparison_that_ends_with_the_shorter_output(output: str) -> None:
    """[20]: the outputs of test_cheats_on_output against zip, and against a comparison of stripped beginnings."""
    expected = "\n4\n6\n"
    assert all(a == b for a, b in zip(output.splitlines(), expected.splitlines(), strict=False))
    assert expected.strip().startswith(output.strip())


def test_a_wall_limit_fails_correct_programs_under_load() -> None:
    """[25]: 0.1 s of work and 0.4 s of wall time, as enough as it seems, with sixteen programs on one core.

    Whatever the core, no more than four times 0.1 s fit into 0.4 s of it.
    """
    source = "import time\nstart = float(input())\nwhile time.process_time() < 0.1: pass\nprint(time.monotonic() - start > 0.4)"
    command = [ordinary_interpreter(), "-I", "-S", "-c", source]
    with few_cores(1):
        running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(16)]
        start = b"%f\n" % time.monotonic()
        for process in running:
            process.stdin.write(start)
            process.stdin.flush()
        late = [process.communicate(timeout=200)[0] == b"True\n" for process in running]
    assert sum(late) >= 4
