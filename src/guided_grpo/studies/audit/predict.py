"""From successes of K samples a problem to groups that no one has sampled: how often they teach nothing, how much
their rewards vary, what the shared baseline does to unguided rollouts.

A group of one problem has m guided and u unguided rollouts; x of them succeed. Given the problem they are independent,
so everything follows from the distribution of (successes among m guided, successes among u unguided), averaged over the
problems. Two estimates of it, each one row a problem:

    subsets      x successes in m of the K responses that were drawn, without replacement: hypergeometric. Unbiased for
                 whatever the problems are like, needs m ≤ K, and is noisy: for m = K it is 0 or 1.
    predictive   x successes in m new responses. The problems of a tier have success rates from Beta(μν, (1−μ)ν);
                 μ and ν have a prior on a grid and are averaged over, not plugged in. Any m, less noise.

An arm takes the first where K allows, else the second (`arm`). Simulations (docs/audit.md) say why: over populations
that are Betas both err alike, but where half of the problems are impossible, only the first stays right.

Prior: μ after Jeffreys (density ∝ 1/√(μ(1−μ))), log ν uniform. Problems that all failed are then taken to be hard, not
impossible, in the measure of how many samples said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, comb, expit, gammaln  # type: ignore[import-untyped]  # SciPy ships no types

Array = NDArray[np.float64]
Counts = Sequence[tuple[int, int]]  # successes and graded samples of each problem (_P)

_MEANS = expit(np.linspace(-8.0, 8.0, 41))  # μ
_SIZES = np.geomspace(0.3, 300.0, 11)  # ν
_NEGLIGIBLE = 1e-4  # share of the posterior that a point of the grid may have and be left out
_EPSILON = 1e-4  # TRL's, beside the std of a group


def fit(counts: Counts) -> tuple[Array, Array, Array]:
    """What is believed of the success rates of one tier after `counts`: a and b of Betas, and their weights (sum 1)."""
    mean, size = np.meshgrid(_MEANS, _SIZES, indexing="ij")
    a, b = (mean * size).ravel(), ((1 - mean) * size).ravel()
    # On an even grid of logit μ the density of Jeffreys' prior is √(μ(1−μ)).
    log = 0.5 * np.log((mean * (1 - mean)).ravel())
    pairs, repeats = np.unique(np.array(counts, dtype=int).reshape(-1, 2), axis=0, return_counts=True)
    for (successes, samples), times in zip(pairs, repeats, strict=True):
        log = log + times * (betaln(a + successes, b + samples - successes) - betaln(a, b))
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    likely = weights > _NEGLIGIBLE
    return a[likely], b[likely], weights[likely] / weights[likely].sum()


def predictive(counts: Counts, draws: int) -> Array:
    """P(x of `draws` new responses succeed) for each problem of one tier, shape (P, draws + 1)."""
    prior_a, prior_b, weights = fit(counts)
    x = np.arange(draws + 1)
    pairs, place = np.unique(np.array(counts, dtype=int).reshape(-1, 2), axis=0, return_inverse=True)
    rows = np.empty((len(pairs), draws + 1))
    ways = gammaln(draws + 1) - gammaln(x + 1) - gammaln(draws - x + 1)
    for row, (successes, samples) in enumerate(pairs):
        a, b = prior_a + successes, prior_b + samples - successes
        # Points of the grid that explain this problem better weigh the same for all: they are about the tier.
        log = ways[None, :] + betaln(a[:, None] + x, b[:, None] + draws - x) - betaln(a, b)[:, None]
        rows[row] = weights @ np.exp(log)
    return rows[place.ravel()]


def subsets(counts: Counts, draws: int) -> Array | None:
    """P(x successes in a random `draws` of a problem's own samples), (P, draws + 1); None where some has fewer."""
    table = np.array(counts, dtype=int).reshape(-1, 2)
    if len(table) == 0 or int(table[:, 1].min()) < draws:
        return None
    c, k, x = table[:, :1], table[:, 1:], np.arange(draws + 1)[None, :]
    result: Array = comb(c, x) * comb(k - c, draws - x) / comb(k, draws)  # comb is 0 where more is drawn than there is
    return result


def arm(counts_by_tier: Sequence[Counts], draws: int) -> Array:
    """The better of the two for `draws` rollouts of one strength, tier by tier, shape (P, draws + 1)."""
    whole = subsets([pair for counts in counts_by_tier for pair in counts], draws)
    return np.vstack([predictive(counts, draws) for counts in counts_by_tier]) if whole is None else whole


@dataclass(frozen=True)
class Expectations:
    """Expectations of a group of one problem, averaged over problems."""

    zero: float  # P(all rewards equal): every advantage is 0
    failed: float  # P(all fail), part of `zero`
    variance: float  # mean of (r − mean r)² inside the group: the advantages before they are scaled
    unguided_advantage: float  # mean advantage of unguided rollouts as TRL scales them; 0.0 = no guided or no unguided


def expectations(guided: Array, unguided: Array) -> Expectations:
    """Expectations from the rows of each problem, (P, m + 1) and (P, u + 1).

    Independent given the problem, so that the joint distribution of a problem is the product of its rows.
    """
    joint = guided.T @ unguided / len(guided)
    m, u = joint.shape[0] - 1, joint.shape[1] - 1
    size = m + u
    x_unguided = np.arange(u + 1)[None, :]
    x = np.arange(m + 1)[:, None] + x_unguided
    mean = x / size
    variance = mean * (1 - mean)
    spread = np.sqrt(variance * size / max(1, size - 1)) + _EPSILON  # TRL divides by the std with G − 1
    advantage = (x_unguided / u - mean) / spread if m and u else np.zeros_like(mean)
    return Expectations(
        zero=float(joint[0, 0] + joint[m, u]),
        failed=float(joint[0, 0]),
        variance=float((joint * variance).sum()),
        unguided_advantage=float((joint * advantage).sum()),
    )


def zero_by_problem(guided: Array, unguided: Array) -> Array:
    """P(all rewards of the group are equal) for each problem, shape (P,)."""
    result: Array = guided[:, 0] * unguided[:, 0] + guided[:, -1] * unguided[:, -1]
    return np.clip(result, 0.0, 1.0)


def shrunk(values_by_tier: Sequence[Array]) -> list[float]:
    """Means of tiers, each drawn towards the mean of all by as much as differences of that size are noise.

    With s² the variance inside the tiers and τ² that between them (both from the analysis of variance, τ² ≥ 0), a tier
    of n problems keeps the share τ²/(τ² + s²/n) of its distance. A dozen problems say little of a rare success.
    """
    counts = np.array([len(values) for values in values_by_tier], dtype=float)
    means = np.array([values.mean() for values in values_by_tier])
    total, tiers = counts.sum(), len(counts)
    if tiers < 2 or total <= tiers:
        return [float(mean) for mean in means]
    inside = float(sum(((values - values.mean()) ** 2).sum() for values in values_by_tier) / (total - tiers))
    middle = float((counts * means).sum() / total)
    between = ((counts * (means - middle) ** 2).sum() - (tiers - 1) * inside) / (total - (counts**2).sum() / total)
    between = max(0.0, float(between))
    share = np.ones(tiers) if inside == 0.0 else between / (between + inside / counts)
    return [float(value) for value in middle + share * (means - middle)]


def formula_variance(guided: Counts, unguided: Counts, share: float) -> float:
    """Mean over problems of μ(1 − μ), μ = αp_g + (1 − α)p_u: the reward variance of an endless group.

    Unbiased: c(c − 1)/K(K − 1) stands for p², and the arms are sampled apart, so that c_g c_u/K² stands for p_g p_u.

    Args:
        guided: successes of each problem at a strength, at least 2 samples each.
        unguided: of the same problems without guidance.
        share: α as it is dealt out, m/G.
    """
    g, u = np.array(guided, dtype=float).reshape(-1, 2), np.array(unguided, dtype=float).reshape(-1, 2)
    p_g, p_u = g[:, 0] / g[:, 1], u[:, 0] / u[:, 1]
    square_g = g[:, 0] * (g[:, 0] - 1) / (g[:, 1] * (g[:, 1] - 1))
    square_u = u[:, 0] * (u[:, 0] - 1) / (u[:, 1] * (u[:, 1] - 1))
    mean = share * p_g + (1 - share) * p_u
    square = share**2 * square_g + 2 * share * (1 - share) * p_g * p_u + (1 - share) ** 2 * square_u
    return float((mean - square).mean())
