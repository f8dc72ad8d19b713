"""Advantages of a group: pure functions of its rewards.

Group baseline (G²RPO-A, Eq. 1), as TRL computes it: A_i = (r_i − mean(r)) / (std(r) + ε), over all G rollouts.

Arm baseline (not in the papers): guided and unguided rollouts differ in expected reward, p_g > p_u, so a shared mean
gives unguided rollouts a negative mean advantage whatever they do. Here each arm has its own mean,
A_i = (r_i − mean_arm(i)(r)) / (s + ε), and s² = Σ_i (r_i − mean_arm(i))² / (G − arms) is pooled over the arms, so that
an arm's advantages keep their size relative to the other's. An arm of one rollout has advantage 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from guided_grpo.settings import AxisGroup, OneOf, axis

if TYPE_CHECKING:
    import torch

EPSILON = 1e-4  # TRL's
CREDITS = ("signed", "positive", "unguided")


@dataclass
class CreditSettings(AxisGroup):
    """What guidance weighs in the loss, and what an advantage is measured against."""

    guidance_weight: Annotated[float, Interval(ge=0, le=1)] = axis(1.0, "w_g: weight of guidance tokens in the loss")
    guidance_credit: Annotated[str, OneOf(CREDITS)] = axis(
        "signed", "signed: guidance takes its rollout's advantage; positive: only above 0; unguided: guided none"
    )
    advantage_baseline: Annotated[str, OneOf(("group", "arm"))] = axis(
        "group", "mean of the group, or of each arm (guided, unguided) apart"
    )


def arm_advantages(rewards_B: torch.Tensor, guided_B: torch.Tensor, group_size: int, scale: str) -> torch.Tensor:
    """Advantages against the mean of the rollout's own arm.

    Args:
        rewards_B: weighted sums of the rewards, shape (B,), groups in rows of `group_size`; NaN = not graded.
        guided_B: which rollouts are guided, bool, shape (B,).
        group_size: G.
        scale: "group" divides by the pooled std of the group, "batch" by that of the batch, "none" not at all.

    Returns:
        Shape (B,); ungraded rollouts get 0.
    """
    rewards, guided = rewards_B.view(-1, group_size), guided_B.view(-1, group_size)
    graded = ~rewards.isnan()
    values = rewards.nan_to_num(0.0)
    centred = values.new_zeros(values.shape)
    arms = values.new_zeros(values.size(0), 1)
    for arm in (guided & graded, ~guided & graded):
        count = arm.sum(dim=1, keepdim=True)
        mean = (values * arm).sum(dim=1, keepdim=True) / count.clamp(min=1)
        centred = (values - mean).where(arm, centred)
        arms = arms + (count > 0)
    if scale == "none":
        return centred.flatten()
    freedom = graded.sum(dim=1, keepdim=True) - arms
    squares = centred.square().sum(dim=1, keepdim=True)
    if scale == "batch":
        squares, freedom = squares.sum().expand_as(squares), freedom.sum().expand_as(freedom)
    return (centred / ((squares / freedom.clamp(min=1)).sqrt() + EPSILON)).flatten()


def credited(
    weights_bT: torch.Tensor,
    advantages_b: torch.Tensor,
    guidance_b: Sequence[int],
    guided_b: Sequence[bool],
    credit: str,
) -> torch.Tensor:
    """Weights in the loss under `guidance_credit` (not in the papers); the loss is divided by their sum.

        signed      as they are: guidance takes its rollout's advantage (the official code)
        positive    guidance has weight 0 where A ≤ 0: a trace is right whatever the policy made of it, and a rollout
                    that failed after it teaches from what it generated
        unguided    guided rollouts have weight 0 altogether: they only move the group's mean and deviation

    Args:
        weights_bT: weight of each completion token, guidance in front, shape (b, T).
        advantages_b: shape (b,).
        guidance_b: guidance tokens at the start of each completion.
        guided_b: whether the rollout is guided, by prefix or hint.
        credit: one of `CREDITS`.
    """
    weights_bT = weights_bT.clone()
    for row, (prefix, guided) in enumerate(zip(guidance_b, guided_b, strict=True)):
        if credit == "positive" and advantages_b[row] <= 0:
            weights_bT[row, :prefix] = 0
        elif credit == "unguided" and guided:
            weights_bT[row] = 0
    return weights_bT


def mask_ungraded(rewards_BF: torch.Tensor, accuracy: int, group_size: int) -> torch.Tensor:
    """Rewards in which a rollout without a verdict has none at all, so that it leaves its group's mean and gets no
    advantage: a format bonus alone would set it below its graded neighbours.

    Args:
        rewards_BF: shape (B, F), groups in rows of `group_size`; NaN = not graded.
        accuracy: column of the accuracy reward.
        group_size: G.

    Returns:
        Shape (B, F). Groups without any verdict keep what other rewards say.
    """
    ungraded = rewards_BF[:, accuracy].isnan().view(-1, group_size)
    masked = (ungraded & ~ungraded.all(dim=1, keepdim=True)).view(-1, 1)
    return rewards_BF.masked_fill(masked, math.nan)


def zero_groups(advantages_B: torch.Tensor, group_size: int) -> tuple[int, int]:
    """Groups that teach nothing (every advantage 0 within rounding), and all groups."""
    dead = (advantages_B.view(-1, group_size).abs() < 1e-6).all(dim=1)
    return int(dead.sum()), dead.numel()
