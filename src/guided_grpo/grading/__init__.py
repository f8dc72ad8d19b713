"""The graders. One flat table of reward functions, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guided_grpo.errors import InputError
from guided_grpo.grading.grader import Grader
from guided_grpo.grading.rewards import Accuracy, Format, OfGenerated, RewardFunction, TagCount
from guided_grpo.grading.worth import GradingSettings

__all__ = [
    "REWARDS",
    "Accuracy",
    "Format",
    "Grader",
    "GradingSettings",
    "OfGenerated",
    "RewardFunction",
    "TagCount",
    "accuracy",
    "reward_functions",
]


def _repetition(grader: Grader, max_tokens: int) -> RewardFunction:
    from trl.rewards import get_repetition_penalty_reward

    settings = grader.settings
    return OfGenerated(get_repetition_penalty_reward(settings.repeat_ngram, settings.repeat_penalty), "repetition")


def _overlong(grader: Grader, max_tokens: int) -> RewardFunction:
    from trl.rewards import get_soft_overlong_punishment

    soft = grader.settings.overlong_tokens or max_tokens // 5
    if not 0 < soft <= max_tokens:
        raise InputError(
            f"is not between 1 and max_completion_length {max_tokens}",
            field="overlong_tokens", value=soft, fix="use a part of max_completion_length",
        )  # fmt: skip
    return OfGenerated(get_soft_overlong_punishment(max_tokens, soft), "overlong")


# Name → what makes the reward function, from a grader, its settings, and the most tokens that a response may have.
REWARDS: dict[str, Callable[[Grader, int], RewardFunction]] = {
    "accuracy": lambda grader, max_tokens: Accuracy(grader),
    "format": lambda grader, max_tokens: Format(),
    "tags": lambda grader, max_tokens: TagCount(),
    "repetition": _repetition,
    "overlong": _overlong,
}

accuracy = Accuracy()  # with the default settings; its processes start when they are first needed


def reward_functions(
    names: Sequence[str], grader: Grader | None = None, *, max_tokens: int = 0
) -> list[RewardFunction]:
    """The reward functions of these names, in this order.

    Args:
        names: of `REWARDS`.
        grader: what `accuracy` asks, and whose settings hold the numbers of the others; None = the defaults.
        max_tokens: most that a response may have; 0 = `overlong` cannot be used.

    Raises InputError for an unknown name, or for settings that a reward cannot take.
    """
    for name in names:
        if name not in REWARDS:
            raise InputError(
                "is no reward function", field="rewards", value=name, fix=f"choose from {', '.join(sorted(REWARDS))}"
            )
    return [REWARDS[name](grader or accuracy.grader, max_tokens) for name in names]
