"""Which rollouts of a group are guided (G²RPO-A, Eq. 3): the first α·G, with |g_i| = ℓ; the others with |g_i| = 0.

α·G is rounded to the nearest whole number, halves up (0.14·7 → 1, 0.57·7 → 4). `spread` is an alternative to one length
for all: the m guided rollouts get ℓ·m/m, ℓ·(m−1)/m, … , ℓ·1/m, so that some length in the group fits the problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.guidance.slicing import NO_SLICE, Slice
from guided_grpo.settings import AxisGroup, OneOf, axis
from guided_grpo.types import Arm, Row, Strength

ALLOCATIONS = ("first", "spread")


@dataclass
class AllocationSettings(AxisGroup):
    """Which rollouts of a group are guided."""

    guidance_ratio: Annotated[float, Interval(ge=0, le=1)] = axis(0.25, "α: share of a group that is guided")
    guidance_allocation: Annotated[str, OneOf(ALLOCATIONS)] = axis(
        "first", "first: one length for the guided rollouts; spread: shorter and shorter ones"
    )


@dataclass(frozen=True)
class Assignment:
    """What one rollout gets: its slice of guidance, whether it was to be guided at all, and which attempt this is."""

    slice: Slice = NO_SLICE
    due: bool = False  # its place has a share of the strength
    stage: int = 0  # attempt on the rescue ladder; 0 = first sampling
    omega: float | None = None  # what the ladder asked for

    @property
    def arm(self) -> Arm:
        """Guided is who got at least one guidance token; a problem without a trace trains unguided."""
        return Arm.GUIDED if self.slice.tokens else Arm.UNGUIDED


GuidancePlan = tuple[Assignment, ...]  # one a rollout of the local batch


def guided_count(group_size: int, ratio: float) -> int:
    """Guided rollouts of a group: α·G to the nearest whole number, halves up."""
    return min(group_size, math.floor(ratio * group_size + 0.5 + 1e-9))


def shares(group_size: int, ratio: float, allocation: str = "first") -> list[float]:
    """For each rollout of a group, in order, its share of the guidance length; 0.0 = unguided. Shape (G,)."""
    guided = guided_count(group_size, ratio)
    if allocation == "first":
        return [1.0] * guided + [0.0] * (group_size - guided)
    if allocation == "spread":
        return [(guided - i) / guided for i in range(guided)] + [0.0] * (group_size - guided)
    raise KeyError(allocation)


def plan_batch(
    rows: Sequence[Row],
    first_index: int,
    shares_G: Sequence[float],
    strength_of: Callable[[Row], Strength],
    tokenizer: GuidanceTokenizer,
) -> GuidancePlan:
    """What each rollout of the local batch gets.

    Args:
        rows: the problems, each repeated for its group as the sampler laid them out, shape (B,).
        first_index: global index of `rows[0]`; a rollout's place in its group is its global index modulo G, so the plan
            is the same however the batch is cut into ranks.
        shares_G: share of the strength by place in the group (`shares`).
        strength_of: how much a problem's guided rollouts get.
        tokenizer: cuts and places it.
    """
    return tuple(
        assign(row, shares_G[(first_index + offset) % len(shares_G)], strength_of(row), tokenizer)
        for offset, row in enumerate(rows)
    )


def with_whole_traces(
    plan: GuidancePlan,
    rows: Sequence[Row],
    first_index: int,
    group_size: int,
    count: int,
    trace_of: Callable[[Row], Slice],
) -> GuidancePlan:
    """The plan in which the first `count` rollouts of each group are the trace itself.

    Args:
        plan: of the local batch.
        rows: its problems, each repeated for its group.
        first_index: global index of `rows[0]`.
        group_size: G.
        count: of a group.
        trace_of: all of a problem's trace; empty = it has none that fits, and the rollout is unguided.
    """
    return tuple(
        Assignment(trace_of(row), due=True) if (first_index + offset) % group_size < count else assignment
        for offset, (row, assignment) in enumerate(zip(rows, plan, strict=True))
    )


def assign(row: Row, share: float, full: Strength, tokenizer: GuidanceTokenizer) -> Assignment:
    """What the rollout at a place with this share of the strength gets; share 0 = unguided."""
    if not share:
        return Assignment()
    strength = Strength(full.unit, full.amount * share)
    return Assignment(tokenizer.slice(row, strength), due=strength.amount > 0)
