"""Intervals for accuracies, pass@k, paired differences. The unit is the problem (or the seed), never the single sample:
samples of one problem go together, and counting them as independent makes every interval too narrow.

`mean_interval` is Wilson's interval with an effective sample size. With p the mean and v the variance (divided by n) of
the accuracies of n problems,

    deff  = v / p(1 − p)                      Kish's design effect: 1 = every problem always or never solved
    w     = 4 n p(1 − p)                      problems that say something of deff: few where nearly all fail
    n_eff = n (w + ½) / (w deff + ½)          shrunk towards n, as if half a problem had shown deff = 1
    c     = t_{n−1} quantile                  v is estimated from n problems (Korn and Graubard 1998)
    low, high = (p + c²/2n_eff ± c √(p(1 − p)/n_eff + c²/4n_eff²)) / (1 + c²/n_eff)

Without the shrinkage one problem that was solved once in 64 samples passes for a precise estimate, and intervals near 0
and 1 cover 80 % instead of 95 % (benchmarks/interval_coverage.py). Where all problems are always solved, or never,
nothing was estimated: n_eff = n and c is the normal quantile.

`difference_interval` is the paired t-interval d ± t_{n−1} √(u/n), its variance shrunk for the same reason: with s² the
variance of the differences, w the problems that differ, a and b the mean accuracies,

    u = (w s² + ½ (a(1 − a) + b(1 − b))) / (w + ½)      as if half a problem had shown the variance of unlike models

Without it, an improvement on few of the problems is covered as little as 63 % of the time (n = 10), 73 % (30).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy import stats  # type: ignore[import-untyped]  # SciPy ships no types

from guided_grpo.errors import InputError

ROUNDING = 1e-12
SHRINKAGE = 0.5  # problems: what the assumption of most variance is worth


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval over `problems` units (problems; seeds in `seeds_interval`)."""

    mean: float
    low: float
    high: float
    problems: int


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference over `problems`, and how often as large a one would come up where there is none."""

    p_value: float  # two-sided


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Wilson interval of the mean of per-problem accuracies; always within [0, 1] and never of zero width.

    >>> mean_interval([1.0] * 10)
    Interval(mean=1.0, low=0.7224672001371107, high=1.0, problems=10)
    """
    _check_accuracies(values)
    n = len(values)
    mean = _clip(math.fsum(values) / n, 0.0, 1.0)
    spread = mean * (1 - mean)
    if n == 1 or spread <= ROUNDING:
        low, high = _wilson(mean, n, _quantile(level))
    else:
        weight = 4 * n * spread
        effect = _variance(values) * (n - 1) / n / spread
        effective = n * (weight + SHRINKAGE) / (weight * effect + SHRINKAGE)
        low, high = _wilson(mean, effective, _quantile(level, n - 1))
    return Interval(mean, low, high, n)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples is right: 1 − C(n − c, k) / C(n, k).

    Args:
        samples: n, drawn for the problem.
        correct: c, how many of them are right.
        k: at most n.

    Raises InputError where k samples cannot be chosen.

    >>> round(pass_at_k(samples=5, correct=2, k=2), 6)
    0.7
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise InputError(
            f"cannot be chosen from {samples} samples of which {correct} are right", field="k", value=k,
            fix="use 1 ≤ k ≤ samples",
        )  # fmt: skip
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def difference_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Paired t-interval of the mean of b − a, where a[i] and b[i] are accuracies on the same problem; within [−1, 1].

    The p-value is that of the paired t-test with this variance: below 1 − level where the interval leaves out 0.

    Equal differences on every problem have no variance, and t would claim certainty. Then the half-width is Wilson's
    upper bound for a share of which n problems showed none: that many unseen problems may differ by up to 1, and the
    p-value is that of the sign test.
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
        return Difference(mean, -1.0, 1.0, n, p_value=1.0)
    if variance == 0.0:
        half = _wilson(0.0, n, _quantile(level))[1]
        p_value = 2.0 ** (1 - n) if abs(mean) > ROUNDING else 1.0
    else:
        differ = sum(abs(difference) > ROUNDING for difference in differences)
        unlike = sum(share * (1 - share) for share in (math.fsum(a) / n, math.fsum(b) / n))
        error = math.sqrt((differ * variance + SHRINKAGE * unlike) / (differ + SHRINKAGE) / n)
        half = _quantile(level, n - 1) * error
        p_value = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), n, p_value=p_value)


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
    half = _quantile(level, n - 1) * math.sqrt(_variance(values) / n)
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


@lru_cache(maxsize=1024)  # SciPy takes longer for it than all the rest
def _quantile(level: float, degrees: int | None = None) -> float:
    """Of Student's t, two-sided; None = of the normal distribution."""
    if not 0.0 < level < 1.0:
        raise InputError("is no confidence level", field="level", value=level, fix="pass a number between 0 and 1")
    place = 0.5 + level / 2
    return float(stats.norm.ppf(place) if degrees is None else stats.t.ppf(place, degrees))


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
