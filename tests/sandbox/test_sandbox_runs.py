"""Several inputs in one process against one process each: the same verdicts, for honest programs and hostile ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from guided_grpo.grading.code import CodeVerdict, check_programs
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.grading.code_runs import SHARE
from guided_grpo.sandbox import End, Job, Limits, Outcome, SandboxPool, canaries
from guided_grpo.types import Status
from sandbox_places import Place, place

pytestmark = pytest.mark.slow

INPUTS = (b"3\n1 2 3\n", b"1\n7\n", b"0\n\n", b"2\n-5 5\nleft over\n", b"1\r\n\xff\r\n")
N = "n = int(input())\n"


class OneEach:
    """A pool in which no run comes to a clean end beside others, so that each input gets a process of its own."""

    def __init__(self, pool: SandboxPool) -> None:
        self._pool, self.limits = pool, pool.limits

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        alone = iter(self._pool.run([job for job in jobs if not job.inputs]))
        return [Outcome(End.EXITED, runs=(None,) * len(job.inputs)) if job.inputs else next(alone) for job in jobs]


@pytest.fixture(scope="module", params=["A", "B-user"])
def sealed(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with place("A"):  # skips with its reason where there is none
        pass
    with SandboxPool(2, "A", limits=Limits(cpu_seconds=0.6, wall_seconds=10.0)) as pool:
        yield pool


# What programs of a training set do, and how many of the five runs must have an outcome in a shared process.
ALL = len(INPUTS)
HONEST = {
    "input": (f"{N}print(sum(map(int, input().split())) if n else 0)", ALL),
    "read all": ("import sys\nprint(len(sys.stdin.read().split()))", ALL),
    "lines, with their ends": ("import sys\nfor line in sys.stdin: print(repr(line))", ALL),
    "bytes": ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])", ALL),
    "os.read": ("import os\nos.write(1, os.read(0, os.fstat(0).st_size).upper())", ALL),
    "open(0)": ("print(open(0, 'rb').read())", ALL),
    "open(1) left open": ("f = open(1, 'w')\nf.write('late' + input())", ALL),
    "own buffer": ("import io, sys\nout = io.BytesIO()\nout.write(b'x')\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(out.getvalue(), input())", ALL),
    "output put aside": ("import io, sys\nkept, sys.stdout = sys.stdout, io.StringIO()\nprint('quiet')\nkept.write('loud')", ALL),
    "own input": ("import io, sys\nsys.stdin = io.StringIO('a\\nb\\n')\nprint(input(), input())", ALL),
    "a fast reader": ("import sys\ninput = sys.stdin.readline\nprint = sys.stdout.write\nprint(input())", ALL),
    "reads nothing": ("print('hello')", ALL),
    "reads a part": ("import sys\nprint(sys.stdin.read(1), end='')", ALL),
    "asks for too much": ("while True: print(input())", ALL),
    "globals": ("seen = globals().setdefault('seen', [])\nseen.append(input())\nprint(seen)", ALL),
    "lru_cache": ("from functools import lru_cache\n@lru_cache(None)\ndef f(x): print('called'); return x\nf(1); f(1)\nprint(f.cache_info())", ALL),
    "__main__": ("import sys\nif __name__ == '__main__': print(sys.modules['__main__'].__dict__ is globals(), sys.argv, __file__ if '__file__' in globals() else '')", ALL),
    "arguments": ("import sys\nsys.argv.append('x')\nsys.path.insert(0, '/')\nprint(sys.argv, len(sys.path))", ALL),
    "exit": ("print('out')\nexit()\nprint('never')", ALL),
    "exit codes": (f"import sys\n{N}print('out')\nsys.exit(n)", ALL),
    "exit message": ("raise SystemExit('message')", ALL),
    "atexit": ("import atexit, sys\natexit.register(print, 'bye', input())\nprint('hi')", ALL),
    "exception": (f"{N}print(1 // n)", ALL),
    "no program": ("print(", ALL),
    "recursion": ("import sys\nsys.setrecursionlimit(sys.getrecursionlimit() + 500)\nprint(sys.getrecursionlimit())\ndef f(n): return n and 1 + f(n - 1)\nprint(f(1400))", ALL),
    "recursion, too deep": ("def f(n): return n and 1 + f(n - 1)\nprint(f(2000))", ALL),
    "in a thread": ("import sys, threading\nthreading.stack_size(2**24)\nsys.setrecursionlimit(10**5)\nt = threading.Thread(target=lambda: print(input()))\nt.start(); t.join()", ALL),
    "a thread that ends late": ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.02), print('late'))).start()\nprint(input())", ALL),
    "a pool of threads": ("from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\nprint(list(pool.map(str, range(3))))", ALL),
    "exit in a thread": ("import sys, threading\nthreading.Thread(target=sys.exit).start()\nprint('main')", ALL),
    "asyncio": ("import asyncio\nasync def f(): await asyncio.sleep(0); print(input())\nasyncio.run(f())", ALL),
    "no processes": ("import os\ntry: os.fork()\nexcept OSError as e: print(e)\nimport multiprocessing\ntry: multiprocessing.Process(target=print).start()\nexcept OSError as e: print(e)", ALL),
    "random": ("import random\nprint(random.random(), random.choice('abc'))\nrandom.seed(5)", ALL),
    "decimal": ("from decimal import Decimal, getcontext\nprint(getcontext().prec)\ngetcontext().prec = 50\nprint(Decimal(1) / 3)", ALL),
    "digits": ("import sys\nprint(sys.get_int_max_str_digits())\nsys.set_int_max_str_digits(0)\nprint(len(str(10**5000)))", ALL),
    "signals": ("import signal\nprint(signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0])\nsignal.signal(signal.SIGALRM, lambda *_: 1 / 0)\nsignal.setitimer(signal.ITIMER_REAL, 5)", ALL),
    "collector": ("import gc\nprint(gc.isenabled(), gc.get_threshold())\ngc.disable()\ngc.set_threshold(5)", ALL),
    "warnings": ("import warnings\nwarnings.simplefilter('error')\nprint(len(warnings.filters))\ntry: warnings.warn('x')\nexcept UserWarning: print('raised')", ALL),
    "environment": ("import os\nprint(dict(os.environ))\nos.environ['A'] = 'b'", ALL),
    "folder": ("import os\nprint(os.getcwd())\nos.chdir('/')", ALL),
    "descriptors": ("import os\nprint(os.open('/dev/null', 0), os.dup(0))\nos.dup2(1, 2)\nos.close(0)", ALL),
    "standard error": ("import sys\nprint('x', file=sys.stderr)\nsys.stderr = sys.stdout\nprint('y', file=sys.stderr)", ALL),
    "imports": ("import importlib.util, queue, array, fileinput\nprint([line for line in fileinput.input()][:1] if 0 else queue.Queue().qsize())", ALL),
    "fileinput": ("import fileinput\nprint(next(fileinput.input()))", ALL),
    "tracing": ("import sys\nprint(sys.gettrace())\nsys.settrace(lambda *a: None)", ALL),
    "cycles with a last word": ("class A:\n    def __del__(self): print('gone')\na = A()\nprint(input())", ALL),
    "a module changed": ("import string\nprint(string.digits)\nstring.digits = ''", 1),
    "json changed": ("import json\nprint(json.dumps([1]))\njson.dumps = str", 0),
    "a builtin changed": ("import builtins\nprint(input())\nbuiltins.print = builtins.input = None", 1),
    "a limit changed": ("import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))", 1),
    "a thread left": ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(60), print('late')), daemon=True).start()\nprint(input())", 0),
    "os._exit": ("import os\nprint(input(), flush=True)\nos._exit(0)", 0),
    "output rewritten": ("import sys\nprint('aaa', flush=True)\nsys.stdout.seek(0)\nprint('b', flush=True)", 0),
    "too much memory": ("x = bytearray(2**40)", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_a_shared_process_tells_the_same(sealed: Place, name: str) -> None:
    program, recorded = HONEST[name]
    shared, *each = sealed.run([Job(program, inputs=INPUTS), *(Job(program, stdin=given) for given in INPUTS)])
    runs = [(run.exit_code, run.stdout, run.error) for run in shared.runs if run]
    assert runs == [(outcome.exit_code, outcome.stdout, outcome.error) for outcome in each[: len(runs)]]
    assert len(runs) == recorded and shared.runs[recorded:] == (None,) * (ALL - recorded)


def test_a_file_left_behind_ends_the_process(pool: SandboxPool) -> None:
    program = "import os\nprint(os.listdir())\nopen('note', 'w').write(input())"
    [outcome] = pool.run([Job(program, inputs=INPUTS)])
    assert [run and run.stdout for run in outcome.runs] == [b"[]\n", None, None, None, None]


def test_inputs_are_read_only_and_as_many_as_allowed(pool: SandboxPool) -> None:
    inputs = tuple(b"%d\n" % n for n in range(32))
    program = "import os\ntry: os.write(0, b'x')\nexcept OSError: print(input())"
    [outcome] = pool.run([Job(program, inputs=inputs)])
    assert [run and run.stdout for run in outcome.runs] == list(inputs)


def test_the_walls_are_those_of_every_job(sealed: Place) -> None:
    """The canaries, and what is open: three streams, the results, and out of the way output, /dev/null, inputs to come."""
    opened = "import os\nfound = []\nfor n in range(300):\n    try: os.fstat(n)\n    except OSError: continue\n    found.append(n)\nprint(found)"
    source = f"tier = {sealed.tier!r}\n{canaries._ATTEMPTS}\nprint(escapes(), lives()[0])"
    escapes, descriptors = sealed.run([Job(source, inputs=INPUTS), Job(opened, inputs=INPUTS[:3])])
    assert [run and run.stdout for run in escapes.runs[:1]] == [b"[] 1\n"]
    assert [run and run.stdout for run in descriptors.runs] == [
        b"[0, 1, 2, 3, 64, 65, 67, 68]\n", b"[0, 1, 2, 3, 64, 65, 68]\n", b"[0, 1, 2, 3, 64, 65]\n",
    ]  # fmt: skip


@pytest.mark.parametrize("fields", [{"inputs": (b"",) * 33}, {"inputs": (b"",), "calls": ("1",)}])
def test_jobs_that_cannot_be(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="at most 32 inputs"):
        Job("", **fields)


DOUBLES = parse_tests([{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in range(3, 9)])
RIGHT = f"{N}print(2 * n)\n"
LATE = "threading.Thread(target=lambda: (time.sleep({}), print('late')), daemon={}).start()\n"
MUCH = "import time\nwhile os.fstat(1).st_size < 100: time.sleep(0.001)"  # until it has printed more than one answer
FORGED = """
import json, os
for end in (2, 4, 6): os.write(3, json.dumps(["ran", [0, end, ""]]).encode() + b"\\n")
os.write(1, b"6\\n8\\n10\\n12\\n14\\n16\\n")
"""
HIDDEN = (
    'kept = vars(__import__("ma" + "th"))\nkept["k"] = k = kept.get("k", 0) + 1\n'  # a name that is not in the code
)
HOSTILE = {  # and how many of the six tests pass
    "os._exit(0) at once": ("import os\nos._exit(0)", 0),
    "os._exit(0) after a wrong answer": ("import os\nprint(6, flush=True)\nos._exit(0)", 1),
    "os._exit(0) after the answer": (f"import os\n{RIGHT}import sys; sys.stdout.flush(); os._exit(0)", 6),
    "another exit code": (f"{RIGHT}exit(3)", 0),
    "descriptors closed": (f"import os\n{N}os.closerange(0, 200)\nprint(2 * n)", 0),
    "descriptors closed after the answer": (f"import os\n{N}print(2 * n, flush=True)\nos.closerange(0, 200)", 6),
    "answers of all tests": ("print(6, 8, 10, 12, 14, 16, sep='\\n')", 0),
    "one answer to all": ("print(8)", 1),
    "a thread that prints late": (f"import threading, time\n{RIGHT}{LATE.format(0.003, False)}", 0),
    "a thread that prints too late": (f"import threading, time\n{RIGHT}{LATE.format(60, True)}", 6),
    "a thread that prints all the time": (f"import os, threading\ndef f():\n    while True: os.write(1, b'8\\n')\nthreading.Thread(target=f, daemon=True).start()\n{MUCH}", 0),
    "a bare thread": (f"import _thread, os, time\n_thread.start_new_thread(lambda: [os.write(1, b'8\\n') for _ in iter(int, 1)], ())\n{MUCH}", 0),
    "atexit prints": (f"import atexit\n{RIGHT}atexit.register(print, 'more')", 0),
    "atexit fails": (f"import atexit, os\n{RIGHT}atexit.register(os._exit, 1)", 0),
    "exit in a thread": ("import os, threading\nt = threading.Thread(target=os._exit, args=(0,))\nt.start(); t.join()", 0),
    "no results": ("import os\nos.close(3)\nos.ftruncate(1, 0)", 0),
    "endless output": ("while True: print('6\\n' * 1000)", 0),
    "kills": ("import os\nfor pid in (-1, 0, 1, 2, os.getpid()):\n    try: os.kill(pid, 9)\n    except OSError: pass\nprint('6')", 1),
    "aborts": (f"import os, sys\n{RIGHT}sys.stdout.flush()\nos.abort()", 0),
    "crashes": ("import ctypes\nctypes.string_at(0)", 0),
    "reads ahead": ("import os\nfor n in range(200):\n    try: print(os.pread(n, 99, 0))\n    except OSError: pass", 0),
    "writes ahead": ("import os\nfor n in range(200):\n    try: os.pwrite(n, b'6\\n', 0)\n    except OSError: pass", 1),
    "exchanges descriptors": ("import os\nfor n in range(64, 100):\n    try: os.dup2(n, 1), os.dup2(1, 0), os.dup2(n, 3)\n    except OSError: pass\nprint(8)", 1),
    "patched input": ("import builtins\nbuiltins.input = lambda: '4'\nprint(2 * int(input()))", 1),
    "patched print after the answer": (f"import builtins\n{RIGHT}builtins.print = lambda *a: None", 6),
    "patched exec and compile": ("import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None\nprint(8)", 1),
    "patched os": ("import os\nos.write = os._exit = os.fstat = lambda *a: 0\nprint(8)", 0),
    "no program": ("print(", 0),
    "raises SystemExit of its own": (f"class E(SystemExit):\n    code = property(lambda s: 1 / 0)\n{RIGHT}raise E", 0),
    "recursion limit left low": (f"import sys\ndef f(n): return n and 1 + f(n - 1)\n{N}f(500)\nprint(2 * n)\nsys.setrecursionlimit(60)", 6),
    "endless loop on one": (f"{N}while n == 5: pass\nprint(2 * n)", 5),
    "a memory bomb on one": (f"{N}x = bytearray(2**33) if n == 5 else 1\nprint(2 * n)", 5),
    "slow": (f"import time\n{N}while time.process_time() < 0.15: pass\nprint(2 * n)", 6),
    "wrong on one": (f"{N}print(2 * n if n != 5 else 0)", 5),
}  # fmt: skip


def graded(pool: SandboxPool | OneEach, program: str) -> CodeVerdict:
    return check_programs(pool, [program], [DOUBLES])[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_the_same_verdict_as_one_process_each(name: str, pool: SandboxPool) -> None:
    program, passed = HOSTILE[name]
    shared, each = graded(pool, program), graded(OneEach(pool), program)
    assert (shared.status, shared.passed) == (each.status, each.passed)
    assert shared.passed == passed and (shared.status is Status.CORRECT) == (passed == 6)


def test_a_forged_record_costs_the_run_that_forged_it(pool: SandboxPool) -> None:
    """The first run, whichever input it has, says that it wrote nothing; then the process is found changed and ends."""
    program = f'import json\njson.dumps = lambda *a, **k: \'["ran", [0, 0, ""]]\'\n{RIGHT}'
    for number in range(4):
        shared, each = graded(pool, f"{program}# {number}"), graded(OneEach(pool), program)
        assert (shared.status, shared.passed, each.passed) == (Status.WRONG, 5, 6)


@pytest.mark.parametrize("end", ["", "os._exit(0)"])
def test_forged_ends_of_runs_are_guesses(pool: SandboxPool, end: str) -> None:
    """Where the output of a run ends is the program's own claim: it wins a guess for each test, and no second one."""
    verdicts = check_programs(pool, [f"{FORGED}{end}# {n}" for n in range(30)], [DOUBLES] * 30)
    assert all(verdict.status is Status.WRONG and verdict.passed <= 3 for verdict in verdicts)
    assert sum(verdict.passed for verdict in verdicts) < 45  # three of six by chance: 15


def test_one_endless_sleep(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "limits", Limits(cpu_seconds=0.6, wall_seconds=4.0))
    program = f"import time\n{N}time.sleep(99 if n == 5 else 0)\nprint(2 * n)"
    verdict = graded(pool, program)
    assert (verdict.status, verdict.passed) == (Status.TIMEOUT, 5)


def test_a_program_that_patches_what_runs_it(pool: SandboxPool) -> None:
    """It may wrong itself, and no more."""
    patches = (
        "m.finish = lambda *a: 0",
        "m._State.put_back = lambda s: True",
        "m.write = lambda *a: None",
        "m._OUTPUT = 1",
    )
    for patch in patches:
        verdict = graded(pool, f"import sys\nm = sys.modules['guided_grpo.sandbox.inputs']\n{patch}\nprint(8)")
        assert verdict.status is Status.WRONG and verdict.passed <= 1


def test_counting_the_runs_tells_nothing(pool: SandboxPool) -> None:
    """The answers in the order of the tests, by a program that hides its count: right by the luck of the draw alone."""
    answers = f"{HIDDEN}print([6, 8, 10, 12, 14, 16][k - 1])"
    verdicts = check_programs(pool, [f"{answers}# {n}" for n in range(30)], [DOUBLES] * 30)
    assert sum(verdict.status is Status.CORRECT for verdict in verdicts) <= 2  # each with a chance of 1 in 720
    assert sum(verdict.passed for verdict in verdicts) < 90  # 1 of 6 on average


@pytest.mark.parametrize("shared", [
    "__import__('os').fstat(64)", "__import__('os').readlink('/proc/self/fd/65')", "next(iter({}.__class__(k)))", "k['math']['k']",
])  # fmt: skip
def test_a_program_that_tells_a_shared_process_from_its_own_passes_one_of_two_tests(
    pool: SandboxPool, shared: str
) -> None:
    """Answers that contradict each other, and a program that gives one in each kind of process."""
    detect = f"try:\n    {shared}\n    here = True\nexcept Exception:\n    here = False\n"
    for first, second in (("1", "2"), ("2", "1")):
        source = f"k = {{}}\n{detect}print({first} if here else {second})"
        sets = [parse_tests([{"input": f"{n}\n", "output": output} for n in range(4)]) for output in "12"]
        verdicts = [check_programs(pool, [source], [tests])[0] for tests in sets]
        assert sorted(verdict.passed for verdict in verdicts) == [0, 4]
        leaver = f"{source}\nif here: import os; os._exit(0)"
        verdicts = [check_programs(pool, [leaver], [tests])[0] for tests in sets]
        assert sum(verdict.passed for verdict in verdicts) <= 4


def test_a_guess_has_one_chance(pool: SandboxPool) -> None:
    """Two tests, a coin for each: a quarter passes; were what is wrong run again, nine in sixteen would."""
    tests = parse_tests([{"input": f"{n}\n", "output": "1"} for n in range(2)])
    programs = [f"import os\nprint(os.urandom(1)[0] % 2)# {n}" for n in range(200)]
    verdicts = check_programs(pool, programs, [tests] * 200)
    assert 25 < sum(verdict.status is Status.CORRECT for verdict in verdicts) < 85
    repeated = [f"import random\nprint(random.randrange(2))# {n}" for n in range(20)]
    assert len({verdict.passed for verdict in check_programs(pool, repeated, [tests] * 20)}) == 1


def test_all_runs_share_a_part_of_one_limit(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "limits", Limits(cpu_seconds=20.0, wall_seconds=100.0))
    jobs: list[Job] = []

    class Watched(OneEach):
        def run(self, given: Sequence[Job]) -> list[Outcome]:
            jobs.extend(given)
            return self._pool.run(given)

    assert graded(Watched(pool), RIGHT).status is Status.CORRECT
    [job] = jobs  # one process for six tests that pass
    assert sorted(job.inputs) == [f"{n}\n".encode() for n in range(3, 9)]
    assert job.limits == Limits(cpu_seconds=SHARE * 20.0, wall_seconds=SHARE * 100.0)
    jobs.clear()
    assert graded(Watched(pool), "print(8)").passed == 1
    assert [len(job.inputs) for job in jobs] == [6]  # of a wrong program no test is looked at a second time
    endless = Job("while True: pass", inputs=INPUTS, limits=Limits(cpu_seconds=0.5))
    [outcome] = pool.run([endless])
    assert outcome.end is End.CPU and outcome.runs == (None,) * ALL
    assert outcome.cpu_seconds < 2.0  # five limits were 2.5 s
