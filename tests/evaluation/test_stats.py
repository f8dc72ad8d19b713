"""Intervals and pass@k: numbers worked out by hand, enumeration, the degenerate cases, coverage by simulation."""

from __future__ import annotations

import math
from dataclasses import astuple
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from guided_grpo.errors import InputError
from guided_grpo.evaluation.stats import difference_interval, mean_interval, pass_at_k, seeds_interval

Z = 1.959963984540054


def test_all_right_and_all_wrong_are_wilson_with_n_problems() -> None:
    # Wilson at p = 1: low = n / (n + z²); at p = 0: high = z² / (n + z²).
    assert astuple(mean_interval([1.0] * 10)) == pytest.approx((1.0, 10 / (10 + Z**2), 1.0, 10))
    assert astuple(mean_interval([0.0] * 10)) == pytest.approx((0.0, 0.0, Z**2 / (10 + Z**2), 10))


def test_problems_that_are_always_or_never_solved_count_once_each() -> None:
    # Five of ten: v = 0.25 = p(1 − p), deff = 1, n_eff = 10, t₉ = 2.262157. At p = 0.5 the formula is
    # 0.5 ± c / (2 √(n_eff + c²)) = 0.5 ± 2.262157 / (2 √15.117354) = 0.5 ± 0.290908.
    found = mean_interval([1.0] * 5 + [0.0] * 5)
    assert astuple(found) == pytest.approx((0.5, 0.209092, 0.790908, 10), abs=2e-6)


def test_problems_that_agree_more_than_coins_are_worth_more_samples() -> None:
    # v = 0.01, deff = 0.04, w = 4·4·0.25 = 4, n_eff = 4·4.5 / (4·0.04 + 0.5) = 27.272727, t₃ = 3.182446:
    # 0.5 ± 3.182446 / (2 √(27.272727 + 10.127963)) = 0.5 ± 0.260190.
    found = mean_interval([0.4, 0.6, 0.4, 0.6])
    assert astuple(found) == pytest.approx((0.5, 0.239810, 0.760190, 4), abs=2e-6)


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


def test_one_success_in_one_problem_is_no_precise_estimate() -> None:
    # 29 problems never solved, one once in 64: deff is 1/64 but rests on w = 0.0625 problems, so n_eff = 268 and not
    # 1,920. A share of 2 % of problems that are always solved would leave this behind in one run of two.
    assert mean_interval([1 / 64] + [0.0] * 29).high > 0.015


@pytest.mark.parametrize("problems", [10, 30, 100])
@pytest.mark.parametrize("samples", [1, 4, 64])
@pytest.mark.parametrize(("share", "spread"), [(0.02, 0.5), (0.1, 2.0), (0.5, 0.5), (0.5, 10.0), (0.9, 2.0)])
def test_coverage_on_clustered_verdicts(problems: int, samples: int, share: float, spread: float) -> None:
    """Each problem has its own success rate, from a beta distribution of this mean, and a few 0/1 samples of it."""
    source = np.random.default_rng(7)
    trials = 1000
    rates = source.beta(share * spread, (1 - share) * spread, size=(trials, problems))
    accuracies = source.binomial(samples, rates) / samples
    covered = [found.low <= share <= found.high for found in map(mean_interval, accuracies.tolist())]
    # Of ten problems few outcomes are possible, and none of them is covered 95 % of the time exactly.
    assert 0.925 <= sum(covered) / trials <= (0.97 if problems == 100 and 0.1 <= share <= 0.9 else 0.998)


@pytest.mark.parametrize("samples", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(samples: int) -> None:
    for correct in range(samples + 1):
        verdicts = [True] * correct + [False] * (samples - correct)
        for k in range(1, samples + 1):
            subsets = list(combinations(verdicts, k))
            assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_unbiased() -> None:
    """Its mean over runs of a problem solved with probability p is 1 − (1 − p)^k; the plug-in (1 − c/n)^k is not."""
    p, n, k = 0.2, 6, 4
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(chances[c] * pass_at_k(n, c, k) for c in range(n + 1)) == pytest.approx(1 - (1 - p) ** k)
    assert sum(chances[c] * (1 - (1 - c / n) ** k) for c in range(n + 1)) < 1 - (1 - p) ** k - 0.02


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, 2, 5), (4, 2, 0), (0, 0, 1)])
def test_pass_at_k_of_samples_that_are_not_there(samples: int, correct: int, k: int) -> None:
    with pytest.raises(InputError, match="field 'k'"):
        pass_at_k(samples, correct, k)


def test_difference_is_paired() -> None:
    # Differences 0.25, 0.5, 0, 0.25: mean 0.25, s² = 0.125/3, w = 3. Means 0.4375 and 0.6875: their p(1 − p) add up to
    # 0.4609375. u = (3 s² + 0.4609375/2) / 3.5 = 0.1015625, standard error √(u/4) = 0.159344, t₃ = 3.182446.
    found = difference_interval([0.0, 0.25, 1.0, 0.5], [0.25, 0.75, 1.0, 0.75])
    assert astuple(found)[:4] == pytest.approx((0.25, -0.257104, 0.757104, 4), abs=1e-6)
    mirrored = difference_interval([0.25, 0.75, 1.0, 0.75], [0.0, 0.25, 1.0, 0.5])
    assert (mirrored.low, mirrored.high) == (-found.high, -found.low)
    assert mirrored.p_value == found.p_value


def test_the_p_value_agrees_with_the_interval_and_comes_to_the_paired_t_test() -> None:
    source = np.random.default_rng(3)
    for problems, tolerance in ((20, math.inf), (2000, 0.02)):
        for shift in (0.0, 0.02, 0.1, 0.3):
            before = source.binomial(4, 0.4, size=problems) / 4
            after = source.binomial(4, 0.4 + shift, size=problems) / 4
            found = difference_interval(before.tolist(), after.tolist())
            assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
            assert found.p_value >= ttest_rel(after, before).pvalue - 1e-9
            if found.p_value > 1e-6:
                assert found.p_value == pytest.approx(ttest_rel(after, before).pvalue, rel=tolerance)


@pytest.mark.parametrize(("problems", "least"), [(30, 0.9), (100, 0.92)])
def test_coverage_of_gains_on_few_problems(problems: int, least: float) -> None:
    """A tenth of the problems is solved nine times of ten, whatever it was before: most samples show no difference."""
    source = np.random.default_rng(11)
    first = source.beta(0.45, 0.05, size=(1000, problems))
    second = np.where(source.random(first.shape) < 0.1, np.maximum(first, 0.9), first)
    truth = 0.1 * (np.maximum(source.beta(0.45, 0.05, size=1_000_000), 0.9).mean() - 0.9)
    pairs = zip(*((source.binomial(64, rates) / 64).tolist() for rates in (first, second)), strict=True)
    covered = [found.low <= truth <= found.high for found in (difference_interval(a, b) for a, b in pairs)]
    assert sum(covered) / 1000 >= least  # plain t: 0.73 and 0.79


def test_difference_without_variance_is_not_certain() -> None:
    half = Z**2 / (20 + Z**2)
    assert astuple(difference_interval([0.0] * 20, [0.0] * 20)) == pytest.approx((0.0, -half, half, 20, 1.0))
    sign_test = 2 * 0.5**20
    assert astuple(difference_interval([0.0] * 20, [1.0] * 20)) == pytest.approx((1.0, 1 - half, 1.0, 20, sign_test))
    assert astuple(difference_interval([0.5], [1.0])) == pytest.approx((0.5, -1.0, 1.0, 1, 1.0))


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
