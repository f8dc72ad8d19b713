"""Strengths of which every problem has its own, against numbers worked out by hand. Loads without torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter

import pytest

from guided_grpo.errors import InputError
from guided_grpo.guidance.keys import problem_key
from guided_grpo.guidance.per_problem import UNSEEN, cap, cosine, cut_down, draw, success_rates
from guided_grpo.guidance.slicing import slice_trace
from guided_grpo.guidance.strength import Controller, State, StrengthSettings, make_controller
from guided_grpo.types import ProblemFeedback, Row, StepFeedback, Strength

LINES = "one\ntwo\nthree\nfour\nfive\n"
ROW: Row = {"prompt": "x", "guidance": LINES}
UFT = {
    "guidance_strength": "binomial-cosine",
    "guidance_unit": "ratio-steps",
    "guidance_length": 0.95,
    "guidance_final": 0.05,
}
PREFIX_RFT = {"guidance_strength": "uniform", "guidance_unit": "ratio", "guidance_length": 0.95, "guidance_final": 0.05}
PREFIX_RL = {"guidance_strength": "random-cut", "guidance_unit": "ratio", "guidance_length": 0.8, "guidance_final": 0.4}
R3 = {"guidance_strength": "random-cut", "guidance_unit": "ratio-steps", "guidance_length": 1.0, "guidance_cuts": 0, "guidance_plain": 0.0}  # fmt: skip
ADABACK = {"guidance_strength": "bisect", "guidance_unit": "ratio", "guidance_length": 0.98}
ADAPREFIX = {"guidance_strength": "withdraw", "guidance_unit": "ratio", "guidance_length": 0.5, "guidance_gain": 0.2}
ALL = {
    "uft": UFT,
    "prefix-rft": PREFIX_RFT,
    "prefixrl": PREFIX_RL,
    "r3": R3,
    "adaback": ADABACK,
    "adaprefix": ADAPREFIX,
}


def settings_of(values: dict[str, object], **more: object) -> StrengthSettings:
    return StrengthSettings(**{**values, **more})  # type: ignore[arg-type]


def controller_of(values: dict[str, object], **more: object) -> Controller:
    return make_controller(settings_of(values, **more))


def rows(count: int) -> list[Row]:
    return [{"prompt": f"problem {number}", "guidance": LINES} for number in range(count)]


def fed(controller: Controller, state: State, results: list[tuple[Row, int, int]], progress: float = 0.0) -> State:
    """After a batch in which so many of so many rollouts of each problem succeeded, through a checkpoint."""
    seen = tuple(ProblemFeedback(problem_key(row), 0, right, graded) for row, right, graded in results)
    total, right = sum(graded for *_, graded in results), sum(right for _, right, _ in results)
    moved = controller.update(state, StepFeedback(state.updates + 1, progress, right, total, right, total, seen))
    again = State.from_json(json.loads(json.dumps(moved.to_json())))
    assert again == moved
    return again


def amounts(controller: Controller, state: State, problems: list[Row]) -> list[float]:
    return [controller.strength(state, row).amount for row in problems]


def pair(state: State, row: Row) -> tuple[float, float]:
    return state.problems[str(problem_key(row))]


# ---- binomial-cosine ------------------------------------------------------------------------------------------------


def test_p_of_binomial_cosine_falls_from_95_to_5_percent_and_is_a_half_at_half_time() -> None:
    """UFT: T_h = 300 of 500 steps, p_150 = .5, mean l = 2.5 of 5; nothing after T_h."""
    controller = controller_of(UFT)
    for step, chance in [(0, 0.95), (150, 0.5), (100, 0.05 + 0.45 * 1.5), (200, 0.05 + 0.45 * 0.5)]:
        state = State(0.95, progress=step / 500)
        assert controller.strength(state, {}).amount == pytest.approx(chance)
        pieces = [round(5 * amount, 9) for amount in amounts(controller, state, rows(2000))]
        assert set(pieces) <= {0, 1, 2, 3, 4, 5}
        assert sum(pieces) / 2000 == pytest.approx(5 * chance, abs=0.1)
        assert pieces.count(5) / 2000 == pytest.approx(chance**5, abs=0.04)
    for step in (300, 301, 500):
        assert amounts(controller, State(0.95, progress=step / 500), rows(50)) == [0.0] * 50
    late = controller_of(UFT, guidance_end=1.0)
    assert late.strength(State(0.95, progress=0.5), {}).amount == pytest.approx(0.5)


def test_segments_of_binomial_cosine_are_whole_lines_and_at_most_as_many() -> None:
    """UFT's code: segments end at the lines round(i/5 · n); a trace of three lines has three."""
    controller = controller_of(UFT)
    seven = "".join(f"{number}\n" for number in range(7))
    for trace, counts in [("a\nb\nc\n", {0, 1, 2, 3}), (seven, {0, 1, 3, 4, 6, 7}), ("a\n" * 10, {0, 2, 4, 6, 8, 10})]:
        state, found = State(0.95, progress=0.3), set()
        for number in range(300):
            row: Row = {"prompt": str(number), "guidance": trace}
            piece = slice_trace(trace, controller.strength(state, row), len(trace), lambda text: [*text.encode()])
            found.add(bytes(piece.ids).count(b"\n"))
        assert found == counts


# ---- uniform --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "low"), [(0.0, 0.95), (0.5, 0.5), (1 / 3, 0.05 + 0.45 * 1.5), (1.0, 0.05)])
def test_uniform_draws_between_a_falling_end_and_95_percent(progress: float, low: float) -> None:
    """Prefix-RFT: half-way U(.5, .95)."""
    controller, state = controller_of(PREFIX_RFT), State(0.95, progress=progress)
    found = amounts(controller, state, rows(2000))
    assert low - 1e-12 <= min(found) and max(found) <= 0.95 + 1e-12
    assert min(found) == pytest.approx(low, abs=0.01) and max(found) == pytest.approx(0.95, abs=0.01)
    assert sum(found) / 2000 == pytest.approx((low + 0.95) / 2, abs=0.02)
    assert controller.strength(state, {}).amount == pytest.approx((low + 0.95) / 2)


def test_uniform_draws_lengths_in_any_unit() -> None:
    controller = controller_of(PREFIX_RFT, guidance_unit="tokens", guidance_length=100.0, guidance_final=20.0)
    found = [controller.strength(State(100, progress=1.0), row) for row in rows(500)]
    assert {strength.unit for strength in found} == {"tokens"}
    assert (
        20 <= min(strength.amount for strength in found) < 22 < 98 < max(strength.amount for strength in found) <= 100
    )


# ---- random-cut -----------------------------------------------------------------------------------------------------


def test_random_cut_keeps_three_cuts_of_a_problem_and_leaves_a_quarter_of_visits_plain() -> None:
    """PrefixRL: three cuts in 40–80 % fixed for the run, rows 3 : 1."""
    controller, problems = controller_of(PREFIX_RL), rows(40)
    visits = [amounts(controller, State(0.8, updates=visit), problems) for visit in range(200)]
    for place in range(40):
        counts = Counter(visit[place] for visit in visits)
        assert len(counts) == 4 and all(0.4 <= cut <= 0.8 for cut in counts if cut)
    everything = [amount for visit in visits for amount in visit]
    assert everything.count(0.0) / 8000 == pytest.approx(0.25, abs=0.02)
    cuts = {amount for amount in everything if amount}
    assert len(cuts) == 120 and sum(cuts) / 120 == pytest.approx(0.6, abs=0.05)
    assert controller.strength(State(0.8), {}).amount == pytest.approx(0.75 * 0.6)


def test_random_cut_over_all_ends_gives_each_row_of_r3_alike() -> None:
    """R3: a row for each line end but the last, and one without."""
    controller = controller_of(R3)
    found = Counter(
        round(5 * amount, 9)
        for visit in range(100)
        for amount in amounts(controller, State(1.0, updates=visit), rows(20))
    )
    assert set(found) == {0, 1, 2, 3, 4}
    assert all(count / 2000 == pytest.approx(0.2, abs=0.04) for count in found.values())


# ---- bisect ---------------------------------------------------------------------------------------------------------


def test_bisect_moves_the_bounds_as_in_the_paper() -> None:
    """[0, 1], ρ .6, r .25 → [.6, 1]; ρ .8, r .75 → [0, .8]; hi never grows."""
    assert cut_down((0.0, 1.0), 0.6, failed=0.25 < 0.5) == (0.6, 1.0)
    assert cut_down((0.6, 1.0), 0.8, failed=0.75 < 0.5) == (0.0, 0.8)


def test_bisect_learns_from_what_it_drew() -> None:
    controller, (row, other) = controller_of(ADABACK), rows(2)
    state = controller.init()
    high = 0.98
    for right in (0, 1, 2, 4, 0, 0, 3, 1):  # of four; τ = .5, so two of four are a success
        given = controller.strength(state, row).amount
        before = state.problems.get(str(problem_key(row)), (0.0, 0.98))
        assert before[0] <= given <= before[1]
        state = fed(controller, state, [(row, right, 4)])
        high = given if right >= 2 else high
        assert pair(state, row) == (given if right < 2 else 0.0, high)
    assert str(problem_key(other)) not in state.problems


def test_bisect_gives_an_unseen_problem_the_running_means() -> None:
    """M ← .8 M + .2 (mean over the batch's problems), from [0, .98]."""
    controller, (first, second, unseen) = controller_of(ADABACK), rows(3)
    state = controller.init()
    assert controller.strength(state, {}).amount == pytest.approx(0.49)
    given = amounts(controller, state, [first, second])
    state = fed(controller, state, [(first, 0, 4), (second, 4, 4)])
    low, high = 0.2 * given[0] / 2, 0.8 * 0.98 + 0.2 * (0.98 + given[1]) / 2
    assert state.problems[UNSEEN] == pytest.approx((low, high))
    assert controller.strength(state, {}).amount == pytest.approx((low + high) / 2)
    found = [controller.strength(State(0.98, updates=n, problems=state.problems), unseen).amount for n in range(500)]
    assert min(found) == pytest.approx(low, abs=0.01) and max(found) == pytest.approx(high, abs=0.01)


def test_bisect_ends_at_all_or_nothing() -> None:
    controller, (row,) = controller_of(ADABACK), rows(1)
    always, never = controller.init(), controller.init()
    for _ in range(40):
        always, never = fed(controller, always, [(row, 4, 4)]), fed(controller, never, [(row, 0, 1)])
    assert controller.strength(always, row).amount < 1e-6  # all right: nothing
    assert 0.97 < controller.strength(never, row).amount <= 0.98  # one rollout, all wrong: hi


# ---- withdraw -------------------------------------------------------------------------------------------------------


def test_withdraw_follows_the_success_of_each_problem() -> None:
    """p̄ from .5, s from .5: 0 of 4 → .35 and .53; 4 of 4 → .65 and .47; together they leave the unseen at .5."""
    controller, (hard, easy, unseen) = controller_of(ADAPREFIX), rows(3)
    state = fed(controller, controller.init(), [(hard, 0, 4), (easy, 4, 4)])
    assert pair(state, hard) == pytest.approx((0.35, 0.53)) and pair(state, easy) == pytest.approx((0.65, 0.47))
    assert amounts(controller, state, [hard, easy, unseen, {}]) == pytest.approx([0.53, 0.47, 0.5, 0.5])
    state = fed(controller, state, [(hard, 1, 4)])  # p̄ = .7·.35 + .3/4 = .32, s = .53 + .2·.18
    assert pair(state, hard) == pytest.approx((0.32, 0.566))
    assert amounts(controller, state, [unseen]) == pytest.approx([0.5 + 0.2 * 0.3 * 0.25])  # fed whole batches


def test_withdraw_is_withdrawn() -> None:
    settings, controller = settings_of(ADAPREFIX), controller_of(ADAPREFIX)
    for progress, most in [(0, 1), (2 / 3, 1), (47 / 60, 0.5), (0.9, 0), (1, 0)]:
        assert cap(settings, progress) == pytest.approx(most)
        assert controller.strength(State(0.5, progress=progress), ROW).amount == pytest.approx(min(0.5, most))
    assert cap(settings_of(ADAPREFIX, guidance_max=0.7), 0.1) == 0.7
    assert cap(settings_of(ADAPREFIX, guidance_hold=0.5, guidance_end=1.0), 0.75) == 0.5
    assert (
        cap(settings_of(ADAPREFIX, guidance_end=0.5), 0.4) == 1
        and cap(settings_of(ADAPREFIX, guidance_end=0.5), 0.5) == 0
    )


def test_withdraw_ends_at_all_or_nothing_without_winding_up() -> None:
    controller, (row,) = controller_of(ADAPREFIX), rows(1)
    always, never = controller.init(), controller.init()
    for _ in range(40):
        always, never = fed(controller, always, [(row, 4, 4)]), fed(controller, never, [(row, 0, 1)])
    assert (controller.strength(always, row).amount, controller.strength(never, row).amount) == (0.0, 1.0)
    for _ in range(3):  # p̄ = .7³ falls below .5, and it gets help again
        always = fed(controller, always, [(row, 0, 4)])
    assert controller.strength(always, row).amount > 0
    late = fed(controller, never, [(row, 0, 4)], progress=47 / 60)
    assert pair(late, row)[1] == pytest.approx(0.5)


# ---- all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ALL.values(), ids=ALL)
def test_a_draw_is_of_the_problem_and_the_batch_alone(values: dict[str, object]) -> None:
    """The same twice, for whoever asks in whatever order, and in a controller made anew from a checkpoint."""
    first, problems = controller_of(values), rows(30)
    state = first.init()
    for batch in range(3):
        state = fed(first, state, [(row, batch + place % 2, 4) for place, row in enumerate(problems[:10])], 0.1 * batch)
    second, again = controller_of(values), State.from_json(json.loads(json.dumps(state.to_json())))
    expected = amounts(first, state, problems)
    assert amounts(second, again, problems[::-1])[::-1] == expected == amounts(first, state, problems)
    assert all(0 <= amount <= 1 for amount in expected)
    results = [(row, 1, 4) for row in problems]
    assert fed(first, state, results) == fed(second, again, results)


@pytest.mark.parametrize("values", [UFT, PREFIX_RFT, PREFIX_RL, R3, ADABACK], ids=["uft", "prefix-rft", "prefixrl", "r3", "adaback"])  # fmt: skip
def test_another_visit_another_problem_or_another_seed_draws_anew(values: dict[str, object]) -> None:
    controller, problems, halfway = controller_of(values), rows(30), {"length": 0.9, "progress": 0.3}
    now = amounts(controller, State(**halfway), problems)  # type: ignore[arg-type]
    assert len(set(now)) > 3
    assert amounts(controller, State(**halfway, updates=1), problems) != now  # type: ignore[arg-type]
    seeded = settings_of(values)
    seeded.seed = 7  # type: ignore[attr-defined]  # as a training config has
    assert amounts(make_controller(seeded), State(**halfway), problems) != now  # type: ignore[arg-type]


@pytest.mark.parametrize("values", ALL.values(), ids=ALL)
def test_a_problem_without_a_trace_and_a_batch_without_verdicts(values: dict[str, object]) -> None:
    controller = controller_of(values)
    for row in ({"prompt": "x"}, {"prompt": "x", "guidance": None}, {"prompt": "x", "guidance": ""}):
        assert 0 <= controller.strength(controller.init(), row).amount <= 1  # type: ignore[arg-type]
    state = fed(controller, controller.init(), [(ROW, 0, 0)])
    assert (state.problems, state.updates) == ({}, 1)


def test_groups_of_one_problem_count_together() -> None:
    """3 of 8, not the last group's 3 of 4."""
    groups = (ProblemFeedback(5, 0, 0, 4), ProblemFeedback(6, 0, 0, 0), ProblemFeedback(5, 0, 3, 4))
    assert success_rates(StepFeedback(1, 0.1, 3, 8, problems=groups)) == {5: 0.375}


def test_a_draw_is_the_same_in_another_process() -> None:
    """Whatever PYTHONHASHSEED says."""
    code = (
        "from guided_grpo.guidance.per_problem import draw; from guided_grpo.guidance.strength import StrengthSettings;"
        "import sys; print(repr(draw(StrengthSettings(), 12, 3, 'cut'))); assert 'torch' not in sys.modules"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    assert {float(run.stdout) for run in runs} == {draw(StrengthSettings(), 12, 3, "cut")}


def test_draws_are_spread_evenly() -> None:
    settings = StrengthSettings()
    found = [draw(settings, number, 1) for number in range(4000)]
    assert min(found) >= 0 and max(found) < 1
    assert all(count / 4000 == pytest.approx(0.1, abs=0.02) for count in Counter(int(10 * u) for u in found).values())
    assert math.isclose(sum((u - 0.5) ** 2 for u in found) / 4000, 1 / 12, rel_tol=0.05)


def test_cosine() -> None:
    """CHORD's μ too: .9 → .05 in 200 steps is .475 at 100."""
    assert [cosine(0.9, 0.05, done) for done in (0, 0.5, 1, 2)] == pytest.approx([0.9, 0.475, 0.05, 0.05])


# ---- steps, checks --------------------------------------------------------------------------------------------------


def test_steps_follow_a_list() -> None:
    """QuestA: one half from 0, a quarter from step 100."""
    settings: dict[str, object] = {"guidance_strength": "steps", "guidance_unit": "ratio-chars", "guidance_length": 0.5}
    questa = controller_of(settings)
    found = [questa.strength(State(0.5, optimizer_step=step), ROW) for step in (0, 99, 100, 1900)]
    assert found == [Strength("ratio-chars", amount) for amount in (0.5, 0.5, 0.25, 0.25)]
    three = controller_of(settings, guidance_milestones=[10, 20], guidance_levels=[0.25, 0.0])
    assert [three.strength(State(0.5, optimizer_step=step), ROW).amount for step in (9, 10, 19, 20)] == [
        0.5,
        0.25,
        0.25,
        0.0,
    ]
    once = controller_of(settings, guidance_milestones=[], guidance_levels=[])
    assert once.strength(State(0.5, optimizer_step=500), ROW).amount == 0.5


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({**UFT, "guidance_unit": "tokens"}, "guidance_unit"),
        ({**ADAPREFIX, "guidance_unit": "steps"}, "guidance_unit"),
        (
            {"guidance_strength": "steps", "guidance_milestones": [5, 5], "guidance_levels": [1.0, 0.5]},
            "guidance_milestones",
        ),
        ({"guidance_strength": "steps", "guidance_milestones": [5, 9]}, "guidance_milestones"),
    ],
)
def test_what_does_not_go_together_is_said(values: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        controller_of(values)
    assert field in str(caught.value)


def test_a_checkpoint_from_before_these_strengths_is_read() -> None:
    data = State(3.0, rewards=(0.5,), updates=2).to_json()
    del data["problems"]
    assert State.from_json(data) == State(3.0, rewards=(0.5,), updates=2)
