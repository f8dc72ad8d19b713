"""Two signs that guided training goes wrong, read off metrics and unguided evaluations while it runs.

hint-collapse   The reward of hinted rollouts rises while unguided accuracy falls or stays: the policy learns to use
                hints, not to solve problems (GHPO's failure sign). An evaluation is compared with the best one so far:
                hinted reward at least `RISE` higher, accuracy not above it.
format-drift    Responses lose their form, and failures of form look like difficulty. The mean format reward of the last
                `WINDOW` rows is `FALL` below its best window; or, at the first rescue, it is below `LOW`: a cold start
                that was too short. Without a format reward the share of responses with a readable answer stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINDOW = 10  # rows of the log, or of hinted ones
RISE, FALL, LOW = 0.05, 0.15, 0.5
COLLAPSE, DRIFT = "hint-collapse", "format-drift"


@dataclass(frozen=True)
class Sign:
    """A warning: which, and one plain sentence with the figures and what to do."""

    warning: str
    message: str


class Watch:
    """Follows one run; every sign is given once, until the figures are good again."""

    def __init__(self, format_metric: str | None) -> None:
        self.format_metric = format_metric  # such as rewards/format/mean; None = share of readable answers
        self._first: list[float] = []  # hinted reward of the first rows that have one
        self._recent: list[float] = []  # of the last ones
        self._best: list[float | None] | None = None  # hinted reward and accuracy at the best evaluation
        self._format: list[float] = []
        self._best_format = 0.0
        self._rescued = False
        self._active: list[str] = []

    def step(self, row: Mapping[str, Any]) -> list[Sign]:
        """One row of the log. Returns the signs that are new."""
        reward = row.get("reward/guided")
        if reward is not None:
            self._first = [*self._first, reward][:WINDOW]
            self._recent = [*self._recent, reward][-WINDOW:]
        form = self._form(row)
        if form is None:
            return []
        self._format = [*self._format, form][-WINDOW:]
        mean = sum(self._format) / len(self._format)
        opening = bool(row.get("rescue/rows")) and not self._rescued
        self._rescued |= opening
        if len(self._format) == WINDOW:
            self._best_format = max(self._best_format, mean)
        name = "format reward" if self.format_metric else "share of readable answers"
        if opening and mean < LOW:
            text = f"the ladder opens while the mean {name} is {mean:.2f}: failures of form are taken for difficulty"
            return self._tell(DRIFT, f"{text}; lengthen rescue_cold_start or set rescue_cold_format")
        if mean <= self._best_format - FALL:
            text = f"the mean {name} fell from {self._best_format:.2f} to {mean:.2f}"
            return self._tell(DRIFT, f"{text}; raise the weight of the format reward or lower the learning rate")
        if mean > self._best_format - FALL / 2 and mean >= LOW:
            self._forget(DRIFT)
        return []

    def observe_evaluation(self, accuracy: float) -> list[Sign]:
        """One unguided evaluation, in the order of training. Returns the signs that are new."""
        level = _mean(self._recent)
        if self._best is None or accuracy > float(self._best[1] or 0.0):
            self._best = [level, accuracy]
            self._forget(COLLAPSE)
            return []
        # The evaluation before training has no hinted reward of its own: the first ones stand for it.
        before, best = _mean(self._first) if self._best[0] is None else self._best[0], self._best[1]
        if level is None or before is None or level < before + RISE:
            return []
        return self._tell(
            COLLAPSE,
            f"hinted reward rose from {before:.2f} to {level:.2f} while unguided accuracy went from {best:.3f} to "
            f"{accuracy:.3f}: the policy learns to use hints; shorten them (rescue_stages, or rescue_strength: memory)",
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: value for name, value in vars(self).items() if name != "format_metric"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        vars(self).update(state)

    def _form(self, row: Mapping[str, Any]) -> float | None:
        if self.format_metric is not None:
            value = row.get(self.format_metric)
            return None if value is None else float(value)
        missing = [row[name] for name in ("verifier/no_answer", "verifier/unparseable") if row.get(name) is not None]
        return 1.0 - sum(missing) if missing else None

    def _tell(self, warning: str, message: str) -> list[Sign]:
        if warning in self._active:
            return []
        self._active = [*self._active, warning]
        return [Sign(warning, message)]

    def _forget(self, warning: str) -> None:
        self._active = [name for name in self._active if name != warning]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
