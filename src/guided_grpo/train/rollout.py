"""Stage 3, guided generation: which ids go in front of each rollout, and where they are afterwards.

While sampling, guidance stands behind the prompt; for training it is the beginning of the completion. It is the same
list of ids at the same positions, so nothing is decoded or tokenised in between:

    sampling   [prompt ids | guidance ids] → generated ids
    training   [prompt ids] [guidance ids | generated ids]
                             w_g … w_g      1 … 1            weights in the loss

A hint is part of the prompt, while sampling and while training; nothing of it is in the completion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from guided_grpo.guidance.allocation import Assignment, GuidancePlan
from guided_grpo.guidance.keys import problem_key, tier_key
from guided_grpo.types import ProblemFeedback, Row

if TYPE_CHECKING:
    import torch

FACTS = (
    "problem",  # problem_key of the row
    "tier",  # tier_key of the row
    "stage",  # attempt on the rescue ladder that it comes from; 0 = first sampling
    "due",  # its place has a share of the strength
    "guidance_tokens",  # wherever they stand
    "generated_tokens",
    "spent_tokens",  # generated for this row's place, thrown-away samples too
    "clipped",
    "leaked",
    "truncated",
)


@dataclass(frozen=True)
class Rollout:
    """One sampled rollout: its assignment, and the prompt, completion and log-probs that belong to one another."""

    assignment: Assignment
    prompt_ids: list[int]
    completion_ids: list[int]  # guidance prefix, then what was generated
    completion: Any  # decoded: text or messages
    logprobs: list[float | None] | None  # the sampler's; None = it gives none
    spent: int  # tokens generated for this row's place so far
    extras: Mapping[str, Any] = field(default_factory=dict)  # what reward functions log of it

    @property
    def generated_tokens(self) -> int:
        """Tokens that the policy wrote."""
        return len(self.completion_ids) - len(self.assignment.slice.ids)

    def instead_of(self, thrown_away: Rollout) -> Rollout:
        """This rollout in the place of another, whose tokens stay counted."""
        return replace(self, spent=self.spent + thrown_away.spent)


def rollouts_of(plan: GuidancePlan, output: tuple[Any, ...]) -> list[Rollout]:
    """TRL's `_generate` returns columns; a rollout holds what belongs together."""
    prompt_ids, completion_ids, _, completions, logprobs, *_ = output
    columns = zip(plan, prompt_ids, completion_ids, completions, logprobs or [None] * len(plan), strict=True)
    return [
        Rollout(assignment, prompt, ids, completion, values, spent=len(ids) - len(assignment.slice.ids))
        for assignment, prompt, ids, completion, values in columns
    ]


def columns_of(
    rollouts: Sequence[Rollout], output: tuple[Any, ...], *, weight: float | None, mixed: bool
) -> tuple[Any, ...]:
    """The inverse of `rollouts_of`, for the loss.

    Args:
        rollouts: of this rank.
        output: TRL's, of the last call.
        weight: w_g, of guidance tokens in the loss; None = TRL's own mask stays.
        mixed: whether some rollouts are not of that call.
    """
    prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest = output
    if weight is not None:
        tool_mask = loss_weights(rollouts, weight)
    if mixed:
        prompt_ids = [rollout.prompt_ids for rollout in rollouts]
        completion_ids = [rollout.completion_ids for rollout in rollouts]
        completions = [rollout.completion for rollout in rollouts]
        logprobs = None if logprobs is None else [rollout.logprobs for rollout in rollouts]
    return (prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest)


def prompts_for_sampling(prompt_ids: Sequence[Sequence[int]], plan: GuidancePlan) -> list[list[int]]:
    """Prompt ids with the guidance prefix behind them."""
    return [[*ids, *assignment.slice.ids] for ids, assignment in zip(prompt_ids, plan, strict=True)]


def completions_for_training(generated_ids: Sequence[Sequence[int]], plan: GuidancePlan) -> list[list[int]]:
    """Completion ids: guidance prefix, then what was generated."""
    return [[*assignment.slice.ids, *ids] for assignment, ids in zip(plan, generated_ids, strict=True)]


def logprobs_for_training(
    logprobs: Sequence[Sequence[float | None]] | None, plan: GuidancePlan
) -> list[list[float | None]] | None:
    """The sampler's log-probs aligned with the completion ids; None where the sampler drew nothing (guidance).

    TRL gives such tokens an importance ratio of 1.
    """
    if logprobs is None:
        return None
    return [[*([None] * len(assignment.slice.ids)), *values] for assignment, values in zip(plan, logprobs, strict=True)]


def loss_weights(rollouts: Sequence[Rollout], weight: float) -> list[list[float]]:
    """Weight of each completion token in the loss: w_g for the guidance prefix, 1 for generated tokens."""
    return [[weight] * len(rollout.assignment.slice.ids) + [1.0] * rollout.generated_tokens for rollout in rollouts]


def rollout_facts(rows: Sequence[Row], rollouts: Sequence[Rollout], ends: set[int]) -> list[tuple[int, ...]]:
    """`FACTS` of each rollout of this rank, as whole numbers; truncated = it did not end with one of `ends`."""
    return [
        (
            problem_key(row),
            tier_key(row),
            rollout.assignment.stage,
            rollout.assignment.due,
            rollout.assignment.slice.tokens,
            rollout.generated_tokens,
            rollout.spent,
            rollout.assignment.slice.clipped,
            rollout.assignment.slice.leaked,
            rollout.completion_ids[-1] not in ends,
        )
        for row, rollout in zip(rows, rollouts, strict=True)
    ]


def got_guidance(facts_BK: torch.Tensor) -> torch.Tensor:
    """Which rollouts got guidance, by their facts."""
    return facts_BK[:, FACTS.index("guidance_tokens")] > 0


def problem_feedback(
    accuracy_B: torch.Tensor, facts_BK: torch.Tensor, shares_G: Sequence[float]
) -> tuple[ProblemFeedback, ...]:
    """What a controller learns of each group: successes among the graded rollouts of its guided places.

    A place counts as guided where it has a share of the strength, also while that strength is nothing: a problem that
    the policy solves alone must be seen when it fails again.
    """
    size = len(shares_G)
    graded_PG = ~accuracy_B.isnan().view(-1, size)
    graded_PG[:, [place for place, share in enumerate(shares_G) if not share]] = False
    right_PG = graded_PG & (accuracy_B.view(-1, size) > 0)
    keys_PK = facts_BK[::size][:, [FACTS.index("problem"), FACTS.index("tier")]].tolist()
    right_P, graded_P = right_PG.sum(dim=1).tolist(), graded_PG.sum(dim=1).tolist()
    return tuple(ProblemFeedback(*keys, *n) for *n, keys in zip(right_P, graded_P, keys_PK, strict=True))
