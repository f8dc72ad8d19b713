"""`guided-grpo compare` with `search`: trials with a scripted training in the place of the real one, and real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from guided_grpo.cli import main
from guided_grpo.commands import compare
from guided_grpo.store import jsonl, rundir
from parts import small_run

HELD_OUT, OTHERS = "chains:steps=3-5,count=6,seed=2", "chains:steps=6-7,count=8,seed=3"
RATES = {"5e-5": 0.25, "1e-4": 0.75, "2e-4": 0.5}


class Scripted:
    """Trains nothing: accuracy is that of the learning rate, worse for the method `fixed`; a rate of 1 fails."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []  # in the order in which they ran

    def __call__(self, settings: Any) -> dict[str, Any]:
        summary = rundir.read_json(settings.output / rundir.SUMMARY)
        if summary is not None:
            return dict(summary)
        training, run = settings.training, settings.run
        budget = {"flops": training.max_flops, "steps": training.max_steps}
        what = {"method": training.method, "rate": training.learning_rate, "seed": training.seed}
        self.runs.append({**what, **budget, "data": run.eval_data, "every": run.eval_every})
        if training.learning_rate == 1:
            raise RuntimeError("diverged")
        accuracy = {float(rate): value for rate, value in RATES.items()}[training.learning_rate]
        if training.method == "fixed":
            accuracy = 1 - accuracy
        rundir.claim(settings.output, settings.to_json())
        scores = [accuracy] * 4
        measured = {"scores": scores, "difficulty": [""] * 4}
        rundir.write_json(settings.output / rundir.EVAL, {"before": measured, "after": measured})
        summary = {
            "method": training.method, "seed": training.seed, "steps": 5, "tokens_generated": 1000, "flops": 2e9,
            "trace_tokens": 300, "rescue_tokens": 0, "train_seconds": 1.0, "after": {"accuracy": accuracy},
        }  # fmt: skip
        rundir.write_json(settings.output / rundir.SUMMARY, summary)
        return summary


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    script = Scripted()
    monkeypatch.setattr(compare, "train", script)
    monkeypatch.setattr(compare, "build_report", lambda runs, path: path)  # there is no metrics.jsonl to show
    return script


def write_plan(folder: Path, **changes: Any) -> list[str]:
    run = {**small_run(Path("embedded")), "eval_data": HELD_OUT, "max_flops": 1e10, "max_steps": 400, "eval_every": 5}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    plan = {
        "config": "run.yaml", "output_dir": str(folder / "out"), "seeds": [0, 1],
        "variants": {"grpo": {"method": "grpo"}, "fixed": {"method": "fixed"}},
        "search": {"learning_rate": list(RATES)}, "search_data": OTHERS, **changes,
    }  # fmt: skip
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return ["compare", "--config", str(path), "--quiet"]


@pytest.mark.slow
def test_each_variant_trains_with_what_its_own_search_found(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = write_plan(tmp_path)
    assert main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    trials, figure = scripted.runs[:6], scripted.runs[6:]
    assert [(run["method"], run["rate"]) for run in trials] == [
        ("grpo", 5e-5), ("grpo", 1e-4), ("grpo", 2e-4), ("fixed", 5e-5), ("fixed", 1e-4), ("fixed", 2e-4),
    ]  # fmt: skip
    for run in trials:  # a seed, problems and 0.3 of the budget of their own, and no evaluation on the way
        assert (run["seed"], run["data"], run["flops"], run["steps"], run["every"]) == (100, OTHERS, 3e9, 120, 0)
    # Scripted: grpo is best with 1e-4 (0.75), fixed with 5e-5 (1 − 0.25); every seed of the figure has it.
    assert [(run["method"], run["seed"], run["rate"]) for run in figure] == [
        ("grpo", 0, 1e-4), ("fixed", 0, 5e-5), ("grpo", 1, 1e-4), ("fixed", 1, 5e-5),
    ]  # fmt: skip
    for run in figure:
        assert (run["data"], run["flops"], run["steps"], run["every"]) == (HELD_OUT, 1e10, 400, 5)
    assert summary["search"]["fixed"]["best"] == {"learning_rate": "5e-5"}
    assert [entry["accuracy"] for entry in summary["search"]["fixed"]["candidates"]] == [0.75, 0.25, 0.5]
    assert rundir.read_json(tmp_path / "out" / "search.json") == summary["search"]
    assert (tmp_path / "out" / "search" / "grpo" / "learning_rate=1e-4" / "summary.json").exists()
    entry = summary["variants"]["grpo"]
    assert (entry["flops"]["mean"], entry["trace_tokens"]["mean"]) == (2e9, 300)
    assert entry["budget"] == {"max_flops": 1e10, "max_steps": 400}
    # Again: nothing runs, and people read the same.
    assert main(words) == 0
    assert len(scripted.runs) == 10
    text = capsys.readouterr().out
    [line] = [line for line in text.splitlines() if line.startswith("grpo  ")]
    assert "1e+10 FLOPs" in line and "2.00e+09" in line and " 1,000 " in line and " 300 " in line
    assert (
        "grpo searched: learning_rate 1e-4 75.0%; learning_rate 2e-4 50.0%; learning_rate 5e-5 25.0% "
        f"(seed 100, 0.3 of the budget, {OTHERS})"
    ) in text


@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on_and_the_plan_shows_it(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = write_plan(tmp_path, seeds=[0])

    def cut_off(settings: Any) -> dict[str, Any]:
        if len(scripted.runs) == 4:
            raise KeyboardInterrupt
        return scripted(settings)

    monkeypatch.setattr(compare, "train", cut_off)
    assert main(words) == 130
    assert not (tmp_path / "out" / "search.json").exists()
    monkeypatch.setattr(compare, "train", scripted)
    capsys.readouterr()
    assert main([*words, "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    trial = str(tmp_path / "out" / "search" / "fixed" / "learning_rate=1e-4")
    assert [line.split()[1:] for line in lines if trial in line] == [["seed", "100", trial, "to", "do"]]
    assert sum("finished at step 5" in line for line in lines) == 4
    assert lines[-2].endswith("fixed-seed0  to do, with what its search finds")
    assert lines[-1] == "4 of 8 runs are finished"
    assert main(words) == 0
    assert len(scripted.runs) == 6 + 2  # no trial ran twice
    capsys.readouterr()
    assert main([*words, "--plan", "--json"]) == 0
    states = json.loads(capsys.readouterr().out)
    assert [state["search"] for state in states[:3]] == [{"learning_rate": rate} for rate in RATES]
    assert [state["searched"] for state in states[6:]] == [{"learning_rate": "1e-4"}, {"learning_rate": "5e-5"}]
    # One seed more takes what was chosen, and searches nothing.
    assert main([*words, "--seeds", "0", "7"]) == 0
    assert [(run["seed"], run["rate"]) for run in scripted.runs[8:]] == [(7, 1e-4), (7, 5e-5)]


def test_trials_that_fail_are_out_and_a_variant_without_any_is_lost(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"grpo": {"method": "grpo", "search": {"learning_rate": [1.0, "2e-4"]}},
                "fixed": {"method": "fixed", "search": {"learning_rate": [1.0]}},
                "as-it-is": {"method": "grpo", "learning_rate": "5e-5", "search": None}}  # fmt: skip
    words = write_plan(tmp_path, seeds=[0], variants=variants)
    assert main([*words, "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert [(run["seed"], run["rate"]) for run in scripted.runs] == [
        (100, 1.0), (100, 2e-4), (100, 1.0), (0, 2e-4), (0, 5e-5),
    ]  # fmt: skip
    [lost] = [run for run in summary["runs"] if "error" in run]
    assert lost["variant"] == "fixed"
    assert lost["error"] == "its search found no accuracy: RuntimeError: diverged"
    assert list(summary["variants"]) == ["grpo", "as-it-is"]
    assert list(summary["search"]) == ["grpo", "fixed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search_data": None}, "plan.yaml: field 'search_data': is missing; fix: name held-out problems"),
        ({"search_data": HELD_OUT}, f"field 'search_data': '{HELD_OUT}' is eval_data too; fix: use other problems"),
        (
            {"search_data": "chains:count=6,steps=3-5,seed=2"},  # the same problems in other words
            "field 'search_data': 'chains:count=6,steps=3-5,seed=2' has 6 of the 6 problems of eval_data",
        ),
        ({"search_seed": 1}, "field 'search_seed': 1 is a seed of the figure"),
        ({"search": {"no_such_field": [1]}}, "no_such_field"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_runs(
    changes: dict[str, Any], message: str, scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(write_plan(tmp_path, **changes)) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1
    assert scripted.runs == [] and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_real_search_on_a_share_of_the_flops(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {**small_run(policy_folder), "max_flops": 1e8, "max_steps": 50, "rollouts_every": 0}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    plan = {
        "config": "run.yaml", "output_dir": str(tmp_path / "out"), "variants": {"fixed": {"method": "fixed"}},
        "search": {"learning_rate": ["1e-3", "1e-2"]}, "search_data": OTHERS, "search_share": 0.5,
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert main(["compare", "--config", str(tmp_path / "plan.yaml"), "--quiet", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    [figure] = summary["runs"]
    trials = summary["search"]["fixed"]["candidates"]
    rows = list(jsonl.whole_rows(Path(figure["run"]) / "metrics.jsonl"))
    assert rows[-1]["flops/total"] == figure["flops"] >= 1e8 > rows[-2]["flops/total"]
    for trial in trials:
        spent = [row["flops/total"] for row in jsonl.whole_rows(Path(trial["run"]) / "metrics.jsonl")]
        assert spent[-1] == trial["flops"] >= 5e7 > spent[-2]
    assert figure["trace_tokens"] > 0
    assert (tmp_path / "out" / "report.html").exists()
