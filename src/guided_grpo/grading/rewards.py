"""Reward functions in TRL's form: one value a completion, None where nothing could be graded.

Training and evaluation use the same ones. Each status that a batch ends in is a metric `verifier/<status>`; every
status is logged for every batch, zeros too, because TRL averages a metric over the batches that logged it.

`repetition` and `overlong` are TRL's own functions; they see what the policy generated, without its guidance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.grading.answers import THINK_CLOSE, THINK_OPEN
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.types import Status, Verdict

Completion = str | Sequence[Mapping[str, Any]]  # text, or the chat messages that the policy added
RewardFunction = Callable[..., list[float | None]]


def response_text(completion: Completion) -> str:
    """What the policy said: the text itself, or that of its last message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(str(part.get("text", "")) for part in content)


class Accuracy:
    """1.0 for each completion that is right by its row, 0.0 for any other, None where the grader could not tell.

    Columns that decide: `answer` (and `answer_kind`: math, choice, integer) or `tests` (and `entry_point`, `setup`),
    and `task` where a row has both. What each verdict is worth is a table (`GradingSettings.verdict_rewards`).
    """

    __name__ = "accuracy"  # TRL names the metric after it
    masks_ungraded = True  # a completion without a verdict leaves its group, whatever other rewards it has

    def __init__(self, grader: Grader | None = None) -> None:
        self.grader = grader or Grader()

    def begin(self, completions: Sequence[Completion], **columns: Any) -> None:
        """Start to grade in the background; a call with the same completions takes the verdicts from there."""
        self.grader.begin(_submissions(completions, columns))

    def verdicts(self, completions: Sequence[Completion], **columns: Any) -> list[Verdict | None]:
        """One verdict a completion (_B); None = its row has nothing to be graded by."""
        return self.grader.grade(_submissions(completions, columns))

    def __call__(
        self, completions: Sequence[Completion], log_metric: Callable[[str, float], None] | None = None, **columns: Any
    ) -> list[float | None]:
        """Rewards of completions.

        Args:
            completions: one a row (_B).
            log_metric: TRL's logger; None = nothing is logged.
            columns: the data set's columns, each a list (_B), and TRL's further arguments.
        """
        submissions = _submissions(completions, columns)
        verdicts = self.grader.grade(submissions)
        _log_shares([verdict.status for verdict in verdicts if verdict is not None], log_metric)
        return [self.grader.worth(*pair) for pair in zip(submissions, verdicts, strict=True)]


def of_form(rule: Callable[[str, bool | None], float], name: str) -> RewardFunction:
    """A reward function of how a completion thinks, not of what it answers.

    Args:
        rule: reward of a text, and whether its prompt's rendering ended inside `<think>`; None = unknown.
        name: of the metric.
    """

    def reward(
        completions: Sequence[Completion], thinking_open: Sequence[bool | None] | None = None, **_: Any
    ) -> list[float | None]:
        thinking_open_B = thinking_open if thinking_open is not None else [None] * len(completions)
        return [rule(response_text(c), inside) for c, inside in zip(completions, thinking_open_B, strict=True)]

    reward.__name__ = name  # TRL names the metric after it
    return reward


def of_generated(function: RewardFunction, name: str) -> RewardFunction:
    """A reward function over `completion_ids` that is shown the generated tokens alone.

    Args:
        function: such as TRL's repetition or over-length penalty.
        name: of the metric.
    """

    def reward(
        completion_ids: Sequence[Sequence[int]], guidance_tokens: Sequence[int] | None = None, **columns: Any
    ) -> list[float | None]:
        guidance_B = guidance_tokens if guidance_tokens is not None else [0] * len(completion_ids)
        generated = [list(ids[length:]) for ids, length in zip(completion_ids, guidance_B, strict=True)]
        return function(completion_ids=generated, **columns)

    reward.__name__ = name
    return reward


def well_formed(response: str, thinking_open: bool | None = None) -> bool:
    """One thinking block, closed once, with something after it; white space is free everywhere.

    Args:
        response: what the policy wrote.
        thinking_open: True = the prompt's rendering ended inside `<think>`, so the response must not open it again;
            False = the response must open it; None = unknown, both are right.
    """
    before, close, after = response.partition(THINK_CLOSE)
    if not close or not after.strip() or THINK_CLOSE in after or THINK_OPEN in after:
        return False
    opens = before.count(THINK_OPEN)
    if opens:
        return not thinking_open and opens == 1 and before.lstrip().startswith(THINK_OPEN)
    return thinking_open is not False


def tag_count(response: str, thinking_open: bool | None = None) -> float:
    """0.5 for `<think>` exactly once, and 0.5 for `</think>` exactly once: a smoother form of `well_formed`.

    Args:
        response: what the policy wrote.
        thinking_open: True = the prompt's rendering opened the block; None = unknown, both are right.
    """
    opens, closes = response.count(THINK_OPEN), response.count(THINK_CLOSE)
    right = opens == 0 if thinking_open else opens == 1 if thinking_open is False else opens <= 1
    return 0.5 * right + 0.5 * (closes == 1)


def _repetition(grader: Grader, max_tokens: int) -> RewardFunction:
    from trl.rewards import get_repetition_penalty_reward

    settings = grader.settings
    return of_generated(get_repetition_penalty_reward(settings.repeat_ngram, settings.repeat_penalty), "repetition")


def _overlong(grader: Grader, max_tokens: int) -> RewardFunction:
    from trl.rewards import get_soft_overlong_punishment

    soft = grader.settings.overlong_tokens or max_tokens // 5
    if not 0 < soft <= max_tokens:
        raise InputError(
            f"is not between 1 and max_completion_length {max_tokens}",
            field="overlong_tokens", value=soft, fix="use a part of max_completion_length",
        )  # fmt: skip
    return of_generated(get_soft_overlong_punishment(max_tokens, soft), "overlong")


# Name → what makes the reward function, from a grader with its settings and the most tokens of a response.
REWARDS: dict[str, Callable[[Grader, int], RewardFunction]] = {
    "accuracy": lambda grader, max_tokens: Accuracy(grader),
    "format": lambda grader, max_tokens: of_form(well_formed, "format"),
    "tags": lambda grader, max_tokens: of_form(tag_count, "tags"),
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


def _submissions(completions: Sequence[Completion], columns: Mapping[str, Any]) -> list[Submission]:
    names = [name for name in ("task", "answer", "answer_kind", "tests", "entry_point", "setup") if name in columns]
    return [
        Submission(response_text(completion), {name: columns[name][place] for name in names})
        for place, completion in enumerate(completions)
    ]


def _log_shares(statuses: Sequence[Status], log_metric: Callable[[str, float], None] | None) -> None:
    counts = Counter(statuses)
    if log_metric is None or not counts:
        return
    for status in Status:
        log_metric(f"verifier/{status}", counts[status] / counts.total())
