"""Hostile programs against the sandbox, in tier A as whoever runs the tests, and in tiers A and B as an ordinary user.

Each attack must succeed where there is no sandbox, or its failure in one would show nothing: in tier C (resource limits
alone), and in a plain interpreter of root and of an ordinary user (test_sandbox_controls.py). Not covered: bugs of the
kernel, side channels. Numbers in brackets are those of the list of hostile inputs:

| number | hostile input | test here, where no other file is named |
|---|---|---|
| 1, 2 | endless loop that ignores signals; endless sleep | test_endless_loop_that_ignores_signals, test_endless_sleep… |
| 3, 4 | fork bomb; thread bomb | test_attack_fails, test_fork_bomb_in_earnest; test_threads_of_an_honest_program_and_of_a_bomb |
| 5 | memory bomb: one process, many, memory files | test_memory_bomb, test_attack_fails |
| 6, 7 | files, huge and many; endless output | test_files_end_at_the_limits_and_with_the_job; test_endless_output |
| 8 | what is no text, no program, no JSON | test_source_that_is_no_program, test_results_that_cannot_be_read |
| 9, 10 | crashes; stalls inside C code | test_crash; test_stall_inside_c_code |
| 11, 12 | daemon; signals to others | test_attack_fails, test_fork_bomb_in_earnest; test_kill_everything |
| 13, 14 | tracing; what the trainer holds | test_attack_fails; test_nothing_of_the_trainer_is_inside |
| 15–17 | files of the machine; sockets; namespaces, mounts | test_attack_fails |
| 18–24 | cheats | test_code.py |
| 25, 26 | load; kills, disk full | test_sandbox_pool.py |
| all | with several inputs in one process | test_sandbox_runs.py |
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from guided_grpo.sandbox import End, Job, Kind, Limits, same
from sandbox_attacks import ATTACKS, program
from sandbox_places import Place, place

pytestmark = pytest.mark.slow

MIB = 2**20
SEALED = ("A", "A-user", "B-user", "B-root")
CONTROL = "C-user"


@pytest.fixture(scope="module", params=SEALED)
def sealed(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def control() -> Iterator[Place]:
    with place(CONTROL) as found:
        yield found


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder of the machine with a secret, open to everyone."""
    with tempfile.TemporaryDirectory(prefix="sandbox-outside-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "secret").write_text("hunter2")
        (folder / "secret").chmod(0o666)
        yield folder


def got_through(where: Place, body: str, outside: Path) -> bool:
    [outcome] = where.run([Job(program(body, outside), calls=("attack()",), limits=Limits(memory_bytes=2048 * MIB))])
    assert outcome.end is not End.INFRA_ERROR, outcome.error
    [result] = outcome.results
    return result.kind is Kind.VALUE and same(True, result.value)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_fails(sealed: Place, outside: Path, name: str) -> None:
    if name == "[4] two hundred threads" and sealed.tier == "B":
        pytest.skip("tier B bounds threads by their memory only")
    assert not got_through(sealed, ATTACKS[name], outside)
    assert (outside / "secret").read_text() == "hunter2"


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_works_without_the_sandbox(control: Place, outside: Path, name: str) -> None:
    try:
        assert got_through(control, ATTACKS[name], outside)
    finally:
        (outside / "secret").write_text("hunter2")


def one(where: Place, source: str, **fields: object):
    [outcome] = where.run([Job(source, **fields)])
    return outcome


def test_honest_programs(sealed: Place) -> None:
    """What programs of a training set do: input, output, threads, asyncio, exact numbers, a late exit."""
    jobs = [
        Job("import sys\nprint(sum(map(int, sys.stdin.read().split())))", stdin=b"1 2\n3\n"),
        Job("import os; print(os.read(0, 9).decode() * 2, end='')", stdin=b"ab"),
        Job("import asyncio\nasync def f(): await asyncio.sleep(0); print('done')\nasyncio.run(f())"),
        Job("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()"),
        Job("import atexit; atexit.register(print, 'bye')"),
        Job("print('out'); exit()"),
        Job("import sys; sys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(20_000))"),
        Job("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(1))"),
        Job("if __name__ == '__main__': print('main')"),
    ]
    outcomes = where_stdout(sealed, jobs)
    assert outcomes == ["6\n", "abab", "done\n", "late\n", "bye\n", "out\n", "20000\n", "P(x=1)\n", "main\n"]


def where_stdout(where: Place, jobs: list[Job]) -> list[str]:
    outcomes = where.run(jobs)
    assert [outcome.end for outcome in outcomes] == [End.EXITED] * len(jobs), outcomes
    return [outcome.stdout.decode() for outcome in outcomes]


def test_values_come_back(sealed: Place) -> None:
    values = [
        1,
        -(10**40),
        True,
        None,
        0.1,
        float("inf"),
        "é\0\ud800",
        b"\xff",
        (1, [2]),
        {1, 2},
        {"a": (1,)},
        {(1, 2): 3},
        1j,
    ]
    outcome = one(sealed, "inf = float('inf')", calls=tuple(repr(value) for value in values))
    assert [same(value, result.value) for value, result in zip(values, outcome.results, strict=True)] == [True] * 13


def test_endless_loop_that_ignores_signals(sealed: Place) -> None:
    """[1]"""
    source = "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"
    outcome = one(sealed, source, limits=Limits(cpu_seconds=0.3))
    assert outcome.end is End.CPU and 0.3 <= outcome.cpu_seconds < 1.5


def test_each_call_has_the_limit_of_a_program(sealed: Place) -> None:
    """Six calls of 0.15 s under a limit of 0.3 s; then one that never ends, after some that did."""
    source = "import time\ndef f(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n    return 1"
    outcome = one(sealed, source, calls=("f(0.15)",) * 6, limits=Limits(cpu_seconds=0.3))
    assert outcome.end is End.EXITED and [result.value for result in outcome.results] == [1] * 6
    calls = ("f(0.1)", "f(0.1)", "f(99)") + ("f(0)",) * 7
    outcome = one(sealed, source, calls=calls, limits=Limits(cpu_seconds=0.3))
    assert outcome.end is End.CPU and outcome.cpu_seconds < 1.5  # half a second as a rule, and 3 s were it the job's
    assert [result.kind for result in outcome.results] == [Kind.VALUE] * 2 + [Kind.ABSENT] * 8


def test_pretending_to_answer_ends_too(sealed: Place) -> None:
    """A byte where results go, whenever the limit is near: ten limits in all, and no program without calls gets two."""
    source = "import os, time\nn = 0\nwhile True:\n    if time.process_time() > n: os.write(3, b'x'); n += 0.01"
    outcome = one(sealed, source, calls=("1",) * 100, limits=Limits(cpu_seconds=0.05))
    assert outcome.end is End.CPU and 0.4 < outcome.cpu_seconds < 1.5  # a hundred limits were 5 s
    outcome = one(sealed, source, limits=Limits(cpu_seconds=0.1))
    assert outcome.end is End.CPU and outcome.cpu_seconds < 1.0


def test_endless_sleep_and_closed_descriptors(sealed: Place) -> None:
    """[2]"""
    outcome = one(sealed, "import os, time\nos.closerange(0, 64)\ntime.sleep(1e9)", limits=Limits(wall_seconds=0.3))
    assert outcome.end is End.WALL and 0.3 <= outcome.wall_seconds < 60


@pytest.mark.parametrize(
    "stall",
    [
        "10 ** 10 ** 9",
        "__import__('re').match('(a*)*b', 'a' * 60)",
        "-1 in __import__('itertools').count()",
        "9 ** 9 ** 9 % 7",
    ],
)
def test_stall_inside_c_code(sealed: Place, stall: str) -> None:
    """[10]: no signal handler of Python runs there."""
    outcome = one(sealed, "", calls=(stall,), limits=Limits(cpu_seconds=0.3, memory_bytes=256 * MIB))
    assert outcome.end is End.CPU or outcome.results[0].error.startswith("MemoryError")


@pytest.mark.parametrize("bomb", [
    "bytearray(2**31)", "[bytes(2**20) for _ in range(10**6)]", "__import__('mmap').mmap(-1, 2**31)", "'x' * 2**40",
])  # fmt: skip
def test_memory_bomb(sealed: Place, bomb: str) -> None:
    """[5]: one process and no other, so that the limit of the process is the limit of the job."""
    outcome = one(sealed, "", calls=(bomb,), limits=Limits(memory_bytes=256 * MIB))
    assert outcome.results[0].kind is Kind.RAISED and outcome.results[0].error.startswith(("MemoryError", "OSError"))


def test_threads_of_an_honest_program_and_of_a_bomb(sealed: Place) -> None:
    """[4]: the pool goes on after it."""
    source = program("return threads(10)")
    assert same(10, one(sealed, source, calls=("attack()",)).results[0].value)
    bomb = "import threading, time\nthreading.stack_size(65536)\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(9e9,)).start()\n    except RuntimeError: pass"
    assert one(sealed, bomb, limits=Limits(cpu_seconds=0.5, wall_seconds=3)).end in (
        End.CPU,
        End.WALL,
        End.EXITED,
        End.CRASHED,
    )
    assert same(3, one(sealed, "", calls=("1 + 2",)).results[0].value)


@pytest.mark.parametrize("daemon", ["", "os.setsid(); "])
def test_fork_bomb_in_earnest(sealed: Place, daemon: str) -> None:
    """[3, 11]: whatever it tried, nothing of it is left, and it was one process all the time."""
    bomb = f"import os\nfor _ in range(50):\n    try:\n        {daemon}pid = os.fork()\n    except OSError: pass\n    else:\n        print(pid)"
    outcome = one(sealed, bomb)
    assert (outcome.end, outcome.stdout) == (End.EXITED, b"")


def test_files_end_at_the_limits_and_with_the_job(sealed: Place) -> None:
    """[6]: a huge file, a full folder, many small files, then a new job."""
    source = """
import os
def huge():
    with open("huge", "wb") as file:
        return file.write(bytes(2 * 2**20))
def full():
    for n in range(100):
        with open(f"part{n}", "wb") as file:
            file.write(bytes(2**19))
def many():
    for n in range(10**6):
        open(f"small{n}", "w").close()
def left():
    return os.listdir("/tmp") == []
"""
    calls = ("huge()", "full()", "many()")
    outcome = one(sealed, source, calls=calls, limits=Limits(output_bytes=MIB, disk_bytes=4 * MIB))
    assert [result.kind for result in outcome.results] == [Kind.RAISED] * 3
    assert all("Error: [Errno" in result.error for result in outcome.results), outcome
    if sealed.tier == "A":
        assert same(True, one(sealed, source, calls=("left()",)).results[0].value)


@pytest.mark.parametrize("descriptor", [1, 2, 3])
def test_endless_output(sealed: Place, descriptor: int) -> None:
    """[7]: standard output, standard error, and whatever else is open (3 is where results go)."""
    source = f"import os\nwhile True:\n    try: os.write({descriptor}, b'x' * 65536)\n    except OSError: pass"
    outcome = one(sealed, source, limits=Limits(cpu_seconds=0.3, output_bytes=MIB))
    assert outcome.end is (End.CPU if descriptor == 2 else End.OUTPUT)
    assert len(outcome.stdout) <= MIB


@pytest.mark.parametrize("source", [
    "\0", "x = '\ud800'", "(" * 10**5, "-" * 10**5 + "1", "lambda: " * 10**5 + "1", "\n" * 10**6, "raise " + "1" * 10**5, "é = 1\nprint(é",
])  # fmt: skip
def test_source_that_is_no_program(sealed: Place, source: str) -> None:
    """[8]"""
    outcome = one(sealed, source, calls=("1",))
    assert outcome.end in (End.EXITED, End.CRASHED)
    assert outcome.results[0].kind is (Kind.VALUE if not source.strip() else Kind.ABSENT)


@pytest.mark.parametrize("forged", [
    b"\xff\xfe\n", b"\0\n", b"[" * 10**6, b"{" * 100 + b"\n", b'["value", 1', b'["value"]\n[]\n', b'"value"\n', b'["passed", 1, 2]\n',
    b'["value", {"int": "' + b"9" * 10**5 + b'"}]\n', b'["value", NaN]\n', b'["value", ' + b"1" * 10**5 + b"]\n", b'["raised", {}]\n', b"[[]]\n",
])  # fmt: skip
def test_results_that_cannot_be_read(sealed: Place, forged: bytes) -> None:
    """[8]"""
    outcome = one(sealed, f"import os\nos.write(3, {forged!r})\nos._exit(0)", calls=("1",))
    assert not same(1, outcome.results[0].value) and outcome.end is End.EXITED


@pytest.mark.parametrize("forged", ['{"set": [{}]}', '{"dict": [[{}, 1]]}', '{"set": [{"tuple": [{}]}]}'])
def test_forged_keys_do_not_stop_the_grader(sealed: Place, forged: str) -> None:
    """[22]: data that is no key, where a set or a dict is expected."""
    outcome = one(
        sealed, f"import os\nos.write(3, b'[\"value\", ' + {forged.encode()!r} + b']\\n')\nos._exit(0)", calls=("1",)
    )
    assert outcome.results[0].kind is Kind.VALUE
    assert not same({1}, outcome.results[0].value) and not same({1: 1}, outcome.results[0].value)


@pytest.mark.parametrize("crash", [
    "import ctypes; ctypes.string_at(0)", "import os; os.abort()",
    # Each level costs C stack and nothing else: repr of a list would look through all the levels before it.
    "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, name): return getattr(self, name)\nA().x\n",
])  # fmt: skip
def test_crash(sealed: Place, crash: str) -> None:
    """[9]"""
    outcome = one(sealed, crash, calls=("1",))
    assert outcome.results[0].kind is Kind.ABSENT
    assert outcome.end is End.CRASHED or outcome.error


def test_kill_everything(sealed: Place) -> None:
    """[12]: in earnest; the pool and the tests live on, and suicide is no way to stay ungraded."""
    source = "import os, signal\nfor pid in (-1, os.getppid() or 2, 2, 0):\n    try: os.kill(pid, 9)\n    except OSError: pass\nprint('alive')"
    outcome = one(sealed, source)
    assert outcome.stdout == b"alive\n"
    suicide = one(sealed, "import os\nos.kill(os.getpid(), 9)\nos._exit(0)", calls=("1",))
    assert suicide.end in (End.CRASHED, End.EXITED) and suicide.results[0].kind is Kind.ABSENT


def test_nothing_of_the_trainer_is_inside(sealed: Place) -> None:
    """[14]: environment, descriptors, arguments, other jobs' data."""
    os.environ["SECRET_OF_THE_TRAINER"] = "hunter2"
    source = """
import os, sys
def open_descriptors():
    found = []
    for number in range(100):
        try:
            os.fstat(number)
            found.append(number)
        except OSError:
            pass
    return found
"""
    calls = ("dict(os.environ)", "open_descriptors()", "sys.argv", "os.getresuid()[0] > 0", "os.read(3, 10)")
    one(sealed, "marker = 'earlier job'", calls=("marker",))
    results = one(sealed, source, calls=calls).results
    assert [same(e, r.value) for e, r in zip([{}, [0, 1, 2, 3], ["program.py"], True], results[:4], strict=True)] == [
        True
    ] * 4, results
    assert b"hunter2" not in repr(results).encode()
