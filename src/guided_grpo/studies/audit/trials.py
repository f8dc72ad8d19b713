"""What an audit measures, as plain values: settings, and the responses to one problem in one setting. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from guided_grpo.types import Strength, Unit


@dataclass(frozen=True, order=True)
class Setting:
    """Where guidance stands and how much of it; amount 0 = unguided."""

    placement: str  # prefix | hint
    unit: Unit
    amount: float

    @property
    def strength(self) -> Strength:
        """For the slicer."""
        return Strength(self.unit, self.amount)

    @property
    def label(self) -> str:
        """For people: `unguided`, `prefix 45 tokens`, `hint 25 %`."""
        return "unguided" if not self.amount else f"{self.placement} {self.length}"

    @property
    def length(self) -> str:
        """The amount with its unit."""
        if not self.unit.startswith("ratio"):
            return f"{self.amount:g} {self.unit}"
        of = {"ratio": "", "ratio-steps": " of the steps", "ratio-chars": " of the characters"}[self.unit]
        return f"{100 * self.amount:.3g} %{of}"


@dataclass(frozen=True)
class Trial:
    """The K responses to one problem in one setting."""

    problem: int  # row of the data
    tier: str
    setting: Setting
    graded: int  # responses with a verdict that counts; at most K
    successes: int
    tokens: int  # generated, all K
    truncated: int  # responses that reached the limit
    statuses: Mapping[str, int]  # how the K were graded
    given: int  # guidance tokens; 0 = no trace, or unguided
    clipped: bool  # the leak limit cut the slice
    states_answer: bool  # the slice states the answer all the same

    @property
    def responses(self) -> int:
        """K."""
        return sum(self.statuses.values())

    def __add__(self, other: Trial) -> Trial:
        """More responses to the same problem in the same setting."""
        return replace(
            self,
            graded=self.graded + other.graded,
            successes=self.successes + other.successes,
            tokens=self.tokens + other.tokens,
            truncated=self.truncated + other.truncated,
            statuses=dict(Counter(self.statuses) + Counter(other.statuses)),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**data, "setting": Setting(**data["setting"])})
