"""Warnings on series written by hand."""

from __future__ import annotations

import json
from typing import Any

from guided_grpo.train.signals import Watch


def names(signs: list[Any]) -> list[str]:
    return [sign.warning for sign in signs]


def run(watch: Watch, **series: list[float]) -> list[str]:
    found = []
    for values in zip(*series.values(), strict=True):
        row = {name.replace("__", "/"): value for name, value in zip(series, values, strict=True)}
        found += names(watch.step(row))
    return found


def test_hinted_reward_up_and_evaluation_down_is_a_collapse() -> None:
    watch = Watch(None)
    assert watch.observe_evaluation(0.20) == []  # before training: no hinted reward yet
    run(watch, reward__guided=[0.30] * 10)
    assert names(watch.observe_evaluation(0.25)) == []  # better: the new best, at hinted reward 0.30
    run(watch, reward__guided=[0.34] * 10)
    assert names(watch.observe_evaluation(0.20)) == []  # worse, but hinted reward rose by 0.04 only
    run(watch, reward__guided=[0.36] * 10)
    (sign,) = watch.observe_evaluation(0.25)  # it stays, and hinted reward is 0.06 above that of the best
    assert sign.warning == "hint-collapse"
    assert "0.30 to 0.36" in sign.message
    assert "0.250 to 0.250" in sign.message
    assert watch.observe_evaluation(0.10) == []  # told once
    assert watch.observe_evaluation(0.30) == []  # good again
    run(watch, reward__guided=[0.5] * 10)
    assert names(watch.observe_evaluation(0.29)) == ["hint-collapse"]


def test_before_and_after_alone_show_a_collapse_too() -> None:
    for after, expected in ((0.02, ["hint-collapse"]), (0.05, [])):
        watch = Watch(None)
        watch.observe_evaluation(0.04)
        run(watch, reward__guided=[0.1] * 10 + [0.5] * 10)
        assert names(watch.observe_evaluation(after)) == expected


def test_no_hint_no_collapse() -> None:
    watch = Watch(None)
    watch.observe_evaluation(0.5)
    run(watch, reward__accuracy=[0.1] * 20)
    assert watch.observe_evaluation(0.1) == []


def test_format_that_falls_away() -> None:
    watch = Watch("rewards/format/mean")
    assert run(watch, **{"rewards__format__mean": [0.5, 0.9] + [0.9] * 10}) == []
    falling = [0.9] * 2 + [0.7] * 8  # window means down to 0.74: 0.16 below the best of 0.90
    assert run(watch, **{"rewards__format__mean": falling}) == ["format-drift"]
    assert run(watch, **{"rewards__format__mean": [0.5] * 5}) == []  # told once
    assert run(watch, **{"rewards__format__mean": [0.9] * 10 + [0.6] * 7}) == ["format-drift"]  # recovered, fell again


def test_a_ladder_that_opens_on_bad_format() -> None:
    """Without a format reward: 30 + 30 % of the responses have no readable answer."""
    watch = Watch(None)
    series = {
        "verifier__no_answer": [0.3] * 4,
        "verifier__unparseable": [0.3] * 4,
        "rescue__rows": [0.0, 0.0, 8.0, 8.0],
    }
    assert run(watch, **series) == ["format-drift"]
    fine = Watch(None)
    assert run(fine, **{**series, "verifier__no_answer": [0.1] * 4}) == []


def test_state_survives_a_checkpoint() -> None:
    watch, other = Watch(None), Watch(None)
    watch.observe_evaluation(0.3)
    run(watch, reward__guided=[0.1] * 10 + [0.3] * 3)
    other.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    for each in (watch, other):
        run(each, reward__guided=[0.3] * 7)
    assert watch.observe_evaluation(0.2) == other.observe_evaluation(0.2) != []
    assert watch.state_dict() == other.state_dict()
