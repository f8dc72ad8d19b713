"""Fine-tuning on traces: the ids that are taught, slices, a run, and going on after a kill."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from guided_grpo.cli import main
from guided_grpo.commands import sft, stopping
from guided_grpo.data.demonstrations import demonstrations, grade_traces
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.store import jsonl
from parts import small_run

ROW = {"prompt": "4+3*7=", "answer": "79", "guidance": "+3=7;*7=9;"}


def test_ids_and_labels_by_hand(tokenizer: Any) -> None:
    guide = GuidanceTokenizer(tokenizer, {}, "auto", leak=True)
    rows = [ROW, {**ROW, "guidance": None}]
    end = tokenizer.eos_token_id
    taught, left_out = demonstrations(rows, guide, shares=[0.5, 1.0], answer="#### {answer}", end_id=end, max_tokens=25)
    half, whole = taught
    spelled = [tokenizer.decode([i]) for i in half["input_ids"]]
    assert spelled == [*"4+3*7=", *"+3=7;"]
    assert half["labels"] == [-100] * 6 + half["input_ids"][6:]
    assert tokenizer.decode(whole["input_ids"][:-1]) == "4+3*7=+3=7;*7=9;#### 79"
    assert whole["input_ids"][-1] == end and whole["labels"] == [-100] * 6 + whole["input_ids"][6:]
    assert left_out == {"no trace": 1, "wrong answer": 0, "too long": 0}
    assert demonstrations(rows, guide, end_id=end, max_tokens=16)[1] == {
        "no trace": 1,
        "wrong answer": 0,
        "too long": 1,
    }
    with pytest.raises(InputError, match="field 'sft_shares': 0 is no share"):
        demonstrations(rows, guide, shares=[0], end_id=end)


def test_what_a_trace_is_worth(tokenizer: Any) -> None:
    """Wrong ones are not taught, those that declare no answer without an end, and what cannot be graded as before."""
    row = {**ROW, "task": "math"}
    rows = [
        {**row, "guidance": "+3=7;*7=9;#### 79"},
        {**row, "guidance": "+3=7;"},
        {**row, "guidance": "+3=8;*7=6;#### 86"},
        {**row, "guidance": None},
        {"prompt": "4+3*7=", "guidance": "+3=7;", "task": "math"},
    ]
    with Grader() as grader:
        worth = grade_traces(rows, "", grader)
        assert worth == ["whole", "open", "wrong", "whole", "whole"]
        assert grade_traces(rows[1:2], "#### {answer}", grader) == ["whole"]
    end = tokenizer.eos_token_id
    guide = GuidanceTokenizer(tokenizer, {}, "auto", leak=True)
    taught, left_out = demonstrations(rows, guide, worth=worth, end_id=end)
    assert [example["input_ids"][-1] == end for example in taught] == [True, False, True]
    assert tokenizer.decode(taught[1]["input_ids"]) == "4+3*7=+3=7;"
    assert left_out == {"no trace": 1, "wrong answer": 1, "too long": 0}


def settings_of(policy: Path, output: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(policy), "train_data": "chains:steps=3-5,count=24,seed=1", "output_dir": str(output),
        "eval_data": "chains:steps=3-5,count=6,seed=2", "eval_samples": 2, "eval_max_tokens": 12, "quiet": True,
        "sft_answer": "#### {answer}", "per_device_train_batch_size": 8, "max_steps": 6, "learning_rate": 1e-3,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_and_the_same_after_a_kill(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for run in (whole, cut):
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings_of(policy_folder, run)))
        if run is cut:  # as a kill after step 4 leaves it, in the middle of writing the next checkpoint
            shutil.copytree(whole, cut)
            for path in ("summary.json", "checkpoint-6/complete.json"):
                (cut / path).unlink()
            shutil.rmtree(cut / "model")
            (cut / "eval.json").write_text(json.dumps({**json.loads((whole / "eval.json").read_text()), "after": None}))
            config = (whole / "config.yaml").read_text().replace(str(whole), str(cut))
            (cut / "config.yaml").write_text(config)
        assert main(["sft", "--config", str(tmp_path / "sft.yaml"), "--json"]) == 0
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["steps"], summary["demonstrations"], summary["after"]["problems"]) == (6, 24, 6)
    rows = [list(jsonl.whole_rows(run / "metrics.jsonl")) for run in (whole, cut)]
    assert json.loads((cut / "summary.json").read_text())["tokens_trained"] == summary["tokens_trained"]
    assert summary["tokens_trained"] == rows[0][-1]["num_tokens"] > 0
    assert summary["flops"] == rows[0][-1]["flops/total"] == rows[1][-1]["flops/total"] > 0
    assert json.loads((cut / "summary.json").read_text())["trace_tokens"] == summary["trace_tokens"] > 0
    assert [[row["step"], row["loss"]] for row in rows[0]] == [[row["step"], row["loss"]] for row in rows[1]]
    assert rows[0][-1]["loss"] < rows[0][0]["loss"]
    weights = [load_file(run / "model" / "model.safetensors") for run in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "is finished" in run_again(tmp_path, capsys)


def test_tokens_of_a_run_too_short_to_be_logged(policy_folder: Path, tmp_path: Path) -> None:
    settings = {**settings_of(policy_folder, tmp_path / "run"), "max_steps": 3, "logging_steps": 10, "eval_data": None}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
    assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
    # One epoch: every row once, as prompt, trace, "#### " and answer, and the end token, a token a character.
    rows = load_rows(settings["train_data"])
    lengths = [len(row["prompt"]) + len(row["guidance"]) + len("#### ") + len(row["answer"]) + 1 for row in rows]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["tokens_trained"] == sum(lengths)
    # The one row, of the last step: the mean loss of all three, which no other row holds.
    [row] = jsonl.whole_rows(tmp_path / "run" / "metrics.jsonl")
    assert (row["step"], row["num_tokens"]) == (3, sum(lengths)) and 1 < row["loss"] < 10


def run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
    return capsys.readouterr().err


def test_bad_fields_end_with_one_line(policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text(yaml.safe_dump({**settings_of(policy_folder, tmp_path / "run"), "guidance_length": 5}))
    assert main(["sft", "--config", str(config)]) == 2
    assert "field 'guidance_length': is not a field of a run" in capsys.readouterr().err
    config.write_text(yaml.safe_dump({**settings_of(policy_folder, tmp_path / "run"), "max_length": 5}))
    assert main(["sft", "--config", str(config)]) == 2
    assert "leaves nothing to teach" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_config_of_a_run_starts_another_one(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({**settings_of(policy_folder, tmp_path / "one"), "max_steps": 1}))
    assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
    written = tmp_path / "one" / "config.yaml"
    assert main(["sft", "--config", str(written), "--output_dir", str(tmp_path / "two")]) == 0
    one, two = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("one", "two"))
    assert {**one, "output_dir": None} == {**two, "output_dir": None}
    capsys.readouterr()
    assert main(["train", "--config", str(written), "--output_dir", str(tmp_path / "three")]) == 2
    assert "field 'command': 'sft' is not this one; fix: use guided-grpo sft" in capsys.readouterr().err


def test_flops_by_hand_and_a_budget_of_them(policy_folder: Path, policy: Any, tmp_path: Path) -> None:
    """All 24 demonstrations in one batch: 6·N for each place of it, padding included, and the end where 2.5 are spent."""
    size = sum(parameter.numel() for parameter in policy.parameters())  # tied: the table is the head, and counts once
    rows = load_rows("chains:steps=3-5,count=24,seed=1")
    taught = [len(row["guidance"]) + len("#### ") + len(row["answer"]) + 1 for row in rows]
    longest = max(len(row["prompt"]) + tokens for row, tokens in zip(rows, taught, strict=True))
    step = 6 * size * 24 * longest
    settings = {**settings_of(policy_folder, tmp_path / "run"), "per_device_train_batch_size": 24, "logging_steps": 10}
    settings |= {"max_steps": 50, "max_flops": 2.5 * step, "eval_data": None}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
    assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["flops"], summary["trace_tokens"]) == (3, 3 * step, 3 * sum(taught))
    [row] = jsonl.whole_rows(tmp_path / "run" / "metrics.jsonl")
    assert (row["step"], row["flops/total"]) == (3, 3 * step)


def test_a_floor_is_a_share_of_log_likelihood(policy_folder: Path, tmp_path: Path) -> None:
    """λ·nll + (1 − λ)·dft, in the loss and in a first step of plain gradient descent; λ = 1 is TRL's nll to the bit."""
    settings = {**settings_of(policy_folder, tmp_path), "eval_data": None, "max_steps": 1, "logging_steps": 1}
    settings |= {"optim": "sgd", "max_grad_norm": 0.0, "warmup_steps": 0, "learning_rate": 0.1, "save_strategy": "no"}
    found = {}
    for name, more in {
        "nll": {}, "dft": {"loss_type": "dft"}, "all": {"loss_type": "dft", "sft_floor": 1.0},
        "quarter": {"loss_type": "dft", "sft_floor": 0.25},
    }.items():  # fmt: skip
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump({**settings, **more, "output_dir": str(tmp_path / name)}))
        assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
        [row] = jsonl.whole_rows(tmp_path / name / "metrics.jsonl")
        [file] = (tmp_path / name / "model").glob("*.safetensors")
        found[name] = row["loss"], load_file(file)
    assert found["all"][0] == found["nll"][0]
    assert found["quarter"][0] == pytest.approx(0.25 * found["nll"][0] + 0.75 * found["dft"][0], rel=1e-6)
    for key, quarter in found["quarter"][1].items():
        assert torch.equal(found["all"][1][key], found["nll"][1][key])
        expected = 0.25 * found["nll"][1][key] + 0.75 * found["dft"][1][key]
        assert torch.allclose(quarter, expected, atol=1e-6, rtol=0)
        assert key.endswith("norm.weight") or not torch.allclose(quarter, found["dft"][1][key], atol=1e-6, rtol=0)


def test_the_rate_falls_with_the_flops(policy_folder: Path, tmp_path: Path) -> None:
    """By hand: four batches of the 50 that the schedule is made for are paid; after n of them n/4 of it is over."""
    settings = {**settings_of(policy_folder, tmp_path / "run"), "per_device_train_batch_size": 24, "max_steps": 50}
    settings |= {"eval_data": None, "lr_scheduler_type": "cosine", "warmup_steps": 0, "logging_steps": 1}
    one = 0.25
    for name in ("one", "run"):  # a budget of 1 pays for one batch
        settings |= {"output_dir": str(tmp_path / name), "max_flops": 4 * one}
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
        assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
        one = json.loads((tmp_path / name / "summary.json").read_text())["flops"]
    rates = [row["learning_rate"] for row in jsonl.whole_rows(tmp_path / "run" / "metrics.jsonl")]
    shares = [int(50 * n / 4) / 50 for n in (0, 1, 2, 3)]  # in whole steps, before each
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * share)) / 2 for share in shares], abs=1e-12)


@pytest.mark.parametrize(("foreign", "floor"), [(-1.0, 1.0), (-100.0, 0.0)])
def test_a_floor_is_found_in_the_first_traces(
    foreign: float, floor: float, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained policy gives every token about −3 nats; what was found stands in the checkpoint."""
    monkeypatch.setattr(sft, "FOREIGN", foreign)
    settings = {**settings_of(policy_folder, tmp_path), "eval_data": None, "max_steps": 2, "logging_steps": 1}
    settings |= {"loss_type": "dft", "save_steps": 1}
    losses = {}
    for name, own in (("found", None), ("given", floor)):
        settings |= {"sft_floor": own, "output_dir": str(tmp_path / name)}
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
        assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
        losses[name] = [row["loss"] for row in jsonl.whole_rows(tmp_path / name / "metrics.jsonl")]
        assert json.loads((tmp_path / name / "checkpoint-2" / "costs.json").read_text())["floor"] == floor
    assert losses["found"] == losses["given"] and len(losses["found"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("waits", "steps"), [(True, 8), (False, 4)])
def test_it_waits_while_a_foreign_form_is_learned(
    waits: bool, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy forgets its own form at once: patience is over after step 4, half of the run after step 8."""
    if not waits:
        monkeypatch.setattr(stopping, "still_learns", lambda rows: False)
    run = tmp_path / "run"
    settings = {
        "model_name_or_path": "embedded-small", "train_data": "chains:steps=5-8,count=48,seed=1,style=renamed",
        "output_dir": str(run), "learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0,
        "max_steps": 16, "per_device_train_batch_size": 8, "sft_patience": 2, "sft_every": 2, "sft_held_out": 8,
        "eval_samples": 1, "eval_temperature": 0.0, "eval_max_tokens": 60, "save_strategy": "no", "report_to": "none",
        "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "quiet": True,
    }  # fmt: skip
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(settings))
    assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["kept"]["step"]) == (steps, 0)
    rows = list(jsonl.whole_rows(run / "stopping.jsonl"))
    assert "trace_loss" not in rows[0] and rows[0]["accuracy"] > 0.5
    losses = [row["trace_loss"] for row in rows[1:]]
    assert losses == sorted(losses, reverse=True) and losses[1] < 0.9 * losses[0]


@pytest.mark.slow
def test_a_first_stage_is_paid_from_the_budget_of_the_run(policy_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {**small_run(policy_folder), "output_dir": str(run), "method": "sft+linear", "rollouts_every": 0}
    settings |= {"sft_epochs": 1, "sft_batch_size": 8, "sft_patience": 0, "max_flops": 3e8, "max_steps": 200}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 0
    summary, stage = (json.loads((folder / "summary.json").read_text()) for folder in (run, run / "sft"))
    spent = [row["flops/total"] for row in jsonl.whole_rows(run / "metrics.jsonl")]
    assert spent[0] > stage["flops"] > 0
    assert summary["flops"] == spent[-1] >= 3e8 > spent[-2]
    assert [part["flops"] for part in summary["stages"]] == [stage["flops"], summary["flops"] - stage["flops"]]
    # The schedule of the method runs over what the stage has left.
    rows = list(jsonl.whole_rows(run / "metrics.jsonl"))
    left = [1.0, 1.0, *(1 - (flops - stage["flops"]) / (3e8 - stage["flops"]) for flops in spent[:-2])]
    assert [row["guidance/length"] for row in rows] == pytest.approx([8 * share for share in left])
