"""Measured success rates: against an evaluation by hand, resumed, refused for another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guided_grpo.commands.data import main
from guided_grpo.commands.data_difficulty import JOURNAL
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError

WORDS = [
    "--data",
    "chains:steps=3,count=10,seed=1",
    "--samples",
    "4",
    "--max-tokens",
    "8",
    "--batch-size",
    "16",
    "--quiet",
]


def measure(policy: Path, output: Path, *more: str) -> list[dict[str, object]]:
    assert main(["difficulty", "--model", str(policy), "--output", str(output), *WORDS, *more]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_rates_are_kept_and_a_cut_journal_goes_on(policy_folder: Path, tmp_path: Path) -> None:
    # The untrained policy declares nothing: what it "solves" must be zero, and every row must have its rate.
    rows = measure(policy_folder, tmp_path / "whole.jsonl")
    assert [row["success_rate"] for row in rows] == [0.0] * 10
    assert [row["prompt"] for row in rows] == load_rows("chains:steps=3,count=10,seed=1")["prompt"][:]
    assert load_rows(str(tmp_path / "whole.jsonl"))["success_rate"][:] == [0.0] * 10

    journal = tmp_path / f"whole.jsonl{JOURNAL}"
    head, *lines = journal.read_text().splitlines()
    assert len(lines) == 10 * 4
    # Known scores stand in for work that was done before the kill, of one batch; the broken line is the one it died in.
    records = [{**record, "score": float(record["sample"] < 3)} for record in map(json.loads, lines[:16])]
    (tmp_path / f"cut.jsonl{JOURNAL}").write_text(
        "\n".join([head, *map(json.dumps, records), *lines[16:19]]) + '\n{"success_ra'
    )
    done = {record["problem"] for record in records}
    assert len(done) == 4
    rates = [row["success_rate"] for row in measure(policy_folder, tmp_path / "cut.jsonl")]
    assert rates == [0.75 if place in done else 0.0 for place in range(10)]
    assert [json.loads(line)["response"] for line in lines] == [
        json.loads(line)["response"] for line in (tmp_path / f"cut.jsonl{JOURNAL}").read_text().splitlines()[1:]
    ]
    with pytest.raises(InputError, match="field 'temperature': 0.5 is not 1.0 of the success rates that are there"):
        measure(policy_folder, tmp_path / "cut.jsonl", "--temperature", "0.5")
