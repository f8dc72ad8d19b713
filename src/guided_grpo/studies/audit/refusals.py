"""The cases in which guidance is not the thing to try, or cannot help, with the reasons in plain words."""

from __future__ import annotations

from guided_grpo.studies.audit.estimates import Cell, Estimates, Point
from guided_grpo.studies.audit.rules import CLOSE, DOMINANT, ENOUGH, SOLVED, STATED, Advice, percent


def not_answering(alone: Point) -> Advice | None:
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


def nothing_to_gain(alone: Point, plain: Cell) -> Advice | None:
    """Where the policy alone has solved the problems, or has enough to learn from."""
    success, solved = alone.success.mean, plain.zero - plain.failed
    if success >= SOLVED or solved >= 1 - ENOUGH:
        reason = (
            f"The policy alone solves {percent(alone.success)}; {solved:.0%} of its groups of {plain.group} would "
            "succeed whole and teach nothing."
        )
        return Advice("solved", "These problems are solved already: take harder ones.", (reason,), {})
    if plain.zero <= ENOUGH:
        reasons = (
            f"The policy alone solves {percent(alone.success)}, and only {plain.zero:.0%} of its groups of "
            f"{plain.group} would teach nothing: there is little for guidance to gain.",
            group_reason(plain),
        )
        settings = {"method": "grpo", "num_generations": plain.group}
        return Advice("plain", "Plain GRPO has enough to learn from.", reasons, settings, plain)
    return None


def usable(found: Estimates) -> tuple[list[Point], Advice | None]:
    """The settings that raise success without stating the answer, or why there is none."""
    guided = [point for point in found.points if point.setting.amount]
    if all(point.without == 1 for point in guided):
        reason = "No audited problem has a trace that can be given before it states the answer."
        return [], Advice("no-help", "There is no guidance to give.", (reason,), {})
    helpful = [point for point in guided if point.gain is not None and point.gain.low > 0]
    if not helpful:
        longest = max(guided, key=lambda point: (point.given, point.setting.amount))
        reasons = (
            f"With {longest.setting.label} the policy solves {percent(longest.success)}, alone "
            f"{percent(found.unguided.success)}: no strength raises success beyond chance "
            f"(difference {percent(longest.gain, signed=True)}).",
            "It cannot finish what the guidance began. Choose easier problems or a stronger policy, or "
            "fine-tune first.",
        )
        return [], Advice("no-help", "Guidance cannot help: the trace does not raise success.", reasons, {})
    usable = [
        point
        for point in helpful
        if point.stated <= STATED and point.clean_gain is not None and point.clean_gain.low > 0
    ]
    if not usable:
        worst = max(helpful, key=lambda point: point.stated)
        reason = (
            f"With {worst.setting.label} success rises to {percent(worst.success)}, but {worst.stated:.0%} of those "
            "slices state the answer; where they do not, nothing rises beyond chance."
            if worst.stated > STATED
            else f"With {worst.setting.label} success rises only where the slice states the answer."
        )
        fix = "Let guidance_limit end each trace before its answer: drop the column, and the library measures it."
        return [], Advice("leaks", "Guidance cannot help: the traces give the answer away.", (reason, fix), {})
    return usable, None


def group_reason(cell: Cell) -> str:
    """Why this G."""
    return (
        f"num_generations {cell.group}: the smallest group that wastes at most {CLOSE:.0%} more tokens than the best."
    )
