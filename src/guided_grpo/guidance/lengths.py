"""What every rule of a strength reads: the lengths that a user sets, and where a controller stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Interval

from guided_grpo.guidance.slicing import UNITS
from guided_grpo.settings import AxisGroup, OneOf, axis
from guided_grpo.types import Unit

Pair = tuple[float, float]  # of one problem: bounds of bisect; p̄ and s of withdraw


@dataclass
class LengthSettings(AxisGroup):
    """Lengths, and what moves them. They are in `guidance_unit`."""

    guidance_unit: Annotated[Unit, OneOf(UNITS)] = axis("tokens", "what a length counts, of the trace")
    guidance_length: Annotated[float, Ge(0)] = axis(3072.0, "initial length ℓ0; upper end of what is drawn")
    guidance_min: Annotated[float | None, Ge(0)] = axis(
        None, "lower clamp of the controllers; unset = 1, or 0.01 of the trace"
    )
    guidance_max: Annotated[float | None, Ge(0)] = axis(None, "upper clamp of the controllers; unset = none")
    guidance_final: Annotated[float, Ge(0)] = axis(
        0.0, "final length of rdp, final p of binomial-cosine; lower end of uniform and random-cut"
    )
    guidance_power: float = axis(2.0, "β > 1 of concave")
    guidance_decay: float = axis(0.5, "γ in (0, 1) of stepwise")
    guidance_interval: Annotated[int, Ge(1)] = axis(10, "s of stepwise, optimizer steps")
    guidance_history: Annotated[int, Ge(1)] = axis(2, "T of ratio, generation batches")
    guidance_target: Annotated[float, Interval(ge=0, le=1)] = axis(
        0.5, "guided success that setpoint, left and withdraw hold; τ of bisect"
    )
    guidance_gain: float = axis(0.5, "η of setpoint, left and withdraw")
    guidance_milestones: Annotated[list[int] | None, Ge(0)] = axis(
        [100], "optimizer steps from which strength steps has its next level"
    )
    guidance_levels: Annotated[list[float] | None, Ge(0)] = axis([0.25], "lengths of steps from its milestones on")
    guidance_segments: Annotated[int, Ge(1)] = axis(5, "L of binomial-cosine; a trace has at most its steps")
    guidance_end: Annotated[float | None, Interval(gt=0, le=1)] = axis(
        None, "share of the run from which binomial-cosine (unset = 0.6) and withdraw (0.9) give nothing"
    )
    guidance_hold: Annotated[float, Interval(ge=0, le=1)] = axis(
        2 / 3, "share of the run after which the cap of withdraw falls"
    )
    guidance_cuts: Annotated[int, Ge(0)] = axis(3, "cuts of a problem by random-cut; 0 = a new one at every visit")
    guidance_plain: Annotated[float, Interval(ge=0, le=1)] = axis(
        0.25, "share of visits that random-cut leaves without guidance"
    )


@dataclass(frozen=True)
class State:
    """Where a controller stands: current length, the rewards it still needs, generation batches and steps so far."""

    length: float
    rewards: tuple[float, ...] = ()  # newest last
    updates: int = 0  # generation batches fed
    optimizer_step: int = 0  # t
    progress: float = 0.0  # t/T
    left: Mapping[str, float] = field(default_factory=dict)  # a, b, c of left, by "all", "tier …", "problem …"
    problems: Mapping[str, Pair] = field(default_factory=dict)  # of bisect and withdraw, by problem_key

    def to_json(self) -> dict[str, Any]:
        """A dict for `json.dumps`; floats survive exactly."""
        problems = {key: list(pair) for key, pair in self.problems.items()}
        return {**vars(self), "rewards": list(self.rewards), "left": dict(self.left), "problems": problems}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> State:
        """The inverse of `to_json`."""
        problems = {key: (first, second) for key, (first, second) in data.get("problems", {}).items()}
        return cls(**{**data, "rewards": tuple(data["rewards"]), "problems": problems})
