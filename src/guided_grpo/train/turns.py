"""Rollouts of a group in turn, later ones guided where too few of the earlier ones succeeded (TRAPO, arXiv 2512.17636).

With stages ω_1 … ω_k (`rescue_stages`) a group is sampled in k + 1 turns: one half of it, half of what is left, …, and
the rest. The first is plain. Turn i gets ω_i of the trace where the share of rollouts so far that succeeded is below
τ_i (`turn_below`), else nothing. With ω = 1 a rollout is the whole trace, graded and not sampled.

    G = 8        rollouts   1–4    5, 6                 7                    8
    right so far            –      1 of 4 < .5: .2      4 of 6 < .7: .5      7 of 7: plain

A share over all graded rollouts so far, guided ones too; where none could be graded there is no guidance. Advantages
are those of the whole group. A prefix that leaves no room for a response, or a problem without a trace: plain.

Read: the paper's text, and the code, 982cb8f. Deviations: the thresholds are the paper's (the code wants 2 of 4, 4 of
6, 7 of 7); a cut is at a token, where the code moves it to a blank line near by; both rollouts of the second turn have
the term of the trace, where the code gives it to one; the last turn takes the same trace, where the code has a second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import Assignment
from guided_grpo.guidance.slicing import Slice
from guided_grpo.settings import AxisGroup, axis
from guided_grpo.train.rollout import Rollout
from guided_grpo.types import Row

if TYPE_CHECKING:
    import torch

    from guided_grpo.train.resampling import Ladder, Resampler


@dataclass
class TurnSettings(AxisGroup):
    """When a turn is guided; what it gets then are the stages of the ladder."""

    turn_below: Annotated[list[float] | None, Interval(ge=0, le=1)] = axis(
        [0.5, 0.7, 0.9], "τ of trigger turns, one for each of rescue_stages"
    )


def check_turns(below: Sequence[float] | None, stages: Sequence[float] | None) -> None:
    """Raise `InputError` where the guided turns are not as many as their thresholds."""
    if len(below or []) != len(stages or []):
        raise InputError(
            f"is no list of one threshold for each of rescue_stages {stages}",
            field="turn_below",
            value=below,
            fix="write both alike, such as turn_below: [0.5, 0.7, 0.9] and rescue_stages: [0.2, 0.5, 1.0]",
        )


def seats_of_turns(group_size: int, stages: int) -> list[range]:
    """The places of each turn, halves up; a group may be too small for the last ones, which are empty then."""
    ends = [math.floor(group_size * (1 - 0.5**turn) + 0.5) for turn in range(stages + 1)] + [group_size]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def omega_of(rewards_b: torch.Tensor, omega: float, below: float) -> float:
    """What a turn of a group gets, after so many rollouts of it.

    Args:
        rewards_b: accuracy of its rollouts so far; NaN = not graded.
        omega: ω of the turn.
        below: τ of the turn.
    """
    graded = int((~rewards_b.isnan()).sum())
    return omega if graded and int((rewards_b > 0).sum()) / graded < below else 0.0


def sample_in_turns(
    rows_b: Sequence[Row],
    below: Sequence[float],
    ladder: Ladder,
    whole_of: Callable[[Row], Slice],
    resampler: Resampler,
    accuracy: int,
) -> tuple[list[Rollout], torch.Tensor, torch.Tensor]:
    """Rollouts of this rank; rewards of all ranks, shape (B, F); accuracy of the first turn, NaN elsewhere, shape (B,).

    Ranks hold whole groups, so that each makes the same calls with equally many rows.

    Args:
        rows_b: the problems of this rank, each repeated for its group.
        below: τ of each turn but the first.
        ladder: ω of these turns, and what a rollout gets of it.
        whole_of: a trace as a rollout; empty = there is none that fits.
        resampler: samples and grades.
        accuracy: column of the reward that decides.
    """
    import torch

    size, stages, group_size = len(rows_b), ladder.settings.rescue_stages or [], len(ladder.shares_G)
    rollouts: dict[int, Rollout] = {}
    rewards_RbF, first_B = torch.empty(0), torch.empty(0)

    def assignment(place: int, turn: int) -> Assignment:
        row, (group, seat) = rows_b[place], divmod(place, group_size)
        earlier_b = rewards_RbF[resampler.rank, group * group_size : group * group_size + turns[turn].start, accuracy]
        omega = omega_of(earlier_b, stages[turn - 1], below[turn - 1])
        plain = Assignment(stage=turn)
        if not omega:
            return plain
        if omega == 1 and ladder.gives_shares:
            return replace(plain, slice=whole_of(row), due=True, omega=omega)
        found = ladder.assign_at(row, seat, omega, turn)
        return found if ladder.has_room(row, found.slice) else plain

    turns = seats_of_turns(group_size, len(stages))
    for turn, seats in enumerate(turns):
        places = [place for place in range(size) if place % group_size in seats]
        if not places:
            continue
        plan = tuple(assignment(place, turn) if turn else Assignment() for place in places)
        sampled, rewards_JF = resampler.attempt([rows_b[place] for place in places], plan)
        rollouts.update(zip(places, sampled, strict=True))
        if not turn:
            rewards_RbF = rewards_JF.new_full((resampler.ranks, size, rewards_JF.size(1)), math.nan)
        rewards_RbF[:, places] = rewards_JF.view(resampler.ranks, len(places), -1)
        if not turn:
            first_B = rewards_RbF[:, :, accuracy].flatten().clone()  # later turns are written into the other
    return [rollouts[place] for place in range(size)], rewards_RbF.flatten(0, 1), first_B
