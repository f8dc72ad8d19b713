"""What docs/scaling.md says of memory and of messages, from benchmarks/scaling.py in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scaling.py"
pytestmark = pytest.mark.slow


def child(*words: str, launcher: tuple[str, ...] = ()) -> list[Any]:
    """The lines of JSON that it prints."""
    command = [sys.executable, *launcher, str(SCRIPT), "--child", *words]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=250).stdout
    return [json.loads(line) for line in printed.splitlines() if line.startswith(("[", "{"))]


@pytest.mark.parametrize(
    ("order", "most"),
    # Row numbers alone; their keys too while they are sorted; keys, their order, both sorted, two links (adaptive).
    [("as it stands", 4), ("shuffled", 12), ("easy first", 40), ("adaptive", 64)],
)
def test_memory_of_an_order(order: str, most: float) -> None:
    """Bytes a row of a million; lists of ints would be 36 and tuples over 100. Reading it adds nothing."""
    [found] = child("order", order, "1000000")
    assert found["bytes"] < most
    assert found["grown"] < (9 if order == "adaptive" else 1)  # MiB: which rows an adaptive order gave is remembered


def test_what_two_ranks_send() -> None:
    """A step of 16 rollouts a rank: ten facts of eight bytes and an advantage of four for each, whatever the method."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    printed = child("ranks", "2", "grpo", "g2rpo-a", launcher=launcher)
    plain, guided = ({who: values for who, *values in rows} for _, rows in printed)
    for counts in (plain, guided):
        assert counts["ours: learn"][:3] == [2, 16 * (10 * 8 + 4), 16 * (10 * 8 + 4)]  # messages, bytes put in, got
    assert set(guided) == set(plain)  # guidance and controllers send nothing of their own
    for who in plain:
        assert guided[who][0] == plain[who][0], who
