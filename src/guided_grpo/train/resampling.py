"""Stage 3c, how rows are sampled again: the jobs of a call, dealt over the ranks, and their rollouts put in place.

`rescue.py` says which groups go again and how far up the ladder they are; this module carries it out. All ranks make
the same calls with equally many rows, whoever's groups failed; where nothing is difficult nothing is sent at all. A
rollout travels whole, with the prompt, completion, log-probs and assignment that belong to one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from guided_grpo.guidance.allocation import Assignment, GuidancePlan, assign
from guided_grpo.guidance.keys import problem_key
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.guidance.slicing import Slice
from guided_grpo.train.rescue import (
    Climb,
    Climbs,
    LadderSettings,
    ProblemHistory,
    Search,
    deal,
    difficult_groups,
    observe,
    open_groups,
    rungs,
    successes_P,
)
from guided_grpo.train.rollout import Rollout
from guided_grpo.types import Row, Strength, Unit

if TYPE_CHECKING:
    import torch


Attempt = Callable[[list[Row], GuidancePlan], "tuple[list[Rollout], torch.Tensor]"]


@dataclass(frozen=True)
class Resampler:
    """What sampling again needs of a trainer.

    Args:
        ranks: processes.
        rank: this one.
        gather: the lists of all ranks, in rank order, on each of them.
        attempt: samples and grades; rollouts of this rank, and the rewards of all ranks, shape (ranks · rows, F).
    """

    ranks: int
    rank: int
    gather: Callable[[list[Any]], list[Any]]
    attempt: Attempt


@dataclass(frozen=True)
class Ladder:
    """What a problem can be given: its rungs, and a rollout's guidance on each of them.

    Args:
        settings: rule, stages and the like.
        shares_G: share of the strength by place in the group, the method's allocation.
        tokenizer: cuts and places guidance.
        history: where each problem starts to climb.
        share: unit of an ω.
        full: the length that the strength axis asks for, where stages are multiples of it.
        room: tokens of context for prompt and guidance.
    """

    settings: LadderSettings
    shares_G: Sequence[float]
    tokenizer: GuidanceTokenizer
    history: ProblemHistory
    share: Unit
    full: Callable[[Row], Strength]
    room: float

    def rungs_of(self, row: Row) -> tuple[float, ...]:
        """The ω that a problem may climb: each gives more than the one before, and leaves room for a response."""
        climb, tokens = [], 0
        for omega in rungs(self.settings, self.history.start(problem_key(row))):
            piece = self.tokenizer.slice(row, self._strength(row, omega))
            if piece.tokens > tokens and self.has_room(row, piece):
                climb.append(omega)
                tokens = piece.tokens
        return tuple(climb)

    def assign_at(self, row: Row, place: int, omega: float, attempt: int) -> Assignment:
        """What the rollout at `place` of the group gets in this attempt."""
        assignment = assign(row, self.shares_G[place], self._strength(row, omega), self.tokenizer)
        return replace(assignment, stage=attempt, omega=omega)

    def has_room(self, row: Row, piece: Slice) -> bool:
        """Whether a response fits behind it."""
        return self.tokenizer.length(row["prompt"], piece) <= self.room

    @property
    def gives_shares(self) -> bool:
        """Whether an ω is a share of the trace."""
        return self.settings.rescue_strength != "controller"

    def _strength(self, row: Row, omega: float) -> Strength:
        if self.gives_shares:
            return Strength(self.share, omega)
        full = self.full(row)
        return Strength(full.unit, full.amount * omega)


@dataclass(frozen=True)
class Retry:
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
    resampler: Resampler,
    ladder: Ladder,
    accuracy: int,
) -> Rescued:
    """Climb the ladder with the difficult groups of a batch.

    Args:
        rows_b: the problems of this rank, each repeated for its group.
        rollouts_b: their first sampling.
        rewards_BF: rewards of the first sampling, all ranks.
        resampler: samples, grades and gathers.
        ladder: what can be given.
        accuracy: column of the reward that decides.
    """
    group_size = len(ladder.shares_G)
    difficult = set(difficult_groups(rewards_BF[:, accuracy], group_size))
    if not difficult:
        return Rescued(list(rollouts_b), rewards_BF, {})
    first = resampler.rank * len(rows_b)
    leaders = [(group, group * group_size - first) for group in sorted(difficult)]
    rungs_b = [(group, ladder.rungs_of(rows_b[place])) for group, place in leaders if 0 <= place < len(rows_b)]
    searched = ladder.settings.rescue_strength == "bisect"
    climbs: Climbs = {
        group: Search(rungs, size=group_size) if searched else Climb(rungs)
        for group, rungs in resampler.gather(rungs_b)
    }
    state = Rescued(list(rollouts_b), rewards_BF.clone(), climbs)
    while omegas := open_groups(state.climbs):
        state = _call(state, omegas, rows_b, resampler, ladder, accuracy)
    return state


def _call(
    state: Rescued,
    omegas: dict[int, float],
    rows_b: Sequence[Row],
    resampler: Resampler,
    ladder: Ladder,
    accuracy: int,
) -> Rescued:
    """One generation call with the groups in `omegas`, and the ladder after it."""
    group_size = len(ladder.shares_G)
    first, attempt = resampler.rank * len(rows_b), state.calls + 1
    retries_b = []
    for place, row in enumerate(rows_b):
        group, seat = divmod(first + place, group_size)
        if group in omegas and (seat < ladder.settings.rescue_rows or not ladder.settings.rescue_rows):
            retries_b.append(Retry(first + place, row, ladder.assign_at(row, seat, omegas[group], attempt)))
    jobs: list[Retry] = resampler.gather(retries_b)
    mine, filler = deal(jobs, resampler.ranks, resampler.rank)
    sampled, rewards_JF = resampler.attempt([job.row for job in mine], tuple(job.assignment for job in mine))
    everywhere: list[Rollout] = resampler.gather(sampled)
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
        observe(state.climbs, {group: successes[group] for group in omegas}),
        calls=attempt,
        rows=state.rows + len(jobs),
        tokens=state.tokens + sum(rollout.generated_tokens for rollout in everywhere),
    )
