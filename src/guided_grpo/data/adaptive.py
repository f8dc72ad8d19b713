"""An order of problems that follows the policy: the next ones are as hard as it can just about learn from.

With R the mean accuracy reward of a batch, β the reward to hold, and hardness d between d_min and d_max,

    T ← clip(T + η (d_max − d_min) tanh(2 (R − β)), d_min, d_max),        T_0 = d_min,

and the next batch is those problems of the epoch, not yet used in it, whose d is nearest to T. The rule is that of
ADARFT (arXiv 2504.05520). Unlike there every problem comes once an epoch, and the step η is a share of the range of d,
so that it means the same for success rates, step counts and tiers.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from guided_grpo.data.curriculum import Hardness

SLOPE = 2.0


class AdaptiveOrder:
    """Epoch → row numbers, each chosen when it is asked for; the same on every process that observes the same rewards.

    Its choices are remembered, so that a resumed run lays out the beginning of its epoch as it was.

    Args:
        hardness: one number a row, larger = harder.
        target: β in [0, 1].
        gain: η ≥ 0; 0 = the easiest problems first, whatever the rewards.
    """

    def __init__(self, hardness: Sequence[float] | Hardness, target: float = 0.5, gain: float = 0.1) -> None:
        self.hardness, self.target, self.gain = np.asarray(hardness, dtype=np.float64), target, gain
        self.low, self.high = float(self.hardness.min()), float(self.hardness.max())
        self.level = self.low  # T
        self.epoch = 0
        self.rows = array("q")  # of this epoch

    def __call__(self, epoch: int) -> Iterator[int]:
        """The rows of an epoch: those chosen before, then new ones by the level as it is when they are asked for."""
        if epoch != self.epoch:
            self.epoch, self.rows = epoch, array("q")
        left = _Left(self.hardness, self.rows)
        yield from self.rows[:]
        while left.count:
            row = left.take(self.level)
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
        return {"level": self.level, "epoch": self.epoch, "rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.level, self.epoch, self.rows = state["level"], state["epoch"], array("q", state["rows"])


class _Left:
    """The rows of an epoch that are left, by hardness; one is found and taken out in the logarithm of their number.

    A place is one in the sorted order. `_up` leads from a place to the first at or above it that is left, `_down` to
    the last below it, over what was taken out (a union-find, whose ways are halved as they are gone).

    Args:
        hardness: one number a row.
        taken: rows that are gone.
    """

    def __init__(self, hardness: Hardness, taken: Sequence[int]) -> None:
        left = np.ones(len(hardness), dtype=bool)
        left[np.asarray(taken, dtype=np.int64)] = False
        rows = np.argsort(hardness, kind="stable")
        rows = rows[left[rows]]
        self.count = len(rows)
        self._rows, self._hardness = rows.data, hardness[rows].data
        self._up, self._down = (np.arange(len(rows) + 1).data for _ in range(2))

    def take(self, level: float) -> int:
        """Take out the row nearest to the level; of two as near the easier, of equally hard ones the first."""
        border = bisect_left(self._hardness, level)
        place, below = _end(self._up, border), _end(self._down, border) - 1
        if place == len(self._rows) or (below >= 0 and level - self._hardness[below] <= self._hardness[place] - level):
            place = _end(self._up, bisect_left(self._hardness, self._hardness[below]))
        self._up[place], self._down[place + 1] = place + 1, place
        self.count -= 1
        return self._rows[place]


def _end(ways: memoryview[int], place: int) -> int:
    while ways[place] != place:
        ways[place] = ways[ways[place]]
        place = ways[place]
    return place
