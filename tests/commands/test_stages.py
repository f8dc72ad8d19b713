"""Fine-tuning first, as a stage of one run: what METHOD starts from, early stopping, kills, settings, errors."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import get_scheduler

from guided_grpo.cli import main
from guided_grpo.commands import results
from guided_grpo.commands.parsing import TeachingArguments, parse
from guided_grpo.commands.stages import sft_settings
from guided_grpo.commands.stopping import best_of, is_below, kept_of, restore, set_aside, still_learns
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.store import jsonl
from guided_grpo.studies.comparison.measured import load
from guided_grpo.train import records
from parts import small_run

Weights = dict[str, torch.Tensor]


def settings_of(policy: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """18 of 24 traces are taught by 8: 9 steps in 3 epochs. The other 6 problems are asked after every third."""
    return {
        **small_run(policy), "output_dir": str(output), "method": "sft+fixed", "eval_max_tokens": 12,
        "sft_answer": "#### {answer}", "sft_batch_size": 8, "sft_learning_rate": 1e-3, "sft_every": 3, "sft_patience": 2,
        "save_strategy": "steps", "save_steps": 2, "rewards": ["accuracy", "overlong"], **changes,
    }  # fmt: skip


def train(folder: Path, settings: dict[str, Any]) -> int:
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return main(["train", "--config", str(folder / "run.yaml")])


def parsed(folder: Path, settings: dict[str, Any], *words: str) -> Any:
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return parse(["--config", str(folder / "run.yaml"), *words])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def weights(folder: Path) -> Weights:
    [file] = folder.glob("*.safetensors")
    return load_file(file)


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def script(monkeypatch: pytest.MonkeyPatch, accuracies: dict[int, float]) -> None:
    """The evaluation during fine-tuning, in earnest, of which the accuracy, the same of every problem, is put in the place of what it found."""
    measure = results.evaluate

    def evaluate(*positional: Any, label: str, **named: Any) -> dict[str, Any]:
        figures = measure(*positional, label=label, **named)
        step = label.removeprefix("step ")
        if not step.isdigit():
            return figures
        accuracy = accuracies[int(step)]
        return {**figures, "accuracy": accuracy, "scores": [accuracy] * len(figures["scores"])}

    monkeypatch.setattr(results, "evaluate", evaluate)


@pytest.mark.slow
def test_the_method_starts_from_the_policy_of_the_stage(policy_folder: Path, tmp_path: Path) -> None:
    """A rate of 0 leaves a policy as it was: what METHOD ends with is what it began with."""
    run = tmp_path / "run"
    assert train(tmp_path, settings_of(policy_folder, run, learning_rate=0.0)) == 0
    assert equal(weights(run / "model"), weights(run / "sft" / "model"))
    assert not equal(weights(run / "model"), weights(policy_folder))
    optimizer = torch.load(run / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert {float(state["step"]) for state in optimizer["state"].values()} == {2.0}  # a new one: not 9 + 2

    summary, stage = read(run / "summary.json"), read(run / "sft" / "summary.json")
    first, second = summary["stages"]
    assert (summary["method"], first["method"], second["method"]) == ("sft+fixed", "sft", "fixed")
    assert (stage["demonstrations"], stage["kept"]["problems"], summary["steps"]) == (18, 6, 3)
    assert first["tokens_trained"] == stage["tokens_trained"] > 0 and first["seconds"] > 0
    assert second["tokens_generated"] == summary["tokens_generated"] > 0 and second["seconds"] > 0
    # Three figures of the same held-out problems; the last two are of one policy, asked twice.
    assert summary["before"] == stage["before"] and summary["between"] == stage["after"] == summary["after"]
    evaluation = read(run / "eval.json")
    assert list(evaluation) == ["before", "between", "after"]
    assert evaluation["between"]["scores"] == evaluation["after"]["scores"]
    assert "unguided accuracy between" in (run / "README.md").read_text()


@pytest.mark.slow
def test_fine_tuning_stops_and_keeps_the_best(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 ties with 3 and is later; 9 and 12 are behind it."""
    script(monkeypatch, {0: 0.0, 3: 0.5, 6: 0.5, 9: 0.25, 12: 0.25})
    run = tmp_path / "run"
    assert train(tmp_path, settings_of(policy_folder, run, sft_epochs=6, max_steps=1, learning_rate=0.0)) == 0
    summary = read(run / "sft" / "summary.json")
    assert (summary["steps"], summary["kept"]["step"], summary["kept"]["accuracy"]) == (12, 6, 0.5)
    assert sorted(path.name for path in (run / "sft").glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-6"]
    kept = weights(run / "sft" / "checkpoint-6")
    assert equal(weights(run / "sft" / "model"), kept) and equal(weights(run / "model"), kept)
    assert not equal(kept, weights(run / "sft" / "checkpoint-12"))
    assert [row["step"] for row in jsonl.whole_rows(run / "sft" / "stopping.jsonl")] == [0, 3, 6, 9, 12]


@pytest.mark.slow
def test_fine_tuning_that_only_harms_leaves_the_policy_as_it_was(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `sft` itself, where the best policy is the one of step 0."""
    script(monkeypatch, {0: 0.5, 3: 0.25, 6: 0.0})
    common = settings_of(policy_folder, tmp_path / "run")
    fields = ("sft_answer", "sft_every", "sft_patience", "max_completion_length")
    other = {name: value for name, value in common.items() if not name.startswith(("sft_", "guidance_", "max_"))}
    other |= {name: common[name] for name in fields[:3]} | {"num_train_epochs": 3, "max_steps": -1}
    for name in ("method", "num_generations", "rollouts_every"):
        del other[name]
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(other))
    assert main(["sft", "--config", str(tmp_path / "sft.yaml")]) == 0
    summary = read(tmp_path / "run" / "summary.json")
    assert (summary["steps"], summary["kept"]["step"]) == (6, 0)
    assert equal(weights(tmp_path / "run" / "model"), weights(policy_folder))
    assert summary["before"] == summary["after"]


@pytest.mark.slow
def test_asking_counts_as_a_cost(
    policy_folder: Path, policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: three steps on all 18 rows, 6·N a place; four times 6 problems by 2 samples, of which one token is asked."""
    script(monkeypatch, {0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3})
    changes = {"eval_data": None, "eval_max_tokens": 1, "sft_batch_size": 24, "sft_every": 1, "max_steps": 1}
    assert train(tmp_path, settings_of(policy_folder, tmp_path / "run", per_device_train_batch_size=24, **changes)) == 0
    size = sum(parameter.numel() for parameter in policy.parameters())
    rows = load_rows("chains:steps=3-5,count=24,seed=1")
    taught, asked = set_aside(rows, TeachingArguments(sft_patience=2), 42)
    longest = max(len(row["prompt"]) + len(row["guidance"]) + len("#### ") + len(row["answer"]) + 1 for row in taught)
    width = max(map(len, asked["prompt"]))
    summary = read(tmp_path / "run" / "sft" / "summary.json")
    assert (summary["steps"], summary["kept"]["step"]) == (3, 3)
    assert summary["flops"] == 3 * 6 * size * 18 * longest + 4 * 2 * size * 12 * width


class Killed(BaseException):
    """Nothing catches it, so that all stays as it is on the disk."""


def kill(monkeypatch: pytest.MonkeyPatch, dies: Callable[[Path, Any], bool], *, before: bool) -> None:
    """Die at the write for which `dies` is true, before it or after it."""
    append, write = jsonl.append_rows, results.rundir.write_json

    def dying(action: Callable[[Path, Any], None]) -> Callable[[Path, Any], None]:
        def act(path: Path, data: Any) -> None:
            data = list(data) if not isinstance(data, dict) else data
            if before and dies(path, data):
                raise Killed
            action(path, data)
            if dies(path, data):
                raise Killed

        return act

    for module in (jsonl, records):
        monkeypatch.setattr(module, "append_rows", dying(append))
    monkeypatch.setattr(results.rundir, "write_json", dying(write))


def at_row(place: str, step: int) -> Callable[[Path, Any], bool]:
    return lambda path, data: str(path).endswith(place) and any(row.get("step") == step for row in data)


def at_file(place: str) -> Callable[[Path, Any], bool]:
    return lambda path, data: str(path).endswith(place)


KILLS = {
    "in the stage, before its first checkpoint": (at_row("sft/metrics.jsonl", 1), False),
    "in the stage, between two evaluations": (at_row("sft/metrics.jsonl", 5), False),
    "in the stage, before an evaluation is written": (at_row("sft/stopping.jsonl", 6), True),
    "in the stage, after an evaluation, before its checkpoint": (at_row("sft/stopping.jsonl", 6), False),
    "as the stage stops, on a checkpoint": (at_file("sft/checkpoint-12/complete.json"), False),
    "before the stage is said to be finished": (at_file("sft/summary.json"), True),
    "between the stages": (at_file("sft/summary.json"), False),
    "between the stages, as the run takes over what was measured": (at_file("run/eval.json"), True),
    "in the method, before its first checkpoint": (at_row("run/metrics.jsonl", 1), False),
    "in the method, after its checkpoint": (at_row("run/metrics.jsonl", 3), True),
    "before the run is said to be finished": (at_file("run/summary.json"), True),
}
SCRIPT = {0: 0.0, 3: 0.25, 6: 0.5, 9: 0.25, 12: 0.25}  # stops at 12, on a checkpoint of its own, and keeps 6


@pytest.fixture(scope="module")
def whole_run(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing kills."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        script(patch, SCRIPT)
        assert train(folder, settings_of(policy_folder, folder / "run", sft_epochs=6)) == 0
    assert not equal(weights(folder / "run" / "model"), weights(folder / "run" / "sft" / "model"))
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("point", KILLS)
def test_the_same_after_a_kill(
    point: str, whole_run: Path, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, (dies, before) = tmp_path / "run", KILLS[point]
    settings = settings_of(policy_folder, run, sft_epochs=6)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        script(patch, SCRIPT)
        kill(patch, dies, before=before)
        train(tmp_path, settings)
    assert not (run / "summary.json").exists()
    script(monkeypatch, SCRIPT)
    assert train(tmp_path, settings) == 0
    for folder in ("sft/model", "model"):
        assert equal(weights(run / folder), weights(whole_run / folder)), folder
    for folder in ("sft", "."):
        mine, theirs = (untimed(read(each / folder / "summary.json")) for each in (run, whole_run))
        assert mine == theirs
    rows = [
        [[row["step"], row["accuracy"]] for row in jsonl.whole_rows(each / "sft" / "stopping.jsonl")]
        for each in (run, whole_run)
    ]
    assert rows[0] == rows[1] == [[step, accuracy] for step, accuracy in SCRIPT.items()]


def untimed(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: untimed(value) for name, value in data.items() if "seconds" not in name}
    return [untimed(value) for value in data] if isinstance(data, list) else data


@pytest.mark.slow
def test_the_same_after_a_real_kill(policy_folder: Path, tmp_path: Path) -> None:
    """SIGKILL once a checkpoint of the stage is whole; accuracies are what they are."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(tmp_path, settings_of(policy_folder, whole)) == 0
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump(settings_of(policy_folder, cut)))
    command = [sys.executable, "-m", "guided_grpo.cli", "train", "--config", str(tmp_path / "cut.yaml")]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, start_new_session=True)
    end = time.monotonic() + 240
    while not (cut / "sft" / "checkpoint-4" / "complete.json").exists() and child.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (cut / "summary.json").exists() and not (cut / "model").exists()
    assert main(["train", "--config", str(tmp_path / "cut.yaml")]) == 0
    assert equal(weights(cut / "model"), weights(whole / "model"))


@pytest.mark.slow
def test_adapters_of_the_stage_go_on(policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of step 6 of 9, put back into the trainer's policy."""
    script(monkeypatch, {0: 0.0, 3: 0.0, 6: 0.5, 9: 0.0})
    run = tmp_path / "run"
    peft = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "sft_learning_rate": 1e-2}
    assert train(tmp_path, settings_of(policy_folder, run, learning_rate=0.0, **peft)) == 0
    first, last = (weights(run / folder) for folder in ("sft/model", "model"))
    assert equal(first, last) and all("lora_" in name for name in last)
    assert equal(first, weights(run / "sft" / "checkpoint-6"))
    assert not equal(first, weights(run / "sft" / "checkpoint-9"))
    assert any(bool(value.any()) for name, value in last.items() if "lora_B" in name)  # which are made as 0
    trained = tmp_path / "trained"
    assert train(tmp_path, settings_of(policy_folder, trained, learning_rate=1e-2, **peft)) == 0
    assert equal(weights(trained / "sft" / "model"), first) and not equal(weights(trained / "model"), first)


def test_adapters_are_put_back(policy: Any, tmp_path: Path) -> None:
    model = get_peft_model(policy, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.add_(1.0)
    assert not equal(model.state_dict(), before)
    restore(model, tmp_path)
    assert equal(model.state_dict(), before)


def test_below_the_best_is_what_problems_agree_on() -> None:
    """Paired, by hand: with eight problems the 80 % interval of the mean is ± 1.415 standard errors."""
    best = {"scores": [0.5] * 8}
    # −.1875, variance .01339, six differ: error √((6·.01339 + ½·(.25 + .3125·.6875)) / 6.5 / 8) = .0775, half-width .110.
    assert is_below({"scores": [0.25] * 6 + [0.5] * 2}, best)
    assert not is_below({"scores": [0.25] * 4 + [0.5] * 4}, best)  # −.125 ± .132
    assert not is_below({"scores": [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5]}, best)  # −.0625 ± .3
    assert not is_below({"scores": [0.75] * 8}, best)
    assert is_below({"scores": [0.25] * 4 + [None] * 4}, {"scores": [0.75] * 4 + [0.0] * 4})
    assert not is_below({"scores": [None]}, {"scores": [1.0]})


def test_the_best_of_equal_evaluations_is_the_last() -> None:
    assert best_of([{"accuracy": value} for value in (0.0, 0.5, 0.25, 0.5, 0.0)]) == 3
    assert best_of([{"accuracy": 0.0}]) == 0


def test_kept_is_the_last_that_is_not_below() -> None:
    """All eight problems alike, so that a fall of an eighth is within ± .132 and one of a quarter is not."""

    def kept(*accuracies: float, of_round: bool = False) -> int:
        return kept_of([{"accuracy": value, "scores": [value] * 8} for value in accuracies], of_round=of_round)

    assert kept(0.0, 0.5, 0.4375, 0.25, 0.46875, 0.25) == 4  # 5 is below, and 3 does not end the row
    assert kept(0.0, 0.5, 0.25) == 1
    assert kept(0.0, 0.5, 0.4375, 0.75, 0.5) == 3  # a new best leaves what was near the old one
    assert kept(0.5, 0.46875, 0.5) == 2  # of equal ones the last
    assert kept(0.5, 0.46875, 0.4375) == 0  # fine-tuning was no better than none
    assert kept(0.46875, 0.5, 0.4375) == 1  # near the best, and worse than none
    assert kept(0.5, 0.46875, 0.4375, of_round=True) == 2  # a round has to be clearly worse than none
    assert kept(0.5, 0.46875, 0.25, of_round=True) == 1 and kept(0.5, 0.25, of_round=True) == 0


def test_traces_are_still_learned_where_their_loss_falls_by_a_tenth() -> None:
    rows = [{"trace_loss": 2.0}, {"trace_loss": 3.0}, {"trace_loss": 1.8}]
    assert still_learns(rows) and not still_learns([*rows, {"trace_loss": 1.81}]) and not still_learns(rows[:1])
    assert not still_learns([{}, *rows])  # success had not fallen there


def test_what_is_set_aside_is_not_taught() -> None:
    """Nine problems, the first three with two traces each: a quarter is two, and both traces of each go."""
    rows = Dataset.from_list([{"prompt": f"{n % 9}", "guidance": f"trace {n}"} for n in range(12)])
    for seed in range(5):
        taught, asked = set_aside(rows, TeachingArguments(sft_patience=1), seed)
        assert len(set(asked["prompt"])) == len(asked) == 2
        assert not set(asked["prompt"]) & set(taught["prompt"])
        assert len(taught) == 12 - sum(2 if int(prompt) < 3 else 1 for prompt in asked["prompt"])
        assert set_aside(rows, TeachingArguments(sft_patience=1), seed)[1]["prompt"][:] == asked["prompt"][:]
    assert len(set_aside(rows, TeachingArguments(sft_patience=1, sft_held_out=1), 0)[1]) == 1
    assert len({tuple(set_aside(rows, TeachingArguments(sft_patience=1), seed)[1]["prompt"]) for seed in range(5)}) > 1


def test_settings_of_the_stage(policy_folder: Path, tmp_path: Path) -> None:
    settings = parsed(tmp_path, settings_of(policy_folder, tmp_path / "run", sft_batch_size=12, seed=5))
    stage = sft_settings(settings, str(policy_folder))
    training = stage.training
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (6, 2)  # 8 do not divide 12
    assert (training.learning_rate, training.weight_decay, training.num_train_epochs, training.seed) == (
        1e-3,
        0.01,
        3,
        5,
    )
    assert (training.save_steps, training.max_steps, stage.sft.sft_answer) == (2, -1, "#### {answer}")
    assert stage.output == tmp_path / "run" / "sft" and stage.run.eval_max_tokens == 12
    # The paper's schedule, by hand: of 20 steps 2 of warm-up, then half a cosine over 18 down to a tenth.
    parameter = torch.nn.Parameter(torch.zeros(1))
    schedule = get_scheduler(
        training.lr_scheduler_type, torch.optim.SGD([parameter], lr=training.learning_rate), training.get_warmup_steps(20), 20,
        training.lr_scheduler_kwargs,
    )  # fmt: skip
    rates = []
    for _ in range(21):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    by_hand = [1e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * n / 18)) / 2) for n in range(19)]
    assert rates == pytest.approx([0, 5e-4, *by_hand])
    default = parsed(
        tmp_path, {**small_run(policy_folder), "output_dir": "x", "method": "sft+auto-guide", "guidance_length": 0.5}
    ).stage
    assert (default.sft_learning_rate, default.sft_batch_size, default.sft_epochs, default.sft_patience) == (
        5e-5,
        64,
        3,
        3,
    )


def test_the_loss_of_the_stage(policy_folder: Path, tmp_path: Path) -> None:
    """`auto` weighs tokens by their probability; published baselines do not, unless asked to."""
    common = {**small_run(policy_folder), "output_dir": "x", "guidance_length": 0.5}
    found = {
        (method, loss): sft_settings(
            parsed(tmp_path, {**common, "method": method, **more}), str(policy_folder)
        ).training.loss_type
        for method in ("auto", "sft+auto-guide", "sft")
        for loss, more in {"unset": {}, "nll": {"sft_loss": "nll"}, "dft": {"sft_loss": "dft"}}.items()
    }
    assert found == {
        **{("auto", "unset"): "dft", ("sft+auto-guide", "unset"): "nll", ("sft", "unset"): "nll"},
        **{(method, loss): loss for method in ("auto", "sft+auto-guide", "sft") for loss in ("nll", "dft")},
    }


def test_where_the_method_stands(policy_folder: Path, tmp_path: Path) -> None:
    """Config and command line, the last word the command line's; what is written is read again."""
    settings = settings_of(policy_folder, tmp_path / "run")
    whole = parsed(tmp_path, settings)
    assert (whole.method, whole.training.method, whole.stage.first) == ("sft+fixed", "fixed", True)
    written = whole.to_json()
    stage = {name: value for name, value in written.items() if name.startswith("sft_") or name == "method"}
    assert (written["method"], stage["sft_batch_size"]) == ("sft+fixed", 8) and "first" not in written
    assert parsed(tmp_path, {**settings, **stage}).to_json() == written
    plain = parsed(tmp_path, settings, "--method", "fixed")
    assert not plain.stage.first and not any(name.startswith("sft_") for name in plain.to_json())
    assert parsed(tmp_path, {**settings, "method": "fixed"}).to_json() == plain.to_json()
    other = parsed(tmp_path, settings, "--method=sft+auto-guide")  # whose preset has lengths of its own
    assert (other.method, other.training.guidance_length) == ("sft+auto-guide", 0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sft+none"}, "field 'method': 'sft+none' has no method behind the plus; fix: write sft+METHOD with one of grpo, "),
        ({"method": "sft+"}, "field 'method': 'sft+' has no method behind the plus"),
        ({"method": "sft+sft+auto-guide"}, "field 'method': 'sft+sft+auto-guide' has no method behind the plus"),
        ({"sft_patience": -1}, "field 'sft_patience': -1 is out of range; fix: use a number 0 or more"),
        ({"sft_learning_rate": 0}, "field 'sft_learning_rate'"),
        ({"train_data": "chains:steps=3,count=3,seed=1"}, "field 'train_data': has 3 problems, too few to hold any out; fix: add some, or set sft_patience 0"),
        ({"sft_max_length": 5}, "leaves nothing to teach"),
        ({"sft_shares": [2.0]}, "field 'sft_shares': 2.0 is no share"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_line_and_write_nothing(
    changes: dict[str, Any], message: str, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, settings_of(policy_folder, tmp_path / "run", **changes)) == 2
    [line] = [line for line in capsys.readouterr().err.strip().splitlines() if "fix: " in line]
    assert message in line and not (tmp_path / "run").exists()


def test_data_without_traces(policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(8)))
    assert train(tmp_path, settings_of(policy_folder, tmp_path / "run", method="sft+grpo", train_data=str(data))) == 2
    assert "field 'guidance': has no trace in any row" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_curve_of_a_comparison_begins_where_the_method_does(tmp_path: Path) -> None:
    """At 0 tokens the fine-tuned policy stands, and `before` is still the one before everything."""
    figures = {
        name: {"scores": [score], "difficulty": [""]}
        for name, score in (("before", 0.0), ("between", 0.5), ("after", 1.0))
    }
    (tmp_path / "eval.json").write_text(json.dumps(figures))
    (tmp_path / "config.yaml").write_text("eval_data: x\n")
    jsonl.append_rows(tmp_path / "evals.jsonl", [{"step": 1, "tokens": 40, "scores": [0.75]}])
    measured = load({"run": str(tmp_path), "seed": 0, "tokens_generated": 80})
    assert measured.points == [(0.0, [0.5]), (40.0, [0.75]), (80.0, [1.0])] and measured.before == [0.0]


@pytest.mark.slow
def test_a_variant_of_a_comparison(policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = settings_of(policy_folder, tmp_path, max_steps=2, eval_every=1, save_strategy="no")
    del common["output_dir"], common["method"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(common))
    variants = {"fixed": {"method": "fixed"}, "after sft": {"method": "sft+fixed", "sft_learning_rate": 1e-2}}
    plan = {"config": "run.yaml", "output_dir": str(tmp_path / "runs"), "variants": variants, "baseline": "fixed"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert main(["compare", "--config", str(tmp_path / "plan.yaml"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    fixed, after = (next(run for run in summary["runs"] if run["variant"] == name) for name in variants)
    assert (fixed["method"], after["method"]) == ("fixed", "sft+fixed")
    assert fixed["before"] == after["before"] and "between" not in fixed and "between" in after
    plan["variants"]["after sft"]["method"] = "sft+none"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, "output_dir": str(tmp_path / "others")}))
    assert main(["compare", "--config", str(tmp_path / "plan.yaml")]) == 2
    assert "'sft+none' has no method behind the plus" in capsys.readouterr().err
    assert not (tmp_path / "others").exists()
    shutil.rmtree(tmp_path / "runs")


def test_auto_begins_with_fine_tuning_unless_told_not_to(policy_folder: Path, tmp_path: Path) -> None:
    settings = {**settings_of(policy_folder, tmp_path / "run"), "method": "auto"}
    settings = {name: value for name, value in settings.items() if not name.startswith("guidance_")}
    both, second = parsed(tmp_path, settings), parsed(tmp_path, settings, "--sft_epochs", "0")
    assert [(each.method, each.stage.first, each.stage.alone) for each in (both, second)] == [
        ("auto", True, False), ("auto", False, False),
    ]  # fmt: skip
    assert parsed(tmp_path, settings, "--method", "sft+auto").method == "auto"
    assert not parsed(tmp_path, settings, "--method", "auto-guide").stage.first
    with pytest.raises(InputError, match="field 'sft_epochs': 0 leaves nothing to fine-tune"):
        parsed(tmp_path, settings, "--method", "sft", "--sft_epochs", "0")


@pytest.mark.slow
def test_fine_tuning_alone_is_a_method_of_train(policy_folder: Path, tmp_path: Path) -> None:
    """The policy that its one stage keeps is the policy of the run."""
    run = tmp_path / "run"
    settings = settings_of(policy_folder, run)
    settings = {name: value for name, value in settings.items() if not name.startswith("guidance_")}
    assert train(tmp_path, {**settings, "method": "sft"}) == 0
    assert equal(weights(run / "model"), weights(run / "sft" / "model"))
    summary = read(run / "summary.json")
    assert (summary["method"], summary["steps"], summary["tokens_generated"]) == ("sft", 0, 0)
    assert summary["flops"] == read(run / "sft" / "summary.json")["flops"] > 0
    assert yaml.safe_load((run / "config.yaml").read_text())["method"] == "sft"


@pytest.mark.slow
def test_auto_does_not_guide_by_traces_that_could_not_be_imitated(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the untouched policy is kept, no rollout begins with a trace; else they do."""
    given = {}
    for name, accuracies in (
        ("undone", {0: 0.5, 3: 0.1, 6: 0.1, 1: 0.5}),
        ("kept", {0: 0.1, 3: 0.5, 6: 0.5, 9: 0.5, 1: 0.5}),
    ):
        script(monkeypatch, accuracies)
        settings = settings_of(policy_folder, tmp_path / name)
        settings = {key: value for key, value in settings.items() if not key.startswith("guidance_")}
        assert train(tmp_path, {**settings, "method": "auto", "max_steps": 1}) == 0
        monkeypatch.undo()
        given[name] = [row["guidance/ratio"] for row in jsonl.whole_rows(tmp_path / name / "metrics.jsonl")]
    assert given == {"undone": [0.0], "kept": [1.0]}
    assert capsys.readouterr().err.count("these traces do not guide either") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("after", "undone"), [(0.25, True), (0.5, False)])
def test_auto_keeps_what_fine_tuning_had_where_the_rest_lost_it(
    after: float, undone: bool, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 is guidance's. Against ±.215 of six problems that differ alike, a fall by .25 is clear."""
    script(monkeypatch, {0: 0.0, 3: 0.5, 6: 0.5, 9: 0.5, 1: after})
    run = tmp_path / "run"
    settings = settings_of(policy_folder, run, learning_rate=1e-2, max_steps=1, method="auto")
    settings = {key: value for key, value in settings.items() if not key.startswith("guidance_")}
    assert train(tmp_path, settings) == 0
    assert equal(weights(run / "model"), weights(run / "sft" / "model")) is undone
    first, second = read(run / "summary.json")["stages"]
    assert second.get("undone", False) is undone and first["kept"]["step"] == 9
    [row] = jsonl.whole_rows(run / "stopping.jsonl")
    assert (row["step"], row["accuracy"], row["problems"]) == (1, after, 6)
    assert second["flops"] > 0 and read(run / "eval.json")["after"]["accuracy"] is not None
