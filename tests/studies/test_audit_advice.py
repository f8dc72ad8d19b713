"""Advice from hand-made trials: every verdict, the numbers that it writes, and the figures that it stands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from guided_grpo.studies.audit.advice import Advice, advise
from guided_grpo.studies.audit.estimates import estimate
from guided_grpo.studies.audit.trials import GuidanceSetting, Trial

K = 12
PROBLEMS = 40
Change = Callable[[Trial], dict[str, Any]]


def trial(problem: int, setting: GuidanceSetting, successes: int, tier: str = "all", **more: Any) -> Trial:
    values = {"tokens": K * 20, "truncated": 0, "guidance_tokens": int(40 * setting.amount), "clipped": False}
    values |= {"statuses": {"correct": successes, "wrong": K - successes}, "states_answer": False}
    return Trial(problem=problem, tier=tier, setting=setting, graded=K, successes=successes, **{**values, **more})


def audit(
    table: dict[tuple[str, float], Sequence[int]], unit: str = "ratio", change: Change | None = None
) -> list[Trial]:
    """Successes of problem i at a setting: the list, repeated."""
    found = []
    for (placement, amount), successes in table.items():
        for problem in range(PROBLEMS):
            setting = GuidanceSetting(placement, unit, amount)  # type: ignore[arg-type]
            found.append(trial(problem, setting, successes[problem % len(successes)]))
    return [replace(one, **change(one)) for one in found] if change else found


def advice(trials: list[Trial], *, ordered: bool = True, groups: Sequence[int] = (4, 8, 12)) -> Advice:
    return advise(estimate(trials, alphas=[0.25, 0.5, 0.75, 1.0], groups=groups), ordered=ordered)


HARD = [0, 0, 0, 1]
HELPED = {
    ("prefix", 0.0): HARD,
    ("prefix", 0.25): [1, 2],
    ("prefix", 0.5): [5, 7],
    ("prefix", 0.75): [6, 8],
    ("prefix", 1.0): [12],
}


def test_guidance_that_helps() -> None:
    found = advice(audit(HELPED))
    assert found.verdict == "guide"
    # Half of 12 right at one half of the trace; the longer strength is no nearer, and longer.
    wanted = {"method": "g2rpo-a", "guidance_length": 0.5, "guidance_unit": "ratio", "guidance_max": 1.0,
              "guidance_weight": 1.0, "guidance_placement": "prefix", "guidance_min": 0.01}  # fmt: skip
    assert {name: found.settings[name] for name in wanted} == wanted
    assert "curriculum" not in found.settings
    # With p_g = ½ and p_u ≈ 0: G = 8 with 6 guided, or 12 with 6, waste about 2 %; G = 4 at best 1/8.
    assert (found.settings["num_generations"], found.settings["guidance_ratio"]) == (8, 0.5)
    assert found.cell is not None and found.cell.zero < 0.1
    assert any("near one half, 50.0%" in reason for reason in found.reasons)


def test_data_without_difficulty_gets_no_curriculum() -> None:
    assert advice(audit(HELPED), ordered=False).settings["curriculum"] == "none"


def test_a_grid_that_is_too_coarse_is_said() -> None:
    found = advice(audit({("prefix", 0.0): [0], ("prefix", 0.5): [2], ("prefix", 1.0): [12]}))
    assert found.settings["guidance_length"] == 0.5
    assert "One half lies between 50 % and 100 %: audit --strengths there." in " ".join(found.reasons)


def test_tokens_keep_their_own_minimum() -> None:
    trials = audit({(place, 40 * amount): values for (place, amount), values in HELPED.items()}, unit="tokens")
    assert advice(trials).settings["guidance_min"] == 1.0
    assert advice(trials).settings["guidance_length"] == 20


def test_a_curriculum_starts_with_what_fits_the_easiest_tier() -> None:
    def tiers(one: Trial) -> dict[str, Any]:
        easy = one.problem < PROBLEMS // 2
        # The easy tier needs half of the trace, the hard one all of it.
        right = {0.0: (0, 0), 0.25: (1, 0), 0.5: (6, 0), 0.75: (12, 2), 1.0: (12, 6)}[one.setting.amount]
        return {"tier": "10" if easy else "14", "successes": right[0 if easy else 1]}

    trials = audit({key: [0] for key in HELPED}, change=tiers)
    found = advice(trials)
    assert found.settings["guidance_length"] == 0.5
    assert "50 % for tier 10, 100 % for tier 14" in " ".join(found.reasons)
    # Overall success is ½ at 75 %: (12 + 2)/24. Without an order that is the one length to start with.
    assert advice(trials, ordered=False).settings["guidance_length"] == 0.75


def test_further_problems_count_in_their_tier_alone() -> None:
    """20 problems of each tier, and 20 more of the easy one, of which one in two succeeds where none did before."""

    def made(one: Trial) -> dict[str, Any]:
        helped = one.setting.amount > 0
        return {"tier": "10" if one.problem < 20 else "14", "successes": 6 if helped and one.problem < 20 else 0}

    shares = audit({("prefix", 0.0): [0], ("prefix", 0.5): [0]}, change=made)
    more = [
        trial(40 + n, GuidanceSetting("prefix", "ratio", amount), 12 if amount and n % 2 else 0, tier="10")
        for n in range(20)
        for amount in (0.0, 0.5)
    ]
    alone = estimate(shares, alphas=[0.5], groups=[4])
    found = estimate([*shares, *more], alphas=[0.5], groups=[4], further=range(40, 60))
    point, cell = found.points[1], found.cells[1]
    assert (found.problems, found.further, found.tiers) == (40, 20, {"10": 20, "14": 20})
    assert found.words == "40 problems (20 of tier 10, 20 of tier 14), and 20 more of tier 10"
    assert point.success == alone.points[1].success and cell.zero == alone.cells[1].zero
    assert cell.interval == alone.cells[1].interval and cell.wasted == alone.cells[1].wasted
    assert (point.tiers["10"].mean, point.tiers["10"].problems) == (0.5, 40)
    # 2 of 4 guided, all fail: (6·5)/(12·11) of the groups of the first 20; 0 or 1 of the others.
    expected = (20 * 30 / 132 + 10 * 1 + 10 * 0) / 40
    assert cell.tiers["10"] == pytest.approx(expected, abs=0.03)  # drawn a little towards all
    assert alone.cells[1].tiers["10"] == pytest.approx(30 / 132, abs=0.03)


def test_a_tier_that_few_problems_speak_of_asks_for_more() -> None:
    def tiers(one: Trial) -> dict[str, Any]:
        easy = one.problem < 8
        right = {0.0: (0, 0), 0.5: (12 if one.problem % 2 else 0, 1)}[one.setting.amount]
        return {"tier": "10" if easy else "14", "successes": right[0 if easy else 1]}

    found = advice(audit({("prefix", 0.0): [0], ("prefix", 0.5): [0]}, change=tiers))
    assert "Tier 10 was seen by 8 problems; --first 24 narrows that." in found.reasons


def test_noise_speaks_for_a_set_point() -> None:
    # A quarter of the problems always succeed with guidance, the others never: batches of 8 differ by chance.
    found = advice(audit({("prefix", 0.0): [0], ("prefix", 0.5): [12, 0, 0, 0]}))
    assert found.method == "setpoint"
    # mean α/4, between groups α²·3/16: √(α²·3/16/8)/(α/4) = √(3/8) = 61 %, whatever α is.
    assert "varies by 61%" in " ".join(found.reasons)


def test_plain_grpo_where_it_has_enough() -> None:
    found = advice(audit({("prefix", 0.0): [3, 5, 7], ("prefix", 0.5): [9]}))
    assert (found.verdict, found.method) == ("plain", "grpo")
    assert "guidance_length" not in found.settings


def test_solved() -> None:
    found = advice(audit({("prefix", 0.0): [12], ("prefix", 0.5): [12]}))
    assert (found.verdict, found.method) == ("solved", None)


@pytest.mark.parametrize("guided", [HARD, [0], [1, 0, 0, 0]])
def test_a_trace_that_does_not_raise_success(guided: list[int]) -> None:
    found = advice(audit({("prefix", 0.0): HARD, ("prefix", 0.5): guided, ("prefix", 1.0): guided}))
    assert (found.verdict, found.settings) == ("no-help", {})
    assert "does not raise success" in found.headline
    assert "100 %" in found.reasons[0]


def test_success_without_signal() -> None:
    # One problem in four succeeds always, with guidance or without it half of the time: groups stay as they were.
    found = advice(audit({("prefix", 0.0): [0] * 7 + [6], ("prefix", 1.0): [0] * 7 + [12]}))
    assert found.verdict == "no-help"


def test_no_traces() -> None:
    found = advice(audit(HELPED, change=lambda one: {"guidance_tokens": 0}))
    assert found.verdict == "no-help" and "no guidance to give" in found.headline


def test_leaks() -> None:
    found = advice(audit(HELPED, change=lambda one: {"states_answer": one.setting.amount > 0}))
    assert found.verdict == "leaks"

    # Success jumps in the half of the problems whose slice states the answer, and nowhere else.
    def half(one: Trial) -> dict[str, Any]:
        stated = one.problem % 2 == 0 and one.setting.amount > 0
        return {"states_answer": stated, "successes": 11 if stated else 0}

    found = advice(audit(HELPED, change=half))
    assert found.verdict == "leaks" and "50% of those slices" in found.reasons[0]


def test_a_leak_at_the_end_shortens_guidance_max() -> None:
    found = advice(audit(HELPED, change=lambda one: {"states_answer": one.setting.amount == 1.0}))
    assert found.verdict == "guide" and found.settings["guidance_max"] == 0.75


def test_format_and_length_come_first() -> None:
    silent = {"statuses": {"no_answer": 9, "wrong": 3}, "successes": 0}
    found = advice(audit(HELPED, change=lambda one: silent))
    assert (found.verdict, found.method) == ("format", None)
    found = advice(audit(HELPED, change=lambda one: silent | {"truncated": 10}))
    assert found.verdict == "too-short"


def test_hints_lead_to_the_ladder() -> None:
    table = {("hint", 0.0): [0], ("hint", 0.25): [1], ("hint", 0.5): [3], ("hint", 0.75): [6]}
    trials = audit(table, unit="ratio-chars")
    found = estimate(trials, alphas=[0.5], groups=[4])
    [climb] = found.ladders["hint"]
    # 1 of 12: four draws without it (11·10·9·8)/(12·11·10·9) = 2/3; 3 of 12: (9·8·7·6)/(12·11·10·9) = 14/55;
    # 6 of 12: (6·5·4·3)/(12·11·10·9) = 1/33.
    assert climb.difficult == pytest.approx(1.0)
    assert [rung.reached for rung in climb.rungs] == pytest.approx([1, 2 / 3, 2 / 3 * 14 / 55])
    assert [rung.rescued for rung in climb.rungs] == pytest.approx([1 / 3, 2 / 3 * 41 / 55, 2 / 3 * 14 / 55 * 32 / 33])
    assert climb.lost == pytest.approx(2 / 3 * 14 / 55 / 33)
    # All four right at the last stage: 6·5·4·3/(12·11·10·9) again.
    assert climb.zero == pytest.approx(climb.lost + 2 / 3 * 14 / 55 / 33 + 2 / 3 * 0 + 0, abs=1e-9)
    assert climb.rollouts == pytest.approx(4 * (1 + 1 + 2 / 3 + 2 / 3 * 14 / 55))
    assert climb.calls == pytest.approx(1 + 1 + (1 - (1 / 3) ** 8) + (1 - (1 - 2 / 3 * 14 / 55) ** 8))
    given = advice(trials)
    assert (given.method, given.settings["rescue_slice"], given.settings["rescue_cold_start"]) == ("ghpo", "chars", 0)


def test_prefix_wins_where_both_help() -> None:
    both = HELPED | {("hint", amount): values for (_, amount), values in HELPED.items() if amount}
    assert advice(audit(both)).settings["guidance_placement"] == "prefix"


def test_problems_without_a_verdict_are_left_out() -> None:
    trials = audit(
        HELPED,
        change=lambda one: {"graded": 0, "successes": 0} if one.problem == 3 and one.setting.amount == 0.5 else {},
    )
    assert estimate(trials, alphas=[0.5], groups=[4]).problems == PROBLEMS - 1
