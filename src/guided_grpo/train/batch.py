"""A training batch of one rank on its way through the stages of `trainer.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guided_grpo.train.resampling import Rescued
from guided_grpo.train.rollout import GuidancePlan, Rollout
from guided_grpo.types import Row

if TYPE_CHECKING:
    import torch


@dataclass
class Batch:
    """Filled stage by stage; b = rollouts of this rank, B = of all ranks."""

    rows: list[Row]  # _b
    plan: GuidancePlan  # _b, of the generation call under way
    attempt: int = 0  # of that call on the rescue ladder; 0 = first sampling
    rollouts: list[Rollout] = field(default_factory=list)  # _b
    rewards_BF: torch.Tensor | None = None  # None = not graded yet
    first_accuracy_B: torch.Tensor | None = None  # before the ladder; None = there was none
    rescued: Rescued | None = None  # None = no ladder, or its cold start


def rollouts_of(plan: GuidancePlan, output: tuple[Any, ...]) -> list[Rollout]:
    """TRL's `_generate` returns columns; a rollout holds what belongs together."""
    prompt_ids, completion_ids, _, completions, logprobs, *_ = output
    columns = zip(plan, prompt_ids, completion_ids, completions, logprobs or [None] * len(plan), strict=True)
    return [
        Rollout(given, prompt, ids, completion, values, spent=len(ids) - len(given.slice.ids))
        for given, prompt, ids, completion, values in columns
    ]
