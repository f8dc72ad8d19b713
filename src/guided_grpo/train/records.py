"""Sampled rollouts as rows of rollouts.jsonl: one row a group, guidance apart from what was generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from guided_grpo.train.metrics import plain_number
from guided_grpo.train.rollout import Rollout

_PROBLEM = ("prompt", "answer", "difficulty")


def rollout_records(
    rows_b: Sequence[Mapping[str, Any]],
    rollouts_b: Sequence[Rollout],
    *,
    decode: Callable[[Sequence[int]], str],
    rewards_bF: Sequence[Sequence[float]],
    reward_names: Sequence[str],
    advantages_b: Sequence[float],
    ends: set[int],
) -> list[dict[str, Any]]:
    """One record a rollout of this rank; `ends` are the ids that end a response."""
    records = []
    for row, rollout, rewards, advantage in zip(rows_b, rollouts_b, rewards_bF, advantages_b, strict=True):
        assignment, ids = rollout.assignment, rollout.completion_ids
        prefix = len(assignment.slice.ids)
        records.append(
            {
                **{key: row.get(key) for key in _PROBLEM},
                "arm": assignment.arm.value,
                "placement": "hint" if assignment.slice.hint else "prefix",
                "stage": assignment.stage,
                "omega": assignment.omega,
                "guidance": assignment.slice.hint or decode(ids[:prefix]),
                "generated": decode(ids[prefix:]),
                "guidance_tokens": assignment.slice.tokens,
                "generated_tokens": rollout.generated_tokens,
                "rewards": {name: plain_number(value) for name, value in zip(reward_names, rewards, strict=True)},
                "advantage": advantage,
                "truncated": ids[-1] not in ends,
            }
        )
    return records


def group_records(records_B: Sequence[Mapping[str, Any]], group_size: int, step: int) -> list[dict[str, Any]]:
    """The records of all ranks, in order, gathered into groups; `step` is the optimizer step that trains on them."""
    groups = []
    for number, start in enumerate(range(0, len(records_B), group_size)):
        members = records_B[start : start + group_size]
        problem = {key: members[0][key] for key in _PROBLEM}
        rollouts = [{key: value for key, value in member.items() if key not in _PROBLEM} for member in members]
        groups.append({"step": step, "group": number, **problem, "rollouts": rollouts})
    return groups
