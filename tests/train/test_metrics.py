"""Metrics are reduced from sums and counts, never as means of means."""

from __future__ import annotations

import json

import pytest
import torch

from guided_grpo.train.metrics import MetricSums, count_batch
from guided_grpo.train.rollout import problem_feedback
from guided_grpo.types import ProblemFeedback


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


def test_a_batch_by_hand() -> None:
    """Two groups of four: two guided each; one rollout not graded; the second group teaches nothing."""
    nan = float("nan")
    facts_BK = torch.tensor(
        # problem, tier, stage, due, guidance, generated, spent (the fifth row threw 30 tokens away), clipped, leaked, truncated
        [
            [7, 5, 0, 1, 5, 10, 10, 0, 0, 0],
            [7, 5, 0, 1, 5, 12, 12, 1, 0, 0],
            [7, 5, 0, 0, 0, 20, 20, 0, 0, 1],
            [7, 5, 0, 0, 0, 18, 18, 0, 0, 0],
            [8, 5, 1, 1, 0, 20, 50, 0, 0, 0],
            [8, 5, 0, 1, 3, 10, 10, 0, 1, 0],
            [8, 5, 0, 0, 0, 20, 20, 0, 0, 1],
            [8, 5, 0, 0, 0, 10, 10, 0, 0, 0],
        ]
    )
    accuracy_B = torch.tensor([1.0, 0.0, 0.0, nan, 0.0, 0.0, 0.0, 0.0])
    advantages_B = torch.tensor([1.5, -0.5, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    sums = MetricSums()
    generated = count_batch(sums, facts_BK, accuracy_B, advantages_B, group_size=4, length=5.5, guidance_trained=False)
    assert generated == 150
    row = sums.reduce()
    assert row.pop("advantage/std") == pytest.approx(advantages_B.std().item())
    assert row == pytest.approx(
        {
            "reward/accuracy": 1 / 7,
            "reward/guided": 1 / 3,
            "reward/unguided": 0.0,
            "advantage/guided": 1 / 3,
            "advantage/unguided": -0.2,
            "signal/zero_groups": 0.5,
            "guidance/length": 5.5,
            "guidance/given": 13 / 3,
            "guidance/ratio": 3 / 8,
            "guidance/tokens": 13,
            "guidance/missing": 0.25,
            "guidance/clipped": 1 / 3,
            "guidance/leaked": 1 / 3,
            "tokens/generated": 150,
            "tokens/trained": 120,
            "completions/generated_length": 15,
            "completions/truncated": 0.25,
        }
    )


def test_feedback_of_problems_counts_guided_places_also_without_guidance() -> None:
    """Three places of four guided; one of them not graded; the second group gets a length of 0."""
    nan = float("nan")
    facts_BK = torch.tensor([[7, 5, 0, 1, 3, 9, 9, 0, 0, 0]] * 4 + [[8, 6, 0, 0, 0, 9, 9, 0, 0, 0]] * 4)
    accuracy_B = torch.tensor([1.0, nan, 0.0, 1.0, 0.5, 0.0, 1.0, 1.0])
    assert problem_feedback(accuracy_B, facts_BK, [1.0, 1.0, 0.5, 0.0]) == (
        ProblemFeedback(problem=7, tier=5, successes=1, rollouts=2),
        ProblemFeedback(problem=8, tier=6, successes=2, rollouts=3),
    )
