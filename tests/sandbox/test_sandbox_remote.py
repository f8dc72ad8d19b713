"""The remote executor against a real HTTP server on loopback that runs programs in subprocesses (sandbox_piston.py)."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_code import CHEATS, SQUARES

from guided_grpo.errors import InputError
from guided_grpo.grading.code import check_programs
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.sandbox import End, Executor, Job, Kind, Limits, program, same
from guided_grpo.sandbox.piston import OLDEST_PYTHON, read_run
from guided_grpo.sandbox.remote import RemotePool
from guided_grpo.types import Status
from sandbox_piston import Piston

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=5.0, output_bytes=200_000)


@pytest.fixture(scope="module")
def piston() -> Iterator[Piston]:
    with Piston() as server:
        yield server


@pytest.fixture(scope="module")
def pool(piston: Piston) -> Iterator[RemotePool]:
    with RemotePool(piston.url, concurrency=4, limits=LIMITS, backoff=0.01) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_fault_is_left(piston: Piston) -> Iterator[None]:
    yield
    piston.faults.clear()


def test_the_newest_python_and_the_fields_of_a_request(piston: Piston, pool: RemotePool) -> None:
    assert pool.version == "3.12.0"
    piston.requests.clear()
    pool.run(
        [Job("print(input())", stdin=b"4\n", limits=Limits(cpu_seconds=1.5, wall_seconds=2.0, memory_bytes=2**28))]
    )
    [request] = piston.requests
    assert {name: request[name] for name in request if name != "files"} == {
        "language": "python", "version": "3.12.0", "stdin": "4\n", "run_timeout": 2_000, "run_cpu_time": 1_500, "run_memory_limit": 2**28,
    }  # fmt: skip
    assert request["files"][0]["content"].strip() == "print(input())"  # as it is, without a driver


def test_main_programs(pool: RemotePool) -> None:
    sources = ["print(sum(map(int, input().split())))", "print('é')", "import sys; sys.exit(3)", "1/0", "x = (", ""]
    outcomes = pool.run([Job(source, stdin=b"1 2") for source in sources])
    assert [outcome.end for outcome in outcomes] == [End.EXITED] * 6
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 3, 1, 1, 0]
    assert [outcome.stdout.decode() for outcome in outcomes[:2]] == ["3\n", "é\n"]
    assert outcomes[3].error == "ZeroDivisionError: division by zero" and outcomes[4].error.startswith("SyntaxError: ")


def test_one_input_a_job(piston: Piston, pool: RemotePool) -> None:
    sent = len(piston.requests)
    with pytest.raises(ValueError, match="one input a job"):
        pool.run([Job("print(input())", inputs=(b"1", b"2"))])
    assert len(piston.requests) == sent
    tests = parse_tests([{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in range(3)])
    assert check_programs(pool, ["print(2 * int(input()))"], [tests])[0].passed == 3
    assert sorted(request["stdin"] for request in piston.requests[sent:]) == ["0\n", "1\n", "2\n"]


def test_calls_checks_and_setup(pool: RemotePool) -> None:
    values = [1, -(10**40), True, None, 0.1, "é\0\ud800", b"\xff", (1, [2]), {1, 2}, {"a": (1,)}, 1j]
    source = "print('noise')\ndef f(x): return x"
    [outcome] = pool.run([Job(source, setup="y = 2", calls=(*(f"f({value!r})" for value in values), "y", "1/0"), checks=("assert f(1)", "assert 0"))])  # fmt: skip
    assert [same(v, r.value) for v, r in zip([*values, 2], outcome.results[:12], strict=True)] == [True] * 12
    assert [(r.kind, r.error) for r in outcome.results[12:]] == [
        (Kind.RAISED, "ZeroDivisionError: division by zero"), (Kind.PASSED, ""), (Kind.RAISED, "AssertionError: "),
    ]  # fmt: skip
    assert outcome.stdout == b""


def test_expected_values_never_leave(piston: Piston, pool: RemotePool) -> None:
    piston.requests.clear()
    tests = parse_tests(["assert f(2) == 987654321"])
    output = parse_tests([{"input": "7", "output": "123454321"}])
    wrong, right = check_programs(pool, ["def f(x): return x", "print(123450000 + 4321)"], [tests, output])
    assert (wrong.status, right.status) == (Status.WRONG, Status.CORRECT)
    sent = json.dumps(piston.requests)
    assert "f(2)" in sent and "987654321" not in sent and "123454321" not in sent


@pytest.mark.parametrize("name", ["values", "program"])
def test_what_the_driver_runs_is_old_python_too(name: str) -> None:
    source = Path(program.__file__).with_name(f"{name}.py").read_text()
    ast.parse(source, feature_version=OLDEST_PYTHON)
    assert "match " not in source and "from __future__ import annotations" in source


def test_either_pool_is_an_executor(pool: RemotePool) -> None:
    found: Executor = pool
    assert found.limits is LIMITS and found.run([]) == []


def test_output_to_standard_error_counts_where_the_server_counts_it() -> None:
    run = {
        "stdout": "1\n",
        "stderr": "",
        "code": None,
        "signal": "SIGKILL",
        "status": "EL",
        "message": "stderr length exceeded",
    }
    assert read_run(Job(""), LIMITS, run, 0.1).end is End.OUTPUT


def test_limits(pool: RemotePool) -> None:
    short = Limits(cpu_seconds=0.2, wall_seconds=0.5, output_bytes=10_000, memory_bytes=2**28)
    jobs = [
        Job("while True: pass", limits=Limits(cpu_seconds=0.2, wall_seconds=5)),
        Job("import time; time.sleep(60)", limits=short),
        Job("while True: print('x' * 1000)", limits=short),
        Job("", calls=("1", "'x' * 20_000", "2"), limits=short),
        Job("", calls=("len(bytes(2**29))", "2"), limits=short),
        Job("import os; os.abort()", calls=("1",), limits=short),
    ]
    cpu, wall, output, result, memory, crash = pool.run(jobs)
    assert [o.end for o in (cpu, wall, output, result, crash)] == [
        End.CPU,
        End.WALL,
        End.OUTPUT,
        End.OUTPUT,
        End.CRASHED,
    ]
    assert [r.kind for r in result.results] == [Kind.VALUE, Kind.ABSENT, Kind.ABSENT] or same(
        2, result.results[2].value
    )
    assert memory.results[0].error.startswith("MemoryError") and same(2, memory.results[1].value)
    assert len(output.stdout) <= 10_000 and crash.signal == signal.SIGABRT


def test_a_server_from_before_status_and_cpu_limits() -> None:
    with Piston(old=True) as old, RemotePool(old.url, limits=LIMITS) as pool:
        limits = Limits(wall_seconds=0.4)
        right, endless, killed = pool.run(
            [
                Job("", calls=("6 * 7",)),
                Job("while True: pass", limits=limits),
                Job("import os; os.kill(os.getpid(), 9)"),
            ]
        )
    assert same(42, right.results[0].value)
    assert (endless.end, killed.end, killed.signal) == (End.WALL, End.CRASHED, signal.SIGKILL)


def test_order_and_concurrency(piston: Piston, pool: RemotePool) -> None:
    piston.most_at_once = 0
    outcomes = pool.run([Job(f"import time; time.sleep({0.3 if n % 3 == 0 else 0}); print({n})") for n in range(12)])
    assert [int(outcome.stdout) for outcome in outcomes] == list(range(12))
    assert piston.most_at_once == 4


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_on_calls(pool: RemotePool, name: str) -> None:
    [verdict] = check_programs(pool, [CHEATS[name]], [SQUARES])
    assert verdict.status not in (Status.CORRECT, Status.INFRA_ERROR) and verdict.passed == 0


FORGED = [
    "import os\nfor n in range(1, 20):\n    for _ in range(3):\n        try: os.write(n, b'[\"value\", 9]\\n')\n        except OSError: pass\nos._exit(0)",
    'import os\nfor n in range(3, 9):\n    try: os.write(n, b\'["value", {"any": true}]\\n\' * 3)\n    except OSError: pass\nos._exit(0)',
    "import sys\nsys.modules['guided_grpo.sandbox.program'].encode = lambda value, depth=0: True\ndef f(x): return 7",
    "import os\nfor n in range(3, 9):\n    try: os.write(n, b'\\xff\\xfe' + b'[' * 100_000)\n    except OSError: pass\nos._exit(0)",
    'print(\'["value", 9]\\n["value", 4]\\n["value", 0]\')',
]


@pytest.mark.parametrize("source", FORGED)
def test_forged_results(pool: RemotePool, source: str) -> None:
    """Written where results go: believed as claims, compared, and wrong, since what is expected is not there to be read."""
    [verdict] = check_programs(pool, [source], [SQUARES])
    assert verdict.status is not Status.CORRECT and verdict.status is not Status.INFRA_ERROR
    assert verdict.passed <= 1  # one claim may be right by chance: f(3) == 9


def test_a_right_program_is_right(pool: RemotePool) -> None:
    [verdict] = check_programs(pool, ["import sys\ndef f(x):\n    print(x)\n    return x * x"], [SQUARES])
    assert (verdict.status, verdict.passed) == (Status.CORRECT, 3)


@pytest.mark.parametrize(
    "fault",
    [
        429,
        500,
        503,
        "drop",
        b"not json",
        b"[]",
        b'{"run": {}}',
        b'{"run": {"stdout": "", "code": "0"}}',
        b'{"run": {"stdout": "", "status": "XX"}}',
        b'{"run": {"stdout": "", "cpu_time": 1' + b"0" * 400 + b"}}",
    ],
)
def test_a_passing_fault_is_tried_again(piston: Piston, pool: RemotePool, fault: object) -> None:
    piston.faults.extend([fault, fault])
    [outcome] = pool.run([Job("", calls=("6 * 7",))])
    assert same(42, outcome.results[0].value)


def test_a_lasting_fault_is_an_infrastructure_error(piston: Piston, pool: RemotePool) -> None:
    piston.requests.clear()
    piston.faults.extend([503] * 5)
    [outcome] = pool.run([Job("", calls=("1", "2"))])
    assert (outcome.end, len(piston.requests)) == (End.INFRA_ERROR, 5) and "status 503" in outcome.error
    assert [result.kind for result in outcome.results] == [Kind.ABSENT] * 2
    [verdict] = check_programs(pool, ["def f(x): return x * x"], [SQUARES])
    assert verdict.status is Status.CORRECT  # the pool goes on


def test_what_the_server_refuses_is_not_tried_again(piston: Piston, pool: RemotePool) -> None:
    piston.requests.clear()
    [outcome] = pool.run([Job("", limits=Limits(wall_seconds=99))])
    assert outcome.end is End.INFRA_ERROR and len(piston.requests) == 1
    assert "status 400: run_timeout cannot exceed the configured limit of 30000" in outcome.error


def test_a_slow_answer(piston: Piston, pool: RemotePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_grpo.sandbox.remote.PATIENCE", 0.0)
    limits = Limits(wall_seconds=0.8)
    piston.faults.append(0.2)
    assert pool.run([Job("print(1)", limits=limits)])[0].stdout == b"1\n"
    piston.faults.extend([2.0, 2.0])
    piston.requests.clear()
    [outcome] = pool.run([Job("print(1)", limits=limits)])  # two attempts in vain, the third answers
    assert (outcome.stdout, len(piston.requests)) == (b"1\n", 3)


def test_the_server_dies_in_mid_batch() -> None:
    """SIGKILL: what was answered counts, the rest is an infrastructure error, and nobody waits for hours."""
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "sandbox_piston.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        with RemotePool(url, concurrency=2, limits=LIMITS, backoff=0.05) as pool:
            threading.Timer(0.7, server.kill).start()
            started = time.monotonic()
            outcomes = pool.run([Job(f"import time; time.sleep(0.15); print({n})") for n in range(60)])
            assert time.monotonic() - started < 10
    assert {outcome.end for outcome in outcomes} == {End.EXITED, End.INFRA_ERROR}
    for n, outcome in enumerate(outcomes):
        assert outcome.stdout == (f"{n}\n".encode() if outcome.end is End.EXITED else b"")
    assert outcomes[0].end is End.EXITED and outcomes[-1].end is End.INFRA_ERROR


def test_no_server_at_the_start() -> None:
    with Piston() as server:
        url = server.url
    with pytest.raises(InputError) as caught:
        RemotePool(url, backoff=0.01)
    message = str(caught.value)
    assert url in message and "gives no list of runtimes" in message and "fix: start the service" in message
    assert "\n" not in message


@pytest.mark.parametrize(("server", "part"), [
    (Piston(runtimes=[{"language": "python", "version": "2.7.18"}, {"language": "bash", "version": "5.2.0"}]), "has no Python 3.8 or newer (it has python 2.7.18, bash 5.2.0)"),
    (Piston(runtimes=[]), "it has nothing"),
    (Piston(output_max=1_024), "allows less than 65536 bytes of output"),
    (Piston(most={"run_timeout": 3_000}), "run_timeout cannot exceed the configured limit of 3000"),
    (Piston(most={"run_cpu_time": 3_000}), "run_cpu_time cannot exceed the configured limit of 3000"),
])  # fmt: skip
def test_a_server_that_cannot(server: Piston, part: str) -> None:
    with server, pytest.raises(InputError) as caught:
        RemotePool(server.url, backoff=0.01)
    assert part in str(caught.value) and "; fix: " in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:2000", "http://[", "ftp://localhost", ""])
def test_no_address(url: str) -> None:
    with pytest.raises(InputError, match="field 'url'"):
        RemotePool(url, attempts=1)


def test_an_interrupted_batch(piston: Piston) -> None:
    with RemotePool(piston.url, concurrency=2, limits=LIMITS) as pool:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            pool.run([Job("import time; time.sleep(1.5)")] * 20)
        assert time.monotonic() - started < 1.5
        assert pool.run([Job("print(1)")])[0].stdout == b"1\n"


def test_closed_twice_and_then_used(piston: Piston) -> None:
    pool = RemotePool(piston.url, limits=LIMITS)
    pool.close()
    pool.close()
    assert pool.run([Job("print(1)")])[0].end is End.INFRA_ERROR
