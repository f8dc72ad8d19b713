"""FSDP2 over two processes on a CPU, as `accelerate launch` starts it: shards, and the gradients of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from guided_grpo.commands.policies import policy_source

HERE = Path(__file__).parents[1] / "support"
CONFIG = Path(__file__).parents[2] / "configs" / "accelerate" / "fsdp2.yaml"
GUIDED: dict[str, Any] = {
    "method": "g2rpo-a", "guidance_length": 9, "guidance_ratio": 0.5, "num_generations": 12, "batch": 12,
}  # fmt: skip
RESCUED: dict[str, Any] = {
    "method": "ghpo", "hint_template": "{problem}{hint}", "rescue_cold_start": 0, "shuffle_dataset": False,
    "num_generations": 12, "batch": 24,
}  # fmt: skip


def launch(folder: Path, options: dict[str, Any], *, size: int = 2, fsdp: bool = False) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
    if fsdp:  # the config of eight GPUs, with two processes and without bf16
        words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
        words += ["--num_processes=2", "--mixed_precision=no", "--main_process_port=0"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [*words, str(HERE / "fsdp_worker.py"), str(folder), policy_source("embedded-small"), json.dumps(options)],
        check=True,
        env=environment,
        timeout=240,
    )


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """‖a − b‖ / ‖a‖ over all parameters."""
    assert a.keys() == b.keys()
    squares = [((a[name] - b[name]).double().square().sum(), a[name].double().square().sum()) for name in a]
    return float((sum(part for part, _ in squares) / sum(whole for _, whole in squares)) ** 0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({**GUIDED, "forward": "plain", "beta": 0.1, "gradient_accumulation_steps": 2}, False),
        ({**GUIDED, "forward": "shared"}, True),
        ({**RESCUED, "forward": "shared"}, True),
    ],
    ids=["guided", "shared-prefixes", "rescued"],
)
def test_shards_have_the_gradients_of_one_process(options: dict[str, Any], shared: bool, tmp_path: Path) -> None:
    one, copies, shards = (tmp_path / name for name in ("one", "copies", "shards"))
    launch(one, options, size=1)
    launch(copies, options)
    launch(shards, options, fsdp=True)
    [alone], whole, ranks = (json.loads((folder / "run.json").read_text()) for folder in (one, copies, shards))
    assert [rank["type"] for rank in ranks] == ["FSDP", "FSDP"] and len(whole) == 2
    assert alone["shared"] == ranks[0]["shared"] == shared
    for name, size in alone["all"].items():  # every first dimension of this policy is even
        assert [rank["parameters"][name] for rank in ranks] == [size / 2, size / 2], name
        assert [rank["parameters"][name] for rank in whole] == [size, size], name  # DDP: what a forgotten plugin leaves
    assert [rank["moments"] for rank in ranks] == [alone["moments"] / 2] * 2
    assert ranks[0]["length"] == ranks[1]["length"] == pytest.approx(alone["length"], rel=1e-6)

    for a, b in zip(rows(one, "rollouts.jsonl"), rows(shards, "rollouts.jsonl"), strict=True):
        for name in ("arm", "stage", "omega", "guidance", "generated", "rewards"):
            assert [r.get(name) for r in a["rollouts"]] == [r.get(name) for r in b["rollouts"]], name
    assert any(r["guidance"] for group in rows(shards, "rollouts.jsonl") for r in group["rollouts"])
    for a, b in zip(rows(one, "metrics.jsonl"), rows(shards, "metrics.jsonl"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5, abs=1e-6)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5 if a["step"] == 1 else 3e-5)  # as below
        assert b.get("rescue/rows") == a.get("rescue/rows")
    ours, same, theirs = (torch.load(folder / "run.pt", weights_only=True) for folder in (one, copies, shards))
    assert sorted(ours["gradients"]) == [1, 2, 3, 4]
    for step, gradients in ours["gradients"].items():
        assert sum(float(gradient.abs().sum()) for gradient in gradients.values()) > 1e-3
        # Two ranks add up in another order than one, and from the second step on the weights differ by that already.
        assert distance(gradients, theirs["gradients"][step]) < (1e-5 if step == 1 else 3e-5), step
        assert distance(same["gradients"][step], theirs["gradients"][step]) < 1e-7, step
    assert distance(ours["weights"], theirs["weights"]) < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fsdp", [True, False], ids=["shards", "copies"])
def test_a_checkpoint_in_the_middle_of_a_batch_goes_on(fsdp: bool, tmp_path: Path) -> None:
    """One step, a checkpoint between the two iterations over a batch, three more: those of the run that never stopped."""
    options = {**GUIDED, "forward": "shared", "num_iterations": 2, "save_strategy": "steps", "save_steps": 1}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    launch(whole, options, fsdp=fsdp)
    launch(cut, {**options, "max_steps": 1}, fsdp=fsdp)
    checkpoint = cut / "checkpoint-1"
    buffers = [torch.load(checkpoint / f"rollouts.rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [[len(part["completion_ids"]) for part in buffer] for buffer in buffers] == [[6], [6]]
    launch(cut, {**options, "checkpoint": str(checkpoint)}, fsdp=fsdp)
    held = json.loads((cut / "resumed.json").read_text())
    assert [rank["type"] for rank in held] == ["FSDP" if fsdp else "MULTI_CPU"] * 2
    ours, theirs = (torch.load(folder, weights_only=True) for folder in (cut / "resumed.pt", whole / "run.pt"))
    assert sorted(ours["gradients"]) == [2, 3, 4]
    for step, gradients in ours["gradients"].items():
        assert sum(float(gradient.abs().sum()) for gradient in gradients.values()) > 1e-3
        assert distance(theirs["gradients"][step], gradients) < 1e-7, step
    assert distance(theirs["weights"], ours["weights"]) < 1e-7
    assert rows(cut, "rollouts.jsonl") == rows(whole, "rollouts.jsonl")
    assert held[0]["length"] == held[1]["length"] == json.loads((whole / "run.json").read_text())[0]["length"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_checkpoint_of_another_number_of_ranks_samples_anew(tmp_path: Path) -> None:
    """Its batch lies on ranks that are gone: all of the new ones sample, none waits for the others."""
    options = {**GUIDED, "forward": "shared", "num_iterations": 2, "save_strategy": "steps", "save_steps": 1}
    launch(tmp_path, {**options, "max_steps": 1}, size=1)
    launch(tmp_path, {**options, "checkpoint": str(tmp_path / "checkpoint-1")})
    assert [row["step"] for row in rows(tmp_path, "metrics.jsonl")] == [1, 2, 3, 4]
