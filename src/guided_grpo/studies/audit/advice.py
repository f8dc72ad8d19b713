"""From the estimates to a recommendation: which method with which numbers, or that guidance cannot help, and why.

A pure function. rules.py holds its thresholds, refusals.py the cases in which it recommends no guidance.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from guided_grpo.guidance.allocation import guided_count
from guided_grpo.studies.audit.estimates import Cell, Climbing, Estimates, Point
from guided_grpo.studies.audit.refusals import not_answering, nothing_to_gain, usable
from guided_grpo.studies.audit.rules import CLOSE, NEAR_HALF, NOISY, SOLVED, UNSURE, Advice, percent


def advise(found: Estimates, *, ordered: bool, problems_per_step: int = 8) -> Advice:
    """The recommendation.

    Args:
        found: all figures.
        ordered: whether the data says how hard its problems are, for a curriculum.
        problems_per_step: of training.
    """
    alone = found.unguided
    plain = _cheapest([cell for cell in found.cells if not cell.alpha])
    early = not_answering(alone) or nothing_to_gain(alone, plain)
    if early is not None:
        return early
    helpful, refusal = usable(found)
    if refusal is not None:
        return refusal
    prefix = [point for point in helpful if point.setting.placement == "prefix"]
    if not prefix:
        return _ladder(found, helpful, plain)
    fitting = _by_tier(found, prefix, ordered)
    cell, zero = _choose(found, fitting)
    start = next(iter(fitting.values()))
    if zero > plain.zero - CLOSE:
        words = (
            f"Guidance raises success to {percent(start.success)} at {start.setting.label}, but {zero:.0%} of the "
            f"groups would still teach nothing ({plain.zero:.0%} without it)."
        )
        return Advice("no-help", "Guidance raises success, but not what there is to learn from.", (words,), {})
    return _guide(found, prefix, fitting, cell, (plain, zero), ordered, problems_per_step)


def _by_tier(found: Estimates, points: Sequence[Point], ordered: bool) -> dict[str, Point]:
    """The strength that fits each tier, easy to hard; one for all where the data is not in order.

    With a curriculum the first batches hold the easiest tier alone, so it is that tier's success that ℓ0 must bring
    near one half; a controller then finds the length of the others.
    """
    if not ordered:
        start = _start(points)
        return dict.fromkeys(found.tiers, start)
    return {tier: _start(points, tier) for tier in found.tiers}


def _start(points: Sequence[Point], tier: str | None = None) -> Point:
    """The shortest strength whose guided success is near 1/2, or the one that comes nearest."""

    def success(point: Point) -> float:
        return (point.success if tier is None else point.tiers[tier]).mean

    near = [point for point in points if NEAR_HALF[0] <= success(point) <= NEAR_HALF[1]]
    if near:
        return min(near, key=lambda point: point.setting.amount)
    return min(points, key=lambda point: (abs(success(point) - 0.5), point.setting.amount))


def _choose(found: Estimates, fitting: Mapping[str, Point]) -> tuple[Cell, float]:
    """Groups at the first length, and their share without a signal where every tier gets the length that fits it."""
    zero: dict[tuple[int, float], float] = defaultdict(float)
    first = next(iter(fitting.values()))
    for cell in found.cells:
        if cell.alpha and guided_count(cell.group, cell.alpha) < cell.group:
            for tier, point in fitting.items():
                if point.setting == cell.setting:
                    zero[cell.group, cell.alpha] += cell.tiers[tier] * found.tiers[tier] / found.problems
    best = min(zero.values())
    size, alpha = min(place for place, share in zero.items() if share <= best + CLOSE)
    [cell] = [one for one in found.cells if one.setting == first.setting and (one.group, one.alpha) == (size, alpha)]
    return cell, zero[size, alpha]


def _cheapest(cells: Iterable[Cell]) -> Cell:
    """Where least is wasted; of those that are as good, the smallest group, then the fewest guided rollouts."""
    several = list(cells)
    best = min(cell.wasted for cell in several)
    good = [cell for cell in several if cell.wasted <= best + CLOSE]
    return min(good, key=lambda cell: (cell.group, cell.alpha))


def _guide(
    found: Estimates,
    prefix: Sequence[Point],
    fitting: Mapping[str, Point],
    cell: Cell,
    zeros: tuple[Cell, float],
    ordered: bool,
    problems_per_step: int,
) -> Advice:
    plain, zero = zeros
    setting, top = cell.setting, max(prefix, key=lambda point: point.setting.amount)
    variation = _variation(found, fitting, cell, problems_per_step)
    method = "g2rpo-a" if variation <= NOISY else "setpoint"
    settings: dict[str, Any] = {
        "method": method,
        "guidance_placement": "prefix",
        "guidance_unit": setting.unit,
        "guidance_length": setting.amount,
        # The default of 1 would be the whole trace.
        "guidance_min": 0.01 if setting.unit.startswith("ratio") else 1.0,
        "guidance_max": top.setting.amount,
        "guidance_ratio": cell.alpha,
        "guidance_weight": 1.0,
        "num_generations": cell.group,
    }
    if not ordered:
        settings["curriculum"] = "none"
    fits = "" if _same(fitting) else " of the length that fits each tier"
    reasons = [
        f"{plain.zero:.0%} [{plain.interval[0]:.0%}, {plain.interval[1]:.0%}] of plain groups of {plain.group} would "
        f"teach nothing; with guidance{fits} in front of {cell.alpha:.0%} of a group of {cell.group} it is {zero:.0%}.",
        *_length_reasons(found, prefix, fitting, ordered),
        f"guidance_ratio {cell.alpha:g} and num_generations {cell.group}: the smallest group, and in it the fewest "
        f"guided rollouts, within {100 * CLOSE:g} points of the lowest share of zero-signal groups.",
        f"guidance_max {top.setting.amount:g}: the longest guidance that raised success without stating an answer.",
        "guidance_weight 1: with guidance masked out of the loss most of the gain was lost where we measured it.",
        _method_reason(method, variation, problems_per_step),
        "Or --method auto: it needs none of these numbers, and learned more from equal tokens where both were run.",
    ]
    if not ordered:
        reasons.append(
            "curriculum none: the data does not say how hard its problems are. Eq. 5 would rather have them in order."
        )
    first = next(iter(fitting.values()))
    if first.without:
        reasons.append(f"{first.without:.0%} of the problems have no trace that can be given: they train unguided.")
    reasons += _ladder_reason(found, "prefix", cell.group)
    return Advice("guide", f"Guidance can help: train with {method}.", tuple(reasons), settings, cell)


def _same(fitting: Mapping[str, Point]) -> bool:
    return len({point.setting for point in fitting.values()}) == 1


def _variation(found: Estimates, fitting: Mapping[str, Point], cell: Cell, problems: int) -> float:
    """Coefficient of variation of the mean reward of a batch of so many groups of the first tier, by chance."""
    tier, point = next(iter(fitting.items()))
    alone, guided = found.unguided.tiers[tier], point.tiers[tier]
    share = guided_count(cell.group, cell.alpha) / cell.group
    mean = share * guided.mean + (1 - share) * alone.mean
    # E[x/G − (x/G)²] is the variance inside a group, so E[(x/G)²] = mean − variance.
    between = max(0.0, mean - cell.variances[tier] - mean**2)
    return math.sqrt(between / problems) / mean


def _length_reasons(
    found: Estimates, points: Sequence[Point], fitting: Mapping[str, Point], ordered: bool
) -> list[str]:
    tier, point = next(iter(fitting.items()))
    success, alone, of, more = point.success, found.unguided.success, "", ""
    if ordered and len(fitting) > 1:
        success, alone = point.tiers[tier], found.unguided.tiers[tier]
        of = f" of tier {tier}, which a curriculum trains first,"
        if success.high - success.low > 2 * UNSURE:
            more = f"Tier {tier} was seen by {success.problems} problems; --first {3 * success.problems} narrows that."
    field = f"guidance_length {point.setting.amount:g} ({point.setting.unit})"
    change = f"{percent(success)} against {percent(alone)} alone"
    if NEAR_HALF[0] <= success.mean <= NEAR_HALF[1]:
        words = (
            f"{field}: the shortest audited strength that brings success{of} near one half, {change}. Rewards vary "
            "most there, and Eq. 5 has no set-point that would bring ℓ back from a trivial length."
        )
    else:
        words = f"{field}: the audited strength that brings success{of} nearest to one half, {change}."
        bracket = _bracket(points, None if not of else tier)
        if bracket is not None:
            words += f" One half lies between {bracket[0]} and {bracket[1]}: audit --strengths there."
    reasons = [words, more] if more else [words]
    if _same(fitting):
        return reasons
    fits = ", ".join(f"{point.setting.length} for tier {tier}" for tier, point in fitting.items())
    return [*reasons, f"The length that fits is {fits}: the controller has to find its way there."]


def _bracket(points: Sequence[Point], tier: str | None) -> tuple[str, str] | None:
    """The neighbouring strengths between which success passes one half; None = it does not."""
    rising = sorted(points, key=lambda point: point.setting.amount)
    for below, above in itertools.pairwise(rising):
        shares = [(point.success if tier is None else point.tiers[tier]).mean for point in (below, above)]
        if shares[0] < 0.5 < shares[1]:
            return below.setting.length, above.setting.length
    return None


def _method_reason(method: str, variation: float, problems: int) -> str:
    words = f"the mean reward of the first batches of {problems} problems varies by {variation:.0%} by chance"
    if method == "g2rpo-a":
        return f"g2rpo-a: {words}, little enough for Eq. 5 to compare batches."
    return f"setpoint: {words}, and Eq. 5 would turn that into its length; setpoint holds guided success instead."


def _ladder_reason(found: Estimates, placement: str, size: int) -> list[str]:
    chosen = next((one for one in found.ladders.get(placement, ()) if one.group == size), None)
    if chosen is None:
        return []
    return [
        f"The alternative, rescue of failed groups (ghpo): {chosen.difficult:.0%} of the groups are difficult; the "
        f"ladder would leave {chosen.zero:.0%} without a signal and sample {chosen.rollouts:.1f} rollouts for a group "
        f"of {size} in {chosen.calls:.1f} calls a step."
    ]


def _ladder(found: Estimates, helpful: Sequence[Point], plain: Cell) -> Advice:
    """Hints alone were audited, or they alone help."""
    climbs: Sequence[Climbing] = found.ladders.get("hint", ())
    start = _start(helpful)
    size = max(cell.group for cell in found.cells)
    reasons = [
        f"{plain.zero:.0%} of plain groups of {plain.group} would teach nothing.",
        f"Hints raise success: {percent(start.success)} with {start.setting.label}.",
    ]
    settings: dict[str, Any] = {"method": "ghpo"}
    if climbs:
        best = min(climb.zero for climb in climbs)
        chosen = next(climb for climb in climbs if climb.zero <= best + CLOSE)
        size = chosen.group
        stages = ", ".join(f"{rung.rescued:.0%} at {rung.setting.length}" for rung in chosen.rungs)
        reasons.append(
            f"Of groups of {size}, {chosen.difficult:.0%} are difficult; the ladder would rescue {stages} and leave "
            f"{chosen.zero:.0%} without a signal, with {chosen.rollouts:.1f} rollouts sampled for a group."
        )
        settings["rescue_slice"] = {"ratio": "tokens", "ratio-steps": "steps"}.get(
            chosen.rungs[0].setting.unit, "chars"
        )
    settings["num_generations"] = size
    if found.unguided.no_answer < 1 - SOLVED:
        settings["rescue_cold_start"] = 0
        reasons.append(
            "rescue_cold_start 0: the policy answers in the expected form, so nothing is taken for difficulty."
        )
    reasons.append(
        "Only hints help. A prefix whose tokens are in the loss taught more where we measured both: audit it too."
    )
    return Advice("guide", "Hints can help: train with ghpo.", tuple(reasons), settings)
