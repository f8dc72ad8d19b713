"""Strength, allocation and slicing against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest

from guided_grpo.guidance.allocation import Assignment, guided_count, shares, with_whole_traces
from guided_grpo.guidance.keys import problem_key, tier_key
from guided_grpo.guidance.slicing import NO_SLICE, Slice, slice_trace, step_ends
from guided_grpo.guidance.strength import LEAST_LEFT, STRENGTHS, Controller, State, StrengthSettings, make_controller
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.types import ProblemFeedback, Row, StepFeedback, Strength

SHORT = {"length", "minimum", "maximum", "final", "power", "decay", "interval", "history", "target", "gain"}


def settings_of(**settings: object) -> StrengthSettings:
    """By short names: `length` is guidance_length, `minimum` guidance_min."""
    long = {"minimum": "guidance_min", "maximum": "guidance_max"}
    names = {name: long.get(name, f"guidance_{name}" if name in SHORT else name) for name in settings}
    return StrengthSettings(**{names[name]: value for name, value in settings.items()})  # type: ignore[arg-type]


def lengths(name: str, rewards: list[float], **settings: float) -> list[float]:
    """ℓ before each batch and after the last, one optimizer step a batch, T = len(rewards) steps."""
    controller = make_controller(settings_of(guidance_strength=name, **settings))
    state = controller.init()
    seen = [controller.strength(state, {}).amount]
    for step, reward in enumerate(rewards, 1):
        feedback = StepFeedback(step, step / len(rewards), reward * 8, 8, guided_sum=reward * 4, guided_count=4)
        state = controller.update(state, feedback)
        state = State.from_json(json.loads(json.dumps(state.to_json())))  # as a checkpoint would carry it
        seen.append(controller.strength(state, {}).amount)
    return seen


def test_schedules_follow_eq4() -> None:
    ten = [0.0] * 4
    assert lengths("constant", ten, length=40) == [40] * 5
    assert lengths("linear", ten, length=40) == [40, 30, 20, 10, 0]
    assert lengths("concave", ten, length=40, power=2) == [40, 22.5, 10, 2.5, 0]
    assert lengths("stepwise", ten, length=40, decay=0.5, interval=2) == [40, 40, 20, 20, 10]
    assert lengths("rdp", ten, length=40, final=20) == [40, 35, 30, 25, 20]
    assert lengths("none", ten, length=40) == [0] * 5


def test_ratio_shortens_guidance_when_rewards_rise() -> None:
    """Eq. 5 with its erratum: ℓ·mean(past)/now, T = 2."""
    found = lengths("ratio", [0.2, 0.4, 0.3, 0.6], length=60, history=2, minimum=1)
    assert found == pytest.approx([60, 60, 30, 30, 30 * 0.35 / 0.6])


def test_ratio_with_a_history_of_one_telescopes() -> None:
    """ℓ_{k+1}·r_k stays what it was: there is no set-point."""
    rewards = [0.3, 0.5, 0.2, 0.8, 0.7]
    found = lengths("ratio", rewards, length=60, history=1, minimum=0)
    assert [length * reward for length, reward in zip(found[1:], rewards, strict=True)] == pytest.approx([18.0] * 5)


def test_ratio_leaves_the_length_where_a_reward_is_zero() -> None:
    assert lengths("ratio", [0.0, 0.5, 0.0, 0.0, 0.25], length=60, history=1) == [60, 60, 60, 60, 60, 60]
    assert lengths("ratio", [0.5, 0.0, 0.25], length=60, history=2)[-1] == 60  # mean(.5, 0) / .25 = 1


def test_ratio_is_clamped_and_does_not_wind_up() -> None:
    found = lengths("ratio", [0.8, 0.1, 0.8], length=60, history=1, minimum=1, maximum=100)
    assert found == pytest.approx([60, 60, 100, 12.5])


def test_official_variant_moves_on_every_third_batch_only() -> None:
    rewards = [0.2, 0.4, 0.5, 0.9, 0.9, 0.3, 0.0, 0.0, 0.5]
    found = lengths("ratio-official", rewards, length=50, minimum=1, maximum=3072)
    # third: 50·(.3/.5) = 30; sixth: 30·(.9/.3) = 90; ninth: a mean of 0 is skipped
    assert found == [50, 50, 50, 30, 30, 30, 90, 90, 90, 90]


def test_official_variant_truncates_to_whole_tokens() -> None:
    assert lengths("ratio-official", [0.5, 0.5, 0.6], length=50, maximum=3072)[-1] == 41  # 41.67


def test_setpoint_moves_towards_the_target() -> None:
    found = lengths("setpoint", [0.5, 1.0, 0.0], length=40, target=0.5, gain=0.5)
    assert found == pytest.approx([40, 40, 40 * math.exp(-0.25), 40])


def left_after(rows: list[Row], successes: list[list[int]], **settings: float) -> tuple[Controller, State]:
    """A `left` controller after batches of four rollouts for each of `rows`, with so many successes."""
    controller = make_controller(settings_of(guidance_strength="left", guidance_unit="ratio", **settings))
    state = controller.init()
    for step, counts in enumerate(successes, 1):
        seen = tuple(
            ProblemFeedback(problem_key(row), tier_key(row), count, 4) for row, count in zip(rows, counts, strict=True)
        )
        feedback = StepFeedback(step, 0.1, sum(counts), 4 * len(rows), problems=seen)
        state = State.from_json(json.loads(json.dumps(controller.update(state, feedback).to_json())))
    return controller, state


def test_left_leaves_each_problem_and_tier_its_own_share() -> None:
    """log u = log .1 + a + b + c with η = .5, p* = .5: errors +.5, +.25, −.5 of problems in tiers 3, 3 and 9."""
    rows: list[Row] = [
        {"prompt": "x", "difficulty": 3},
        {"prompt": "y", "difficulty": 3},
        {"prompt": "z", "difficulty": 9},
    ]
    controller, state = left_after(rows, [[4, 3, 0]], length=0.9, target=0.5, gain=0.5)
    everywhere, three, nine = 0.5 * 0.25 / 3, 0.5 * 0.375, 0.5 * -0.5
    logs = [everywhere + three + 0.25, everywhere + three + 0.125, everywhere + nine - 0.25]
    for row, log in zip(rows, logs, strict=True):
        assert controller.strength(state, row) == Strength("ratio", pytest.approx(1 - 0.1 * math.exp(log)))
    unseen: Row = {"prompt": "new", "difficulty": 3}
    assert controller.strength(state, unseen).amount == pytest.approx(1 - 0.1 * math.exp(everywhere + three))
    assert controller.strength(state, {"prompt": "new"}).amount == pytest.approx(1 - 0.1 * math.exp(everywhere))


def test_left_ends_at_nothing_and_at_nearly_everything_without_winding_up() -> None:
    rows: list[Row] = [{"prompt": "x"}]
    controller, state = left_after(rows, [[4]] * 30, length=0.9, target=0.5, gain=0.5)
    assert controller.strength(state, rows[0]).amount == 0.0  # the policy does it all
    state = controller.update(
        state, StepFeedback(31, 0.1, 0, 4, problems=(ProblemFeedback(problem_key(rows[0]), 0, 0, 4),))
    )
    assert controller.strength(state, rows[0]).amount > 0.0  # one failure and it gets help again
    controller, state = left_after(rows, [[0]] * 30, length=0.9, target=0.5, gain=0.5)
    assert controller.strength(state, rows[0]).amount == pytest.approx(1 - LEAST_LEFT)
    state = controller.update(
        state, StepFeedback(31, 0.1, 4, 4, problems=(ProblemFeedback(problem_key(rows[0]), 0, 4, 4),))
    )
    assert controller.strength(state, rows[0]).amount < 1 - LEAST_LEFT


def test_left_learns_nothing_from_a_group_without_verdicts() -> None:
    rows: list[Row] = [{"prompt": "x"}]
    controller, state = left_after(rows, [[2]], length=0.9, target=0.5, gain=0.5)
    unseen = StepFeedback(2, 0.1, 0, 0, problems=(ProblemFeedback(problem_key(rows[0]), 0, 0, 0),))
    assert controller.update(state, unseen).left == state.left


def test_unknown_strength_is_an_error() -> None:
    with pytest.raises(KeyError):
        make_controller(settings_of(guidance_strength="none such"))
    assert "ratio" in STRENGTHS


@pytest.mark.parametrize(
    ("ratio", "group", "count"),
    [(0.14, 7, 1), (0.57, 7, 4), (1 / 6, 6, 1), (0.5, 7, 4), (0.5, 5, 3), (0.25, 12, 3), (1.0, 12, 12), (0.0, 8, 0), (0.04, 12, 0)],
)  # fmt: skip
def test_share_of_a_group_rounds_to_the_nearest_whole_number(ratio: float, group: int, count: int) -> None:
    assert guided_count(group, ratio) == count
    assert shares(group, ratio) == [1.0] * count + [0.0] * (group - count)


def test_whole_traces_stand_first_in_a_group_wherever_ranks_cut_it() -> None:
    """The second rank of two, groups of four of which two are traces: its six rows are places 2 3 0 1 2 3."""
    rows: list[Row] = [{"prompt": "a", "guidance": "x"}] * 2 + [{"prompt": "b", "guidance": None}] * 4
    trace, kept = Slice((1, 2), whole=True), Assignment(Slice((1,)), due=True)
    plan = with_whole_traces((kept,) * 6, rows, 6, 4, 2, lambda row: trace if row["guidance"] else NO_SLICE)
    assert plan == (kept, kept, Assignment(due=True), Assignment(due=True), kept, kept)
    plan = with_whole_traces((kept,) * 2, rows[:2], 5, 4, 2, lambda row: trace)
    assert plan == (Assignment(trace, due=True), kept)


def test_spread_gives_each_guided_rollout_its_own_length() -> None:
    assert shares(6, 0.5, "spread") == pytest.approx([1, 2 / 3, 1 / 3, 0, 0, 0])


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


def sliced(
    trace: str, unit: str, amount: float, limit: int | None = None, leak: bool = False
) -> tuple[str, bool, bool]:
    piece = slice_trace(trace, Strength(unit, amount), len(trace) if limit is None else limit, characters, leak=leak)  # type: ignore[arg-type]
    return "".join(map(chr, piece.ids)), piece.clipped, piece.leaked


TRACE = "+3=7;*7=9;-2=7;"


@pytest.mark.parametrize(
    ("unit", "amount", "text"),
    [
        ("tokens", 4, "+3=7"),
        ("tokens", 4.99, "+3=7"),
        ("tokens", 0.9, ""),
        ("tokens", 1000, TRACE),  # a short trace gives what it has
        ("ratio", 1 / 3, "+3=7;"),
        ("ratio", 1.0, TRACE),
        ("steps", 2, "+3=7;*7=9;"),
        ("steps", 2.9, "+3=7;*7=9;"),
        ("steps", 99, TRACE),
        ("chars", 6, "+3=7;*"),
        ("chars", 0, ""),
    ],
)
def test_slices(unit: str, amount: float, text: str) -> None:
    assert sliced(TRACE, unit, amount) == (text, False, False)


def test_slices_end_before_the_answer_is_stated() -> None:
    trace = "Half of 8 is 4.\nThe answer is 4."
    limit = len("Half of 8 is 4.")
    assert sliced(trace, "tokens", 5, limit) == ("Half ", False, False)
    assert sliced(trace, "tokens", 99, limit) == ("Half of 8 is 4.", True, False)
    assert sliced(trace, "steps", 2, limit) == ("Half of 8 is 4.", True, False)
    assert sliced(trace, "chars", 99, limit) == ("Half of 8 is 4.", True, False)
    assert sliced(trace, "ratio", 1.0, limit) == ("Half of 8 is 4.", True, False)
    assert sliced(trace, "ratio", 0.25, limit) == (trace[:8], False, False)  # a quarter of the whole trace
    assert sliced(trace, "tokens", 99, limit, leak=True) == (trace, False, True)
    assert sliced(trace, "steps", 2, limit, leak=True) == (trace, False, True)
    assert sliced(trace, "tokens", 3, limit, leak=True) == ("Hal", False, False)
    assert sliced("4", "tokens", 9, 0) == ("", True, False)


def test_steps_are_lines_or_sentences() -> None:
    assert step_ends("a.\nb 1.5 c.\n\nd") == [3, 13, 14]
    assert step_ends("He has 1.5 kg. She has 2! All?") == [15, 26, 30]
    assert step_ends("") == []
    assert step_ends("one step") == [8]


@pytest.mark.parametrize(
    ("unit", "least"), [("tokens", 1.0), ("steps", 1.0), ("chars", 1.0), ("ratio", 0.01), ("ratio-chars", 0.01)]
)
def test_the_least_length_is_one_piece_or_a_hundredth_of_the_trace(unit: str, least: float) -> None:
    """A share of at least 1 would be the whole trace, whatever the rewards say."""
    common = {"method": "g2rpo-a", "guidance_unit": unit, "guidance_length": 1, "bf16": False, "use_cpu": True}
    assert GuidedGRPOConfig("out", **common).guidance_min == least
    assert GuidedGRPOConfig("out", **common, guidance_min=0.2).guidance_min == 0.2
