"""Reward functions in TRL's form: one value a completion, None where nothing could be graded.

Training and evaluation use the same functions. Each status that a batch ends in is a metric `verifier/<status>`; every
status is logged for every batch, zeros too, because TRL averages a metric over the batches that logged it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from guided_grpo.types import Status
from guided_grpo.verifiers.format import well_formed
from guided_grpo.verifiers.maths import check_maths

# Neither says anything of the response: masked out of its group, and no sign of a difficult problem.
UNGRADED = frozenset({Status.INFRA_ERROR, Status.TIMEOUT})
Completion = str | Sequence[Mapping[str, Any]]  # text, or the chat messages that the policy added


def response_text(completion: Completion) -> str:
    """What the policy said: the text itself, or that of its last message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(str(part.get("text", "")) for part in content)


def accuracy(
    completions: Sequence[Completion],
    answer: Sequence[str | None],
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1.0 for each completion that declares its gold answer, 0.0 for any other, None where the grader could not tell.

    Args:
        completions: one a row (_B).
        answer: the gold answers (_B); None = not a row of mathematics, not graded.
        log_metric: TRL's logger; None = nothing is logged.
        columns: the data set's other columns and TRL's further arguments, unused.
    """
    statuses_B = [
        None if gold is None else check_maths(response_text(completion), gold).status
        for completion, gold in zip(completions, answer, strict=True)
    ]
    _log_shares(statuses_B, log_metric)
    return [None if status is None or status in UNGRADED else float(status is Status.CORRECT) for status in statuses_B]


def format_reward(
    completions: Sequence[Completion],
    thinking_open: Sequence[bool | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1.0 for each completion that thinks inside one closed thinking block and then answers, else 0.0.

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


format_reward.__name__ = "format"  # TRL names the metric after it


def _log_shares(statuses_B: Sequence[Status | None], log_metric: Callable[[str, float], None] | None) -> None:
    counts = Counter(status for status in statuses_B if status is not None)
    if log_metric is None or not counts:
        return
    for status in Status:
        log_metric(f"verifier/{status}", counts[status] / counts.total())
