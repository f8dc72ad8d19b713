"""The graders. One flat table of reward functions, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guided_grpo.errors import InputError
from guided_grpo.grading.grader import Grader
from guided_grpo.grading.rewards import Accuracy, Format, OfGenerated, RewardFunction, TagCount
from guided_grpo.grading.worth import GraderSettings

__all__ = [
    "REWARDS",
    "Accuracy",
    "Format",
    "Grader",
    "GraderSettings",
    "OfGenerated",
    "RewardFunction",
    "RewardSettings",
    "TagCount",
    "accuracy",
    "reward_functions",
]


@dataclass(frozen=True)
class RewardSettings:
    """Numbers of the rewards that have some."""

    repeat_ngram: int = 3  # tokens
    repeat_penalty: float = -1.0  # of a response that only repeats itself
    max_tokens: int = 0  # most that a response may have; 0 = `overlong` cannot be used
    overlong_tokens: int = 0  # of these, the last ones over which the penalty rises to 1; 0 = a fifth of max_tokens


def _repetition(grader: Grader, settings: RewardSettings) -> RewardFunction:
    from trl.rewards import get_repetition_penalty_reward

    if settings.repeat_penalty > 0 or settings.repeat_ngram < 1:
        raise InputError(
            "is no penalty",
            field="repeat_penalty",
            value=settings.repeat_penalty,
            fix="use 0 or below, and an n-gram of 1 or more",
        )
    return OfGenerated(get_repetition_penalty_reward(settings.repeat_ngram, settings.repeat_penalty), "repetition")


def _overlong(grader: Grader, settings: RewardSettings) -> RewardFunction:
    from trl.rewards import get_soft_overlong_punishment

    soft = settings.overlong_tokens or settings.max_tokens // 5
    if not 0 < soft <= settings.max_tokens:
        raise InputError(
            f"is not between 1 and max_completion_length {settings.max_tokens}",
            field="overlong_tokens", value=soft, fix="use a part of max_completion_length",
        )  # fmt: skip
    return OfGenerated(get_soft_overlong_punishment(settings.max_tokens, soft), "overlong")


# Name → what makes the reward function.
REWARDS: dict[str, Callable[[Grader, RewardSettings], RewardFunction]] = {
    "accuracy": lambda grader, settings: Accuracy(grader),
    "format": lambda grader, settings: Format(),
    "tags": lambda grader, settings: TagCount(),
    "repetition": _repetition,
    "overlong": _overlong,
}

accuracy = Accuracy()  # with the default settings; its processes start when they are first needed


def reward_functions(
    names: Sequence[str], grader: Grader | None = None, settings: RewardSettings | None = None
) -> list[RewardFunction]:
    """The reward functions of these names, in this order.

    Args:
        names: of `REWARDS`.
        grader: what `accuracy` asks; None = one with default settings.
        settings: numbers of the others; None = the defaults.

    Raises InputError for an unknown name, or for settings that a reward cannot take.
    """
    for name in names:
        if name not in REWARDS:
            raise InputError(
                "is no reward function", field="rewards", value=name, fix=f"choose from {', '.join(sorted(REWARDS))}"
            )
    return [REWARDS[name](grader or accuracy.grader, settings or RewardSettings()) for name in names]
