"""Advantages by hand."""

from __future__ import annotations

import pytest
import torch

from guided_grpo.train.advantage import arm_advantages, credited, zero_groups

GUIDED = torch.tensor([True, True, False, False])


def arm(rewards: list[float], guided: torch.Tensor = GUIDED, scale: str = "group") -> list[float]:
    return arm_advantages(torch.tensor(rewards), guided, 4, scale).tolist()


def test_each_arm_has_its_own_mean_and_the_group_one_scale() -> None:
    # means 1/2 and 0; squares 2·(1/4); freedom 4 − 2; s = 1/2
    assert arm([1, 0, 0, 0]) == pytest.approx([0.9998, -0.9998, 0, 0], abs=1e-4)
    assert arm([1, 0, 0, 0], scale="none") == [0.5, -0.5, 0, 0]


def test_guidance_that_works_does_not_punish_unguided_rollouts() -> None:
    """p_g = 1, p_u = 0: a shared baseline would give the unguided arm negative advantages; this one gives none."""
    assert arm([1, 1, 0, 0]) == [0, 0, 0, 0]


def test_one_arm_is_the_group_baseline() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    found = arm_advantages(rewards, torch.zeros(4, dtype=torch.bool), 4, "group")
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_degenerate_groups() -> None:
    assert arm([1, 1, 1, 1]) == [0, 0, 0, 0]
    assert arm([0, 0, 0, 0]) == [0, 0, 0, 0]
    one = torch.tensor([True, False, False, False])
    assert arm([1, 0, 0, 0], one) == [0, 0, 0, 0]  # an arm of one rollout has nothing to be compared with


def test_ungraded_rollouts_have_no_say_and_no_advantage() -> None:
    nan = float("nan")
    found = arm([1, 0, nan, 1])
    assert found[2] == 0 and found[3] == 0
    assert found[0] == pytest.approx(-found[1]) and found[0] > 0


def test_batch_scale_pools_groups() -> None:
    rewards = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0])
    found = arm_advantages(rewards, GUIDED.repeat(2), 4, "batch")
    # squares 1/2 over freedom 2·(4 − 2): s = √(1/8)
    assert found.tolist()[:2] == pytest.approx([0.5 / (0.125**0.5 + 1e-4), -0.5 / (0.125**0.5 + 1e-4)], rel=1e-5)


def test_zero_groups_counts_groups_without_signal() -> None:
    advantages = torch.tensor([0, 0, 0, 0, 1.0, -1.0, 0, 0])
    assert zero_groups(advantages, 4) == (1, 2)


def test_guidance_of_failures_has_no_weight() -> None:
    weights = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.5, 1.0, 1.0, 1.0]])
    given = torch.tensor([0.3, -0.3, -2.0, 0.0]), [2, 2, 0, 1], [True, True, False, True]
    assert credited(weights, *given, "signed").tolist() == weights.tolist()
    positive = credited(weights, *given, "positive")
    assert positive.tolist() == [[0.5, 0.5, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]
    assert credited(weights, *given, "unguided").tolist() == [[0] * 4, [0] * 4, [1, 1, 1, 1], [0] * 4]
    assert weights[1, 0] == 0.5  # a new tensor
