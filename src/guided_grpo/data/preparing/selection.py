"""Which of the curated rows are written, and in which order: sample filters, numbers per tier, limit, difficulty.

Pure functions over the difficulties of rows; a row is its number. Table 7 of G²RPO-A compares three sample filters:

    keep      all rows
    remove    without the hard ones
    replace   each hard row exchanged for one of moderate difficulty, in its place, drawn by seed

The paper does not say what hard and moderate are; here both are bounds on the difficulty, given as a value, a tier, or
a quantile of the data ("quantile 0.8"): hard = at or above the first bound, moderate = from the second up to the first.
Replacements come first from moderate rows that are not in the set, each once; where these run out, moderate rows of
the set are used again, each as often as any other but one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from guided_grpo.data.curriculum import MATHS_TIERS, Difficulty, difficulty_order
from guided_grpo.errors import InputError

FILTERS = ("keep", "remove", "replace")
ORDERS = ("source", "difficulty", "shuffle")
Bound = float | int | str  # a difficulty, a tier, or "quantile 0.8"


@dataclass(frozen=True)
class FilterResult:
    """What a sample filter leaves: rows in order, which hard rows are gone, and how often a row stands twice."""

    rows: list[int]
    gone: list[int]  # hard rows, removed or replaced
    repeated: int = 0  # replacements that stand in the set already


def check_mode(mode: str) -> None:
    """Raise InputError where `mode` is none of FILTERS."""
    if mode not in FILTERS:
        raise InputError("is no sample filter", field="sample_filter", value=mode, fix=f"use {', '.join(FILTERS)}")


def filter_hard(
    rows: Sequence[int],
    difficulties: Sequence[Difficulty],
    mode: str,
    *,
    hard: Bound,
    moderate: Bound,
    seed: int = 0,
    spare: Sequence[int] = (),
) -> FilterResult:
    """Apply one of FILTERS.

    Args:
        rows: numbers of the rows of the set, in order.
        difficulties: of all rows by number, spare ones too; numbers or tiers. A row without one is neither hard nor
            moderate.
        mode: keep, remove or replace.
        hard: lowest difficulty of a hard row.
        moderate: lowest difficulty of a moderate row.
        seed: of the draws.
        spare: numbers of rows outside the set, which `replace` may draw from.

    Raises InputError for bounds that are no difficulty or in the wrong order, and where `replace` has no moderate row.

    With difficulties [1, 2, 3, 9], hard 9 and moderate 2, `remove` leaves [0, 1, 2] and `replace` [0, 1, 2, 1] or
    [0, 1, 2, 2].
    """
    check_mode(mode)
    if mode == "keep":
        return FilterResult(list(rows), [])
    values = [_value(difficulty) for difficulty in difficulties]
    scale = sorted(values[row] for row in rows if not math.isnan(values[row]))
    top, middle = bound_value(hard, "hard", scale), bound_value(moderate, "moderate", scale)
    if not middle < top:
        fix = "lower it, or raise hard"
        raise InputError(f"is not below hard ({top:g})", field="sample_filter.moderate", value=middle, fix=fix)
    gone = [row for row in rows if values[row] >= top]
    if mode == "remove":
        return FilterResult([row for row in rows if not values[row] >= top], gone)
    rng = random.Random(f"replace/{seed}")
    fresh = [row for row in spare if middle <= values[row] < top]
    again = [row for row in rows if middle <= values[row] < top]
    rng.shuffle(fresh)
    if gone and not fresh and not again:
        problem = f"finds no row of difficulty in [{middle:g}, {top:g})"
        raise InputError(problem, field="sample_filter", fix="lower moderate")
    moderates = fresh[: len(gone)]
    fresh_count = len(moderates)
    while len(moderates) < len(gone):
        rng.shuffle(again)
        moderates += (again or fresh)[: len(gone) - len(moderates)]
    left = iter(moderates)
    return FilterResult([next(left) if values[row] >= top else row for row in rows], gone, len(gone) - fresh_count)


@dataclass(frozen=True)
class Selection:
    """Rows in the order in which they are written, and what became of the others."""

    rows: list[int]
    dropped: dict[int, str]  # row → reason: tier-full, limit, hard, replaced
    repeated: int = 0


def select(
    difficulties: Sequence[Difficulty],
    tiers: Sequence[str | None],
    *,
    per_tier: int | None = None,
    limit: int | None = None,
    order: str = "source",
    seed: int = 0,
    mode: str = "keep",
    hard: Bound = math.inf,
    moderate: Bound = -math.inf,
) -> Selection:
    """Choose and order rows.

    Args:
        difficulties: one a row.
        tiers: where each row is from; None = unknown, a tier of its own.
        per_tier: most rows of a tier; None = all.
        limit: most rows in all; None = all. With several tiers the rows are spread evenly over them.
        order: `source` as read, `difficulty` easy to hard (stable), `shuffle` by seed.
        seed: of the choice within a tier, of the shuffle and of replacements.
        mode: the sample filter; hard and moderate are its bounds.

    Raises InputError as `filter_hard` and `difficulty_order` do.
    """
    count = len(difficulties)
    dropped: dict[int, str] = {}
    by_tier: dict[str | None, list[int]] = {}
    for row, tier in enumerate(tiers):
        by_tier.setdefault(tier, []).append(row)
    rng = random.Random(f"select/{seed}")
    if per_tier is not None or (limit is not None and limit < count):
        quota = _quotas({tier: len(rows) for tier, rows in by_tier.items()}, per_tier, limit)
        for tier, rows in by_tier.items():
            sample = set(rng.sample(rows, quota[tier]))
            full = per_tier is not None and len(rows) > per_tier and quota[tier] == per_tier
            dropped.update(dict.fromkeys((row for row in rows if row not in sample), "tier-full" if full else "limit"))
    rows = [row for row in range(count) if row not in dropped]
    result = filter_hard(rows, difficulties, mode, hard=hard, moderate=moderate, seed=seed, spare=sorted(dropped))
    rows = result.rows
    for row in rows:
        dropped.pop(row, None)
    dropped.update(dict.fromkeys(result.gone, "replaced" if mode == "replace" else "hard"))
    if order == "shuffle":
        rng.shuffle(rows)
    elif order == "difficulty":
        rows = [rows[place] for place in difficulty_order([difficulties[row] for row in rows])]
    repeated = sum(times - 1 for times in Counter(rows).values())
    return Selection(rows, dropped, repeated)


def _quotas(sizes: dict[str | None, int], per_tier: int | None, limit: int | None) -> dict[str | None, int]:
    """Rows of each tier: at most per_tier, in all at most limit, spread evenly, small tiers whole."""
    quota = {tier: min(size, per_tier if per_tier is not None else size) for tier, size in sizes.items()}
    left = min(limit if limit is not None else sum(quota.values()), sum(quota.values()))
    shared: dict[str | None, int] = {}
    for number, tier in enumerate(sorted(quota, key=lambda tier: quota[tier])):
        shared[tier] = min(quota[tier], left // (len(quota) - number))
        left -= shared[tier]
    return shared


def _value(difficulty: Difficulty) -> float:
    if difficulty is None:
        return math.nan
    if isinstance(difficulty, str):
        return float(MATHS_TIERS.index(difficulty)) if difficulty in MATHS_TIERS else math.nan
    return float(difficulty)


def bound_value(bound: Bound, name: str, scale: Sequence[float]) -> float:
    """The difficulty that a bound means among those in `scale`, sorted. Raises InputError for what is no bound."""
    if not isinstance(bound, str):
        return float(bound)
    word, _, share = bound.partition(" ")
    try:
        if bound in MATHS_TIERS:
            return _value(bound)
        if word == "quantile" and scale and 0 <= float(share) <= 1:
            return scale[min(int(float(share) * len(scale)), len(scale) - 1)]
        return float(bound)
    except ValueError:
        problem = "is no bound" if scale else "is no bound: no row has a difficulty"
        fix = "give a difficulty, a tier, or 'quantile 0.8'"
        raise InputError(problem, field=f"sample_filter.{name}", value=bound, fix=fix) from None
