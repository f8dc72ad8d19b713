"""From the estimates to a recommendation: which method with which numbers, or that guidance cannot help, and why.

A pure function. docs/audit.md says what each threshold stands on.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from guided_grpo.evaluation.stats import Interval
from guided_grpo.guidance.allocation import guided_count
from guided_grpo.studies.audit.estimates import Cell, Climbing, Estimates, Point

Verdict = Literal["imitate", "guide", "plain", "solved", "no-help", "leaks", "format", "too-short"]

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
        """A name of `presets.METHODS`; None = do not train."""
        return self.settings.get("method")


def advise(estimates: Estimates, *, ordered: bool, problems_per_step: int = 8) -> Advice:
    """The recommendation.

    Args:
        estimates: all figures.
        ordered: whether the data says how hard its problems are, for a curriculum.
        problems_per_step: of training.
    """
    alone = estimates.unguided
    plain = _cheapest([cell for cell in estimates.cells if not cell.alpha])
    early = _not_answering(alone) or _nothing_to_gain(alone, plain)
    if early is not None:
        return early
    helpful, refusal = _usable(estimates)
    if refusal is not None:
        return refusal
    prefix = [point for point in helpful if point.setting.placement == "prefix"]
    if not prefix:
        return _ladder(estimates, helpful, plain)
    fitting = _by_tier(estimates, prefix, ordered)
    cell, zero = _choose(estimates, fitting)
    start = next(iter(fitting.values()))
    if zero > plain.zero - CLOSE:
        words = (
            f"Guidance raises success to {_percent(start.success)} at {start.setting.label}, but {zero:.0%} of the "
            f"groups would still teach nothing ({plain.zero:.0%} without it)."
        )
        return Advice("no-help", "Guidance raises success, but not what there is to learn from.", (words,), {})
    return _guide(estimates, prefix, fitting, cell, (plain, zero), ordered, problems_per_step)


def _not_answering(alone: Point) -> Advice | None:
    """Where success says nothing yet: no answers, or cut-off ones."""
    if alone.no_answer < DOMINANT:
        return None
    if alone.truncated >= DOMINANT:
        reason = f"{alone.truncated:.0%} of the responses were cut off before they ended: success says little of them."
        return Advice("too-short", "Responses are cut off: audit again with more --max-tokens.", (reason,), {})
    reasons = (
        f"{alone.no_answer:.0%} of the unguided responses declare no answer that could be graded, so failures are "
        "those of format, not of difficulty.",
        "Fine-tune on some traces first (guided-grpo sft), or train with a format reward (rewards: [accuracy, "
        "format]), and audit again.",
    )
    return Advice("format", "The policy does not answer in the expected form yet.", reasons, {})


def _nothing_to_gain(alone: Point, plain: Cell) -> Advice | None:
    """Where the policy alone has solved the problems, or has enough to learn from."""
    success, solved = alone.success.mean, plain.zero - plain.failed
    if success >= SOLVED or solved >= 1 - ENOUGH:
        reason = (
            f"The policy alone solves {_percent(alone.success)}; {solved:.0%} of its groups of {plain.group} would "
            "succeed whole and teach nothing."
        )
        return Advice("solved", "These problems are solved already: take harder ones.", (reason,), {})
    if plain.zero <= ENOUGH:
        reasons = (
            f"The policy alone solves {_percent(alone.success)}, and only {plain.zero:.0%} of its groups of "
            f"{plain.group} would teach nothing: there is little for guidance to gain.",
            f"num_generations {plain.group}: the smallest group that wastes at most {CLOSE:.0%} more tokens than the "
            "best.",
        )
        settings = {"method": "grpo", "num_generations": plain.group}
        return Advice("plain", "Plain GRPO has enough to learn from.", reasons, settings, plain)
    return None


def _usable(estimates: Estimates) -> tuple[list[Point], Advice | None]:
    """The settings that raise success without stating the answer, or why there is none."""
    guided = [point for point in estimates.points if point.setting.amount]
    if all(point.without == 1 for point in guided):
        reason = "No audited problem has a trace that can be given before it states the answer."
        return [], Advice("no-help", "There is no guidance to give.", (reason,), {})
    helpful = [point for point in guided if point.gain is not None and point.gain.low > 0]
    if not helpful:
        longest = max(guided, key=lambda point: (point.given, point.setting.amount))
        reasons = (
            f"With {longest.setting.label} the policy solves {_percent(longest.success)}, alone "
            f"{_percent(estimates.unguided.success)}: no strength raises success beyond chance "
            f"(difference {_percent(longest.gain, signed=True)}).",
            "It cannot finish what the guidance began. Choose easier problems or a stronger policy, or "
            "fine-tune first.",
        )
        return [], Advice("no-help", "Guidance cannot help: the trace does not raise success.", reasons, {})
    clean = [
        point
        for point in helpful
        if point.stated <= STATED and point.clean_gain is not None and point.clean_gain.low > 0
    ]
    if not clean:
        worst = max(helpful, key=lambda point: point.stated)
        reason = (
            f"With {worst.setting.label} success rises to {_percent(worst.success)}, but {worst.stated:.0%} of those "
            "slices state the answer; where they do not, nothing rises beyond chance."
            if worst.stated > STATED
            else f"With {worst.setting.label} success rises only where the slice states the answer."
        )
        fix = "Let guidance_limit end each trace before its answer: drop the column, and the library measures it."
        return [], Advice("leaks", "Guidance cannot help: the traces give the answer away.", (reason, fix), {})
    return clean, None


def _by_tier(estimates: Estimates, points: Sequence[Point], ordered: bool) -> dict[str, Point]:
    """The strength that fits each tier, easy to hard; one for all where the data is not in order.

    With a curriculum the first batches hold the easiest tier alone, so it is that tier's success that ℓ0 must bring
    near one half; a controller then finds the length of the others.
    """
    if not ordered:
        start = _start(points)
        return dict.fromkeys(estimates.tiers, start)
    return {tier: _start(points, tier) for tier in estimates.tiers}


def _start(points: Sequence[Point], tier: str | None = None) -> Point:
    """The shortest strength whose guided success is near 1/2, or the one that comes nearest."""

    def success(point: Point) -> float:
        return (point.success if tier is None else point.tiers[tier]).mean

    near = [point for point in points if NEAR_HALF[0] <= success(point) <= NEAR_HALF[1]]
    if near:
        return min(near, key=lambda point: point.setting.amount)
    return min(points, key=lambda point: (abs(success(point) - 0.5), point.setting.amount))


def _choose(estimates: Estimates, fitting: Mapping[str, Point]) -> tuple[Cell, float]:
    """Groups at the first length, and their share without a signal where every tier gets the length that fits it."""
    zero: dict[tuple[int, float], float] = defaultdict(float)
    first = next(iter(fitting.values()))
    for cell in estimates.cells:
        if cell.alpha and guided_count(cell.group, cell.alpha) < cell.group:
            for tier, point in fitting.items():
                if point.setting == cell.setting:
                    zero[cell.group, cell.alpha] += cell.tiers[tier] * estimates.tiers[tier] / estimates.problems
    best = min(zero.values())
    size, alpha = min(place for place, share in zero.items() if share <= best + CLOSE)
    [cell] = [
        one for one in estimates.cells if one.setting == first.setting and (one.group, one.alpha) == (size, alpha)
    ]
    return cell, zero[size, alpha]


def _cheapest(cells: Sequence[Cell]) -> Cell:
    """Where least is wasted; of those that are as good, the smallest group, then the fewest guided rollouts."""
    best = min(cell.wasted for cell in cells)
    return min((cell for cell in cells if cell.wasted <= best + CLOSE), key=lambda cell: (cell.group, cell.alpha))


def _guide(
    estimates: Estimates,
    prefix: Sequence[Point],
    fitting: Mapping[str, Point],
    cell: Cell,
    zeros: tuple[Cell, float],
    ordered: bool,
    problems_per_step: int,
) -> Advice:
    plain, zero = zeros
    setting, top = cell.setting, max(prefix, key=lambda point: point.setting.amount)
    variation = _variation(estimates, fitting, cell, problems_per_step)
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
        *_length_reasons(estimates, prefix, fitting, ordered),
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
    reasons += _ladder_reason(estimates, "prefix", cell.group)
    return Advice("guide", f"Guidance can help: train with {method}.", tuple(reasons), settings, cell)


def _same(fitting: Mapping[str, Point]) -> bool:
    return len({point.setting for point in fitting.values()}) == 1


def _variation(estimates: Estimates, fitting: Mapping[str, Point], cell: Cell, problems: int) -> float:
    """Coefficient of variation of the mean reward of a batch of so many groups of the first tier, by chance."""
    tier, point = next(iter(fitting.items()))
    alone, guided = estimates.unguided.tiers[tier], point.tiers[tier]
    share = guided_count(cell.group, cell.alpha) / cell.group
    mean = share * guided.mean + (1 - share) * alone.mean
    # E[x/G − (x/G)²] is the variance inside a group, so E[(x/G)²] = mean − variance.
    between = max(0.0, mean - cell.variances[tier] - mean**2)
    return math.sqrt(between / problems) / mean


def _length_reasons(
    estimates: Estimates, points: Sequence[Point], fitting: Mapping[str, Point], ordered: bool
) -> list[str]:
    tier, point = next(iter(fitting.items()))
    success, alone, of, more = point.success, estimates.unguided.success, "", ""
    if ordered and len(fitting) > 1:
        success, alone = point.tiers[tier], estimates.unguided.tiers[tier]
        of = f" of tier {tier}, which a curriculum trains first,"
        if success.high - success.low > 2 * UNSURE:
            more = f"Tier {tier} was seen by {success.problems} problems; --first {3 * success.problems} narrows that."
    field = f"guidance_length {point.setting.amount:g} ({point.setting.unit})"
    change = f"{_percent(success)} against {_percent(alone)} alone"
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


def _ladder_reason(estimates: Estimates, placement: str, size: int) -> list[str]:
    chosen = next((one for one in estimates.ladders.get(placement, ()) if one.group == size), None)
    if chosen is None:
        return []
    return [
        f"The alternative, rescue of failed groups (ghpo): {chosen.difficult:.0%} of the groups are difficult; the "
        f"ladder would leave {chosen.zero:.0%} without a signal and sample {chosen.rollouts:.1f} rollouts for a group "
        f"of {size} in {chosen.calls:.1f} calls a step."
    ]


def _ladder(estimates: Estimates, helpful: Sequence[Point], plain: Cell) -> Advice:
    """Hints alone were audited, or they alone help."""
    climbs: Sequence[Climbing] = estimates.ladders.get("hint", ())
    start = _start(helpful)
    size = max(cell.group for cell in estimates.cells)
    reasons = [
        f"{plain.zero:.0%} of plain groups of {plain.group} would teach nothing.",
        f"Hints raise success: {_percent(start.success)} with {start.setting.label}.",
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
    if estimates.unguided.no_answer < 1 - SOLVED:
        settings["rescue_cold_start"] = 0
        reasons.append(
            "rescue_cold_start 0: the policy answers in the expected form, so nothing is taken for difficulty."
        )
    reasons.append(
        "Only hints help. A prefix whose tokens are in the loss taught more where we measured both: audit it too."
    )
    return Advice("guide", "Hints can help: train with ghpo.", tuple(reasons), settings)


def _percent(interval: Interval | None, *, signed: bool = False) -> str:
    """`12.0% [8.0%, 17.0%]`, for sentences."""
    if interval is None:
        return "unknown"
    sign = "+" if signed else ""
    return f"{interval.mean:{sign}.1%} [{interval.low:{sign}.1%}, {interval.high:{sign}.1%}]"
