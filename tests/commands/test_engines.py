"""`guided-grpo train` and `sft` over two processes, by `accelerate launch` and the configs of configs/accelerate.

All ranks answer the held-out problems together, and the run ends with a whole policy: what eval.json says is what one
process finds with `guided-grpo eval`, of the policy before and of the model folder after.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from guided_grpo.cli import main
from guided_grpo.commands import sft
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
PIECES = pytest.mark.parametrize(  # the share of the parameters that a rank holds
    ("config", "share"),
    [
        ("fsdp2", 1 / 2),
        pytest.param("zero2", 1, marks=DEEPSPEED),
        pytest.param("zero3", 1 / 2, marks=DEEPSPEED),
    ],
)


def launch(config: str, folder: Path, command: str, *more: str, options: tuple[str, ...] = ()) -> Any:
    """The finished process; what the ranks held is in FOLDER.json."""
    zero = config.startswith("zero")
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    words += ["--num_processes=2", "--mixed_precision=no", "--main_process_port=0", *options]
    words += [str(SUPPORT / "command_worker.py"), str(folder.with_suffix(".json")), command, *WORDS]
    # Trainer gives DeepSpeed a backend on a CPU only where one is named, and not with use_cpu.
    words += ["--output_dir", str(folder), *(["--ddp_backend", "gloo"] if zero else ["--use_cpu"]), *more]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja is there
    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PATH": path}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
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
    result = launch(config, run, command, *COMMANDS[command])
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


# Four demonstrations a step, whoever has them, by a rate that grows: it first changes little, then spoils the policy.
PATIENT = [
    "--sft_patience", "2", "--sft_every", "2", "--sft_held_out", "12", "--max_steps", "20", "--logging_steps", "1",
    "--train_data", "chains:steps=8-12,count=48,seed=1", "--optim", "sgd", "--learning_rate", "1.0",
    "--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", "20", "--save_strategy", "steps",
    "--save_steps", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def patient_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuning that stops early, in one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    words = [*WORDS, "--use_cpu", *PATIENT, "--per_device_train_batch_size", "4", "--output_dir", str(run)]
    assert main(["sft", *words]) == 0
    return run


def alike(file: Path) -> list[dict[str, Any]]:
    """The evaluations of a file, to compare others with: a loss is equal up to rounding."""
    rows = list(jsonl.whole_rows(file))
    return [
        {name: pytest.approx(value, abs=1e-4) if name == "trace_loss" else value for name, value in row.items()}
        for row in rows
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Each once: of a policy in pieces a tied head is written too."""
    [file] = folder.glob("*.safetensors")
    return {name: weight for name, weight in load_file(file).items() if name != "lm_head.weight"}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of a number."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@PIECES
def test_fine_tuning_stops_early_in_pieces(config: str, share: float, patient_alone: Path, tmp_path: Path) -> None:
    """All ranks ask, decide as one process does, and get back what they had in the step that is kept."""
    run, words = tmp_path / "run", (*PATIENT, "--per_device_train_batch_size", "2")
    result = launch(config, run, "sft", *words)
    assert result.returncode == 0, result.stderr
    ranks = json.loads((tmp_path / "run.json").read_text())
    assert [rank["held"] for rank in ranks] == [rank["all"] * share for rank in ranks]  # restored into pieces

    asked = list(jsonl.whole_rows(run / "stopping.jsonl"))
    assert asked == alike(patient_alone / "stopping.jsonl")
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (run, patient_alone))
    assert (ours["kept"], ours["steps"], ours["after"]) == (theirs["kept"], theirs["steps"], theirs["after"])
    assert 0 < ours["kept"]["step"] < ours["steps"] < 20 and ours["trace_tokens"] == theirs["trace_tokens"]
    for a, b in zip(*(jsonl.whole_rows(folder / "metrics.jsonl") for folder in (run, patient_alone)), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["step"] == b["step"]
    kept, last = (weights(run / f"checkpoint-{step}") for step in (ours["kept"]["step"], ours["steps"]))
    assert distance(weights(run / "model"), kept) == 0 < 1e-3 < distance(kept, last)
    assert distance(weights(run / "model"), weights(patient_alone / "model")) < 1e-5
    assert distance(weights(run / "start"), weights(POLICY)) == 0

    if config == "fsdp2":
        return  # torch loads no optimizer without a state, as SGD is, into pieces: "Expected device to be set"
    shutil.rmtree(run / "model")  # as a kill leaves it once training has stopped
    (run / "summary.json").unlink()
    result = launch(config, run, "sft", *words)
    assert result.returncode == 0, result.stderr
    assert f"going on from step {ours['steps']}" in result.stderr
    assert distance(weights(run / "model"), kept) == 0
    assert list(jsonl.whole_rows(run / "stopping.jsonl")) == asked


def test_adamw_in_pieces_stays_stopped(tmp_path: Path) -> None:
    """FSDP2 behind a kill, once training has stopped: AdamW has a state that torch puts back into the pieces."""
    run, words = tmp_path / "run", (*PATIENT, "--per_device_train_batch_size", "2")
    words += ("--optim", "adamw_torch", "--learning_rate", "1e-2")
    for attempt in range(2):
        result = launch("fsdp2", run, "sft", *words)
        assert result.returncode == 0, result.stderr
        summary = json.loads((run / "summary.json").read_text())
        assert 0 < summary["kept"]["step"] < summary["steps"] < 20
        kept, last = (weights(run / f"checkpoint-{step}") for step in (summary["kept"]["step"], summary["steps"]))
        assert distance(weights(run / "model"), kept) == 0 < 1e-3 < distance(kept, last)
        assert (f"going on from step {summary['steps']}" in result.stderr) == bool(attempt)
        shutil.rmtree(run / "model")
        (run / "summary.json").unlink()


# Fine-tuning that stops early, a round that asks for half of the traces, guidance by a rate that spoils the policy.
AUTO = [
    "--method", "auto", "--train_data", "chains:steps=8-12,count=48,seed=1,traces=24", "--optim", "sgd",
    "--sft_learning_rate", "0.06", "--learning_rate", "500", "--temperature", "0.3", "--num_generations", "4",
    "--max_completion_length", "80", "--sft_patience", "2", "--sft_every", "2", "--sft_held_out", "12",
    "--sft_epochs", "2", "--sft_batch_size", "4", "--per_device_train_batch_size", "4", "--sft_answer", "#### {answer}", "--logging_steps", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def auto_of_ddp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`auto` over two processes that hold the whole policy each."""
    run = tmp_path_factory.mktemp("ddp") / "run"
    result = launch("ddp", run, "train", *AUTO)
    assert result.returncode == 0, result.stderr
    return run


@PIECES
def test_auto_in_pieces(config: str, share: float, auto_of_ddp: Path, tmp_path: Path) -> None:
    """Every stage is that of data parallel: what stopped it, what a round asked and got, and what was undone."""
    run = tmp_path / "run"
    result = launch(config, run, "train", *AUTO)
    assert result.returncode == 0, result.stderr
    ranks = json.loads((tmp_path / "run.json").read_text())
    assert [rank["held"] for rank in ranks] == [rank["all"] * share for rank in ranks]
    for name in ("sft/stopping.jsonl", "traces-2.jsonl", "sft-2/stopping.jsonl", "stopping.jsonl"):
        assert list(jsonl.whole_rows(run / name)) == alike(auto_of_ddp / name), name
    for name in ("sft", "sft-2", "."):
        pairs = zip(*(jsonl.whole_rows(folder / name / "metrics.jsonl") for folder in (run, auto_of_ddp)), strict=True)
        for a, b in pairs:
            assert (a["step"], a["loss"]) == (b["step"], pytest.approx(b["loss"], abs=1e-4)), name
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (run, auto_of_ddp))
    assert [stage["method"] for stage in ours["stages"]] == ["sft", "sft", "auto"]
    assert ours["stages"][1]["solved"] == theirs["stages"][1]["solved"] > 0
    assert ours["stages"][2]["steps"] == 2 and ours["stages"][2]["undone"]
    assert all(ours[when] == theirs[when] for when in ("before", "between", "after"))
    assert distance(weights(run / "model"), weights(run / "sft-2" / "model")) == 0
    assert distance(weights(run / "model"), weights(auto_of_ddp / "model")) < 1e-5


@pytest.mark.parametrize("config", ["fsdp2", pytest.param("zero3", marks=DEEPSPEED)])
def test_nothing_is_left_to_train_in_pieces(config: str, tmp_path: Path) -> None:
    """Fine-tuning spends the budget: the run ends with the policy that it left, asked and saved out of the pieces."""
    run = tmp_path / "run"
    result = launch(config, run, "train", *AUTO, "--sft_rounds", "0", "--sft_patience", "0", "--max_flops", "1e9")
    assert result.returncode == 0, result.stderr
    ranks = json.loads((tmp_path / "run.json").read_text())
    assert [rank["held"] for rank in ranks] == [rank["all"] / 2 for rank in ranks]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 0 and summary["between"] == summary["after"] != summary["before"]
    assert distance(weights(run / "model"), weights(run / "sft" / "model")) == 0


def test_adapters_in_pieces_do_not_stop_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sft, "engine_is_asked", lambda: True)
    assert main(["sft", *WORDS, "--use_cpu", "--use_peft", *PATIENT, "--output_dir", str(tmp_path / "run")]) == 2
    assert "field 'sft_patience': 2 puts back no adapters that are sharded; fix: use 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_fsdp1_on_a_cpu_is_refused_in_one_line(command: str, tmp_path: Path) -> None:
    result = launch("fsdp2", tmp_path / "run", command, *COMMANDS[command], options=("--fsdp_version=1",))
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("guided-grpo")]
    assert lines == [
        f"guided-grpo {command}: field 'fsdp_version': 1 does not shard on a CPU; fix: set it to 2, or use a GPU"
    ]
    assert 'command_worker.py", line' not in result.stderr  # no traceback of ours
