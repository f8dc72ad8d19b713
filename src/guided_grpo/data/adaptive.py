"""An order of problems that follows the policy: the next ones are as hard as it can just about learn from.

With R the mean accuracy reward of a batch, β the reward to hold, and hardness d between d_min and d_max,

    T ← clip(T + η (d_max − d_min) tanh(2 (R − β)), d_min, d_max),        T_0 = d_min,

and the next batch is those problems of the epoch, not yet used in it, whose d is nearest to T. The rule is that of
ADARFT (arXiv 2504.05520). Unlike there every problem comes once an epoch, and the step η is a share of the range of d,
so that it means the same for success rates, step counts and tiers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

SLOPE = 2.0


class AdaptiveOrder:
    """Epoch → row numbers, each chosen when it is asked for; the same on every process that observes the same rewards.

    Its choices are remembered, so that a resumed run lays out the beginning of its epoch as it was.

    Args:
        hardness: one number a row, larger = harder.
        target: β in [0, 1].
        gain: η ≥ 0; 0 = the easiest problems first, whatever the rewards.
    """

    def __init__(self, hardness: Sequence[float], target: float = 0.5, gain: float = 0.1) -> None:
        self.hardness, self.target, self.gain = list(hardness), target, gain
        self.low, self.high = min(self.hardness), max(self.hardness)
        self.level = self.low  # T
        self.epoch = 0
        self.rows: list[int] = []  # of this epoch

    def __call__(self, epoch: int) -> Iterator[int]:
        """The rows of an epoch: those chosen before, then new ones by the level as it is when they are asked for."""
        if epoch != self.epoch:
            self.epoch, self.rows = epoch, []
        used = set(self.rows)
        left = sorted((d, row) for row, d in enumerate(self.hardness) if row not in used)
        yield from list(self.rows)
        while left:
            _, row = left.pop(self._nearest(left))
            self.rows.append(row)
            yield row

    def observe(self, reward: float) -> None:
        """Take in the mean accuracy reward of a batch; NaN (nothing was graded) changes nothing."""
        if math.isnan(reward):
            return
        step = self.gain * (self.high - self.low) * math.tanh(SLOPE * (reward - self.target))
        self.level = min(self.high, max(self.low, self.level + step))

    def metrics(self) -> dict[str, float]:
        """For the log."""
        return {"curriculum/level": self.level}

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"level": self.level, "epoch": self.epoch, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.level, self.epoch, self.rows = state["level"], state["epoch"], list(state["rows"])

    def _nearest(self, left: Sequence[tuple[float, int]]) -> int:
        """Place of the row nearest to the level; of two as near the easier, of equally hard ones the first."""
        above = bisect_left(left, (self.level, -1))
        if above == len(left) or (above and self.level - left[above - 1][0] <= left[above][0] - self.level):
            return bisect_left(left, (left[above - 1][0], -1))
        return above
