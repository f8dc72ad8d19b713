"""Rounds behind fine-tuning: who is asked, behind what, what becomes a trace, what it costs, kills, adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import QWEN3_TEMPLATE
from datasets import Dataset
from safetensors.torch import load_file

from guided_grpo.cli import main
from guided_grpo.commands import results, rounds, stages
from guided_grpo.commands.parsing import TeachingArguments, parse
from guided_grpo.commands.policies import load_model, policy_source
from guided_grpo.commands.stopping import set_aside
from guided_grpo.data.domains.chains import chains
from guided_grpo.embedded.recipes import SHIPPED
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.store import jsonl
from guided_grpo.store.jsonl import encoded

COUNT = 32


def write_data(path: Path) -> list[dict[str, Any]]:
    """Of eight problems in turn: two with a right trace, two with one that is cut, one wrong, three without any."""
    rows = [dict(row) for row in chains(COUNT, 3, 4, seed=3)]
    for place, row in enumerate(rows):
        kind, trace = place % 8, str(row["guidance"])
        if kind < 2:
            row["guidance"] = f"{trace}#### {row['answer']}"
        elif kind in (2, 3):
            row["guidance"] = trace[: trace.index(";") + 1]
        elif kind == 4:
            digit = trace.index("=") + 1
            row["guidance"] = trace[:digit] + str((int(trace[digit]) + 1) % 10) + trace[digit + 1 :] + "#### 77"
        elif kind > 4:
            row["guidance"] = None
        row.pop("guidance_limit", None)
    path.write_bytes(encoded(rows))
    return rows


def settings_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """The embedded policy, which solves many of such problems when it samples cold; one round."""
    write_data(folder / "rows.jsonl")
    return {
        "model_name_or_path": "embedded", "train_data": str(folder / "rows.jsonl"), "output_dir": str(folder / "run"),
        "method": "sft+grpo", "sft_rounds": 1, "sft_batch_size": 4, "sft_epochs": 2,
        "sft_learning_rate": 1e-4, "sft_every": 4, "sft_patience": 2, "sft_held_out": 4,
        "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 40, "temperature": 0.3, "max_steps": 1,
        "learning_rate": 0.0, "use_cpu": True, "bf16": False, "report_to": "none", "quiet": True, "eval_samples": 2,
        "eval_max_tokens": 40, "eval_temperature": 1.0, "eval_top_k": 0, "eval_top_p": 1.0, "save_strategy": "no",
        "gradient_checkpointing": False, "logging_steps": 1, **changes,
    }  # fmt: skip


def train(folder: Path, settings: dict[str, Any]) -> int:
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return main(["train", "--config", str(folder / "run.yaml")])


def parsed(folder: Path, settings: dict[str, Any]) -> Any:
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return parse(["--config", str(folder / "run.yaml")])


def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out accuracy that rises with the steps, so that every round is kept at its end."""
    measure = results.evaluate

    def evaluate(*positional: Any, label: str, **named: Any) -> dict[str, Any]:
        figures = measure(*positional, label=label, **named)
        step = label.removeprefix("step ")
        return {**figures, "accuracy": int(step) / 1000} if step.isdigit() else figures

    monkeypatch.setattr(results, "evaluate", evaluate)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def weights(folder: Path) -> bytes:
    [file] = folder.glob("*.safetensors")
    return file.read_bytes()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing kills."""
    folder = tmp_path_factory.mktemp("rounds")
    with pytest.MonkeyPatch.context() as patch:
        always_better(patch)
        assert train(folder, settings_of(folder)) == 0
    return folder


@pytest.mark.slow
def test_what_comes_out_right_is_taught(whole_run: Path) -> None:
    rows, run = write_data(whole_run / "again.jsonl"), whole_run / "run"
    made, traces = read(run / "traces-2.json"), list(jsonl.whole_rows(run / "traces-2.jsonl"))
    assert [row["prompt"] for row in traces] == [row["prompt"] for row in rows]
    _, asked = set_aside(Dataset.from_list(rows), TeachingArguments(sft_patience=2, sft_held_out=4), 42)
    held_out = set(asked["prompt"])
    solved = 0
    for place, (row, given) in enumerate(zip(traces, rows, strict=True)):
        if place % 8 < 2:  # a right trace stays
            assert row["guidance"] == given["guidance"]
        elif row["prompt"] in held_out:
            assert row["guidance"] is None
        elif row["guidance"] is not None:
            solved += 1
            assert row["guidance"].endswith(f"#### {given['answer']}")
            if place % 8 < 4:
                assert row["guidance"].startswith(given["guidance"])
    assert made["solved"] == solved > 0
    assert made["asked"] == sum(place % 8 >= 2 and row["prompt"] not in held_out for place, row in enumerate(rows))

    summary = read(run / "summary.json")
    first, second, last = summary["stages"]
    teaching = read(run / "sft-2" / "summary.json")
    taught = sum(row["guidance"] is not None and row["prompt"] not in held_out for row in traces)
    assert (second["asked"], second["solved"], teaching["demonstrations"]) == (made["asked"], solved, taught)
    assert second["flops"] == teaching["flops"] + made["flops"] and made["flops"] > 0
    assert summary["flops"] == first["flops"] + second["flops"] + last["flops"]
    # METHOD begins with what the round ended with, and its rate of 0 leaves it so.
    assert weights(run / "model") == weights(run / "sft-2" / "model") != weights(run / "sft" / "model")
    rates = [row["learning_rate"] for row in jsonl.whole_rows(run / "sft-2" / "metrics.jsonl")]
    assert max(rates) <= 1e-4 * stages.RATE_BEHIND


def test_who_is_asked_behind_what(tmp_path: Path, tokenizer: Any) -> None:
    """The cut ones behind their trace, the wrong one and those without any alone."""
    settings = parsed(tmp_path, settings_of(tmp_path, sft_patience=0))
    rows = write_data(tmp_path / "rows.jsonl")
    with Grader() as grader:
        problems = rounds.problems_of(settings, grader)
    assert problems.open == [place for place in range(COUNT) if place % 8 >= 2]
    guide = GuidanceTokenizer(tokenizer, {}, "auto", leak=True)
    requests = list(rounds._requests(problems, problems.open, guide))
    assert [request.problem for request in requests] == problems.open
    for request in requests:
        row = rows[request.problem]
        beginning = row["guidance"] if request.problem % 8 in (2, 3) else ""
        assert tokenizer.decode(request.prefix_ids) == beginning
        assert tokenizer.decode(request.prompt_ids) == row["prompt"] + beginning
    order = rounds._order(settings, problems, 2)
    assert sorted(order) == problems.open != order and rounds._order(settings, problems, 3) != order


def test_a_budget_decides_how_many_are_asked(tmp_path: Path, tokenizer: Any) -> None:
    """By hand: 2·N for each token of a prompt and of the longest response, a third of the budget."""
    settings = parsed(tmp_path, settings_of(tmp_path, sft_patience=0, max_completion_length=8))
    (tmp_path / "run").mkdir()
    model = load_model(policy_source("embedded", field="model_name_or_path"), settings)
    size = sum(parameter.numel() for parameter in model.parameters())
    with Grader() as grader:
        problems = rounds.problems_of(settings, grader)
        order = rounds._order(settings, problems, 2)
        requests = list(rounds._requests(problems, order, GuidanceTokenizer(tokenizer, {}, "auto", leak=True)))
        costs = [2 * size * (len(request.prompt_ids) + 8) for request in requests[:5]]
        made = rounds.make_traces(settings, 2, problems, grader, model, tokenizer, 3 * sum(costs))
        assert made["asked"] == 5
        (tmp_path / "run" / "traces-2.json").unlink()
        assert rounds.made_traces(settings, 2) is None
        made = rounds.make_traces(settings, 2, problems, grader, model, tokenizer, 3 * sum(costs) - 3)
        assert made["asked"] == 4 and rounds.made_traces(settings, 2) == made


class Killed(BaseException):
    """Nothing catches it, so that all stays as it is on the disk."""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sft/summary.json", "traces-2.jsonl", "traces-2.json", "sft-2/summary.json"])
def test_the_same_after_a_kill(place: str, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the file is there; `stopping` is asked by step, so the run goes on with the same decisions."""
    settings = {**settings_of(tmp_path), "train_data": str(whole_run / "rows.jsonl")}
    write = rounds.rundir.write_bytes

    def dying(path: Path, data: bytes) -> None:
        write(path, data)
        if str(path).endswith(place):
            raise Killed

    with monkeypatch.context() as patch:
        always_better(patch)
        patch.setattr(rounds.rundir, "write_bytes", dying)
        with pytest.raises(Killed):
            train(tmp_path, settings)
    with monkeypatch.context() as patch:
        always_better(patch)
        assert train(tmp_path, settings) == 0
    for name in ("model", "sft-2/model"):
        assert weights(tmp_path / "run" / name) == weights(whole_run / "run" / name)
    one, other = (read(folder / "run" / "summary.json") for folder in (tmp_path, whole_run))
    assert one["flops"] == other["flops"]
    assert (tmp_path / "run" / "traces-2.jsonl").read_bytes() == (whole_run / "run" / "traces-2.jsonl").read_bytes()


@pytest.mark.slow
def test_adapters_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One set of them through all stages, none put on another."""
    always_better(monkeypatch)
    settings = settings_of(
        tmp_path, use_peft=True, lora_r=4, lora_target_modules=["q_proj", "v_proj"], sft_learning_rate=1e-2
    )
    assert train(tmp_path, settings) == 0
    run = tmp_path / "run"
    sets = [load_file(run / name / "adapter_model.safetensors") for name in ("sft/model", "sft-2/model", "model")]
    assert sets[0].keys() == sets[1].keys() == sets[2].keys()
    name = next(iter(sets[0]))
    assert not sets[0][name].equal(sets[1][name]) and sets[1][name].equal(sets[2][name])


@pytest.mark.parametrize(
    ("data", "scores", "folders"),
    [
        ("all whole", {0: 0.0, 4: 0.5, 8: 0.5}, ["sft"]),  # nothing to ask
        ("mixed", {0: 0.5, 4: 0.0, 8: 0.0}, ["sft"]),  # fine-tuning was no better than none
    ],
)
@pytest.mark.slow
def test_when_there_is_no_round(
    data: str, scores: dict[int, float], folders: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = results.evaluate

    def evaluate(*positional: Any, label: str, **named: Any) -> dict[str, Any]:
        figures = measure(*positional, label=label, **named)
        step = label.removeprefix("step ")
        accuracy = scores.get(int(step), 0.5) if step.isdigit() else figures["accuracy"]
        return {**figures, "accuracy": accuracy, "scores": [accuracy] * len(figures["scores"])}

    monkeypatch.setattr(results, "evaluate", evaluate)
    settings = settings_of(tmp_path)
    if data == "all whole":
        settings |= {"train_data": "chains:steps=3-4,count=32,seed=3", "sft_answer": "#### {answer}"}
    assert train(tmp_path, settings) == 0
    assert sorted(path.name for path in (tmp_path / "run").glob("sft*")) == folders
    assert len(read(tmp_path / "run" / "summary.json")["stages"]) == 2


@pytest.mark.parametrize(
    ("accuracies", "rounds_at_most", "paid"),
    [
        ([0.5], 3, [50, 46]),  # of 100 FLOPs; asking costs 4 each time
        ([0.2, 0.5], 3, [50, 50 / 3 - 4, 100 / 3 - 4]),
        ([0.2, 0.2, 0.2], 3, [50, 50 / 3 - 4, 50 / 3 - 4, 50 / 3 - 4]),
        ([0.2, 0.2], 2, [50, 21, 21]),
        ([None, None], 2, [50, 21, 21]),  # nothing was held out
        ([0.0], 3, [50]),  # step 0 was kept
        ([0.5], 0, [100]),
    ],
)
def test_rounds_go_on_until_half_is_solved(
    accuracies: list[float | None],
    rounds_at_most: int,
    paid: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What each stage may spend, by hand, where every one of them spends all of it."""
    found, budgets = iter([*accuracies, 1.0]), []

    def taught(stage: Any, *positional: Any, **named: Any) -> dict[str, Any]:
        accuracy = next(found)
        budgets.append(stage.sft.max_flops)
        kept = {} if accuracy is None else {"kept": {"step": 4 if accuracy else 0, "accuracy": accuracy}}
        return {"flops": stage.sft.max_flops, "seconds": 1.0, **kept}

    def asked(*positional: Any) -> dict[str, Any]:
        return {"asked": 10, "solved": 2, "flops": 4, "seconds": 1.0}

    open_problems = rounds.Problems([{"prompt": "1="}], ["whole"], [None])
    monkeypatch.setattr(stages.sft, "run", taught)
    monkeypatch.setattr(rounds, "make_traces", asked)
    monkeypatch.setattr(rounds, "problems_of", lambda *positional: open_problems)
    monkeypatch.setattr(rounds, "problems_behind", lambda *positional: open_problems)
    monkeypatch.setattr(stages, "policy_of", lambda *positional: (None, None))
    settings = parsed(tmp_path, settings_of(tmp_path, max_flops=100, sft_rounds=rounds_at_most))
    nothing: Any = None
    summaries = stages.fine_tune(settings, str(SHIPPED / "embedded"), nothing, nothing, lambda: None)
    assert budgets == pytest.approx(paid) and len(summaries) == len(paid)


def test_the_opening_of_a_thinking_block_is_not_doubled(tokenizer: Any) -> None:
    """A policy opens the block itself, and a trace gets it from where it is placed."""
    chat = deepcopy(tokenizer)
    chat.chat_template = QWEN3_TEMPLATE
    guide = GuidanceTokenizer(chat, {}, "open", leak=True)
    prompt = [{"role": "user", "content": "1+1="}]
    assert guide.without_opening(prompt, "<think>\nabc") == "abc"
    assert guide.without_opening(prompt, "abc") == "abc"
