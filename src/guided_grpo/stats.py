"""Intervals for accuracies. The unit is the problem (or the seed), never the single sample: samples of one problem go
together, and counting them as independent makes every interval too narrow.

`mean_interval` is Wilson's interval with an effective sample size (Kish's design effect; Korn and Graubard 1998 for t
in place of z). With p the mean of n problems' accuracies and s² their sample variance,

    n_eff = p(1 − p) / (s² / n)        the number of independent samples that would have this standard error
    c     = t_{n−1} quantile           s² is estimated from n problems
    low, high = (p + c²/2n_eff ± c √(p(1 − p)/n_eff + c²/4n_eff²)) / (1 + c²/n_eff)

Where s² = 0 (all right, all wrong, one problem) nothing was estimated: n_eff = n and c is the normal quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats  # type: ignore[import-untyped]  # SciPy ships no types

from guided_grpo.errors import InputError

ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval over `problems` units (problems; seeds in `seeds_interval`)."""

    mean: float
    low: float
    high: float
    problems: int


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Wilson interval of the mean of per-problem accuracies; always within [0, 1] and never of zero width.

    >>> mean_interval([1.0] * 10)
    Interval(mean=1.0, low=0.7224672001371107, high=1.0, problems=10)
    """
    _check_accuracies(values)
    n = len(values)
    mean = _clip(math.fsum(values) / n, 0.0, 1.0)
    variance = _variance(values)
    if variance == 0.0:
        low, high = _wilson(mean, n, _normal_quantile(level))
    else:
        low, high = _wilson(mean, mean * (1 - mean) * n / variance, _t_quantile(level, n - 1))
    return Interval(mean, low, high, n)


def difference_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Paired t-interval of the mean of b − a, where a[i] and b[i] are accuracies on the same problem; within [−1, 1].

    Equal differences on every problem have no variance, and t would claim certainty. Then the half-width is Wilson's
    upper bound for a share of which n problems showed none: that many unseen problems may differ by up to 1.
    """
    _check_accuracies(a)
    _check_accuracies(b)
    if len(a) != len(b):
        raise InputError(
            f"has {len(a)} and {len(b)} problems", field="a, b", fix="pass the same problems in the same order"
        )
    differences = [after - before for before, after in zip(a, b, strict=True)]
    n = len(differences)
    mean = math.fsum(differences) / n
    variance = _variance(differences)
    if n == 1:
        return Interval(mean, -1.0, 1.0, n)
    if variance == 0.0:
        half = _wilson(0.0, n, _normal_quantile(level))[1]
    else:
        half = _t_quantile(level, n - 1) * math.sqrt(variance / n)
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), n)


def seeds_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """t-interval of the mean over seeds, on any scale, not clipped. One seed says nothing of the spread: (−inf, inf).

    Seeds that agree exactly give zero width; with the few seeds that runs have, read that as "no spread seen".
    """
    if not len(values):
        raise InputError("is empty", field="values", fix="pass one number per seed")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf, n)
    half = _t_quantile(level, n - 1) * math.sqrt(_variance(values) / n)
    return Interval(mean, mean - half, mean + half, n)


def _wilson(p: float, n: float, c: float) -> tuple[float, float]:
    centre = p + c * c / (2 * n)
    half = c * math.sqrt(p * (1 - p) / n + c * c / (4 * n * n))
    scale = 1 + c * c / n
    # Rounding may leave 1 − 2e-16 where the formula gives exactly 1.
    low = 0.0 if p == 0.0 else (centre - half) / scale
    high = 1.0 if p == 1.0 else (centre + half) / scale
    return _clip(low, 0.0, p), _clip(high, p, 1.0)


def _variance(values: Sequence[float]) -> float:
    """Sample variance; exactly 0.0 for values that are equal but for rounding, which would pass for certainty."""
    if max(values) - min(values) <= ROUNDING * max(1.0, abs(values[0])):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _normal_quantile(level: float) -> float:
    return float(stats.norm.ppf(_upper_tail(level)))


def _t_quantile(level: float, degrees: int) -> float:
    return float(stats.t.ppf(_upper_tail(level), degrees))


def _upper_tail(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InputError("is no confidence level", field="level", value=level, fix="pass a number between 0 and 1")
    return 0.5 + level / 2


def _check_accuracies(values: Sequence[float]) -> None:
    if not len(values):
        raise InputError("is empty", field="values", fix="pass one accuracy per problem")
    for index, value in enumerate(values):
        if not 0.0 <= value <= 1.0:  # also refuses NaN
            raise InputError(
                "is no accuracy", field=f"values[{index}]", value=value, fix="pass the mean of 0/1 verdicts per problem"
            )


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
