"""Which problems an audit asks: a seeded part of the data, every tier in proportion, more of the one trained first."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guided_grpo.evaluation.scoring import tier_order
from guided_grpo.types import Row

MAX_TIERS = 6  # numbers of more different values are cut into that many tiers


@dataclass(frozen=True)
class AuditProblem:
    """One problem of the audit."""

    index: int  # row of the data
    tier: str
    row: Row


def tiers_of(difficulties: Sequence[Any]) -> list[str]:
    """A tier for each row: its difficulty where there are few, else one of `MAX_TIERS` ranges of equally many rows."""
    values = [value for value in difficulties if value is not None]
    numbers = [value for value in values if not isinstance(value, str)]
    if len(set(values)) <= MAX_TIERS or len(numbers) < len(values):
        rest = "unknown" if values else "all"
        return [rest if value is None else value if isinstance(value, str) else f"{value:g}" for value in difficulties]
    ordered = sorted(numbers)
    cuts = sorted({ordered[len(ordered) * part // MAX_TIERS] for part in range(1, MAX_TIERS)})
    edges = [ordered[0], *[cut for cut in cuts if cut > ordered[0]], ordered[-1]]

    def name(value: float) -> str:
        place = max(n for n in range(len(edges) - 1) if value >= edges[n])
        return f"{edges[place]:g}–{edges[place + 1]:g}"

    return ["unknown" if value is None else name(value) for value in difficulties]


def choose(tiers: Sequence[str], count: int, seed: int) -> list[int]:
    """Numbers of `count` rows, in their order: every tier in proportion, rows of a tier at random."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, tier in enumerate(tiers):
        places[tier].append(place)
    total = min(count, len(tiers))
    exact = {tier: total * len(rows) / len(tiers) for tier, rows in places.items()}
    shares = {tier: int(value) for tier, value in exact.items()}
    for tier in sorted(exact, key=lambda tier: shares[tier] - exact[tier])[: total - sum(shares.values())]:
        shares[tier] += 1
    rng = random.Random(f"audit/{seed}")
    return sorted(row for tier, rows in places.items() for row in rng.sample(rows, shares[tier]))


def choose_first(tiers: Sequence[str], chosen: Sequence[int], count: int, seed: int) -> list[int]:
    """Numbers of up to `count` further rows of the easiest tier, which a curriculum trains first."""
    easiest, others = min(tiers, key=tier_order), set(chosen)
    rest = [row for row, tier in enumerate(tiers) if tier == easiest and row not in others]
    return sorted(random.Random(f"audit/{seed}/first").sample(rest, min(count, len(rest))))
