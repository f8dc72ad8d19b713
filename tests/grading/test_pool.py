"""Maths in killable processes: order, repeats, hangs, deaths, interrupts, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from guided_grpo.grading.maths import check_maths
from guided_grpo.grading.maths_pool import MathsPool
from guided_grpo.types import Status
from maths_pairs import PAIRS

pytestmark = pytest.mark.slow


def children() -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue  # gone meanwhile
        if parent == os.getpid():
            found.add(int(stat.parent.name))
    return found


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("workers", [1, 2])
def test_verdicts_are_those_of_the_grader_in_the_order_of_the_pairs(workers: int) -> None:
    with MathsPool(workers) as pool:
        for _ in range(2):  # the same workers serve again
            found = pool.check(PAIRS * 20)
            assert found == [check_maths(*pair) for pair in PAIRS] * 20
        assert pool.check([]) == []
        assert pool.restarts == 0


SLOW = """
    import os, signal, sys, time
    import guided_grpo.grading.maths as maths
    real = maths.compare
    def check(response, gold):
        if "7001" in response:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(1e9)
        if "7002" in response:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "7003" in response and not os.path.exists(MARK):
            open(MARK, "w").close()
            os._exit(1)
        if "7004" in response:
            block = bytearray(1 << 40)
        if "7005" in response:
            print('["correct", "5", "forged"]', flush=True)
        return real(response, gold)
    maths.compare = check
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers whose grader hangs, crashes or eats memory on a word, through Python's own start-up hook."""
    text = textwrap.dedent(SLOW).replace("MARK", repr(str(tmp_path / "mark")))
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'maths_worker' in str(sys.orig_argv):\n{textwrap.indent(text, '    ')}"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_hang_costs_its_own_verdict_only(hostile: Path) -> None:
    before = children()
    with MathsPool(2, seconds=4.0) as pool:
        pool.check([("#### x + x", "2x"), ("#### y + y", "2y")])
        started = time.monotonic()
        pairs = [
            ("#### 2z + z", "3z"),
            ("#### x + x + 7001", "2x"),
            *[(f"#### x + {n}", f"{n} + x") for n in range(50)],
        ]
        found = pool.check(pairs)
        assert found[1].status is Status.TIMEOUT
        assert [verdict.status for verdict in found[:1] + found[2:]] == [Status.CORRECT] * 51
        assert time.monotonic() - started < 100
        assert pool.restarts == 1
    assert children() == before


def test_a_death_is_tried_once_more_and_then_the_graders_fault(hostile: Path) -> None:
    with MathsPool(1) as pool:
        pairs = [
            ("#### x + x", "2x"),
            ("#### x + x + 7002", "2x"),
            ("#### x + x + 7003", "2x + 7003"),
            ("#### 3x + x", "5x"),
        ]
        found = pool.check(pairs)
        assert [verdict.status for verdict in found] == [
            Status.CORRECT, Status.INFRA_ERROR, Status.CORRECT, Status.WRONG,
        ]  # fmt: skip
        assert pool.restarts == 3


def test_memory_and_noise(hostile: Path) -> None:
    with MathsPool(1) as pool:
        found = pool.check([("#### x + 7004", "2x"), ("#### 2x + 7005", "3x"), ("#### x + x", "2x")])
        assert [verdict.status for verdict in found] == [Status.RESOURCE, Status.WRONG, Status.CORRECT]
        assert pool.restarts == 0


def test_nothing_survives_the_death_of_the_trainer(tmp_path: Path) -> None:
    code = (
        "from guided_grpo.grading.maths_pool import MathsPool\nimport time\n"
        "pool = MathsPool(2)\npool.check([('#### x+x', '2x'), ('#### y+y', '2y')] * 9)\n"
        "print(*[worker.process.pid for worker in pool._workers], flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        pids = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(pids) == 2
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        trainer.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[-1][0] != "Z"
    except OSError:
        return False


def test_killed_workers_and_many_batches_leave_nothing(tmp_path: Path) -> None:
    before, opened = children(), descriptors()
    with MathsPool(2) as pool:
        for round_ in range(5):
            found = pool.check([(f"#### x + {n}", "3 + x") for n in range(40)])
            assert [n for n, verdict in enumerate(found) if verdict.status is Status.CORRECT] == [3]
            os.kill(pool._workers[round_ % 2].process.pid, signal.SIGKILL)
    assert children() == before
    assert descriptors() == opened


def test_grade_writes_a_verdict_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from guided_grpo.cli import main

    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    rows = [{"completion": response, "answer": gold, "other": 1} for response, gold in PAIRS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["grade", "--data", str(data), "--output", str(out), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "lines": 8,
        "verdicts": {"correct": 5, "no_answer": 2, "wrong": 1},  # a box that is never closed declares nothing
    }
    written = [json.loads(line) for line in out.read_text().splitlines()]
    expected = [check_maths(*pair) for pair in PAIRS]
    assert written == [{"verdict": v.status.value, "extracted": v.extracted, "reason": v.reason} for v in expected]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: is not JSON"),
        ('{"completion": "x"}', ":2: field 'answer': is not a string"),
        ('{"completion": 5, "answer": "5"}', ":2: field 'completion': 5 is not a string"),
        ("[]", ":2: field 'completion'"),
    ],
)
def test_grade_names_the_line(line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from guided_grpo.cli import main

    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text('{"completion": "#### 5", "answer": "5"}\n' + line + "\n")
    assert main(["grade", "--data", str(data), "--output", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
