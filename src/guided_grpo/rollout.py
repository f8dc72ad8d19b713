"""Stage 3, guided generation: which ids go in front of each rollout, and where they are afterwards.

While sampling, guidance stands behind the prompt; for training it is the beginning of the completion. It is the same
list of ids at the same positions, so nothing is decoded or tokenised in between:

    sampling   [prompt ids | guidance ids] → generated ids
    training   [prompt ids] [guidance ids | generated ids]
                             w_g … w_g      1 … 1            weights in the loss
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from guided_grpo.guidance.placement import Tokenizer, continuation_ids, opening, render, thinking_is_open
from guided_grpo.guidance.slicing import Slice, slice_trace
from guided_grpo.types import Arm, Row, Strength

NO_SLICE = Slice(())
FACTS = ("wanted", "guidance_tokens", "generated_tokens", "clipped", "leaked", "truncated")


@dataclass(frozen=True)
class GuidancePlan:
    """For each rollout of the local batch: its slice of guidance, and whether it was to be guided at all."""

    slices: tuple[Slice, ...]
    wanted: tuple[bool, ...]

    @property
    def arms(self) -> list[Arm]:
        """Guided is who got at least one guidance token; a problem without a trace trains unguided."""
        return [Arm.GUIDED if piece.ids else Arm.UNGUIDED for piece in self.slices]


class GuidanceTokenizer:
    """Traces to ids in their final place, remembered: a problem comes G times a step, and again every epoch."""

    def __init__(
        self, tokenizer: Tokenizer, template_kwargs: Mapping[str, Any], thinking: str, cache: int = 4096
    ) -> None:
        self.tokenizer, self.template_kwargs, self.thinking = tokenizer, template_kwargs, thinking
        self._ids = lru_cache(maxsize=cache)(self._uncached_ids)
        self._rendered = lru_cache(maxsize=cache)(self._uncached_rendered)

    def thinking_is_open(self, prompt: str | list[dict[str, Any]]) -> bool:
        """Whether the rendered prompt opens a thinking block, so that the response cannot."""
        return thinking_is_open(self._rendered(_key(prompt)))

    def slice(self, row: Row, strength: Strength, *, leak: bool) -> Slice:
        """The guidance of one rollout; empty where the problem has no trace or the strength is 0."""
        trace = row.get("guidance")
        if not trace or strength.amount <= 0:
            return NO_SLICE
        limit = row.get("guidance_limit")
        key = _key(row["prompt"])
        return slice_trace(
            trace,
            strength,
            len(trace) if limit is None else limit,
            lambda text: list(self._ids(key, text)),
            leak=leak,
        )

    def in_place(self, row: Row, piece: Slice) -> Slice:
        """The slice with the opening of a thinking block in front, where the policy would have written one."""
        if not piece.ids:
            return piece
        rendered = self._rendered(_key(row["prompt"]))
        start = opening(rendered, self.tokenizer, self.thinking)
        if not start:
            return piece
        ids = continuation_ids(rendered, start, self.tokenizer)
        return Slice((*ids, *piece.ids), piece.clipped, piece.leaked)

    def _uncached_rendered(self, key: str) -> str:
        return render(json.loads(key), self.tokenizer, self.template_kwargs)

    def _uncached_ids(self, key: str, text: str) -> tuple[int, ...]:
        rendered = self._rendered(key)
        return tuple(
            continuation_ids(rendered + opening(rendered, self.tokenizer, self.thinking), text, self.tokenizer)
        )


def _key(prompt: str | list[dict[str, Any]]) -> str:
    return json.dumps(prompt)


def plan_batch(
    rows: Sequence[Row],
    first_index: int,
    shares_G: Sequence[float],
    strength_of: Any,
    tokenizer: GuidanceTokenizer,
    *,
    leak: bool,
) -> GuidancePlan:
    """What each rollout of the local batch gets.

    Args:
        rows: the problems, each repeated for its group as the sampler laid them out, shape (B,).
        first_index: global index of `rows[0]`; a rollout's place in its group is its global index modulo G, so the plan
            is the same however the batch is cut into ranks.
        shares_G: share of the strength by place in the group (guidance/allocation.py).
        strength_of: row → `Strength`.
        leak: let guidance state the final answer.
    """
    slices, wanted = [], []
    for offset, row in enumerate(rows):
        share = shares_G[(first_index + offset) % len(shares_G)]
        wanted.append(share > 0)
        if not share:
            slices.append(NO_SLICE)
            continue
        full = strength_of(row)
        piece = tokenizer.slice(row, Strength(full.unit, full.amount * share), leak=leak)
        slices.append(tokenizer.in_place(row, piece))
    return GuidancePlan(tuple(slices), tuple(wanted))


def prompts_for_sampling(prompt_ids: Sequence[Sequence[int]], plan: GuidancePlan) -> list[list[int]]:
    """Prompt ids with the guidance behind them."""
    return [[*ids, *piece.ids] for ids, piece in zip(prompt_ids, plan.slices, strict=True)]


def completions_for_training(generated_ids: Sequence[Sequence[int]], plan: GuidancePlan) -> list[list[int]]:
    """Completion ids: guidance, then what was generated."""
    return [[*piece.ids, *ids] for piece, ids in zip(plan.slices, generated_ids, strict=True)]


def logprobs_for_training(
    logprobs: Sequence[Sequence[float | None]] | None, plan: GuidancePlan
) -> list[list[float | None]] | None:
    """The sampler's log-probs aligned with the completion ids; None where the sampler drew nothing (guidance).

    TRL gives such tokens an importance ratio of 1.
    """
    if logprobs is None:
        return None
    return [[*([None] * len(piece.ids)), *values] for piece, values in zip(plan.slices, logprobs, strict=True)]


def loss_weights(completion_ids: Sequence[Sequence[int]], plan: GuidancePlan, weight: float) -> list[list[float]]:
    """Weight of each completion token in the loss: w_g for guidance, 1 for generated tokens."""
    return [
        [weight] * len(piece.ids) + [1.0] * (len(ids) - len(piece.ids))
        for piece, ids in zip(plan.slices, completion_ids, strict=True)
    ]


def rollout_facts(plan: GuidancePlan, completion_ids: Sequence[Sequence[int]], ends: set[int]) -> list[tuple[int, ...]]:
    """`FACTS` of each rollout of this rank, as whole numbers; truncated = it did not end with one of `ends`."""
    return [
        (want, len(piece.ids), len(ids) - len(piece.ids), piece.clipped, piece.leaked, ids[-1] not in ends)
        for want, piece, ids in zip(plan.wanted, plan.slices, completion_ids, strict=True)
    ]
