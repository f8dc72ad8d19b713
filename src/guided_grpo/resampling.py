"""Stage 3c, how rows are sampled again: the jobs of a call, dealt over the ranks, and their rollouts put in place.

`rescue.py` says which groups go again and how far up the ladder they are; this module carries it out. All ranks make
the same calls with equally many rows, whoever's groups failed; where nothing is difficult nothing is sent at all. A
rollout travels whole, with the prompt, completion, log-probs and assignment that belong to one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from guided_grpo.rescue import Climb, Climbs, deal, difficult_groups, observe, open_groups, successes_P
from guided_grpo.rollout import Assignment, GuidancePlan, Rollout
from guided_grpo.types import Row


class Engine(Protocol):
    """What sampling again needs of a trainer."""

    ranks: int
    rank: int

    def gather(self, values: list[Any]) -> list[Any]:
        """The lists of all ranks, in rank order, on each of them."""
        ...

    def attempt(self, rows_b: list[Row], plan: GuidancePlan) -> tuple[list[Rollout], torch.Tensor]:
        """Sample and grade: rollouts of this rank, and the rewards of all ranks, shape (ranks · len(rows_b), F)."""
        ...


@dataclass(frozen=True)
class Job:
    """One row to sample again, from whichever rank."""

    index: int  # in the batch of all ranks
    row: Row
    assignment: Assignment


@dataclass(frozen=True)
class Rescued:
    """A batch after the ladder."""

    rollouts_b: list[Rollout]
    rewards_BF: torch.Tensor  # all ranks
    climbs: Climbs
    calls: int = 0
    rows: int = 0  # sampled again, all ranks, without filler
    tokens: int = 0  # generated for that, all ranks, with filler


def rescue_batch(
    rows_b: Sequence[Row],
    rollouts_b: Sequence[Rollout],
    rewards_BF: torch.Tensor,
    engine: Engine,
    *,
    accuracy: int,
    group_size: int,
    rungs_of: Callable[[Row], tuple[float, ...]],
    assign_at: Callable[[Row, int, float, int], Assignment],
) -> Rescued:
    """Climb the ladder with the difficult groups of a batch.

    Args:
        rows_b: the problems of this rank, each repeated for its group.
        rollouts_b: their first sampling.
        rewards_BF: rewards of the first sampling, all ranks.
        engine: samples, grades and gathers.
        accuracy: column of the reward that decides.
        group_size: G.
        rungs_of: the ω that a problem may try, increasing; empty = it cannot be helped.
        assign_at: (row, place in the group, ω, attempt) → what that rollout gets.
    """
    difficult = set(difficult_groups(rewards_BF[:, accuracy], group_size))
    if not difficult:
        return Rescued(list(rollouts_b), rewards_BF, {})
    first = engine.rank * len(rows_b)
    leaders = [(group, group * group_size - first) for group in sorted(difficult)]
    known = [(group, rungs_of(rows_b[place])) for group, place in leaders if 0 <= place < len(rows_b)]
    climbs: Climbs = {group: Climb(rungs) for group, rungs in engine.gather(known)}
    state = Rescued(list(rollouts_b), rewards_BF.clone(), climbs)
    while asked := open_groups(state.climbs):
        state = _call(state, asked, rows_b, engine, accuracy, group_size, assign_at)
    return state


def _call(
    state: Rescued,
    asked: dict[int, float],
    rows_b: Sequence[Row],
    engine: Engine,
    accuracy: int,
    group_size: int,
    assign_at: Callable[[Row, int, float, int], Assignment],
) -> Rescued:
    """One generation call with the groups in `asked`, and the ladder after it."""
    first, attempt = engine.rank * len(rows_b), state.calls + 1
    here = []
    for place, row in enumerate(rows_b):
        group, seat = divmod(first + place, group_size)
        if group in asked:
            here.append(Job(first + place, row, assign_at(row, seat, asked[group], attempt)))
    jobs: list[Job] = engine.gather(here)
    mine, filler = deal(jobs, engine.ranks, engine.rank)
    sampled, rewards_JF = engine.attempt([job.row for job in mine], tuple(job.assignment for job in mine))
    everywhere: list[Rollout] = engine.gather(sampled)
    rollouts_b, rewards_BF = list(state.rollouts_b), state.rewards_BF.clone()
    for job, rollout, rewards_F in zip(jobs, everywhere, rewards_JF, strict=False):  # filler stands at the end
        rewards_BF[job.index] = rewards_F
        if 0 <= (place := job.index - first) < len(rollouts_b):
            rollouts_b[place] = rollout.instead_of(rollouts_b[place])
    if filler:  # somebody has to pay for it
        wasted = sum(rollout.generated_tokens for rollout in sampled[-filler:])
        rollouts_b[0] = replace(rollouts_b[0], spent=rollouts_b[0].spent + wasted)
    successes = successes_P(rewards_BF[:, accuracy], group_size)
    return Rescued(
        rollouts_b,
        rewards_BF,
        observe(state.climbs, {group: successes[group] for group in asked}),
        calls=attempt,
        rows=state.rows + len(jobs),
        tokens=state.tokens + sum(rollout.generated_tokens for rollout in everywhere),
    )
