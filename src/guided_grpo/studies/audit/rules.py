"""The thresholds of the audit and the form of its advice. docs/audit.md says what each threshold stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from guided_grpo.evaluation.stats import Interval
from guided_grpo.studies.audit.estimates import Cell

Verdict = Literal["guide", "plain", "solved", "no-help", "leaks", "format", "too-short"]

SOLVED = 0.95  # unguided success from which there is nothing left to learn
ENOUGH = 0.2  # share of zero-signal groups that plain GRPO lives well with
NEAR_HALF = (0.35, 0.65)  # guided success at the initial length: rewards vary most at 1/2
STATED = 0.05  # share of slices that may state the answer
DOMINANT = 0.5  # share of responses without an answer, or cut off, from which success says nothing
CLOSE = 0.05  # shares that differ by less are taken as equal, and the cheaper setting wins
UNSURE = 0.1  # half-width of an interval from which more problems are asked for
NOISY = 0.35  # coefficient of variation of a batch's mean reward above which Eq. 5 would follow noise


@dataclass(frozen=True)
class Advice:
    """What to do, and why."""

    verdict: Verdict
    headline: str
    reasons: tuple[str, ...]
    settings: Mapping[str, Any]  # fields of a training config; empty = nothing worth training with
    cell: Cell | None = None  # the groups that `settings` lead to; None = none, or a ladder

    @property
    def method(self) -> str | None:
        """A name of `methods.METHODS`; None = do not train."""
        return self.settings.get("method")


def percent(interval: Interval | None, *, signed: bool = False) -> str:
    """`12.0% [8.0%, 17.0%]`, for sentences."""
    if interval is None:
        return "unknown"
    sign = "+" if signed else ""
    return f"{interval.mean:{sign}.1%} [{interval.low:{sign}.1%}, {interval.high:{sign}.1%}]"
