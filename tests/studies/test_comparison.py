"""Figures of a comparison by hand: means, wider intervals, paired tests, tiers, tokens to an accuracy; no torch."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from guided_grpo.errors import InputError
from guided_grpo.store import jsonl, rundir
from guided_grpo.studies.comparison.measured import read_tiers
from guided_grpo.studies.comparison.summary import mean_curve, reached, summarise
from guided_grpo.studies.comparison.table import table

T2 = 4.302652729911275  # t quantile 0.975 with 2 degrees of freedom


def make_run(
    folder: Path,
    variant: str,
    seed: int,
    after: list[float | None],
    *,
    before: list[float | None] | None = None,
    during: dict[int, list[float | None]] | None = None,  # tokens → accuracies of the problems
    difficulty: list[str] | None = None,
    tokens: int = 1000,
    eval_data: str = "held.jsonl",
) -> dict[str, Any]:
    run = folder / f"{variant}-seed{seed}"
    run.mkdir(parents=True)
    levels = difficulty or [""] * len(after)
    both = {"before": before or [0.0] * len(after), "after": after}
    rundir.write_json(run / "eval.json", {when: {"scores": s, "difficulty": levels} for when, s in both.items()})
    (run / "config.yaml").write_text(yaml.safe_dump({"eval_data": eval_data}))
    rows = [{"step": n, "tokens": at, "scores": s} for n, (at, s) in enumerate((during or {}).items(), 1)]
    jsonl.append_rows(run / "evals.jsonl", rows)  # type: ignore[arg-type]
    cost = {"tokens_generated": tokens, "rescue_tokens": 0, "steps": 5, "train_seconds": 10.0}
    signal = {"zero_groups": 0.5, "difficult_groups": 0.5, "grad_norm_mean": 1.0, "grad_norm_variance": 0.1}
    return {"variant": variant, "seed": seed, "run": str(run), "after": {}, **cost, **signal}


def test_three_seeds_give_the_wider_interval_and_the_paired_t_test_over_seeds(tmp_path: Path) -> None:
    # Differences of the seeds: 0.25, 0.5, 0.75: mean 0.5, standard error 0.25 / √3, t = 2√3 with 2 degrees of freedom.
    worse = [[0.0, 0.0, 0.0, 0.0]] * 3
    better = [[0.25] * 4, [0.5] * 4, [0.75] * 4]
    runs = [make_run(tmp_path, "a", seed, scores) for seed, scores in enumerate(worse)]
    runs += [make_run(tmp_path, "b", seed, scores) for seed, scores in enumerate(better)]
    found = summarise(runs, "a")["variants"]["b"]["difference"]
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["by_seed"] == pytest.approx([0.25, 0.5, 0.75])
    assert (found["over"], found["problems"], found["seeds"]) == ("seeds", 4, [0, 1, 2])
    t = 2 * math.sqrt(3)
    assert found["p_value"] == pytest.approx(1 - t / math.sqrt(2 + t * t))  # the t distribution with 2 degrees: exact
    # Over seeds ± t₂ · 0.25/√3 = ± 0.621; over problems the four differences are all 0.5: ± Wilson's 3.84/(4 + 3.84).
    seeds = T2 * 0.25 / math.sqrt(3)
    assert found["interval"] == pytest.approx([0.5 - seeds, 1.0])
    assert seeds > 3.8415 / 7.8415


def test_seeds_that_agree_do_not_make_problems_that_differ_certain(tmp_path: Path) -> None:
    # The seeds differ by 0.5, 0.5, 0.5; but one problem of two gained everything: the interval over problems is wide.
    runs = [make_run(tmp_path, "a", seed, [0.0, 0.0]) for seed in range(3)]
    runs += [make_run(tmp_path, "b", seed, [0.0, 1.0]) for seed in range(3)]
    found = summarise(runs, "a")["variants"]["b"]["difference"]
    assert found["interval"] == [-1.0, 1.0]
    assert found["p_value"] == pytest.approx(0.25)  # the sign test of three: t knows no spread


def test_fewer_common_seeds_are_paired_over_problems_of_those_seeds_alone(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", seed, [0.0, 0.25, 1.0, 0.5]) for seed in (0, 1)]
    runs += [make_run(tmp_path, "b", 1, [0.25, 0.75, 1.0, 0.75]), make_run(tmp_path, "b", 7, [0.0] * 4)]
    found = summarise(runs, "a")["variants"]["b"]["difference"]
    assert (found["seeds"], found["over"]) == ([1], "problems")
    assert found["accuracy"] == pytest.approx(0.25)  # (0.25 + 0.5 + 0 + 0.25) / 4
    # Variance 1/24 over three problems that differ; a(1 − a) = 0.4375 · 0.5625, b(1 − b) = 0.6875 · 0.3125.
    unlike = 0.4375 * 0.5625 + 0.6875 * 0.3125
    error = math.sqrt((3 / 24 + 0.5 * unlike) / 3.5 / 4)
    half = 3.182446305284263 * error
    assert found["interval"] == pytest.approx([0.25 - half, 0.25 + half])
    # Without any common seed the problems' means over all seeds are paired.
    found = summarise([runs[0], runs[3]], "a")["variants"]["b"]["difference"]
    assert (found["seeds"], found["over"], found["accuracy"]) == ([], "problems", pytest.approx(-0.4375))


def test_problems_that_were_not_graded_are_left_out_in_place(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", 0, [None, 1.0, 0.0]), make_run(tmp_path, "b", 0, [1.0, None, 1.0])]
    summary = summarise(runs, "a")
    assert summary["variants"]["a"]["after"]["problems"] == 2
    assert (summary["variants"]["b"]["difference"]["accuracy"], summary["variants"]["b"]["difference"]["problems"]) == (
        1.0,
        1,
    )


def test_other_problems_are_not_paired(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", 0, [0.0, 1.0]), make_run(tmp_path, "b", 0, [1.0, 1.0], eval_data="other.jsonl")]
    summary = summarise(runs, "a")
    assert summary["variants"]["b"]["difference"] is None
    assert "–" in table(summary)


def test_tiers_have_their_own_figures(tmp_path: Path) -> None:
    levels = ["3", "6", "10", "14", "unknown"]
    runs = [
        make_run(tmp_path, "a", 0, [1.0, 0.5, 0.0, 0.0, 1.0], difficulty=levels, before=[0.5, 0.0, 0.0, 0.0, 0.0]),
        make_run(tmp_path, "b", 0, [1.0, 1.0, 0.5, 0.25, 1.0], difficulty=levels),
    ]
    summary = summarise(runs, "a", {"easy": (3, 6), "hard": (10, 14)})
    a, b = summary["variants"]["a"], summary["variants"]["b"]
    assert a["before"]["tiers"]["easy"]["accuracy"] == 0.25
    assert a["after"]["tiers"]["easy"]["accuracy"] == 0.75
    assert a["after"]["tiers"]["hard"]["problems"] == 2
    assert b["after"]["accuracy"] == pytest.approx(0.75)  # all five, also the one in no tier
    assert b["difference"]["tiers"]["hard"]["accuracy"] == pytest.approx(0.375)
    assert b["difference"]["tiers"]["easy"]["accuracy"] == pytest.approx(0.25)
    lines = [line.split() for line in table(summary).splitlines()]
    assert any(words[:4] == ["b", "hard", "0.0%", "37.5%"] and "+37.5%" in words for words in lines)
    # Problems whose difficulty the data does not say are in no tier.
    bare = make_run(tmp_path, "c", 0, [1.0, 0.5])
    assert summarise([bare], "c", {"easy": (3, 6)})["variants"]["c"]["after"]["tiers"]["easy"] is None


def test_tokens_to_an_accuracy(tmp_path: Path) -> None:
    """Two problems, an easy and a hard one; `a` ends at 0.5 with 1000 tokens (hard: 0.25)."""
    levels = ["3", "10"]
    runs = [make_run(tmp_path, "a", 0, [0.75, 0.25], difficulty=levels, during={400: [0.5, 0.0]})]
    # Over everything: 0 → 0.25 at 200 → 0.75 at 600 → 1: 0.5 half-way between 200 and 600.
    curve = {200: [0.5, 0.0], 600: [1.0, 0.5]}
    runs.append(make_run(tmp_path, "b", 0, [1.0, 1.0], difficulty=levels, during=curve, tokens=1100))  # type: ignore[arg-type]
    variants = summarise(runs, "a")["variants"]
    reach = variants["b"]["reaches"]["a"]
    assert (reach["tokens"], reach["of"], reach["share"], reach["by_seed"]) == (400.0, 1000.0, 0.4, [400.0])
    assert variants["a"]["reaches"]["b"]["tokens"] is None
    other = make_run(tmp_path, "c", 0, [0.25, 0.25])  # no evaluation during training
    assert summarise([*runs, other], "a")["variants"]["c"]["reaches"] == {}
    # On the hard tier: 0.25 is half-way between 0 at 200 and 0.5 at 600 as well; of `a` at the end alone.
    summary = summarise(runs, "a", {"hard": (10, 14), "easy": (0, 9)}, "easy")
    assert summary["variants"]["b"]["reaches"]["a"]["tokens"] == 400.0  # 0.75 between 0.5 at 200 and 1 at 600
    text = table(summary)
    assert "b reaches a's 75.0% on easy with 400 of its 1,000 tokens (0.40)" in text
    assert "a does not reach b's 100.0% on easy" in text


def test_tokens_to_an_accuracy_by_seed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", 0, [0.5], during={500: [0.25]})]
    for seed, at in enumerate((100, 200, 300)):
        runs.append(make_run(tmp_path, "b", seed, [1.0], during={at: [0.5]}))
    reach = summarise(runs, "a")["variants"]["b"]["reaches"]["a"]
    assert reach["by_seed"] == [100.0, 200.0, 300.0]
    half = T2 * 100 / math.sqrt(3)
    assert reach["interval"] == pytest.approx([200 - half, 200 + half])
    # At 100 the seeds are at 0.5, 0.25, 0.1667; at 200 at 0.5556, 0.5, 0.3333, of which the mean is 0.463; at 300 at
    # 0.6111, 0.5625, 0.5: 0.5579. So 0.5 comes after 100 · (0.5 − 0.46296) / (0.55787 − 0.46296) more.
    assert reach["tokens"] == pytest.approx(200 + 100 * (0.5 - 0.462963) / (0.557870 - 0.462963), rel=1e-4)


def test_curves() -> None:
    assert reached([(0, 0.1), (10, 0.3)], 0.1) == 0
    assert reached([(0, 0.0), (10, 0.4), (20, 0.0)], 0.2) == 5  # the first time counts, though it falls again
    assert reached([(0, 0.0), (10, 0.4)], 0.4) == 10
    assert reached([(0, 0.0), (10, 0.4)], 0.41) is None
    assert mean_curve([[(0, 0.0), (10, 1.0)], [(0, 0.0), (20, 1.0)]]) == [(0, 0.0), (10, 0.75), (20, 1.0)]


def test_runs_without_some_figures_still_make_a_table(tmp_path: Path) -> None:
    run = {k: v for k, v in make_run(tmp_path, "a", 0, [0.5]).items() if k not in ("zero_groups", "rescue_tokens")}
    failed = {"variant": "b", "seed": 0, "run": "x/b-seed0", "error": "ValueError: no"}
    summary = summarise([run, failed], "b")
    assert list(summary["variants"]) == ["a"]
    assert "failed: x/b-seed0: ValueError: no" in table(summary)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"tiers": {"hard": [14, 10]}}, "field 'tiers.hard': .14, 10. is no range"),
        ({"tiers": {"hard": "10-14"}}, "is no range"),
        ({"tiers": {"hard": [1, 2, 3]}}, "is no range"),
        ({"tiers": {"all": [1, 2]}}, "means every problem"),
        ({"tiers": ["hard"]}, "is no mapping"),
        ({"target": "hard"}, "'hard' is no tier of the plan; fix: use all"),
    ],
)
def test_bad_tiers_are_refused(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tiers(plan, Path("plan.yaml"))


def test_it_loads_without_torch() -> None:
    code = "import sys, guided_grpo.studies.comparison; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
