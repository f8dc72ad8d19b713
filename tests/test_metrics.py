"""Metrics are reduced from sums and counts, never as means of means."""

from __future__ import annotations

import json

import pytest

from guided_grpo.metrics import MetricSums


def test_a_mean_weighs_every_rollout_once() -> None:
    sums = MetricSums()
    sums.mean("reward/guided", 3.0, 4)
    sums.mean("reward/guided", 0.0, 1)
    sums.mean("reward/unguided", 0.0, 0)
    sums.total("tokens/generated", 10)
    sums.total("tokens/generated", 5)
    sums.latest("tokens/generated_total", 10)
    sums.latest("tokens/generated_total", 15)
    row = sums.reduce()
    assert row == {"reward/guided": pytest.approx(0.6), "tokens/generated": 15, "tokens/generated_total": 15}
    assert sums.reduce() == {}


def test_an_interval_survives_a_checkpoint_in_its_middle() -> None:
    whole, cut = MetricSums(), MetricSums()
    for part in (whole, cut):
        part.mean("a", 1.0, 3)
        part.total("b", 2.0)
        part.latest("c", 7.0)
    restored = MetricSums()
    restored.total("stale", 1.0)
    restored.load_state_dict(json.loads(json.dumps(cut.state_dict())))
    for part in (whole, restored):
        part.mean("a", 2.0, 1)
    assert restored.reduce() == whole.reduce() == {"a": 0.75, "b": 2.0, "c": 7.0}
