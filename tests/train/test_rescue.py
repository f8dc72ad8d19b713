"""The rescue ladder as a state machine: stages, memory, history and shares of ranks, by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from guided_grpo.train.rescue import (
    LEAST,
    Climb,
    Climbs,
    LadderSettings,
    ProblemHistory,
    Search,
    deal,
    difficult_groups,
    most_attempts,
    observe,
    open_groups,
    outcomes,
    rungs,
    successes_P,
)

NAN = math.nan
STAGES = (0.25, 0.5, 0.75)


def climb(successes: dict[int, list[int | None]], rungs_of: dict[int, tuple[float, ...]] | None = None) -> tuple:
    """Climb with scripted successes by group and attempt; what each call holds, and the end."""
    climbs: Climbs = {group: Climb((rungs_of or {}).get(group, STAGES)) for group in successes}
    calls = []
    while asked := open_groups(climbs):
        calls.append(asked)
        climbs = observe(climbs, {group: successes[group][climbs[group].attempts] for group in asked})
    return calls, climbs


def test_nothing_difficult_makes_no_call() -> None:
    rewards_B = torch.tensor([0.0, 1.0, 0.0, 0.1, 0.0, 0.0])
    assert difficult_groups(rewards_B, 2) == [2]
    assert difficult_groups(rewards_B[:4], 2) == []
    assert climb({}) == ([], {})


def test_a_failed_verifier_is_no_failure_of_the_policy() -> None:
    rewards_B = torch.tensor([0.0, NAN, NAN, NAN, 0.0, 0.0, NAN, 1.0, -1.0, 0.0])
    assert successes_P(rewards_B, 2) == [0, None, 0, 1, 0]
    assert difficult_groups(rewards_B, 2) == [0, 2, 4]  # the second group is unknown, a penalty is no success


def test_all_lost() -> None:
    calls, climbs = climb({0: [0, 0, 0], 3: [0, 0, 0]})
    assert calls == [{0: 0.25, 3: 0.25}, {0: 0.5, 3: 0.5}, {0: 0.75, 3: 0.75}]
    assert outcomes(climbs.values(), 3) == {"1": 0, "2": 0, "3": 0, "lost": 2, "unguidable": 0}
    assert climbs[0].omega == 0.75


def test_each_group_climbs_alone() -> None:
    """Group 0 is rescued at .25 and is never asked again, while 1 goes to .75 and 2 to .5."""
    calls, climbs = climb({0: [2], 1: [0, 0, 1], 2: [0, 4]})
    assert calls == [{0: 0.25, 1: 0.25, 2: 0.25}, {1: 0.5, 2: 0.5}, {1: 0.75}]
    assert {group: end.omega for group, end in climbs.items()} == {0: 0.25, 1: 0.75, 2: 0.5}
    assert outcomes(climbs.values(), 3) == {"1": 1, "2": 1, "3": 1, "lost": 0, "unguidable": 0}


def test_groups_without_a_trace_and_attempts_that_nobody_could_grade() -> None:
    calls, climbs = climb({0: [], 1: [None], 2: [0, 1]}, {0: ()})
    assert calls == [{1: 0.25, 2: 0.25}, {2: 0.5}]
    assert outcomes(climbs.values(), 3) == {"1": 0, "2": 1, "3": 0, "lost": 0, "unguidable": 1}


TENTHS = tuple(part / 10 for part in range(1, 11))


@pytest.mark.parametrize(
    ("successes", "tried"),
    [
        ([3], [0.5]),  # some finish and some do not
        ([0, 0, 0, 0], [0.5, 0.8, 0.9, 1.0]),  # nobody ever does
        ([8, 8, 8], [0.5, 0.2, 0.1]),  # the shortest one is too long still
        ([0, 8, 0, 1], [0.5, 0.8, 0.6, 0.7]),
        ([8, 0, 0, 8], [0.5, 0.2, 0.3, 0.4]),  # .3 is too short, .4 too long: there is none
        ([0, None], [0.5, 0.8]),  # the verifier failed: nothing more is done
    ],
)
def test_a_prefix_is_searched_by_halves(successes: list[int | None], tried: list[float]) -> None:
    """BREAD with ten pieces and groups of eight: at most four probes."""
    climbs: Climbs = {3: Search(TENTHS, size=8)}
    asked = []
    while omegas := open_groups(climbs):
        asked.append(omegas[3])
        climbs = observe(climbs, {3: successes[len(asked) - 1]})
    assert (asked, climbs[3].omega, climbs[3].attempts) == (tried, tried[-1], len(tried))
    assert climbs[3].rescued == bool(successes[-1]) and climbs[3].ungraded == (successes[-1] is None)


def test_the_most_probes_of_a_search() -> None:
    for stages, probes in ((1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (10, 4)):
        settings = LadderSettings(
            rescue_strength="bisect", rescue_stages=[part / stages for part in range(1, stages + 1)]
        )
        assert most_attempts(settings) == probes
    assert outcomes([Search(()), Search((), attempts=2, rescued=True), Search((), attempts=4)], 4) == {
        "1": 0, "2": 1, "3": 0, "4": 0, "lost": 1, "unguidable": 1
    }  # fmt: skip


def test_the_memory_rule_climbs_like_the_paper_where_a_problem_is_new() -> None:
    settings = LadderSettings(rescue_strength="memory", rescue_stages=list(STAGES))
    assert rungs(settings, 0.25) == STAGES
    assert rungs(settings, 0.6) == (0.6, 0.75)
    assert rungs(settings, 0.75) == (0.75,)
    assert rungs(settings, 0.05) == pytest.approx((0.05, 0.3, 0.55))  # never more calls than stages
    assert rungs(LadderSettings(rescue_stages=[0.1, 0.9]), 0.6) == (0.1, 0.9)  # the discrete ladder forgets


def test_history_by_hand() -> None:
    """η = p* = 0.5."""
    history = ProblemHistory(LadderSettings(rescue_strength="memory", rescue_stages=list(STAGES)))
    key = 2**62 + 5
    assert history.start(key) == 0.25
    # rescued at .5 by a quarter of the rollouts: .5 + .5·(.5 − .25)
    assert history.observe(key, 0.25, Climb(STAGES, attempts=2, rescued=True)) == (None, True)
    assert history.start(key) == pytest.approx(0.625)
    # lost at .75: .75 + .25, clipped to the top
    assert history.observe(key, 0.0, Climb((0.625, 0.75), attempts=2)) == (True, True)
    assert history.start(key) == 0.75
    # trivial at .75: .75 + .5·(.5 − 1)
    history.observe(key, 1.0, Climb((0.75,), attempts=1, rescued=True))
    assert history.start(key) == pytest.approx(0.5)
    # solved without help by half: .5 − .5·.5; then by all: clipped at the least
    assert history.observe(key, 0.5, None) == (True, False)
    assert history.start(key) == pytest.approx(0.25)
    history.observe(key, 1.0, None)
    assert history.start(key) == LEAST
    # difficult again, but it could not be helped: nothing is learned of ω
    assert history.observe(key, 0.0, Climb(())) == (False, True)
    assert history.start(key) == LEAST
    other = ProblemHistory(history.settings)
    other.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert other.start(key) == LEAST
    assert other.observe(key, 0.5, None) == (True, False)
    assert other.start(key + 1) == 0.25


@pytest.mark.parametrize(("jobs", "ranks", "each"), [(8, 2, 4), (5, 4, 2), (1, 3, 1), (6, 1, 6), (7, 2, 4)])
def test_rows_are_dealt_evenly(jobs: int, ranks: int, each: int) -> None:
    shares = [deal(list(range(jobs)), ranks, rank) for rank in range(ranks)]
    assert [len(mine) for mine, _ in shares] == [each] * ranks
    everything = [job for mine, _ in shares for job in mine]
    assert everything == [*range(jobs), *[jobs - 1] * (each * ranks - jobs)]  # filler at the end, in rank order
    assert sum(filler for _, filler in shares) == each * ranks - jobs < ranks
