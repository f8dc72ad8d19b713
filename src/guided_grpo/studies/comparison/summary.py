"""What the runs of a comparison come to: means, intervals, tests against the baseline, tokens to an accuracy.

A run is a result (what its summary.json says, with `variant`, `seed`, `run`) and its directory. Accuracies are those of
single problems: eval.json and evals.jsonl hold them in the data's order, so that runs are paired problem by problem.

Intervals. Problems and seeds both vary. An interval over problems alone says how the policies of these very seeds do on
other problems; one over seeds alone says how other seeds would do on these very problems. From three seeds on both are
taken, and the wider one is given: either alone would claim more than was seen. With fewer seeds it is that over
problems (of each problem the mean over the seeds), which says nothing of other seeds.

Tests. The p-value is that of the paired t-test over the common seeds from three on, since the seed is what was
repeated; else of the paired one over problems (`stats.difference_interval`). So an interval that problems made wide may
hold 0 where the p-value over seeds is small: then the methods differ on these problems, and perhaps on no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats as scipy_stats  # type: ignore[import-untyped]  # SciPy ships no types

from guided_grpo.evaluation.stats import ROUNDING, difference_interval, mean_interval, seeds_interval
from guided_grpo.studies.comparison.measured import ALL, SEEDS, Measured, Scores, Tiers, load, mean_of, of_tier

Curve = Sequence[tuple[float, float]]  # (tokens, accuracy), ascending tokens; straight lines between
AVERAGED = (
    "flops", "tokens_generated", "trace_tokens", "rescue_tokens", "steps", "train_seconds",
    "zero_groups", "difficult_groups", "grad_norm_mean", "grad_norm_variance",
)  # fmt: skip


def summarise(
    results: list[dict[str, Any]],
    baseline: str,
    tiers: Tiers | None = None,
    target: str = ALL,
) -> dict[str, Any]:
    """Runs; by variant the means over seeds with their intervals, the difference to the baseline, tokens to accuracies.

    Args:
        results: of all runs, failed ones too.
        baseline: name of a variant.
        tiers: for figures by tier as well.
        target: name of a tier, or "all": what `reaches` is about.
    """
    summary: dict[str, Any] = {"baseline": baseline, "target": target, "variants": {}, "runs": results}
    measured: dict[str, list[Measured]] = {}
    for name in dict.fromkeys(result["variant"] for result in results):
        runs = [result for result in results if result["variant"] == name and "after" in result]
        if not runs:
            continue
        measured[name] = list(map(load, runs))
        entry: dict[str, Any] = {"seeds": [run["seed"] for run in runs], "budget": _budget(measured[name])}
        for when in ("before", "after"):
            entry[when] = _by_tier(measured[name], when, tiers or {})
        for key in AVERAGED:
            entry[key] = _over_seeds([run.get(key) for run in runs])
        summary["variants"][name] = entry
    for name, runs_of in measured.items():
        entry = summary["variants"][name]
        entry["difference"] = None
        if name != baseline and baseline in measured:
            entry["difference"] = _differences(measured[baseline], runs_of, tiers or {})
        entry["reaches"] = _reaches(name, measured, summary["variants"], target, tiers or {})
    return summary


def _budget(runs: Sequence[Measured]) -> dict[str, float] | None:
    """What each run of a variant had to spend; None where they differ."""
    first = dict(runs[0].budget)
    return first if all(run.budget == first for run in runs) else None


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean of a figure of the runs; from three seeds on with the 95 % interval over them. None where a run lacks it."""
    by_seed = [value for value in values if value is not None]
    if not by_seed or len(by_seed) < len(values):
        return {"mean": None}
    mean = math.fsum(by_seed) / len(by_seed)
    if len(by_seed) < SEEDS:
        return {"mean": mean}
    interval = seeds_interval(by_seed)
    return {"mean": mean, "interval": [interval.low, interval.high], "by_seed": by_seed}


def _by_tier(runs: Sequence[Measured], when: str, tiers: Tiers) -> dict[str, Any] | None:
    """Mean accuracy over all problems, and over those of each tier. None where a run was not evaluated then."""
    scores = [getattr(run, when) for run in runs]
    if any(of_run is None for of_run in scores):
        return None
    entry = _accuracy(scores)
    if entry is not None and tiers:
        entry["tiers"] = {
            name: _accuracy([of_tier(s, run.difficulty, bounds) for s, run in zip(scores, runs, strict=True)])
            for name, bounds in tiers.items()
        }
    return entry


def _accuracy(scores: Sequence[Scores]) -> dict[str, Any] | None:
    """Mean accuracy of runs on the same problems; None where nothing was graded."""
    by_seed = [mean_of(of_run) for of_run in scores]
    columns = _columns(scores)
    if not columns or any(mean is None for mean in by_seed):
        return None
    problems = mean_interval([_clipped(column) for column in columns])
    low, high = problems.low, problems.high
    if len(scores) >= SEEDS:
        seeds = seeds_interval([mean for mean in by_seed if mean is not None])
        low, high = max(0.0, min(low, seeds.low)), min(1.0, max(high, seeds.high))
    return {"accuracy": problems.mean, "by_seed": by_seed, "interval": [low, high], "problems": problems.problems}


def _columns(scores: Sequence[Scores]) -> list[list[float]]:
    """By problem, its accuracies over the runs; problems that one of them did not grade are left out."""
    if len({len(of_run) for of_run in scores}) > 1:
        return []  # not the same problems
    columns = ([score for score in column if score is not None] for column in zip(*scores, strict=True))
    return [column for column in columns if len(column) == len(scores)]


def _clipped(column: Sequence[float]) -> float:
    return min(1.0, math.fsum(column) / len(column))  # a mean of ones may round to more than 1


def _differences(baseline: Sequence[Measured], runs: Sequence[Measured], tiers: Tiers) -> dict[str, Any] | None:
    if {run.problems for run in baseline} != {run.problems for run in runs}:
        return None  # other problems: nothing is paired
    entry = paired(baseline, runs)
    if entry is not None and tiers:
        entry["tiers"] = {name: paired(baseline, runs, bounds) for name, bounds in tiers.items()}
    return entry


def paired(
    baseline: Sequence[Measured], runs: Sequence[Measured], bounds: tuple[float, float] | None = None
) -> dict[str, Any] | None:
    """Accuracy after training of `runs` minus that of `baseline`, on the same problems and their common seeds.

    Without a common seed each problem's mean over all seeds of both is paired, and the test is over problems.

    Args:
        baseline: runs of the baseline.
        runs: runs of the variant.
        bounds: lowest and highest difficulty; None = all problems.

    Returns the mean, the 95 % interval (the wider of over problems and over seeds, see the module), the p-value and
    what it is `over`; None where no problem was graded for both.
    """
    common = [run.seed for run in runs if run.seed in {other.seed for other in baseline}]
    sides = []
    for side in (baseline, runs):
        seeded = [run for seed in common for run in side if run.seed == seed] if common else side
        sides.append([of_tier(run.after, run.difficulty, bounds) for run in seeded])
    columns = _columns([*sides[0], *sides[1]])
    if not columns:
        return None
    first = [_clipped(column[: len(sides[0])]) for column in columns]
    second = [_clipped(column[len(sides[0]) :]) for column in columns]
    problems = difference_interval(first, second)
    low, high, p_value, over = problems.low, problems.high, problems.p_value, "problems"
    by_seed: list[float] = []
    if common:
        half = len(common)
        means = [math.fsum(column[place] for column in columns) / len(columns) for place in range(2 * half)]
        by_seed = [after - before for before, after in zip(means[:half], means[half:], strict=True)]
    if len(by_seed) >= SEEDS:
        seeds = seeds_interval(by_seed)
        low, high = max(-1.0, min(low, seeds.low)), min(1.0, max(high, seeds.high))
        p_value, over = _t_test(by_seed), "seeds"
    return {
        "accuracy": problems.mean, "interval": [low, high], "p_value": p_value, "over": over,
        "problems": problems.problems, "seeds": common, "by_seed": by_seed,
    }  # fmt: skip


def _t_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test; of the sign test where all differences are equal."""
    if max(differences) - min(differences) <= ROUNDING:
        return 2.0 ** (1 - len(differences)) if abs(differences[0]) > ROUNDING else 1.0
    return float(scipy_stats.ttest_1samp(differences, 0.0).pvalue)


def _reaches(
    name: str, measured: Mapping[str, list[Measured]], variants: Mapping[str, Any], target: str, tiers: Tiers
) -> dict[str, Any]:
    """For every other variant, the tokens at which this one first reaches its final mean accuracy.

    `tokens` is where the mean curve over seeds does (None: never), `share` that over the other's tokens; `by_seed`
    where the curve of each seed reaches the same accuracy, with an interval of the mean from three seeds on, where all
    do. Empty without evaluations during training.
    """
    bounds = None if target == ALL else tiers[target]
    curves = [curve for curve in (_curve(run, bounds) for run in measured[name]) if len(curve) > 2]
    if not curves or len(curves) < len(measured[name]):
        return {}
    mean, entries = mean_curve(curves), {}
    for other, entry in variants.items():
        final = entry["after"] if target == ALL or entry["after"] is None else entry["after"]["tiers"][target]
        if other == name or final is None:
            continue
        spent, accuracy = entry["tokens_generated"]["mean"], final["accuracy"]
        tokens, by_seed = reached(mean, accuracy), [reached(curve, accuracy) for curve in curves]
        values = [value for value in by_seed if value is not None]
        share = None if tokens is None or not spent else tokens / spent
        reach: dict[str, Any] = {
            "accuracy": accuracy, "tokens": tokens, "of": spent, "share": share, "by_seed": by_seed,
        }  # fmt: skip
        if len(values) == len(by_seed) >= SEEDS and spent:
            interval = seeds_interval(values)
            reach["interval"] = [interval.low, interval.high]
        entries[other] = reach
    return entries


def _curve(run: Measured, bounds: tuple[float, float] | None) -> Curve:
    """Mean accuracy by tokens, where it was graded."""
    means = [(tokens, mean_of(of_tier(scores, run.difficulty, bounds))) for tokens, scores in run.points]
    return [(tokens, mean) for tokens, mean in means if mean is not None]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves at every place where one of them has a point; a curve stays level after its last."""
    places = sorted({tokens for curve in curves for tokens, _ in curve})
    values = [np.interp(places, [x for x, _ in curve], [y for _, y in curve]) for curve in curves]
    return [(x, float(y)) for x, y in zip(places, np.mean(values, axis=0), strict=True)]


def reached(curve: Curve, accuracy: float) -> float | None:
    """Tokens at which `curve` is first as high as `accuracy`, None where it never is."""
    if curve[0][1] >= accuracy:
        return curve[0][0]
    for (x, y), (end, height) in pairwise(curve):
        if height >= accuracy - ROUNDING:
            return end if height <= accuracy else x + (end - x) * (accuracy - y) / (height - y)
    return None
