"""What became of groups in which no rollout succeeded: the rescue ladder of GHPO (arXiv:2507.10628, §3.4).

Every group of a step ends in one of these, so that their shares sum to 1:

    solved at first sampling      1 − signal/difficult
    rescued at attempt 1, 2, 3 …  rescue/1, rescue/2, rescue/3 …
    still lost                    rescue/lost
    not tried                     what remains of signal/difficult: cold start, no trace, or a hint that does not fit
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from guided_grpo.studies.html import Figure, layout
from guided_grpo.studies.report.curves import Plot, coordinates, running_mean
from guided_grpo.studies.report.logs import ATTEMPT, Run, on_ladder
from guided_grpo.studies.report.plots import REWARD_COLOURS
from guided_grpo.studies.report.texts import percent

TOLERANCE = 1e-3  # by which rounded shares may miss their sum
SOLVED, LOST, UNTRIED = "solved at first sampling", "still lost", "not tried"
GREY = "#8c8c8c"  # shows on white and on black
HATCH = f"repeating-linear-gradient(135deg,{GREY} 0 1.5px,transparent 1.5px 5px)"

TEXT = (
    "A difficult group, in which no rollout succeeds, teaches nothing; the ladder samples it again with a hint, then "
    "with longer ones. It works where the dark and the hatched layer are thin. The bright layer should grow: it is "
    "what the model solves alone."
)


@dataclass(frozen=True)
class Outcomes:
    """Shares of all groups by outcome, a list over steps each; at every step they sum to 1."""

    steps: list[float]
    shares: dict[str, list[float]]  # in the order of the ladder, from solved to not tried
    cold: int  # how many of the steps lie before the first that the ladder took part in
    left_out: int  # steps on the ladder whose shares are unknown or do not add up


def attempts(runs: Sequence[Run]) -> list[int]:
    """The attempts on the ladder that any run records."""
    matches = (ATTEMPT.fullmatch(key) for run in runs for record in run.metrics for key in record)
    return sorted({int(match[1]) for match in matches if match})


def rescued_at(attempt: int) -> str:
    """The name of that outcome."""
    return f"rescued at attempt {attempt}"


def outcomes(run: Run) -> Outcomes:
    """The shares by step. Needs signal/difficult; a rescue metric that a record lacks counts as 0."""
    names = [f"rescue/{attempt}" for attempt in attempts([run])]
    labels = [SOLVED, *map(rescued_at, attempts([run])), LOST, UNTRIED]
    steps: list[float] = []
    rows: list[list[float]] = []
    cold, climbing, left_out = 0, False, 0
    for record in run.metrics:
        climbing = climbing or on_ladder(record)
        if "signal/difficult" not in record:
            left_out += on_ladder(record)
            continue
        difficult = record["signal/difficult"]
        tried = [record.get(name, 0.0) for name in (*names, "rescue/lost")]
        untried = difficult - math.fsum(tried)
        row = [1 - difficult, *tried, untried]
        if not all(math.isfinite(share) and share >= -TOLERANCE for share in row):
            left_out += 1
            continue
        row = [max(0.0, share) for share in row]
        whole = math.fsum(row)  # 1, but for rounding
        steps.append(record["step"])
        rows.append([share / whole for share in row])
        cold += not climbing
    return Outcomes(steps, {label: [row[place] for row in rows] for place, label in enumerate(labels)}, cold, left_out)


def outcome_plots(runs: Sequence[Run]) -> list[Plot]:
    """One stacked area chart for each run with a ladder; an attempt has the same colour in all of them."""
    colours = layer_colours(attempts(runs))
    return [_outcome_plot(run, colours) for run in runs]


def layers(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The layers of all the charts: paint in CSS, and name."""
    return [(HATCH if label == UNTRIED else paint, label) for label, paint in layer_colours(attempts(runs)).items()]


def layer_colours(climbed: Sequence[int]) -> dict[str, str]:
    """Bright to dark along the scale of the rewards: the more help it took, the darker."""
    shades = {SOLVED: 1.0}
    shades |= {rescued_at(attempt): 1 - place / (len(climbed) + 1) for place, attempt in enumerate(climbed, start=1)}
    return {label: _shade(place) for label, place in (shades | {LOST: 0.0}).items()} | {UNTRIED: GREY}


def _shade(place: float) -> str:
    """The colour at `place` (0 to 1) of the scale."""
    position = place * (len(REWARD_COLOURS) - 1)
    low = min(int(position), len(REWARD_COLOURS) - 2)
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in REWARD_COLOURS[low : low + 2]]
    return "#" + "".join(
        f"{round(dark + (position - low) * (light - dark)):02x}" for dark, light in zip(*ends, strict=True)
    )


def _outcome_plot(run: Run, colours: dict[str, str]) -> Plot:
    identifier, title = f"outcomes-{run.index}", f"{escape(run.name)}: what became of its groups"
    ends = outcomes(run)
    notes = []
    if ends.left_out:
        notes.append(f"Steps left out, without signal/difficult or with shares that do not add up: {ends.left_out}.")
    if not ends.steps:
        notes = ["Left out: no step records signal/difficult with shares that add up.", *notes]
        return Plot(identifier, title, "", None, notes, run=run)
    shape = layout("optimizer step", "share of groups", 320, hover="x unified", range=[0, 1], fixedrange=True)
    shape["xaxis"]["rangemode"] = "tozero"
    data = [_layer(run, ends, label, colours[label]) for label in ends.shares]
    return Plot(identifier, title, in_words(ends), {"data": data, "layout": shape}, notes, run=run)


def _layer(run: Run, ends: Outcomes, label: str, colour: str) -> Figure:
    """One layer of the stack. Running means of one width over each share still sum to 1."""
    # The ladder starts at once: a mean across that step would show a slow start.
    share = ends.shares[label]
    smooth = [*running_mean(share[: ends.cold]), *running_mean(share[ends.cold :])]
    hatch = {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(0,0,0,0)", "size": 6, "solidity": 0.3}
    paint = {"fillpattern": hatch} if label == UNTRIED else {"fillcolor": colour}
    return {
        "type": "scatter",
        "mode": "lines" if len(ends.steps) > 1 else "markers",  # one step spans no area
        "marker": {"color": colour},
        "name": label,
        "meta": {"run": run.index, "edge": "--card"},
        "stackgroup": "outcomes",
        "line": {"width": 1},
        **paint,
        "hovertemplate": "%{y:.1%}",
        "hoverlabel": {"namelength": -1},
        **coordinates(ends.steps, smooth),
    }


def in_words(ends: Outcomes) -> str:
    """What happened to difficult groups once the ladder was there. Every step has as many groups: shares add up."""
    totals = {label: math.fsum(share[ends.cold :]) for label, share in ends.shares.items()}
    difficult = math.fsum(total for label, total in totals.items() if label != SOLVED)
    steps = "1 step" if ends.cold == 1 else f"{ends.cold} steps"
    after = f" after the cold start of {steps}" if ends.cold else ""
    if len(ends.steps) == ends.cold:
        return f"Nothing is known{after}."
    if difficult <= 0:
        return f"No group was difficult{after}."
    parts = ", ".join(f"{percent(total / difficult)} {label}" for label, total in totals.items() if label != SOLVED)
    return f"{percent(difficult / (len(ends.steps) - ends.cold))} of groups were difficult{after}; of these {parts}."
