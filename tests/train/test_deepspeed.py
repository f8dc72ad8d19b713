"""The real DeepSpeed, where it is installed: ZeRO-2 and ZeRO-3 over two processes give what one process gives.

With the configs of configs/accelerate, in float32. Gradients are compared, whole ones, before each optimizer step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from guided_grpo.embedded.recipes import SHIPPED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
    pytest.mark.timeout(900),
]

SUPPORT = Path(__file__).parents[1] / "support"
CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
POLICY = SHIPPED / "embedded-small"
OPTIONS: dict[str, dict[str, Any]] = {
    "guided": {
        "batch": 12, "num_generations": 6, "gradient_accumulation_steps": 2, "method": "g2rpo-a", "guidance_length": 9,
        "guidance_ratio": 0.5, "guidance_allocation": "spread",
    },
    "rescued": {
        "batch": 24, "num_generations": 12, "method": "ghpo", "hint_template": "{problem}{hint}",
        "rescue_cold_start": 0, "shuffle_dataset": False,
    },
}  # fmt: skip


def launch(folder: Path, engine: int | str, processes: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank holds at the end; `engine` is a stage of ZeRO, or "plain" for torch's own data parallel."""
    words = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    if engine != "plain":
        words = ["accelerate.commands.launch", "--config_file", str(CONFIGS / f"zero{engine}.yaml")]
        words += ["--num_processes", str(processes), "--mixed_precision", "no", "--main_process_port", "0"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja is there
    environment = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": path}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    words += [str(SUPPORT / "deepspeed_worker.py"), str(folder), str(POLICY), json.dumps(options)]
    subprocess.run(
        [sys.executable, "-m", *words],
        check=True,
        env={**os.environ, **environment},
        timeout=600,
    )
    name = "resumed" if "checkpoint" in options else "run"
    held: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())
    return held


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def whole(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def assert_equal_gradients(mine: Path, theirs: Path, steps: range) -> None:
    a, b = torch.load(mine), torch.load(theirs)
    assert sorted(a) == list(steps)
    for step in steps:
        expected = whole(b[step])
        assert expected.norm() > 1e-4
        assert (whole(a[step]) - expected).norm() < 1e-5 * expected.norm(), step
        for name, gradient in b[step].items():
            assert (a[step][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7 * expected.norm(), (step, name)


def partitioned(held: list[dict[str, Any]], stage: int) -> bool:
    """Whether two ranks hold half each of what this stage of ZeRO divides."""
    names = ["moments"] if stage == 2 else ["moments", "parameters"]
    return all(rank[name] == rank["all"] / 2 for rank in held for name in names)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same batches in one process without DeepSpeed."""
    folders = {name: tmp_path_factory.mktemp(name) for name in OPTIONS}
    for name, folder in folders.items():
        launch(folder, "plain", 1, OPTIONS[name])
    return folders


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("batch", list(OPTIONS))
def test_two_processes_agree_with_one(batch: str, stage: int, alone: dict[str, Path], tmp_path: Path) -> None:
    held = launch(tmp_path, stage, 2, OPTIONS[batch])
    assert partitioned(held, stage)
    assert [rank["stage"] for rank in held] == [stage] * 2 and all(rank["shared"] for rank in held)
    assert_equal_gradients(tmp_path / "run.pt", alone[batch] / "run.pt", range(1, 5))
    for a, b in zip(rows(tmp_path, "rollouts.jsonl"), rows(alone[batch], "rollouts.jsonl"), strict=True):
        for name in ("stage", "guidance", "generated", "rewards"):
            assert [one[name] for one in a["rollouts"]] == [one[name] for one in b["rollouts"]]
    for a, b in zip(rows(tmp_path, "metrics.jsonl"), rows(alone[batch], "metrics.jsonl"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5, abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
        for name in ("guidance/length", "guidance/tokens", "rescue/calls", "rescue/rows"):
            assert a.get(name) == pytest.approx(b.get(name)), name


def test_without_the_engine_nothing_is_partitioned(alone: dict[str, Path], tmp_path: Path) -> None:
    """What `partitioned` is there for: torch's data parallel gives these gradients too."""
    held = launch(tmp_path, "plain", 2, OPTIONS["guided"])
    assert not partitioned(held, 2) and not partitioned(held, 3)
    assert_equal_gradients(tmp_path / "run.pt", alone["guided"] / "run.pt", range(1, 5))


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_goes_on(stage: int, alone: dict[str, Path], tmp_path: Path) -> None:
    """Two steps, a checkpoint in which each rank has its part, two more: those of the run that was never stopped."""
    options = {**OPTIONS["guided"], "save_strategy": "steps", "save_steps": 2}
    launch(tmp_path, stage, 2, {**options, "max_steps": 2})
    checkpoint = tmp_path / "checkpoint-2"
    assert len(list(checkpoint.glob("global_step*/*optim_states.pt"))) == 2
    held = launch(tmp_path, stage, 2, {**options, "checkpoint": str(checkpoint)})
    assert partitioned(held, stage)
    assert_equal_gradients(tmp_path / "resumed.pt", alone["guided"] / "run.pt", range(3, 5))
    assert held[0]["length"] == held[1]["length"] != OPTIONS["guided"]["guidance_length"]
