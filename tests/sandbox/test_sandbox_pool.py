"""The pool of the sandbox: order, load, killed workers, a killed trainer, leaks, and what it refuses to start with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guided_grpo.errors import InputError
from guided_grpo.sandbox import End, Job, Kind, Limits, SandboxPool, canaries, jail, kernel, same
from guided_grpo.sandbox import pool as pool_module
from guided_grpo.sandbox import worker as worker_module
from guided_grpo.sandbox.jail import JailError
from guided_grpo.sandbox.worker import Worker
from sandbox_places import few_cores, marked, ordinary_interpreter, ordinary_user, place, readable_source

pytestmark = pytest.mark.slow

BURN = "import time\nwhile time.process_time() < {0}: pass\nprint('done')"


@pytest.fixture(scope="module", autouse=True)
def _tier_a() -> None:
    with place("A"):  # skips with its reason where there is none
        pass


def children(pid: int) -> list[int]:
    """All processes below `pid`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_outcomes_stand_in_the_order_of_their_jobs() -> None:
    jobs = [Job(f"import time; time.sleep({0.1 if n % 3 == 0 else 0}); print({n})") for n in range(12)]
    with SandboxPool(3, "A") as pool:
        assert [int(outcome.stdout) for outcome in pool.run(jobs)] == list(range(12))
        assert pool.run([]) == []


def test_correct_programs_pass_at_sixteen_times_the_load() -> None:
    """[25]: the limits count CPU time, so that waiting for a core costs nothing."""
    cores = min(2, len(os.sched_getaffinity(0)))
    with few_cores(cores), SandboxPool(16 * cores, "A", limits=Limits(cpu_seconds=1.0)) as pool:
        outcomes = pool.run([Job(BURN.format(0.15))] * (16 * cores))
    assert [(outcome.end, outcome.stdout) for outcome in outcomes] == [(End.EXITED, b"done\n")] * (16 * cores)
    assert max(outcome.wall_seconds for outcome in outcomes) > 1.0  # a wall limit as high would have failed some


@pytest.fixture
def marker(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stands in the command line of every process of the pools of this test, whoever its parent is."""
    found = f"# sandbox-test-{os.getpid()}-{time.monotonic_ns()}\n"
    monkeypatch.setattr(worker_module, "_BOOTSTRAP", found + worker_module._BOOTSTRAP)
    return found


TREE = ["launcher", "zygote", "job"]  # of one worker, from above


def kill_once_it_runs(above: int, depth: int) -> threading.Thread:
    """SIGKILL for the process so many generations below `above`, as soon as a job runs there."""

    def kill() -> None:
        while len(tree := [above, *children(above)]) <= depth or len(tree) < len(TREE):
            time.sleep(0.01)
        os.kill(tree[depth], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize("which", TREE)
def test_killed_in_mid_batch(which: str, marker: str) -> None:
    """[26]: what was running is run again, the rest goes on, and nothing is left."""
    jobs = [Job(f"import time; time.sleep({0.1 if n else 2}); print({n})") for n in range(6)]
    with SandboxPool(2, "A") as pool:
        victim = pool._workers[0].pid
        before = [victim, *children(victim)]
        killer = kill_once_it_runs(victim, TREE.index(which))
        outcomes = pool.run(jobs)
        killer.join()
        assert [(outcome.end, outcome.stdout) for outcome in outcomes] == [
            (End.EXITED, f"{n}\n".encode()) for n in range(6)
        ]
        assert which == "job" or wait_until(lambda: not any(alive(pid) for pid in before))
        assert wait_until(lambda: len(marked(marker)) == 4)  # two launchers, two zygotes
    assert wait_until(lambda: not marked(marker))


@pytest.mark.parametrize("which", TREE)
def test_killed_in_mid_batch_without_namespaces(which: str) -> None:
    """[26]: in tier B, where no process namespace takes the job along."""
    jobs = [Job(f"import time; time.sleep({0.1 if n else 2}); print({n})") for n in range(3)]
    with place("B-user") as sealed:
        killer = kill_once_it_runs(children(sealed.pid)[0], TREE.index(which))
        outcomes = sealed.run(jobs)
        killer.join()
        assert [outcome.stdout for outcome in outcomes] == [b"0\n", b"1\n", b"2\n"]
        assert wait_until(lambda: len(marked(sealed.marker)) == 3)  # server, launcher, zygote
    assert wait_until(lambda: not marked(sealed.marker))


def test_killed_every_time_is_an_infrastructure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """[26]: tried twice, then said so; the pool is usable afterwards."""
    with SandboxPool(1, "A") as pool:
        start, killed = Worker.start, []

        def start_and_kill(worker: Worker, job: Job, limits: Limits) -> None:
            start(worker, job, limits)
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

        with monkeypatch.context() as patch:
            patch.setattr(Worker, "start", start_and_kill)
            [outcome] = pool.run([Job("import time; time.sleep(1)", calls=("1",))])
        assert outcome.end is End.INFRA_ERROR and len(killed) == 2
        assert outcome.results[0].kind is Kind.ABSENT
        assert same(2, pool.run([Job("", calls=("1 + 1",))])[0].results[0].value)


def test_a_worker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as lost after a second here, and so does the next where that is slow: until one is quick enough."""
    limits = Limits(wall_seconds=60.0)
    monkeypatch.setattr(pool_module, "PATIENCE", 1.0 - limits.wall_seconds)
    monkeypatch.setattr(pool_module, "ATTEMPTS", 60)
    with SandboxPool(1, "A", limits=limits) as pool:
        tree = [pool._workers[0].pid, *children(pool._workers[0].pid)]
        os.kill(tree[1], signal.SIGSTOP)
        monkeypatch.setattr("guided_grpo.sandbox.worker.CLOSE_SECONDS", 0.2)
        assert pool.run([Job("print(1)")])[0].stdout == b"1\n"
        assert wait_until(lambda: not any(alive(pid) for pid in tree))


@pytest.mark.parametrize("busy", [True, False])
def test_nothing_survives_the_trainer(busy: bool) -> None:
    """[26]: SIGKILL of the trainer, with a program running and without."""
    mark = f"# sandbox-test-{os.getpid()}-{time.monotonic_ns()}"
    source = f"""
        import sys
        from guided_grpo.sandbox import Job, SandboxPool, worker
        worker._BOOTSTRAP = {mark!r} + worker._BOOTSTRAP
        pool = SandboxPool(2, "A")
        print("ready", flush=True)
        pool.run([Job("while True: pass")] * 2) if {busy} else sys.stdin.read()
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    with trainer:
        assert trainer.stdout and trainer.stdout.readline() == b"ready\n"
        assert wait_until(lambda: len(children(trainer.pid)) == (6 if busy else 4))
        tree = children(trainer.pid)
        assert len(marked(mark)) == len(tree) + 1
        trainer.kill()
        assert wait_until(lambda: not any(alive(pid) for pid in tree))
    assert wait_until(lambda: not marked(mark))


def test_many_jobs_leave_no_zombie_descriptor_or_memory() -> None:
    """Crashes, limits and files among them; SANDBOX_TEST_RUNS sets how many."""
    runs = int(os.environ.get("SANDBOX_TEST_RUNS", "300"))
    others = set(children(os.getpid()))
    kinds = [Job("print(1)"), Job("open('f', 'w').write('x')"), Job("import os; os._exit(3)"), Job("", calls=("1/0",))]
    kinds.append(Job("print(input())", inputs=(b"1",) * 9))
    with SandboxPool(2, "A") as pool:

        def state() -> tuple[int, int, int]:
            zygotes = [children(worker.pid)[0] for worker in pool._workers]
            files = sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in [os.getpid(), *zygotes])
            resident = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in [os.getpid(), *zygotes])
            return files, len(children(os.getpid())), resident * 4_096

        pool.run(kinds * 10)
        before = state()
        for _ in range(0, runs, 100):
            pool.run(kinds * 20)
        after = state()
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 8 * 2**20
    assert wait_until(lambda: set(children(os.getpid())) <= others)


def test_an_interrupted_batch_leaves_no_answer_behind() -> None:
    with SandboxPool(2, "A") as pool:

        def interrupt() -> None:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            pool.run([Job("import time; time.sleep(60); print('old')")] * 4)
        outcomes = pool.run([Job(f"import time; time.sleep(0.3); print({n})") for n in range(4)])
        assert [outcome.stdout for outcome in outcomes] == [b"0\n", b"1\n", b"2\n", b"3\n"]


def test_a_spoilt_folder_is_renewed() -> None:
    """One job takes all rights from its folder, or fills it with odd names; the next finds it as new."""
    spoil = [
        "import os; os.chmod('/tmp', 0)",
        "import os; os.mkdir('a'); os.symlink('/', 'a/b'); os.chmod('a', 0); os.chmod('/tmp', 0)",
    ]
    use = "import os; open('x', 'w').close(); print(os.listdir('.'), oct(os.stat('.').st_mode))"
    with SandboxPool(1, "A") as pool:
        outcomes = pool.run([Job(source) for part in spoil for source in (part, use)])
    assert [outcome.error for outcome in outcomes] == [""] * 4
    assert [outcome.stdout for outcome in outcomes[1::2]] == [b"['x'] 0o40700\n"] * 2


def test_close_ends_everything_and_twice_is_once() -> None:
    pool = SandboxPool(2, "A")
    tree = [pid for worker in pool._workers for pid in (worker.pid, *children(worker.pid))]
    pool.close()
    pool.close()
    assert len(tree) == 4 and not any(alive(pid) for pid in tree)


def test_not_across_a_fork() -> None:
    with SandboxPool(1, "A") as pool:
        pid = os.fork()
        if pid == 0:
            try:
                pool.run([Job("")])
            except RuntimeError:
                pool.close()  # must not take the parent's workers along
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert pool.run([Job("print(1)")])[0].stdout == b"1\n"


@pytest.mark.parametrize(("arguments", "part"), [
    ({"tier": "C"}, "no boundary"), ({"tier": "D"}, "choose auto, A, B or C"), ({"workers": 0}, "at least 1"),
])  # fmt: skip
def test_refused_arguments(arguments: dict[str, object], part: str) -> None:
    with pytest.raises(InputError, match=part):
        SandboxPool(**arguments)


def test_refused_limits() -> None:
    with pytest.raises(InputError, match="field 'cpu_seconds': 0 is no limit; fix: give a number above 0"):
        Limits(cpu_seconds=0)


@pytest.mark.parametrize(("attempt", "escape"), [
    ("os.mkdir('/tmp/x')", "a program could write its folder"),
])  # fmt: skip
def test_a_canary_that_escapes_stops_the_start(monkeypatch: pytest.MonkeyPatch, attempt: str, escape: str) -> None:
    """With an attempt among the canaries that does get through, no pool comes up, and no process stays."""
    others = set(children(os.getpid()))
    listed = canaries._ATTEMPTS.replace("attempts = {", f'attempts = {{ "write its folder": lambda: {attempt},')
    monkeypatch.setattr(canaries, "_ATTEMPTS", listed)
    with pytest.raises(InputError, match=escape):
        SandboxPool(1, "A")
    assert set(children(os.getpid())) <= others


def test_auto_says_that_it_takes_tier_b(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class OnlyB:
        landlock, uid, closed = 1, 1000, False

        def __init__(self, tier: str, packages: object = None) -> None:
            if tier == "A":
                raise JailError("user namespaces are not allowed here", "allow them")
            self.tier = tier

        def close(self) -> None: ...

    monkeypatch.setattr(pool_module, "Worker", OnlyB)
    monkeypatch.setattr(SandboxPool, "_release_canaries", lambda pool: None)
    assert SandboxPool(1, "auto").tier == "B"
    assert "tier B (no namespaces), because user namespaces are not allowed here; for tier A: allow them" in caplog.text
    with pytest.raises(InputError, match="cannot start: tier A: user namespaces are not allowed here; fix: allow them"):
        SandboxPool(1, "A")


def test_a_kernel_without_landlock_has_no_tier_b(monkeypatch: pytest.MonkeyPatch) -> None:
    from guided_grpo.sandbox import zygote

    with pytest.raises(jail.JailError, match="no Landlock"):
        zygote._check_kernel("B", 0)
    zygote._check_kernel("A", 0)
    assert kernel.landlock_version() >= 0


NO_NAMESPACES = """
import logging, os, sys, types
package = types.ModuleType("guided_grpo")
package.__path__ = [sys.argv[1] + "/guided_grpo"]
sys.modules["guided_grpo"] = package
from guided_grpo.sandbox import Job, SandboxPool, kernel
user, group = os.getuid(), os.getgid()
kernel.unshare(kernel.CLONE_NEWUSER)
for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with SandboxPool(1) as pool:
    print(pool.tier, pool.run([Job("print(6 * 7)")])[0].stdout)
try:
    SandboxPool(1, "A")
except ValueError as error:
    print(error)
"""


def test_where_user_namespaces_are_forbidden() -> None:
    """In earnest: inside a user namespace that allows no further one, as in containers."""
    with readable_source() as source:
        command = [ordinary_interpreter(), "-B", "-c", NO_NAMESPACES, source]
        ran = subprocess.run(command, capture_output=True, text=True, cwd="/", **ordinary_user())
    warning, used, refused = ran.stdout.splitlines()
    assert warning.startswith("code sandbox: tier B (no namespaces), because user namespaces are not allowed here")
    assert used == "B b'42\\n'"
    assert refused.startswith("the code sandbox cannot start: tier A: user namespaces are not allowed here")
    assert "fix: allow them" in refused
