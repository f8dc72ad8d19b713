"""N steps equal k steps + kill + resume + N − k steps, to the bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from guided_grpo.store import jsonl, rundir
from parts import digit_reward, make_config, make_trainer

pytestmark = pytest.mark.slow


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


TIMES = ("time/", "step_time", "train_", "_runtime", "_per_second")


def untimed(path: Path) -> list[dict[str, Any]]:
    """Rows without the clock's columns; everything else must be equal."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not any(word in k for word in TIMES)} for row in rows]


CASES: dict[str, dict[str, Any]] = {
    "adaptive": {"method": "g2rpo-a", "guidance_history": 2},
    "mid-cycle": {"method": "g2rpo-a-official", "num_iterations": 2, "steps_per_generation": 2, "beta": 0.05},
    "shuffled epochs": {"method": "fixed", "num_train_epochs": 4, "max_steps": -1},
    "ladder": {
        "method": "ghpo-continuous", "hint_template": "{problem}{hint}", "rescue_cold_start": 1, "max_steps": -1,
        "num_train_epochs": 2, "guidance_ratio": 1.0,
    },
    "adaptive ladder": {
        "method": "g2rpo-a", "guidance_trigger": "rescue", "rescue_cold_start": 0, "num_iterations": 2, "beta": 0.05,
    },
    "adaptive order": {
        "method": "fixed", "curriculum": "adaptive", "curriculum_gain": 0.4, "curriculum_target": 0.05, "max_steps": -1,
        "num_train_epochs": 3, "num_iterations": 2, "steps_per_generation": 1,
    },
    "auto": {"method": "auto", "guidance_length": 0.5, "guidance_ratio": 1.0, "max_steps": -1, "num_train_epochs": 2},
    "failures": {"method": "relift", "failure_buffer": 2, "num_iterations": 2, "scale_rewards": "none"},
    "sparse log": {"method": "stepwise", "guidance_interval": 2, "gradient_accumulation_steps": 2, "logging_steps": 1},
}  # fmt: skip


def two_sevens(completions: list[str], **columns: Any) -> list[float]:
    """Sparse: about every other group has no success."""
    return [float(text.count("7") >= 2) for text in completions]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_run_equals_the_whole_run(
    case: str, stop: int, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    common = {
        "max_steps": 7,
        "guidance_length": 8,
        "guidance_ratio": 0.5,
        "save_strategy": "steps",
        "save_steps": 1,
        "rollouts_every": 2,
        **CASES[case],
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reward = two_sevens if "ladder" in case or case == "failures" else digit_reward
    make_trainer(load(policy_folder), tokenizer, make_config(whole, **common), reward=reward).train()
    shutil.copytree(whole, cut)
    for checkpoint in rundir.checkpoints(cut):
        if int(checkpoint.name.split("-")[1]) > stop:
            shutil.rmtree(checkpoint)
    for name in (rundir.METRICS, rundir.ROLLOUTS):
        rundir.cut_back(cut / name, stop)
    trainer = make_trainer(load(policy_folder), tokenizer, make_config(cut, **common), reward=reward)
    trainer.train(resume_from_checkpoint=str(rundir.last_checkpoint(cut)))
    assert untimed(cut / rundir.METRICS) == untimed(whole / rundir.METRICS)
    assert untimed(cut / rundir.ROLLOUTS) == untimed(whole / rundir.ROLLOUTS)
    last = rundir.checkpoints(whole)[-1].name
    ours, theirs = load_file(cut / last / "model.safetensors"), load_file(whole / last / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    states = [json.loads((run / last / "guidance_state.json").read_text()) for run in (cut, whole)]
    for part in ("controller", "history", "gradient_norms", "watch", "tokens_generated", "failures"):
        assert states[0][part] == states[1][part]
    if "ladder" in case:
        assert sum(row.get("rescue/rows", 0) for row in untimed(cut / rundir.METRICS)) > 0
    if case == "failures":
        assert sum(row.get("imitation/traces", 0) for row in untimed(cut / rundir.METRICS)) > 0


def run_command(folder: Path, policy: Path) -> list[str]:
    return [
        sys.executable, "-m", "guided_grpo.cli", "train", "--model_name_or_path", str(policy), "--output_dir", str(folder),
        "--train_data", "chains:steps=3-5,count=40,seed=1", "--eval_data", "chains:steps=3-5,count=6,seed=2",
        "--method", "g2rpo-a", "--guidance_length", "8", "--guidance_ratio", "0.5", "--per_device_train_batch_size", "8",
        "--num_generations", "4", "--max_completion_length", "12", "--max_steps", "40", "--learning_rate", "1e-3",
        "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1", "--report_to", "none", "--use_cpu",
        "--bf16", "false", "--gradient_checkpointing", "false", "--rollouts_every", "3", "--quiet",
    ]  # fmt: skip


@pytest.mark.timeout(600)
def test_kill_at_random_moments_and_the_same_command_goes_on(policy_folder: Path, tmp_path: Path) -> None:
    """SIGKILL three times, somewhere in a random step (sampling, update, log or checkpoint), then let it finish."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(run_command(whole, policy_folder), check=True, env=environment, timeout=300)
    rng, moments = random.Random(time.time_ns()), []
    for low, high in ((1, 10), (11, 20), (21, 30)):
        target, delay = rng.randint(low, high), rng.uniform(0, 0.15)
        process = subprocess.Popen(run_command(killed, policy_folder), env=environment)
        while process.poll() is None and len(list(jsonl.whole_rows(killed / rundir.METRICS))) < target:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        logged = len(list(jsonl.whole_rows(killed / rundir.METRICS)))
        moments.append({"logged": logged, "checkpoint": str(rundir.last_checkpoint(killed)).rsplit("-", 1)[-1]})
        assert not (killed / rundir.SUMMARY).exists()
    subprocess.run(run_command(killed, policy_folder), check=True, env=environment, timeout=300)
    print("killed at:", moments)
    assert untimed(killed / rundir.METRICS) == untimed(whole / rundir.METRICS)
    assert len(untimed(whole / rundir.METRICS)) == 40
    assert untimed(killed / rundir.ROLLOUTS) == untimed(whole / rundir.ROLLOUTS)
    ours = load_file(killed / rundir.MODEL / "model.safetensors")
    theirs = load_file(whole / rundir.MODEL / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ends = [rundir.read_json(run / rundir.EVAL)["after"]["scores"] for run in (killed, whole)]
    assert ends[0] == ends[1]


@pytest.mark.timeout(600)
def test_kill_in_the_middle_of_the_ladder(policy_folder: Path, tmp_path: Path) -> None:
    """SIGKILL between two attempts of a step, three times; the resumed run equals the whole one."""
    worker = [sys.executable, str(Path(__file__).parents[1] / "support" / "ladder_worker.py")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*worker, str(whole), str(policy_folder), "none"], check=True, env=environment, timeout=200)
    for moment in ("3:1", "5:2", "6:3"):  # optimizer step : attempt that is being graded
        words = [*worker, str(killed), str(policy_folder), moment]
        process = subprocess.run(words, env=environment, timeout=200, check=False)
        assert process.returncode == -signal.SIGKILL, moment
        step = int(moment[0])
        assert len(list(jsonl.whole_rows(killed / rundir.METRICS))) == step
        print("killed in step", step + 1, "attempt", moment[2], "last checkpoint", rundir.last_checkpoint(killed))
    subprocess.run([*worker, str(killed), str(policy_folder), "none"], check=True, env=environment, timeout=200)
    assert untimed(killed / rundir.METRICS) == untimed(whole / rundir.METRICS)
    assert untimed(killed / rundir.ROLLOUTS) == untimed(whole / rundir.ROLLOUTS)
    assert [row["rescue/calls"] for row in untimed(whole / rundir.METRICS)] == [3.0] * 8
    last = rundir.checkpoints(whole)[-1].name
    ours, theirs = (load_file(run / last / "model.safetensors") for run in (killed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    states = [json.loads((run / last / "guidance_state.json").read_text()) for run in (killed, whole)]
    assert states[0]["history"] == states[1]["history"]


def test_a_checkpoint_without_its_mark_is_not_resumed_from(tmp_path: Path) -> None:
    for step, whole in ((2, True), (4, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        if whole:
            rundir.mark_complete(folder)
    assert rundir.last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    rundir.drop_partial_checkpoints(tmp_path)
    assert [path.name for path in rundir.checkpoints(tmp_path)] == ["checkpoint-2"]


def test_a_broken_last_line_is_cut_with_what_follows_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    jsonl.append_rows(path, [{"step": 1}, {"step": 2}, {"step": 3}])
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    rundir.cut_back(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_old_checkpoints_go_only_after_the_new_one_is_whole(
    policy: Any, tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    config = make_config(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    whole_at_mark: list[list[str]] = []
    mark = rundir.mark_complete

    def spied(folder: Path) -> None:
        whole_at_mark.append([path.name for path in rundir.checkpoints(tmp_path) if (path / rundir.COMPLETE).exists()])
        mark(folder)

    monkeypatch.setattr(rundir, "mark_complete", spied)
    make_trainer(policy, tokenizer, config).train()
    assert whole_at_mark == [[], ["checkpoint-1"], ["checkpoint-2"]]
    assert [path.name for path in rundir.checkpoints(tmp_path)] == ["checkpoint-3"]
