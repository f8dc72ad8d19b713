"""The hostile reading: what was found is graded as it is labelled, but for what is named here as left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from guided_grpo.grading.code import check_code, check_programs
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.sandbox import SandboxPool
from guided_grpo.types import Status

HERE = Path(__file__).parent
PROGRAMS = yaml.safe_load((HERE / "hostile_programs.yaml").read_text(encoding="utf-8"))
LEFT_PROGRAMS = {
    "NaN against a distance",  # so does Python: no comparison with NaN is true
    "a decorator of the program",  # a function of the tests that changes their own list stays with them
}


def is_accepted(pool: SandboxPool, row: dict[str, Any]) -> bool:
    try:
        tests = parse_tests(row["tests"], entry_point=row.get("entry_point", ""))
    except ValueError:
        return False
    check = check_code if row.get("response") else check_programs
    [verdict] = check(pool, [row["program"]], [tests], partial=False)
    return verdict.status is Status.CORRECT and not verdict.weak


@pytest.mark.parametrize("row", PROGRAMS, ids=lambda row: row["name"])
def test_programs(pool: SandboxPool, row: dict[str, Any]) -> None:
    assert is_accepted(pool, row) is (row["correct"] ^ (row["name"] in LEFT_PROGRAMS))
