"""Guidance trained by a term of its own beside the policy gradient.

By default a guidance token is trained as a generated one, with its rollout's advantage A (`guidance_loss: policy`). The
other values take guidance out of TRL's loss and add Σ_t s_t·h(π_t) / n over guidance tokens, with π_t the policy's
probability of the token, s_t a factor that is fixed when the batch is graded, and n a number of tokens:

    likelihood    h = −φ log π        s = c · gate    n by `imitation_mean`        UFT (2505.16984), HPT (2509.04419),
                                                                                   CHORD (2508.11408: φ = sg(π(1 − π))),
                                                                                   DFT (2508.05629: φ = sg(π))
    shaped        h = −π/(π + γ)      s = A           n joint                      LUFFY (2504.14945), γ = 0.1
    top-entropy   h = −log π          s = A           n joint                      Prefix-RFT (2507.01679): of the
                                                                                   tokens the 20 % with most H
    trust         h = −π/sg max(π, ε) s = 1           n joint                      TRAPO (2512.17636), ε = 0.1

The gate of a group, from its rollouts that were sampled: `always` 1; `success` 1 where one of them is right; `rate` the
share that is right; `failure` 1 where none is (HPT's gate 0).

A rollout of `guidance_rows` is the whole trace with its end, graded and not sampled. Under `likelihood` it has no part
in the group's mean and deviation, nor in any metric of rewards; under the others it is a rollout like any (LUFFY).

n is the number of guidance tokens that count (`imitation_mean: apart`, a mean of its own), or generated and guidance
tokens together (`joint`: a guidance token weighs what a generated one of advantage 1 does); over the generation batch
of all ranks, so that a micro-batch without a trace changes nothing. Under `dr_grpo` joint n is rows × the longest
response, as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Interval

from guided_grpo.settings import AxisGroup, OneOf, axis

if TYPE_CHECKING:
    import torch

LOSSES = ("policy", "likelihood", "shaped", "top-entropy", "trust")
GATES = ("always", "success", "rate", "failure")


@dataclass
class ImitationSettings(AxisGroup):
    """How guidance tokens are trained, where not as generated ones."""

    guidance_loss: Annotated[str, OneOf(LOSSES)] = axis("policy", "how guidance tokens are trained")
    guidance_rows: Annotated[int, Ge(0)] = axis(0, "rollouts of a group that are the whole trace, not sampled")
    trace_answer: str = axis("", "text behind a whole trace, such as '#### {answer}'")
    imitation_weight: Annotated[float, Ge(0)] = axis(1.0, "c of likelihood")
    imitation_gate: Annotated[str, OneOf(GATES)] = axis("always", "groups whose guidance likelihood trains")
    imitation_mean: Annotated[str, OneOf(("apart", "joint"))] = axis(
        "apart", "likelihood is a mean over guidance tokens, or over generated and guidance tokens together"
    )
    imitation_tokens: Annotated[str, OneOf(("all", "p", "p(1-p)"))] = axis("all", "φ of likelihood")
    shaping: Annotated[float, Gt(0)] = axis(0.1, "γ of shaped, ε of trust")
    entropy_share: Annotated[float, Interval(gt=0, le=1)] = axis(0.2, "share of a rollout's guidance in top-entropy")


def gates_of(kind: str, accuracy_B: torch.Tensor, group_size: int) -> torch.Tensor:
    """The gate of each rollout's group, shape (B,).

    Args:
        kind: one of `GATES`.
        accuracy_B: the accuracy reward; NaN = not graded, or not sampled.
        group_size: G.
    """
    graded_P = (~accuracy_B.isnan()).view(-1, group_size).sum(dim=1)
    right_P = (accuracy_B > 0).view(-1, group_size).sum(dim=1)
    if kind == "always":
        gate_P = right_P.new_ones(right_P.shape)
    elif kind == "rate":
        gate_P = right_P / graded_P.clamp(min=1)
    else:
        gate_P = (graded_P > 0) & ((right_P > 0) == (kind == "success"))
    return gate_P.float().repeat_interleave(group_size)


def factors_bT(
    settings: ImitationSettings,
    completion_mask: torch.Tensor,
    guidance_b: Sequence[int],
    gates_b: torch.Tensor,
    advantages_b: torch.Tensor,
) -> torch.Tensor:
    """s of each completion token, shape (b, T); 0 behind the guidance.

    Args:
        settings: the loss and its coefficient.
        completion_mask: shape (b, T).
        guidance_b: guidance tokens at the start of each completion.
        gates_b: of each rollout's group.
        advantages_b: shape (b,).
    """
    lengths_b = completion_mask.new_tensor(guidance_b, dtype=advantages_b.dtype).unsqueeze(1)
    guidance_bT = completion_mask.new_ones(completion_mask.shape).cumsum(dim=1) <= lengths_b
    if settings.guidance_loss == "likelihood":
        factor_b = settings.imitation_weight * gates_b
    elif settings.guidance_loss == "trust":
        factor_b = advantages_b.new_ones(advantages_b.shape)
    else:
        factor_b = advantages_b
    return factor_b.unsqueeze(1).to(advantages_b.dtype) * guidance_bT * completion_mask


def imitation_loss(
    settings: Any,
    inputs: Mapping[str, Any],
    logps_bT: torch.Tensor,
    entropies_bT: torch.Tensor,
    *,
    ranks: int,
    accumulated: int,
) -> torch.Tensor:
    """The term of a micro-batch, scaled as TRL scales a loss over the tokens of the generation batch.

    Args:
        settings: a `GuidedGRPOConfig`.
        inputs: of `_compute_loss`: "imitation_factors" and "imitation_items" (n).
        logps_bT: log π, with gradient, shape (b, T).
        entropies_bT: H, shape (b, T).
        ranks: processes, whose gradients are averaged.
        accumulated: micro-batches of the optimizer step.
    """
    factors = inputs["imitation_factors"]
    if settings.loss_type == "dr_grpo" and settings.imitation_is_joint:
        normaliser = len(factors) * int(settings.max_completion_length) * accumulated
    else:
        normaliser = inputs["imitation_items"].clamp(min=1.0) / ranks * accumulated / settings.steps_per_generation
    return imitation_sum(settings, logps_bT, entropies_bT, factors) / normaliser


def imitation_sum(
    settings: ImitationSettings, logps_bT: torch.Tensor, entropies_bT: torch.Tensor, factors_bT: torch.Tensor
) -> torch.Tensor:
    """Σ s·h of a micro-batch.

    Args:
        settings: which h.
        logps_bT: log π, with gradient, shape (b, T).
        entropies_bT: H, shape (b, T).
        factors_bT: s, shape (b, T).
    """
    taken = factors_bT != 0
    logps_bT = logps_bT.where(taken, 0.0)  # what was not read has no probability
    probability = logps_bT.exp()
    if settings.guidance_loss == "shaped":
        loss = -probability / (probability + settings.shaping)
    elif settings.guidance_loss == "trust":
        loss = -probability / probability.detach().clamp(min=settings.shaping)
    else:
        loss = -logps_bT
    if settings.guidance_loss == "likelihood" and settings.imitation_tokens != "all":
        weight = probability if settings.imitation_tokens == "p" else probability * (1 - probability)
        loss = loss * weight.detach()
    if settings.guidance_loss == "top-entropy":
        loss = loss * most_uncertain(entropies_bT.detach(), taken, settings.entropy_share)
    return (loss * factors_bT).sum()


def most_uncertain(entropies_bT: torch.Tensor, taken_bT: torch.Tensor, share: float) -> torch.Tensor:
    """The `share` of each row's tokens with the highest entropy, halves up and at least one, bool, shape (b, T)."""
    counts_b = taken_bT.sum(dim=1)
    most_b = ((counts_b * share + 0.5).floor().clamp(min=1)).minimum(counts_b)
    order = entropies_bT.masked_fill(~taken_bT, -math.inf).argsort(dim=1, descending=True, stable=True)
    rank_bT = order.argsort(dim=1)
    return taken_bT & (rank_bT < most_b.unsqueeze(1))
