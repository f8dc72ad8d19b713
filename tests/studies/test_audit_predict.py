"""Predictions of an audit: by hand, against brute force, and against populations whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from guided_grpo.studies.audit.predict import (
    arm,
    expectations,
    formula_variance,
    predictive,
    shrunk,
    subsets,
    zero_by_problem,
)


def test_subsets_by_hand() -> None:
    # 1 success in 4 samples: of 2 drawn without replacement, half of the 6 pairs hold it.
    assert subsets([(1, 4)], 2) == pytest.approx(np.array([[0.5, 0.5, 0.0]]))
    assert subsets([(0, 3), (3, 3)], 3) == pytest.approx(np.array([[1, 0, 0, 0], [0, 0, 0, 1]]))
    assert subsets([(1, 4), (0, 1)], 2) is None  # one problem has a single graded sample
    assert subsets([(2, 4)], 0) == pytest.approx(np.array([[1.0]]))


def test_a_group_by_brute_force() -> None:
    """Every subset of the responses of two problems, G = 4 with one guided, as TRL would score them."""
    guided, unguided = {0: [1, 0, 1], 1: [0, 0, 0]}, {0: [0, 0, 1, 0], 1: [0, 0, 0, 1]}
    zeros, fails, variances, alone = [], [], [], []
    for problem in guided:
        for one in guided[problem]:
            for three in itertools.combinations(unguided[problem], 3):
                rewards = np.array([one, *three], dtype=float)
                zeros.append(rewards.std() == 0)
                fails.append(rewards.sum() == 0)
                variances.append(rewards.var())
                alone.append(((rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4))[1:].mean())
    counts = {"guided": [(2, 3), (0, 3)], "unguided": [(1, 4), (1, 4)]}
    found = expectations(arm([counts["guided"]], 1), arm([counts["unguided"]], 3))
    assert found.zero == pytest.approx(np.mean(zeros))
    assert found.failed == pytest.approx(np.mean(fails))
    assert found.variance == pytest.approx(np.mean(variances))
    assert found.unguided_advantage == pytest.approx(np.mean(alone))


def test_formula_is_the_endless_group() -> None:
    # p_g = 1, p_u = 0, α = ½: μ = ½, so ¼. With every problem alike there is nothing to correct.
    assert formula_variance([(4, 4)], [(0, 4)], 0.5) == pytest.approx(0.25)
    # One success of two: p² is estimated by 1·0/2·1 = 0, so μ − μ² by ½.
    assert formula_variance([(1, 2)], [(1, 2)], 1.0) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    p_g, p_u, samples, share = 0.7, 0.1, 3, 0.25
    drawn = [
        formula_variance([(rng.binomial(samples, p_g), samples)], [(rng.binomial(samples, p_u), samples)], share)
        for _ in range(20_000)
    ]
    mean = share * p_g + (1 - share) * p_u
    assert np.mean(drawn) == pytest.approx(mean * (1 - mean), abs=0.005)


def test_predictive_is_a_distribution_that_learns() -> None:
    rows = predictive([(0, 12)] * 20, 24)
    assert rows.sum(axis=1) == pytest.approx(np.ones(20))
    # 240 failures and no success: hopeless, but not certainly so.
    assert 0.9 < rows[0, 0] < 1.0
    # The tier knows better than one problem alone: 0 of 2 among problems that succeed half of the time.
    helped = predictive([(0, 2)] + [(3, 6)] * 30, 4)[0, 0]
    assert helped < 0.2 < predictive([(0, 2)] * 31, 4)[0, 0]


def truth(p_g: np.ndarray, p_u: np.ndarray, m: int, u: int) -> float:
    return float(((1 - p_g) ** m * (1 - p_u) ** u + p_g**m * p_u**u).mean())


@pytest.mark.parametrize(("a", "b"), [(0.1, 4.0), (1.0, 30.0), (2.0, 2.0)])
@pytest.mark.parametrize(("m", "u"), [(0, 12), (6, 6), (2, 6), (0, 24)])
def test_known_populations_within_two_points(a: float, b: float, m: int, u: int) -> None:
    """12 audits of 1,000 beta-binomial problems, 12 samples each, guided success tied to unguided; 24 is beyond K.

    The truth is that of these very problems; their noise (1 point an audit, 4 beyond K) is averaged away.
    """
    errors = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        p_u = rng.beta(a, b, 1000)
        p_g = 1 - (1 - p_u) * 0.6
        guided = [(int(c), 12) for c in rng.binomial(12, p_g)]
        unguided = [(int(c), 12) for c in rng.binomial(12, p_u)]
        predicted = float(zero_by_problem(arm([guided], m), arm([unguided], u)).mean())
        errors.append(predicted - truth(p_g, p_u, m, u))
    assert abs(np.mean(errors)) < 0.02


def test_impossible_problems_among_easy_ones() -> None:
    """Half at 0, half at 0.3, which no Beta is: the unbiased estimate holds where K allows it."""
    errors = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p = np.where(np.arange(200) < 100, 0.0, 0.3)
        counts = [(int(c), 12) for c in rng.binomial(12, p)]
        errors.append(float(arm([counts], 12)[:, 0].mean()) - truth(p, p, 0, 12))
    assert abs(np.mean(errors)) < 0.01


def test_tiers_are_shrunk_by_their_noise() -> None:
    rng = np.random.default_rng(1)
    # Nothing between the tiers: all come close to the mean of all.
    same = [(rng.random(12) < 0.7).astype(float) for _ in range(5)]
    middle = np.mean([values.mean() for values in same])
    raw = max(abs(values.mean() - middle) for values in same)
    assert max(abs(value - middle) for value in shrunk(same)) < 0.5 * raw
    # Far apart: they stay what they are.
    apart = [np.array([0.0, 0.1, 0.0, 0.1]), np.array([0.9, 1.0, 0.9, 1.0])]
    assert shrunk(apart) == pytest.approx([0.05, 0.95], abs=0.005)
    assert shrunk([np.array([0.0, 1.0])]) == [0.5]
    assert shrunk([np.zeros(3), np.ones(3)]) == [0.0, 1.0]
    assert not any(math.isnan(value) for value in shrunk([np.ones(3), np.ones(3)]))
