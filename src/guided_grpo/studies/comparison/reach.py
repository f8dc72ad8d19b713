"""Tokens to an accuracy: where the curve of one variant first is as high as another one ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from guided_grpo.evaluation.stats import ROUNDING, seeds_interval
from guided_grpo.studies.comparison.runs import ALL, SEEDS, Measured, Tiers, mean_of, of_tier

Curve = Sequence[tuple[float, float]]  # (tokens, accuracy), ascending tokens; straight lines between


def reaches(
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
    mean, found = mean_curve(curves), {}
    for other, entry in variants.items():
        final = entry["after"] if target == ALL or entry["after"] is None else entry["after"]["tiers"][target]
        if other == name or final is None:
            continue
        spent, accuracy = entry["tokens_generated"]["mean"], final["accuracy"]
        tokens, by_seed = reached(mean, accuracy), [reached(curve, accuracy) for curve in curves]
        known = [value for value in by_seed if value is not None]
        share = None if tokens is None or not spent else tokens / spent
        reach: dict[str, Any] = {
            "accuracy": accuracy, "tokens": tokens, "of": spent, "share": share, "by_seed": by_seed,
        }  # fmt: skip
        if len(known) == len(by_seed) >= SEEDS and spent:
            interval = seeds_interval(known)
            reach["interval"] = [interval.low, interval.high]
        found[other] = reach
    return found


def _curve(run: Measured, bounds: tuple[float, float] | None) -> Curve:
    """Evaluation points of a run, without those that do not know the tier."""
    kept = [(tokens, scores) for tokens, scores in run.points if bounds is None or len(scores) == len(run.difficulty)]
    means = [(tokens, mean_of(of_tier(scores, run.difficulty, bounds))) for tokens, scores in kept]
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
