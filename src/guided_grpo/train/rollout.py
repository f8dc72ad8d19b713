"""Stage 3, guided generation: which ids go in front of each rollout, and where they are afterwards.

While sampling, guidance stands behind the prompt; for training it is the beginning of the completion. It is the same
list of ids at the same positions, so nothing is decoded or tokenised in between:

    sampling   [prompt ids | guidance ids] → generated ids
    training   [prompt ids] [guidance ids | generated ids]
                             w_g … w_g      1 … 1            weights in the loss

A hint is part of the prompt, while sampling and while training; nothing of it is in the completion.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from guided_grpo.guidance.placement import (
    HINT_TEMPLATE,
    Prompt,
    Tokenizer,
    continuation_ids,
    opening,
    render,
    thinking_is_open,
    token_ends,
    with_hint,
)
from guided_grpo.guidance.slicing import Slice, slice_text, slice_trace
from guided_grpo.types import Arm, ProblemFeedback, Row, Strength

if TYPE_CHECKING:
    import torch

NO_SLICE = Slice()
FACTS = (
    "problem",  # problem_key of the row
    "tier",  # tier_key of the row
    "stage",  # attempt on the rescue ladder that it comes from; 0 = first sampling
    "wanted",
    "guidance_tokens",  # wherever they stand
    "generated_tokens",
    "spent_tokens",  # generated for this row's place, thrown-away samples too
    "clipped",
    "leaked",
    "truncated",
)


@dataclass(frozen=True)
class Assignment:
    """What one rollout gets: its slice of guidance, whether it was to be guided at all, and which attempt this is."""

    slice: Slice = NO_SLICE
    wanted: bool = False
    stage: int = 0  # attempt on the rescue ladder; 0 = first sampling
    omega: float | None = None  # what the ladder asked for

    @property
    def arm(self) -> Arm:
        """Guided is who got at least one guidance token; a problem without a trace trains unguided."""
        return Arm.GUIDED if self.slice.tokens else Arm.UNGUIDED


GuidancePlan = tuple[Assignment, ...]  # one a rollout of the local batch


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


class GuidanceTokenizer:
    """Traces in their final place, remembered: a problem comes G times a step, and again every epoch.

    Args:
        tokenizer: the policy's.
        template_kwargs: of its chat template.
        thinking: "auto", "open" or "none", see `placement.opening`.
        placement: "prefix" or "hint".
        template: wording of a hint.
        leak: let guidance state the final answer.
        cache: renderings and tokenisations kept.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template_kwargs: Mapping[str, Any],
        thinking: str,
        *,
        placement: str = "prefix",
        template: str = HINT_TEMPLATE,
        leak: bool = False,
        cache: int = 4096,
    ) -> None:
        self.tokenizer, self.template_kwargs, self.thinking = tokenizer, template_kwargs, thinking
        self.placement, self.template, self.leak = placement, template, leak
        self._ids = lru_cache(maxsize=cache)(self._uncached_ids)
        self._rendered = lru_cache(maxsize=cache)(self._uncached_rendered)
        self._token_ends = lru_cache(maxsize=cache)(lambda text: tuple(token_ends(text, tokenizer)))

    def thinking_is_open(self, prompt: Prompt) -> bool:
        """Whether the rendered prompt opens a thinking block, so that the response cannot."""
        return thinking_is_open(self._rendered(_key(prompt)))

    def slice(self, row: Row, strength: Strength) -> Slice:
        """The guidance of one rollout, in its place; empty where the problem has no trace or the strength is 0."""
        trace = row.get("guidance")
        if not trace or strength.amount <= 0:
            return NO_SLICE
        limit = row.get("guidance_limit")
        limit = len(trace) if limit is None else limit
        if self.placement == "hint":
            ends = self._token_ends
            text, clipped, leaked = slice_text(
                trace, strength, limit, token_ends=lambda text: list(ends(text)), leak=self.leak
            )
            return Slice((), clipped, leaked, text, len(ends(text)) if text else 0)
        key = _key(row["prompt"])
        piece = slice_trace(trace, strength, limit, lambda text: list(self._ids(key, text)), leak=self.leak)
        return self._opened(self._rendered(key), piece) if piece.ids else piece

    def prompt(self, prompt: Prompt, piece: Slice) -> Prompt:
        """The prompt that the policy sees: with the hint in its user's turn, where there is one."""
        return with_hint(prompt, piece.hint, self.template) if piece.hint else prompt

    def length(self, prompt: Prompt, piece: Slice) -> int:
        """Tokens before the first generated one: prompt, hint, and guidance prefix."""
        return len(self.prompt_ids(self.prompt(prompt, piece))) + len(piece.ids)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt as the policy sees it, tokenised."""
        # A rendered chat carries its special tokens already; a plain text gets the tokenizer's.
        ids = self.tokenizer(self._rendered(_key(prompt)), add_special_tokens=isinstance(prompt, str))["input_ids"]
        return list(ids)

    def _opened(self, rendered: str, piece: Slice) -> Slice:
        # With the opening of a thinking block in front, where the policy would have written one.
        start = opening(rendered, self.tokenizer, self.thinking)
        ids = continuation_ids(rendered, start, self.tokenizer)
        return replace(piece, ids=(*ids, *piece.ids))

    def _uncached_rendered(self, key: str) -> str:
        return render(json.loads(key), self.tokenizer, self.template_kwargs)

    def _uncached_ids(self, key: str, text: str) -> tuple[int, ...]:
        rendered = self._rendered(key)
        return tuple(
            continuation_ids(rendered + opening(rendered, self.tokenizer, self.thinking), text, self.tokenizer)
        )


def _key(prompt: Prompt) -> str:
    return json.dumps(prompt, default=str)  # parts of a chat may be images


@lru_cache(maxsize=4096)
def _digest(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) >> 1  # fits a signed 64-bit tensor


def problem_key(row: Row) -> int:
    """A number by which a problem is known again, in any epoch, rank and run: a hash of its prompt."""
    return _digest(_key(row.get("prompt", "")))


def tier_key(row: Row) -> int:
    """A number by which problems of one difficulty are known: a tier, or a number to one decimal; 0 = it has none."""
    difficulty = row.get("difficulty")
    if difficulty is None:
        return 0
    return _digest(str(difficulty) if isinstance(difficulty, str) else f"{float(difficulty):.1f}")


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
        shares_G: share of the strength by place in the group (guidance/allocation.py).
        strength_of: how much a problem's guided rollouts get.
        tokenizer: cuts and places it.
    """
    return tuple(
        assign(row, shares_G[(first_index + offset) % len(shares_G)], strength_of(row), tokenizer)
        for offset, row in enumerate(rows)
    )


def assign(row: Row, share: float, full: Strength, tokenizer: GuidanceTokenizer) -> Assignment:
    """What the rollout at a place with this share of the strength gets; share 0 = unguided."""
    if not share:
        return Assignment()
    asked = Strength(full.unit, full.amount * share)
    return Assignment(tokenizer.slice(row, asked), wanted=asked.amount > 0)


def prompts_for_sampling(prompt_ids: Sequence[Sequence[int]], plan: GuidancePlan) -> list[list[int]]:
    """Prompt ids with the guidance prefix behind them."""
    return [[*ids, *given.slice.ids] for ids, given in zip(prompt_ids, plan, strict=True)]


def completions_for_training(generated_ids: Sequence[Sequence[int]], plan: GuidancePlan) -> list[list[int]]:
    """Completion ids: guidance prefix, then what was generated."""
    return [[*given.slice.ids, *ids] for given, ids in zip(plan, generated_ids, strict=True)]


def logprobs_for_training(
    logprobs: Sequence[Sequence[float | None]] | None, plan: GuidancePlan
) -> list[list[float | None]] | None:
    """The sampler's log-probs aligned with the completion ids; None where the sampler drew nothing (guidance).

    TRL gives such tokens an importance ratio of 1.
    """
    if logprobs is None:
        return None
    return [[*([None] * len(given.slice.ids)), *values] for given, values in zip(plan, logprobs, strict=True)]


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
            rollout.assignment.wanted,
            rollout.assignment.slice.tokens,
            rollout.generated_tokens,
            rollout.spent,
            rollout.assignment.slice.clipped,
            rollout.assignment.slice.leaked,
            rollout.completion_ids[-1] not in ends,
        )
        for row, rollout in zip(rows, rollouts, strict=True)
    ]


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
