"""The rows that `benchmarks/weak_tests.py` makes in the schemas of APPS and LiveCodeBench, and how it counts."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.sandbox import SandboxPool

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "weak_tests.py"
MBPP = {
    "text": "Repeat a list.", "task_id": 1, "test_setup_code": "", "code": "def again(xs, n):\r\n    return xs * n",
    "test_list": ["assert again([1, 2], 2) == [1, 2, 1, 2]", "assert again((3,), 0) == ()"], "challenge_test_list": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def weak_tests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("weak_tests", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["weak_tests"] = module  # its data classes look themselves up
    spec.loader.exec_module(module)
    return module


def test_rows_have_the_published_schemas(weak_tests: ModuleType) -> None:
    problem = weak_tests.as_calls(MBPP)
    calls = json.loads(weak_tests.apps_record(problem, calls=True)["input_output"])
    assert calls == {"fn_name": "again", "inputs": [[[1, 2], 2], [[3], 0]], "outputs": [[[1, 2, 1, 2]], [[]]]}
    plain = json.loads(weak_tests.apps_record(problem, calls=False)["input_output"])
    assert plain == {"inputs": ["[1, 2]\n2", "[3]\n0"], "outputs": ["[1, 2, 1, 2]\n", "[]\n"]}
    record = weak_tests.livecodebench_record(problem, calls=True)
    assert json.loads(record["public_test_cases"]) == [
        {"input": "[1, 2]\n2", "output": "[1, 2, 1, 2]", "testtype": "functional"}
    ]
    assert json.loads(record["metadata"]) == {"func_name": "again"} and "class Solution" in record["starter_code"]


@pytest.mark.parametrize("changes", [
    {"test_list": ["assert again([1], 1) == {1}"]}, {"test_list": ["assert again([1], x) == [1]"]},
    {"test_list": ["assert again([1], 1)"]}, {"test_setup_code": "x = 1"}, {"test_list": ["assert set(again([1], 1)) == {1}"]},
])  # fmt: skip
def test_what_json_does_not_hold_is_left_out(weak_tests: ModuleType, changes: dict[str, Any]) -> None:
    assert weak_tests.as_calls({**MBPP, **changes}) is None


def test_counts(weak_tests: ModuleType, pool: SandboxPool, tmp_path: Path) -> None:
    """Each made row is right and none is weak; a test that only the program can decide is counted."""
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "mbpp.jsonl").write_text(json.dumps(MBPP) + "\n")
    for name in ("apps-calls", "apps-stdin", "livecodebench-calls", "livecodebench-stdin"):
        counts = weak_tests.shares(pool, list(weak_tests.SETS[name](tmp_path)))
        assert counts == {"rows": 1, "scripts": 0, "right": 1, "tests": 2, "weak": 0}, name
    tests = parse_tests("class P: pass\ndef test(): assert f(P()) is not None\n")
    counts = weak_tests.shares(pool, [("def f(x): return 1", tests)])
    assert counts == {"rows": 1, "scripts": 1, "right": 1, "tests": 1, "weak": 1}
