"""How much guidance, over time: schedules and controllers.

Schedules (G²RPO-A, Eq. 4), with ℓ0 the initial length and t/T the share of optimizer steps done (of the token
budget, where the run has one):

    linear      ℓ_t = ℓ0 (1 − t/T)
    concave     ℓ_t = ℓ0 (1 − t/T)^β, β > 1
    stepwise    ℓ_t = ℓ0 γ^⌊t/s⌋, 0 < γ < 1
    rdp         ℓ_t = ℓ_final + (ℓ0 − ℓ_final)(1 − t/T), the "rule-based decay policy" of Tables 10–11
    steps       ℓ_t = ℓ0, and the next level from each milestone on: ½, from step 100 ¼ (QuestA, arXiv 2507.13266)

Controllers, with r_k the mean accuracy reward of generation batch k, guided and unguided rollouts together:

    ratio           ℓ_{k+1} = ℓ_k · mean(r_{k−1} … r_{k−min(T,k)}) / r_k                     (G²RPO-A, Eq. 5)
    ratio-official  the same with mean(r_{k−2}, r_{k−1}) / r_k, on every third batch only, ℓ truncated to an integer
    setpoint        ℓ_{k+1} = ℓ_k · exp(η (p* − p_k)), p_k the guided success of batch k: holds p_k near p*
    left            the same in the share u of the trace that is left to the policy, for every problem its own:
                    log u(q) = log(1 − ℓ0) + a + b_tier(q) + c_q, where a, b and c are integrators of p − p*,
                    a += η mean over the batch, b += η mean over the tier's problems, c += η (p_q − p*)

Of each problem its own, drawn or moved by its success: binomial-cosine, uniform, random-cut, bisect and withdraw of
per_problem.py, which has their equations.

Deviations from the paper. Eq. 5 is printed with the inverse ratio, which lengthens guidance when rewards rise; the
paper's own explanation and its code do the opposite, and so does this module. A batch whose r_k or history is 0 leaves
ℓ as it is (the equation would divide by zero or stay at 0 for ever). ℓ stays in [guidance_min, guidance_max]. QuestA
gives shares of the solution after the thinking, in characters: with `steps` the data decides what the trace is.

Property of the ratio controller: with T = 1 the product ℓ_{k+1}·r_k never changes, so ℓ = C / r: it has no set-point.

Interface, after optax: `init() -> State`, `update(State, StepFeedback) -> State`, `strength(State, row) -> Strength`,
all pure; `State` is frozen and JSON-able.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from guided_grpo.errors import InputError
from guided_grpo.guidance import per_problem
from guided_grpo.guidance.keys import problem_key, tier_key
from guided_grpo.guidance.lengths import LengthSettings, State
from guided_grpo.settings import AxisGroup, OneOf, axis
from guided_grpo.types import Row, StepFeedback, Strength

LEAST_LEFT = 0.02  # share of a trace that left never gives


@dataclass
class StrengthChoice(AxisGroup):
    """Which rule."""

    guidance_strength: Annotated[str, OneOf(STRENGTHS)] = axis("none", "over time; none = only what the ladder gives")


@dataclass
class StrengthSettings(LengthSettings, StrengthChoice):
    """How much guidance, over time."""


@dataclass(frozen=True)
class Controller:
    """One value of the strength axis, bound to its settings."""

    init: Callable[[], State]
    update: Callable[[State, StepFeedback], State]
    strength: Callable[[State, Row], Strength]


LengthRule = Callable[[LengthSettings, State, Row], float]
UpdateRule = Callable[[LengthSettings, State, StepFeedback], State]


def _nothing(settings: LengthSettings, state: State, row: Row) -> float:
    return 0.0


def _constant(settings: LengthSettings, state: State, row: Row) -> float:
    return settings.guidance_length


def _linear(settings: LengthSettings, state: State, row: Row) -> float:
    return settings.guidance_length * (1 - state.progress)


def _concave(settings: LengthSettings, state: State, row: Row) -> float:
    return settings.guidance_length * float((1 - state.progress) ** settings.guidance_power)


def _stepwise(settings: LengthSettings, state: State, row: Row) -> float:
    return settings.guidance_length * settings.guidance_decay ** (state.optimizer_step // settings.guidance_interval)


def _rdp(settings: LengthSettings, state: State, row: Row) -> float:
    return settings.guidance_final + (settings.guidance_length - settings.guidance_final) * (1 - state.progress)


def _steps(settings: LengthSettings, state: State, row: Row) -> float:
    passed = bisect_right(settings.guidance_milestones or [], state.optimizer_step)
    return (settings.guidance_length, *(settings.guidance_levels or []))[passed]


def _tracked(settings: LengthSettings, state: State, row: Row) -> float:
    return state.length


def _unchanged(settings: LengthSettings, state: State, feedback: StepFeedback) -> State:
    return state


def _ratio(settings: LengthSettings, state: State, feedback: StepFeedback) -> State:
    past, now = state.rewards, feedback.reward
    rewards = (*past, now)[-settings.guidance_history :]
    if not past or now <= 0 or sum(past) <= 0:
        return replace(state, rewards=rewards)
    return replace(state, rewards=rewards, length=_clamp(settings, state.length * (sum(past) / len(past)) / now))


def _ratio_official(settings: LengthSettings, state: State, feedback: StepFeedback) -> State:
    rewards = (*state.rewards, feedback.reward)
    if len(rewards) < 3:
        return replace(state, rewards=rewards)
    before, now = (rewards[0] + rewards[1]) / 2, rewards[2]
    if before <= 0 or now <= 0:
        return replace(state, rewards=())
    return replace(state, rewards=(), length=float(int(_clamp(settings, state.length * before / now))))


def _setpoint(settings: LengthSettings, state: State, feedback: StepFeedback) -> State:
    if not feedback.guided_count:
        return state
    guided = feedback.guided_sum / feedback.guided_count
    return replace(
        state,
        length=_clamp(settings, state.length * math.exp(settings.guidance_gain * (settings.guidance_target - guided))),
    )


def _keys(problem: int, tier: int) -> tuple[str, ...]:
    return ("all", *([f"tier {tier}"] if tier else []), f"problem {problem}")


def _log_left(settings: LengthSettings, state: State, keys: Sequence[str]) -> float:
    start = math.log(max(1 - settings.guidance_length, LEAST_LEFT))
    return start + sum(state.left.get(key, 0.0) for key in keys)


def _given(settings: LengthSettings, state: State, row: Row) -> float:
    keys = _keys(problem_key(row), tier_key(row)) if row else ("all",)
    left = math.exp(_log_left(settings, state, keys))
    return 1 - min(max(left, LEAST_LEFT), 1.0)


def _left(settings: LengthSettings, state: State, feedback: StepFeedback) -> State:
    errors: dict[str, list[float]] = {}
    for group in feedback.problems:
        if not group.rollouts:
            continue
        keys = _keys(group.problem, group.tier)
        error, stands = group.successes / group.rollouts - settings.guidance_target, _log_left(settings, state, keys)
        if (stands >= 0 and error > 0) or (stands <= math.log(LEAST_LEFT) and error < 0):
            error = 0.0  # at its end already: nothing is wound up that would have to be unwound
        for key in keys:
            errors.setdefault(key, []).append(error)
    moved = {key: state.left.get(key, 0.0) + settings.guidance_gain * sum(e) / len(e) for key, e in errors.items()}
    return replace(state, left={**state.left, **moved})


def least_length(settings: LengthSettings) -> float:
    """`guidance_min`, or what stands for it: never 0, since a length that is multiplied would stay there."""
    if settings.guidance_min is not None:
        return settings.guidance_min
    return 0.01 if settings.guidance_unit.startswith("ratio") else 1.0


def _clamp(settings: LengthSettings, length: float) -> float:
    top = math.inf if settings.guidance_max is None else settings.guidance_max
    return min(max(length, least_length(settings)), top)


STRENGTHS: dict[str, tuple[LengthRule, UpdateRule]] = {
    "none": (_nothing, _unchanged),
    "constant": (_constant, _unchanged),
    "linear": (_linear, _unchanged),
    "concave": (_concave, _unchanged),
    "stepwise": (_stepwise, _unchanged),
    "rdp": (_rdp, _unchanged),
    "steps": (_steps, _unchanged),
    "ratio": (_tracked, _ratio),
    "ratio-official": (_tracked, _ratio_official),
    "setpoint": (_tracked, _setpoint),
    "left": (_given, _left),
    "binomial-cosine": (per_problem.binomial_cosine, _unchanged),
    "uniform": (per_problem.uniform, _unchanged),
    "random-cut": (per_problem.random_cut, _unchanged),
    "bisect": (per_problem.bisect, per_problem.observe_bisect),
    "withdraw": (per_problem.withdraw, per_problem.observe_withdraw),
}
_OF_SHARES = ("binomial-cosine", "withdraw")  # whatever the unit, what they compute is a share


def check_strength(settings: StrengthSettings) -> None:
    """Raise `InputError` where the strength does not go with its unit, or its levels with their milestones."""
    if settings.guidance_strength in _OF_SHARES and not settings.guidance_unit.startswith("ratio"):
        raise InputError(
            f"counts pieces, and strength {settings.guidance_strength} gives shares of a trace",
            field="guidance_unit",
            value=settings.guidance_unit,
            fix="use ratio, ratio-steps or ratio-chars",
        )
    milestones, levels = settings.guidance_milestones or [], settings.guidance_levels or []
    increasing = all(a < b for a, b in itertools.pairwise(milestones))
    if settings.guidance_strength == "steps" and not (increasing and len(milestones) == len(levels)):
        raise InputError(
            f"is no increasing list of one step for each of guidance_levels {levels}",
            field="guidance_milestones",
            value=milestones,
            fix="write both alike, such as guidance_milestones: [100, 200] and guidance_levels: [0.25, 0]",
        )


def make_controller(settings: StrengthSettings) -> Controller:
    """The controller of these settings. Raises `KeyError` for an unknown strength, and what `check_strength` does."""
    check_strength(settings)
    length_rule, update_rule = STRENGTHS[settings.guidance_strength]

    def update(state: State, feedback: StepFeedback) -> State:
        moved = update_rule(settings, state, feedback)
        return replace(
            moved,
            updates=state.updates + 1,
            optimizer_step=feedback.optimizer_step,
            progress=feedback.progress,
        )

    def strength(state: State, row: Row) -> Strength:
        return Strength(settings.guidance_unit, max(0.0, length_rule(settings, state, row)))

    return Controller(init=lambda: State(length=settings.guidance_length), update=update, strength=strength)
