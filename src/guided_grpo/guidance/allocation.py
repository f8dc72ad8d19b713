"""Which rollouts of a group are guided (G²RPO-A, Eq. 3): the first α·G, with |g_i| = ℓ; the others with |g_i| = 0.

α·G is rounded to the nearest whole number, halves up (0.14·7 → 1, 0.57·7 → 4). `spread` is an alternative to one length
for all: the m guided rollouts get ℓ·m/m, ℓ·(m−1)/m, … , ℓ·1/m, so that some length in the group fits the problem.
"""

from __future__ import annotations

import math

ALLOCATIONS = ("first", "spread")


def guided_count(group_size: int, ratio: float) -> int:
    """Guided rollouts of a group: α·G to the nearest whole number, halves up."""
    return min(group_size, math.floor(ratio * group_size + 0.5 + 1e-9))


def shares(group_size: int, ratio: float, allocation: str = "first") -> list[float]:
    """For each rollout of a group, in order, its share of the guidance length; 0.0 = unguided. Shape (G,)."""
    guided = guided_count(group_size, ratio)
    if allocation == "first":
        return [1.0] * guided + [0.0] * (group_size - guided)
    if allocation == "spread":
        return [(guided - i) / guided for i in range(guided)] + [0.0] * (group_size - guided)
    raise KeyError(allocation)
