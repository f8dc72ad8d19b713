"""Stage 3b, the rescue ladder: groups that are too hard are sampled again, with more and more guidance.

GHPO (arXiv 2507.10628), §3.3–3.5. A group is *difficult* when no rollout of its first sampling has a positive accuracy
reward. It is sampled again, whole, with the first ω of its trace: ω = 0.25; if that fails 0.5; then 0.75; then it is
kept as it is. The redone rollouts take the place of the thrown-away ones; advantages are computed after that.

    first sampling   A ✓        B ✗        C ✗        one call, all groups
    attempt 1                   B ω=.25 ✓  C ω=.25 ✗  one call, the groups that still fail, of all ranks
    attempt 2                              C ω=.5 ✗   one call
    attempt 3                              C ω=.75 ✗  one call; C is lost, and trains on this attempt's rollouts

Four rules say which ω a group climbs:

    stages      the same list for every problem (the paper)
    memory      ω as a function of the problem's own history, an open question of the paper. A problem starts where it
                last stood and moves by
                    after an attempt at ω with success rate p:   ω ← clip(ω + η (p* − p), ω_least, ω_top)
                    after a first sampling with p > 0:           ω ← clip(ω − η p, ω_least, ω_top)
                so a failure lengthens the hint by η p*, and a hint that made the problem trivial is shortened. With
                η = p* = 0.5 an unseen problem climbs .25, .5, .75 like the paper's.
    controller  the stages are multiples of the length that the strength axis asks for (Eq. 5 and its relatives)
    bisect      BREAD (arXiv 2506.17211): the stages are searched by halves for a prefix that some rollouts finish and
                some do not. The middle stage is tried (of an even number the shorter one); k of G succeed:
                    k = 0: on among the longer ones     k = G: on among the shorter ones     else: found

Deviations from the public code, which loses the hint of a group rescued at .25 when another one goes on to .5: every
rollout carries its own prompt and attempt. A verifier that failed is not a failure of the policy: such rollouts do not
count, and a group without a single graded rollout is not difficult.

bisect: of the paper the abstract was read; that there are ten stages, that a probe is a whole group, and that 0 < k < G
ends the search is our reading. A search that ends without such a group keeps its last probe, whose rollouts all fail or
all succeed, so that they teach nothing, as the first sampling would not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Interval

from guided_grpo.errors import InputError
from guided_grpo.guidance.slicing import SHARES
from guided_grpo.settings import AxisGroup, OneOf, axis, setting

if TYPE_CHECKING:
    import torch

RULES = ("stages", "memory", "controller", "bisect")
STAGES = (0.25, 0.5, 0.75)  # the paper's
LEAST = 0.05  # ω_least of memory: a shorter hint is none


@dataclass
class LadderSettings(AxisGroup):
    """Which groups are sampled again, and with how much guidance."""

    guidance_trigger: Annotated[str, OneOf(("always", "rescue", "both", "turns"))] = axis(
        "always", "always: at the first sampling; rescue: only groups that failed; both; turns: train/turns.py"
    )
    rescue_strength: Annotated[str | None, OneOf(RULES)] = axis(
        None, "of the ladder; unset = controller where rescue has a guidance_strength, else stages"
    )
    rescue_stages: Annotated[list[float] | None, Gt(0)] = axis(
        None, "increasing; unset = 0.25 0.5 0.75 of the trace, or 1 × the controller's length"
    )
    rescue_slice: Annotated[str, OneOf(SHARES)] = axis("chars", "what a share of the trace is of")
    rescue_rows: Annotated[int, Ge(0)] = axis(0, "rollouts of a group that climb, its first ones; 0 = all of them")
    rescue_cold_start: Annotated[int, Ge(0)] = axis(20, "optimizer steps before the first rescue; 0 = none")
    rescue_cold_format: Annotated[float | None, Interval(ge=0, le=1)] = axis(
        None, "mean format reward that ends the cold start, in place of steps; unset = steps"
    )
    format_reward: str = setting("format", "reward function that ends a cold start by format")
    rescue_target: Annotated[float, Interval(ge=0, le=1)] = axis(0.5, "p* of memory")
    rescue_gain: Annotated[float, Ge(0)] = axis(0.5, "η of memory")


def rule_of(settings: LadderSettings, *, adaptive: bool) -> str:
    """`rescue_strength`, or what stands for it; `adaptive` = the method has a strength of its own."""
    if settings.rescue_strength is not None:
        return settings.rescue_strength
    return "controller" if adaptive and settings.guidance_trigger == "rescue" else "stages"


def stages_of(settings: LadderSettings) -> tuple[float, ...]:
    """`rescue_stages`, or what stands for them."""
    if settings.rescue_stages is not None:
        return tuple(settings.rescue_stages)
    return (1.0,) if settings.rescue_strength == "controller" else STAGES


def check_stages(settings: LadderSettings) -> None:
    """Raise `InputError` unless the stages increase, and end at 1 at most where they are shares of the trace."""
    stages, top = stages_of(settings), math.inf if settings.rescue_strength == "controller" else 1.0
    if not stages or stages[-1] > top or any(a >= b for a, b in itertools.pairwise(stages)):
        raise InputError(
            "is no increasing list of numbers above 0" + ("" if top > 1 else " and up to 1"),
            field="rescue_stages",
            value=list(stages),
            fix="write shares such as 0.25 0.5 0.75",
        )


@dataclass(frozen=True)
class Climb:
    """One difficult group on the ladder. `rungs` are the ω it may try, increasing; none = it cannot be helped."""

    rungs: tuple[float, ...]
    attempts: int = 0
    rescued: bool = False
    ungraded: bool = False  # the verifier failed on a whole attempt: nobody knows, and nothing more is done

    @property
    def is_open(self) -> bool:
        """Whether it still fails and has a rung left."""
        return not (self.rescued or self.ungraded) and self.attempts < len(self.rungs)

    @property
    def omega(self) -> float:
        """ω of the next attempt while it is open, else of the last one."""
        return self.rungs[self.attempts if self.is_open else self.attempts - 1]

    def observe(self, successes: int | None) -> Climb:
        """After an attempt at `omega` in which so many rollouts succeeded; None = none could be graded."""
        return replace(self, attempts=self.attempts + 1, rescued=bool(successes), ungraded=successes is None)


@dataclass(frozen=True)
class Search(Climb):
    """The same where ω is searched by halves: `rungs` are those that are left, and the middle one is tried next."""

    size: int = 0  # G
    last: float = 0.0  # ω of the last attempt

    @property
    def is_open(self) -> bool:
        """Whether nothing was found and there are rungs left."""
        return bool(self.rungs)

    @property
    def omega(self) -> float:
        """As of a climb."""
        return self.rungs[(len(self.rungs) - 1) // 2] if self.is_open else self.last

    def observe(self, successes: int | None) -> Search:
        """As of a climb."""
        middle = (len(self.rungs) - 1) // 2
        left: tuple[float, ...] = ()
        if successes == 0:
            left = self.rungs[middle + 1 :]
        elif successes == self.size:
            left = self.rungs[:middle]
        return replace(
            self,
            rungs=left,
            attempts=self.attempts + 1,
            rescued=bool(successes),
            ungraded=successes is None,
            last=self.omega,
        )


Climbs = dict[int, Climb]  # by number of the group in the batch of all ranks


def successes_P(accuracy_B: torch.Tensor, group_size: int) -> list[int | None]:
    """Rollouts of each group with a positive accuracy reward; None where not a single one could be graded."""
    rewards = accuracy_B.view(-1, group_size)
    counts = (rewards > 0).sum(dim=1).tolist()  # NaN compares false
    graded = (~rewards.isnan()).any(dim=1).tolist()
    return [count if any_graded else None for count, any_graded in zip(counts, graded, strict=True)]


def difficult_groups(accuracy_B: torch.Tensor, group_size: int) -> list[int]:
    """Numbers of the groups in which rollouts were graded and none has a positive accuracy reward."""
    return [group for group, count in enumerate(successes_P(accuracy_B, group_size)) if count == 0]


def open_groups(climbs: Mapping[int, Climb]) -> dict[int, float]:
    """The groups that the next call samples again, and the ω of each."""
    return {group: climb.omega for group, climb in sorted(climbs.items()) if climb.is_open}


def observe(climbs: Mapping[int, Climb], successes: Mapping[int, int | None]) -> Climbs:
    """The ladder after a call; `successes` by group of that call, as `successes_P` counts them."""
    return {group: climb.observe(successes[group]) if group in successes else climb for group, climb in climbs.items()}


def rungs(settings: LadderSettings, start: float) -> tuple[float, ...]:
    """The ω that a difficult problem may try, increasing, at most as many as there are stages."""
    stages = stages_of(settings)
    if settings.rescue_strength != "memory":
        return stages
    climb, omega, top = [start], start, stages[-1]
    while omega < top - 1e-9 and len(climb) < len(stages):
        omega = min(top, omega + settings.rescue_gain * settings.rescue_target)
        climb.append(omega)
    return tuple(climb)


def most_attempts(settings: LadderSettings) -> int:
    """The most that a group can make."""
    stages = len(stages_of(settings))
    return stages.bit_length() if settings.rescue_strength == "bisect" else stages


@dataclass
class Record:
    """What is remembered of one problem: where its next climb starts, and whether it was difficult when last seen."""

    omega: float
    difficult: bool


class ProblemHistory:
    """The problems seen so far, by `rollout.problem_key`; the same on all ranks."""

    def __init__(self, settings: LadderSettings) -> None:
        self.settings = settings
        self._records: dict[int, Record] = {}

    def start(self, key: int) -> float:
        """ω at which the problem starts to climb; the first stage where it was never seen."""
        record = self._records.get(key)
        return stages_of(self.settings)[0] if record is None else record.omega

    def observe(self, key: int, rate: float, climb: Climb | None) -> tuple[bool | None, bool]:
        """Remember one group. Returns whether the problem was difficult before (None = new), and whether it is now.

        Args:
            key: of the problem.
            rate: success rate of the rollouts that the group ended with.
            climb: its way up the ladder; None = the first sampling had a success, or there is no ladder.
        """
        before = self._records.get(key)
        omega = self.start(key)
        difficult = climb is not None or rate == 0
        if climb is not None and climb.attempts:
            omega = self._clip(climb.omega + self.settings.rescue_gain * (self.settings.rescue_target - rate))
        elif not difficult:
            omega = self._clip(omega - self.settings.rescue_gain * rate)
        self._records[key] = Record(omega, difficult)
        return (None if before is None else before.difficult), difficult

    def _clip(self, omega: float) -> float:
        return min(max(omega, LEAST), stages_of(self.settings)[-1])

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {str(key): [record.omega, record.difficult] for key, record in self._records.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._records = {int(key): Record(float(omega), bool(hard)) for key, (omega, hard) in state.items()}


def deal(jobs: Sequence[Any], ranks: int, rank: int) -> tuple[list[Any], int]:
    """This rank's share of the rows to sample again, and how many of them are filler, at its end.

    Every rank gets equally many, so that engines that act together (sharded weights, a vLLM server) make one call of
    one shape on each rank, whoever's groups failed. Filler rows repeat the last job, fewer than `ranks` in all; their
    rollouts are thrown away.
    """
    each = -(-len(jobs) // ranks)
    mine = list(jobs[rank * each : (rank + 1) * each])
    filler = each - len(mine)
    return mine + [jobs[-1]] * filler, filler


def outcomes(climbs: Iterable[Climb], attempts: int) -> dict[str, int]:
    """Groups rescued at each attempt ("1", "2", …), lost after the last one, and without a rung to try.

    Those whose last attempt could not be graded are none of these.
    """
    counts = {str(attempt): 0 for attempt in range(1, attempts + 1)} | {"lost": 0, "unguidable": 0}
    for climb in climbs:
        if not climb.ungraded:
            counts["unguidable" if not climb.attempts else str(climb.attempts) if climb.rescued else "lost"] += 1
    return counts
