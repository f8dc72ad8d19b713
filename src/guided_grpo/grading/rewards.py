"""Reward functions in TRL's form: one value a completion, None where nothing could be graded.

Training and evaluation use the same ones. Each status that a batch ends in is a metric `verifier/<status>`; every
status is logged for every batch, zeros too, because TRL averages a metric over the batches that logged it.

`repetition` and `overlong` are TRL's own functions; they see what the policy generated, without its guidance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from guided_grpo.grading.format import tag_count, well_formed
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
    and `task` where a row has both. What each verdict is worth is a table (`GradingSettings.worth`).
    """

    __name__ = "accuracy"  # TRL names the metric after it
    masks_ungraded = True  # a completion without a verdict leaves its group, whatever other rewards it has

    def __init__(self, grader: Grader | None = None) -> None:
        self.grader = grader or Grader()

    def begin(self, completions: Sequence[Completion], **columns: Any) -> None:
        """Start to grade in the background; a call with the same completions takes the verdicts from there."""
        self.grader.begin(_questions(completions, columns))

    def verdicts(self, completions: Sequence[Completion], **columns: Any) -> list[Verdict | None]:
        """One verdict a completion (_B); None = its row has nothing to be graded by."""
        return self.grader.grade(_questions(completions, columns))

    def __call__(
        self,
        completions: Sequence[Completion],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of completions.

        Args:
            completions: one a row (_B).
            log_metric: TRL's logger; None = nothing is logged.
            columns: the data set's columns, each a list (_B), and TRL's further arguments.
        """
        questions = _questions(completions, columns)
        verdicts = self.grader.grade(questions)
        _log_shares([verdict.status for verdict in verdicts if verdict is not None], log_metric)
        return [self.grader.worth(question, verdict) for question, verdict in zip(questions, verdicts, strict=True)]


class Format:
    """1.0 for each completion that thinks inside one closed thinking block and then answers, else 0.0."""

    __name__ = "format"

    def __call__(
        self, completions: Sequence[Completion], thinking_open: Sequence[bool | None] | None = None, **columns: Any
    ) -> list[float | None]:
        """Rewards of completions.

        Args:
            completions: one a row (_B).
            thinking_open: whether the rendered prompt ended inside `<think>` (_B); None = unknown.
            columns: the data set's other columns and TRL's further arguments, unused.
        """
        opened_B = thinking_open if thinking_open is not None else [None] * len(completions)
        return [
            float(well_formed(response_text(completion), opened))
            for completion, opened in zip(completions, opened_B, strict=True)
        ]


class TagCount:
    """Half a point for each of `<think>` and `</think>` that stands there exactly once."""

    __name__ = "tags"

    def __call__(
        self, completions: Sequence[Completion], thinking_open: Sequence[bool | None] | None = None, **columns: Any
    ) -> list[float | None]:
        """As `Format`."""
        opened_B = thinking_open if thinking_open is not None else [None] * len(completions)
        return [
            tag_count(response_text(completion), opened)
            for completion, opened in zip(completions, opened_B, strict=True)
        ]


class OfGenerated:
    """A reward function over `completion_ids` that is shown the generated tokens alone.

    Args:
        function: such as TRL's repetition or over-length penalty.
        name: of the metric.
    """

    def __init__(self, function: RewardFunction, name: str) -> None:
        self.function, self.__name__ = function, name

    def __call__(
        self,
        completion_ids: Sequence[Sequence[int]],
        guidance_tokens: Sequence[int] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of completions.

        Args:
            completion_ids: guidance and generated tokens (_B).
            guidance_tokens: how many of them are guidance (_B); None = none.
            columns: whatever else TRL hands over.
        """
        given_B = guidance_tokens if guidance_tokens is not None else [0] * len(completion_ids)
        generated = [list(ids[given:]) for ids, given in zip(completion_ids, given_B, strict=True)]
        return self.function(completion_ids=generated, **columns)


def _questions(completions: Sequence[Completion], columns: Mapping[str, Any]) -> list[Submission]:
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
