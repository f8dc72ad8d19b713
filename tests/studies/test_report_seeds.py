"""Seeds of one variant in a report: one colour, one button, thin lines under their mean. By hand, on small runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from guided_grpo.studies.report.curves import CURVES, curve_plot
from guided_grpo.studies.report.logs import load_runs
from guided_grpo.studies.report.page import render
from guided_grpo.studies.report.plots import tiers_plot


def make_run(folder: Path, name: str, rewards: list[float], tokens: int, after: float) -> Path:
    run = folder / name
    run.mkdir()
    rows = [
        {"step": n, "reward/unguided": reward, "tokens/generated_total": n * tokens}
        for n, reward in enumerate(rewards, 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = {"accuracy": after, "interval": [after - 0.1, after + 0.2], "problems": 10}
    (run / "eval.json").write_text(json.dumps({"before": None, "after": score}))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path, "a-seed0", [0.0, 0.4], 100, 0.2),
        make_run(tmp_path, "b", [0.1, 0.1], 100, 0.5),
        make_run(tmp_path, "a-seed1", [0.2, 0.4, 0.8], 50, 0.4),
    ]


def test_seeds_share_a_button_and_a_colour(runs: list[Path]) -> None:
    loaded = load_runs(runs)
    assert [(run.variant, run.group) for run in loaded] == [("a", 0), ("b", 1), ("a", 0)]
    assert loaded[0].colour == loaded[2].colour != loaded[1].colour
    page = render(loaded)
    assert re.findall(r'<button type="button" data-run="([\d ]+)"', page) == ["0 2", "1"]
    assert "a × 2" in page


def test_the_mean_goes_as_far_as_all_seeds_do(runs: list[Path]) -> None:
    figure = curve_plot(CURVES["tokens"], load_runs(runs)).figure
    assert figure is not None
    traces = {trace["name"]: trace for trace in figure["data"]}
    assert set(traces) == {"b", "a-seed0", "a-seed1", "a"}
    assert (traces["a-seed0"]["line"]["width"], traces["a"]["line"]["width"]) == (1, 2)
    # Both seeds know 100 (0 and 0.4) to 150 tokens; the first seed's points between them are those of the mean.
    assert (traces["a"]["x"], traces["a"]["y"]) == ([100], [0.2])


def test_bars_are_the_means_of_seeds(runs: list[Path]) -> None:
    figure = tiers_plot(load_runs(runs)).figure
    assert figure is not None
    bars = {trace["name"]: trace for trace in figure["data"]}
    assert set(bars) == {"a · after", "b · after"}
    assert bars["a · after"]["y"] == pytest.approx([0.3])
    # From 0.2 − 0.1 to 0.4 + 0.2.
    assert bars["a · after"]["error_y"]["array"] == pytest.approx([0.3])
    assert bars["a · after"]["error_y"]["arrayminus"] == pytest.approx([0.2])
