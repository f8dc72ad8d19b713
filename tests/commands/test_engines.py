"""`guided-grpo train` and `sft` over two processes, by `accelerate launch` and the configs of configs/accelerate.

All ranks answer the held-out problems together, and the run ends with a whole policy: what eval.json says is what one
process finds with `guided-grpo eval`, of the policy before and of the model folder after.
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

from guided_grpo.cli import main
from guided_grpo.embedded.recipes import SHIPPED
from guided_grpo.store import jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SUPPORT = Path(__file__).parents[1] / "support"
CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
POLICY = SHIPPED / "embedded-small"
HELD_OUT = "chains:steps=5-12,count=9,seed=2"  # three batches for two ranks; some are answered wrongly
WORDS = [
    "--model_name_or_path", str(POLICY), "--train_data", "chains:steps=8-12,count=24,seed=1", "--eval_data", HELD_OUT,
    "--eval_samples", "1", "--eval_temperature", "0", "--eval_batch_size", "4", "--eval_max_tokens", "80",
    "--bf16", "false", "--gradient_checkpointing", "false", "--report_to", "none", "--learning_rate", "5e-3",
    "--max_steps", "2", "--quiet",
]  # fmt: skip
GRPO = [
    "--method", "g2rpo-a", "--guidance_length", "8", "--guidance_ratio", "0.5", "--num_generations", "4",
    "--max_completion_length", "80", "--per_device_train_batch_size", "4", "--eval_every", "1",
]  # fmt: skip
COMMANDS = {"train": GRPO, "sft": ["--per_device_train_batch_size", "4"]}
DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def launch(config: str, folder: Path, command: str, *more: str, options: tuple[str, ...] = ()) -> Any:
    """The finished process; what the ranks held is in FOLDER.json."""
    zero = config.startswith("zero")
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    words += ["--num_processes=2", "--mixed_precision=no", "--main_process_port=0", *options]
    words += [str(SUPPORT / "command_worker.py"), str(folder.with_suffix(".json")), command, *WORDS, *COMMANDS[command]]
    # Trainer gives DeepSpeed a backend on a CPU only where one is named, and not with use_cpu.
    words += ["--output_dir", str(folder), *(["--ddp_backend", "gloo"] if zero else ["--use_cpu"]), *more]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja is there
    environment = {"PYTHONPATH": str(SUPPORT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PATH": path}
    environment |= {"DS_ACCELERATOR": "cpu"} if zero else {}
    return subprocess.run(
        words, env={**os.environ, **environment}, timeout=1200, capture_output=True, text=True, check=False
    )


def alone(model: Path, file: Path) -> dict[str, Any]:
    """What one process says of a policy, by `guided-grpo eval`."""
    words = ["eval", "--model", str(model), "--data", HELD_OUT, "--samples", "1", "--temperature", "0", "--quiet"]
    assert main([*words, "--batch-size", "4", "--max-tokens", "80", "--output", str(file)]) == 0
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("config", "engine", "share"),
    [
        ("ddp", "MULTI_CPU", 1),
        ("fsdp2", "FSDP", 1 / 2),
        pytest.param("zero2", "DEEPSPEED", 1, marks=DEEPSPEED),
        pytest.param("zero3", "DEEPSPEED", 1 / 2, marks=DEEPSPEED),
    ],
)
def test_ranks_answer_together_and_leave_a_whole_policy(
    config: str, engine: str, share: float, command: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = launch(config, run, command)
    assert result.returncode == 0, result.stderr
    ranks = json.loads((tmp_path / "run.json").read_text())
    assert [rank["engine"] for rank in ranks] == [engine] * 2
    assert [rank["held"] for rank in ranks] == [rank["all"] * share for rank in ranks]

    said = json.loads((run / "eval.json").read_text())
    for figures in said.values():
        del figures["seconds"]
    for when, model in (("before", POLICY), ("after", run)):
        expected = alone(model, tmp_path / f"{when}.json")
        assert said[when] == {name: expected[name] for name in said[when]}, when
    assert (
        0 < said["before"]["accuracy"] < 1 and said["before"] != said["after"]
    )  # answers differ, and two steps are seen
    if command == "train":
        rows = list(jsonl.whole_rows(run / "evals.jsonl"))
        assert [row["step"] for row in rows] == [1, 2] and rows[1]["scores"] == said["after"]["scores"]


@pytest.mark.parametrize("command", COMMANDS)
def test_fsdp1_on_a_cpu_is_refused_in_one_line(command: str, tmp_path: Path) -> None:
    result = launch("fsdp2", tmp_path / "run", command, options=("--fsdp_version=1",))
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("guided-grpo")]
    assert lines == [
        f"guided-grpo {command}: field 'fsdp_version': 1 does not shard on a CPU; fix: set it to 2, or use a GPU"
    ]
    assert 'command_worker.py", line' not in result.stderr  # no traceback of ours
