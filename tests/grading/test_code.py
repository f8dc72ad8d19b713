"""The code verifier: the published references, and the programs that cheat other graders."""

from __future__ import annotations

import ast
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from code_cheats import CHEATS, FORGED
from guided_grpo.grading import Grader, GradingSettings
from guided_grpo.grading.code import (
    CodeVerdict,
    check_code,
    check_programs,
    declared_code,
    reference_tests,
    same_output,
)
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.grading.code_tests import CallTest, Close, Equal
from guided_grpo.grading.grader import Submission
from guided_grpo.sandbox import Limits, SandboxPool
from guided_grpo.types import Status

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SQUARES = parse_tests(["assert f(3) == 9", "assert f(-2) == 4", "assert f(0) == 0"])
BLANK_FIRST = parse_tests([{"input": "2\n", "output": "\n4\n6\n"}, {"input": "0", "output": "\n0\n0"}])


@pytest.fixture
def patient(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> SandboxPool:
    """With time enough for the published references on any machine."""
    monkeypatch.setattr(pool, "limits", Limits(cpu_seconds=60.0, wall_seconds=300.0))
    return pool


def status(pool: SandboxPool, program: str, tests=SQUARES) -> Status:
    return check_programs(pool, [program], [tests])[0].status


def worth(verdict: CodeVerdict, **settings: bool) -> float | None:
    return Grader(GradingSettings(**settings)).worth(Submission("", {"tests": ["assert f(3) == 9"]}), verdict)


def test_right_wrong_and_broken_programs(pool: SandboxPool) -> None:
    programs = {
        "def f(x): return x * x": (Status.CORRECT, 3),
        "def f(x): return x * x if x > 0 else 0": (Status.WRONG, 2),
        "def f(x): return 1 // x and x * x": (Status.WRONG, 0),
        "def f(x): raise ValueError(x)": (Status.WRONG, 0),
        "def f(x)": (Status.UNPARSEABLE, 0),
        "def f(x):\n    while x == 0: pass\n    return x * x": (Status.TIMEOUT, 2),
        "def f(x): return x * x if x else bytearray(2**32)": (Status.RESOURCE, 2),
        "g = 1": (Status.WRONG, 0),
        "": (Status.WRONG, 0),
    }
    verdicts = check_programs(pool, list(programs), [SQUARES] * len(programs))
    assert [(v.status, v.passed) for v in verdicts[:2]] == [(Status.CORRECT, 3), (Status.WRONG, 2)]
    found = {program: (v.status, v.passed) for program, v in zip(programs, verdicts, strict=True)}
    programs["def f(x): return 1 // x and x * x"] = (Status.WRONG, 2)  # f(3) = 0 is wrong, f(-2) = 4, f(0) raises
    programs["def f(x): return 1 // x and x * x"] = (Status.WRONG, 1)
    assert found == programs
    assert worth(verdicts[1]) == 0.0 and worth(verdicts[1], code_partial=True) == pytest.approx(2 / 3)
    assert worth(verdicts[0]) == 1.0


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_on_calls(pool: SandboxPool, name: str) -> None:
    verdict = check_programs(pool, [CHEATS[name]], [SQUARES])[0]
    assert verdict.status not in (Status.CORRECT, Status.INFRA_ERROR)
    assert verdict.passed == 0


@pytest.mark.parametrize(
    "name",
    [
        "[18] always equal",
        "[18] an int that is always equal",
        "[20] sys.exit",
        "[20] os._exit",
        "[20] os._exit in the call",
    ],
)
def test_cheats_pass_a_grader_that_believes_exit_codes(name: str) -> None:
    """The control: program and asserts in one process, whose exit code 0 is success, as in well-known graders."""
    source = f"{CHEATS[name]}\nassert f(3) == 9\nassert f(-2) == 4"
    assert (
        subprocess.run(
            [sys.executable, "-I", "-c", source], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ).returncode
        == 0
    )


@pytest.mark.parametrize("program", [
    "print()", "", "import sys; sys.exit(0)", "import os; os._exit(0)", "print('passed')", "print('\\n4')", "print(4)\nprint(6)",
    "print('\\n4\\n6\\n8')", "print('\\n4\\n6'); raise SystemExit(1)", "print('\\n4\\n6'); 1/0", FORGED,
    "import os; os.write(1, b'\\n4\\n6\\xff\\n')", "print('\\n4\\n6\\0')", "print('\\n4\\n6', flush=True)\nimport os; os.abort()",
])  # fmt: skip
def test_cheats_on_output(pool: SandboxPool, program: str) -> None:
    """[20, 22]: no output where the expected begins blank, the first line only, too much, a failure after it."""
    verdict = check_programs(pool, [program], [BLANK_FIRST])[0]
    assert (verdict.status, verdict.passed) == (Status.WRONG, 0)


def test_right_output(pool: SandboxPool) -> None:
    program = "n = int(input())\nprint()\nprint(2 * n)\nprint(3 * n, end='')"
    assert status(pool, program, BLANK_FIRST) is Status.CORRECT
    assert status(pool, f"{program}\nexit()", BLANK_FIRST) is Status.CORRECT
    assert same_output("a \r\nb\n\n", b"a\nb") and not same_output("a\nb", b"a b") and not same_output("\na", b"a")


def test_weak_tests_are_told_apart(pool: SandboxPool) -> None:
    """What only the program's own == can say can be forged, and its verdict says so; a loop over cases can not."""
    tests = parse_tests(
        "def check(candidate):\n    for n in range(5):\n        assert candidate(n) == n * n\n", entry_point="f"
    )
    right, wrong, leaver = check_programs(
        pool, ["def f(x): return x * x", "def f(x): return x", "import os; os._exit(0)"], [tests] * 3
    )
    assert (right.status, right.weak, worth(right)) == (Status.CORRECT, 0, 1.0)
    assert (wrong.status, leaver.status) == (Status.WRONG, Status.WRONG)
    point = "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x"
    forgeable = parse_tests("assert P(1) == P(1)\nassert P(1).x == 1")
    [objects] = check_programs(pool, [point], [forgeable])
    assert (objects.status, objects.weak, worth(objects, code_weak=True), worth(objects)) == (
        Status.CORRECT,
        1,
        1.0,
        0.0,
    )


@pytest.mark.parametrize(("source", "expected"), [
    ("assert f(1) == 2", CallTest("f(1)", Equal(2))),
    ("assert [1] * 3 == f(x=1)", CallTest("f(x=1)", Equal([1, 1, 1]))),
    ("assert f() is None", CallTest("f()", Equal(None))),
    ("assert f('a') == 'b', 'message'", CallTest("f('a')", Equal("b"))),
    ("assert Solution().f(1) == 2", CallTest("Solution().f(1)", Equal(2))), ("assert M.f(1) == 2", CallTest("M.f(1)", Equal(2))),
    ("assert set(f()) == set([1, 2])", CallTest("set(f())", Equal({1, 2}))),
    ("assert not f(1)", CallTest("not f(1)", Equal(True))),
    ("assert f(1)", CallTest("not f(1)", Equal(False))),
    ("assert abs(f(1.5) - 0.5) < 1e-6", CallTest("f(1.5)", Close(0.5, 1e-6))),
    ("assert math.isclose(f(2), 1.25, rel_tol=0.001)", CallTest("f(2)", Close(1.25, 0.0, 0.001))),
    ("assert f(1) == 2 ** 100", CallTest("f(1)", Equal(2**100))),
])  # fmt: skip
def test_split(source: str, expected: CallTest) -> None:
    assert parse_tests([source]).calls == (expected,)


@pytest.mark.parametrize(
    "source",
    [
        "assert f(1) == g(1)",
        "assert 1 < f(1) < 3",
        "assert f(1) != 2",
        "assert f(1) == [0] * 10**9",
        "assert f(1) == 9**9**9",
        "x = 1\nassert f(x) == 1",
        "assert f('a')[0] == 'b'",  # what came back is asked on the side of the tests
        "assert f(1).startswith('a')",
        "assert f(1).count('a') == 2",
        "import re\nassert re.match('a+', f(1))",
    ],
)
def test_what_cannot_be_split_runs_whole(source: str) -> None:
    tests = parse_tests([source])
    assert tests.script is not None and (len(tests.calls), tests.script.count) == (0, 1)


@pytest.mark.parametrize(
    "tests",
    [[], None, "x = 1", [{"input": "1"}], ["assert True"], ["assert f("], [{"input": "", "output": " \n"}], [1]],
)
def test_tests_that_can_grade_nothing(tests: object) -> None:
    with pytest.raises(ValueError):
        parse_tests(tests, entry_point="f")


def test_the_last_block_after_the_thinking_counts(pool: SandboxPool) -> None:
    right, wrong = "```python\ndef f(x): return x * x\n```", "```python\ndef f(x): return x\n```"
    responses = [
        f"{wrong}\nNo:\n{right}",
        f"{right}\n{wrong}",
        f"<think>\n{right}\n</think>\n{wrong}",
        "none",
        f"{right[:-3]}",
        "```\nf = lambda x: x ** 2\n```\n```bash\nls\n```",
    ]
    verdicts = check_code(pool, responses, [SQUARES] * len(responses))
    C, W, N = Status.CORRECT, Status.WRONG, Status.NO_ANSWER
    assert [v.status for v in verdicts] == [C, W, W, N, N, C]
    assert declared_code(right) == "def f(x): return x * x\n"


@pytest.mark.slow
def test_humaneval_references_and_empty_bodies(patient: SandboxPool) -> None:
    file = SHARED / "humaneval" / "HumanEval.jsonl.gz"
    if not file.exists():
        pytest.skip(f"needs {file}")
    with gzip.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    tests = [parse_tests(row["test"], entry_point=row["entry_point"]) for row in rows]
    right = check_programs(patient, [row["prompt"] + row["canonical_solution"] for row in rows], tests)
    empty = check_programs(patient, [row["prompt"] + "    pass\n" for row in rows], tests)
    assert [row["task_id"] for row, v in zip(rows, right, strict=True) if v.status is not Status.CORRECT] == []
    assert [row["task_id"] for row, v in zip(rows, empty, strict=True) if v.status is not Status.WRONG] == []
    assert sum(v.weak for v in right) == 3 and len(rows) == 164  # they rely on a helper of the prompt, 32, 38 and 50


@pytest.mark.slow
def test_mbpp_references(patient: SandboxPool) -> None:
    """All but task 123, which alone takes 15 s. The setup runs after the program: tasks 367 and 927 make its `Node` there."""
    file = SHARED / "mbpp" / "mbpp.jsonl"
    if not file.exists():
        pytest.skip(f"needs {file}")
    rows = [row for row in map(json.loads, file.read_text().splitlines()) if row["task_id"] != 123]
    tests = [parse_tests(row["test_list"], setup=row["test_setup_code"]) for row in rows]
    verdicts = check_programs(patient, [row["code"] for row in rows], tests)
    failed = {row["task_id"]: v.reason for row, v in zip(rows, verdicts, strict=True) if v.status is not Status.CORRECT}
    assert failed == {}
    assert len(rows) == 973


def test_tests_from_a_reference(pool: SandboxPool) -> None:
    """As in MBPP+: inputs, and a trusted solution that says what is right."""
    reference = "def f(x, y): return [x + y, {x: (y,)}, x / 3]"
    tests = reference_tests(pool, reference, "f", [[1, 2], [0.5, 1], [10**20, -1]])
    assert tests.calls[0] == CallTest("f(1, 2)", Equal([3, {1: (2,)}, 1 / 3]))
    assert status(pool, reference, tests) is Status.CORRECT
    assert status(pool, "def f(x, y): return [x + y, {x: [y]}, x / 3]", tests) is Status.WRONG
    thirds = reference_tests(pool, "def f(x): return x / 3", "f", [[1], [float("inf")]], tolerance=1e-6)
    assert status(pool, "def f(x): return x * 0.33333333", thirds) is Status.CORRECT
    assert status(pool, "def f(x): return x * 0.3333", thirds) is Status.WRONG
    with pytest.raises(ValueError, match=r"the reference has no result for f\(0\): ZeroDivisionError"):
        reference_tests(pool, "def f(x): return 1 / x", "f", [[1], [0]])


@pytest.mark.slow
def test_mbpp_plus_references(patient: SandboxPool) -> None:
    """The asserts of all 399 tasks; 120, 442 and 574 lack an `import math` that comparing outside does not need."""
    file = SHARED / "mbpp" / "MbppPlus.jsonl"
    if not file.exists():
        pytest.skip(f"needs {file}")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    tests = [parse_tests([ast.unparse(part) for part in ast.parse(row["assertion"]).body]) for row in rows]
    verdicts = check_programs(patient, [row["canonical_solution"] for row in rows], tests)
    failed = {row["task_id"]: v.reason for row, v in zip(rows, verdicts, strict=True) if v.status is not Status.CORRECT}
    assert sorted(failed) == ["Mbpp/164", "Mbpp/295"], failed
    assert len(rows) == 399
