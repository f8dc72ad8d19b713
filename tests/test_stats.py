"""Intervals: numbers worked out by hand, the degenerate cases, and coverage on simulated problems."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from guided_grpo.errors import InputError
from guided_grpo.stats import difference_interval, mean_interval, seeds_interval

Z = 1.959963984540054


def test_all_right_and_all_wrong_are_wilson_with_n_problems() -> None:
    # Wilson at p = 1: low = n / (n + z²); at p = 0: high = z² / (n + z²).
    assert astuple(mean_interval([1.0] * 10)) == pytest.approx((1.0, 10 / (10 + Z**2), 1.0, 10))
    assert astuple(mean_interval([0.0] * 10)) == pytest.approx((0.0, 0.0, Z**2 / (10 + Z**2), 10))


def test_problems_that_are_always_or_never_solved_count_once_each() -> None:
    # Five of ten: s² = 10·0.25/9, n_eff = 0.25 / (s²/10) = 9, t₉ = 2.262157. At p = 0.5 the formula is
    # 0.5 ± c / (2 √(n_eff + c²)) = 0.5 ± 2.262157 / (2 √14.117354) = 0.5 ± 0.301034.
    found = mean_interval([1.0] * 5 + [0.0] * 5)
    assert astuple(found) == pytest.approx((0.5, 0.198966, 0.801034, 10), abs=2e-6)


def test_problems_that_agree_more_than_coins_are_worth_more_samples() -> None:
    # s² = 4·0.01/3, n_eff = 0.25 / (s²/4) = 75, t₃ = 3.182446: 0.5 ± 3.182446 / (2 √85.127963) = 0.5 ± 0.172463.
    found = mean_interval([0.4, 0.6, 0.4, 0.6])
    assert astuple(found) == pytest.approx((0.5, 0.327537, 0.672463, 4), abs=2e-6)


def test_one_problem() -> None:
    assert astuple(mean_interval([1.0])) == pytest.approx((1.0, 1 / (1 + Z**2), 1.0, 1))
    assert mean_interval([0.5]).high - 0.5 == pytest.approx(Z / 2 / math.sqrt(1 + Z**2))


@pytest.mark.parametrize(
    "values", [[0.0], [1.0] * 3, [0.1] * 7, [0.0, 1.0], [1 - 1e-12, 1.0], [1e-12, 0.0], [0.3, 0.9]]
)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_mean_interval_stays_inside_and_has_width(values: list[float], level: float) -> None:
    found = mean_interval(values, level)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
    assert found.low < found.high


def test_mean_interval_mirrors() -> None:
    values = [0.0, 0.25, 0.25, 1.0, 0.5]
    found, mirrored = mean_interval(values), mean_interval([1 - value for value in values])
    assert astuple(found) == pytest.approx((1 - mirrored.mean, 1 - mirrored.high, 1 - mirrored.low, 5))


def test_rounding_is_no_variance() -> None:
    assert astuple(mean_interval([0.3, 0.1 + 0.2])) == pytest.approx(astuple(mean_interval([0.3, 0.3])))
    found = difference_interval([0.1, 0.2], [0.3, 0.4])  # 0.4 − 0.2 and 0.3 − 0.1 differ in the last bit
    assert found.high - found.low > 0.5


def test_a_higher_level_is_wider() -> None:
    values = [0.0, 0.25, 0.5, 1.0]
    narrow, wide = mean_interval(values, 0.8), mean_interval(values, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("spread", "share", "problems", "samples"),
    [((2.0, 2.0), 0.5, 60, 4), ((0.5, 0.5), 0.5, 40, 8), ((0.4, 3.6), 0.1, 100, 4), ((6.0, 1.5), 0.8, 50, 1)],
)
def test_coverage_on_clustered_verdicts(spread: tuple[float, float], share: float, problems: int, samples: int) -> None:
    """Each problem has its own success rate (a beta distribution of mean `share`) and a few 0/1 samples."""
    source = np.random.default_rng(7)
    trials = 2000
    rates = source.beta(*spread, size=(trials, problems))
    accuracies = source.binomial(samples, rates) / samples
    covered = [found.low <= share <= found.high for found in map(mean_interval, accuracies.tolist())]
    assert 0.92 <= sum(covered) / trials <= 0.98


def test_difference_is_paired() -> None:
    # Differences 0.25, 0.5, 0, 0.25: mean 0.25, s² = 0.125/3, standard error √(s²/4) = 0.102062, t₃ = 3.182446.
    found = difference_interval([0.0, 0.25, 1.0, 0.5], [0.25, 0.75, 1.0, 0.75])
    assert astuple(found) == pytest.approx((0.25, -0.074807, 0.574807, 4), abs=1e-6)
    mirrored = difference_interval([0.25, 0.75, 1.0, 0.75], [0.0, 0.25, 1.0, 0.5])
    assert (mirrored.low, mirrored.high) == (-found.high, -found.low)


def test_difference_without_variance_is_not_certain() -> None:
    half = Z**2 / (20 + Z**2)
    assert astuple(difference_interval([0.0] * 20, [0.0] * 20)) == pytest.approx((0.0, -half, half, 20))
    assert astuple(difference_interval([0.0] * 20, [1.0] * 20)) == pytest.approx((1.0, 1 - half, 1.0, 20))
    assert astuple(difference_interval([0.5], [1.0])) == pytest.approx((0.5, -1.0, 1.0, 1))


def test_difference_stays_inside() -> None:
    found = difference_interval([1.0, 0.0], [0.0, 0.0])
    assert (found.low, found.high) == (-1.0, 1.0)


def test_seeds() -> None:
    # Mean 2, s = 1, standard error 1/√3, t₂ = 4.302653.
    found = seeds_interval([1.0, 2.0, 3.0])
    assert astuple(found) == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3), 3))
    assert astuple(seeds_interval([0.7])) == pytest.approx((0.7, -math.inf, math.inf, 1))
    assert astuple(seeds_interval([0.1] * 3)) == pytest.approx((0.1, 0.1, 0.1, 3))


def test_bad_input_names_the_field_and_the_fix() -> None:
    with pytest.raises(InputError, match=r"field 'values\[1\]': 1\.5 is no accuracy; fix: "):
        mean_interval([0.5, 1.5])
    with pytest.raises(InputError, match=r"field 'values\[0\]': nan is no accuracy"):
        mean_interval([math.nan])
    with pytest.raises(InputError, match="field 'values': is empty"):
        mean_interval([])
    with pytest.raises(InputError, match="field 'values': is empty"):
        seeds_interval([])
    with pytest.raises(InputError, match="field 'a, b': has 1 and 2 problems"):
        difference_interval([0.5], [0.5, 0.5])
    with pytest.raises(InputError, match=r"field 'level': 95 is no confidence level; fix: .* between 0 and 1"):
        mean_interval([0.5, 1.0], level=95)
