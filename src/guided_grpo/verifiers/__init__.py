"""The graders. One flat table of reward functions, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guided_grpo.errors import InputError
from guided_grpo.verifiers.rewards import accuracy, format_reward

RewardFunction = Callable[..., list[float | None]]

REWARDS: dict[str, RewardFunction] = {"accuracy": accuracy, "format": format_reward}


def reward_functions(names: Sequence[str]) -> list[RewardFunction]:
    """The reward functions of these names, in this order; InputError for an unknown name."""
    for name in names:
        if name not in REWARDS:
            raise InputError(
                "is no reward function", field="rewards", value=name, fix=f"choose from {', '.join(sorted(REWARDS))}"
            )
    return [REWARDS[name] for name in names]
