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
from typing import Any

from guided_grpo.studies.report.curves import Curve, Line, Plot, coordinates, running_mean
from guided_grpo.studies.report.plots import REWARD_COLOURS
from guided_grpo.studies.report.runs import ATTEMPT, Run, on_ladder
from guided_grpo.studies.report.tables import percent

TOLERANCE = 1e-3  # by which rounded shares may miss their sum
SOLVED, LOST, UNTRIED = "solved at first sampling", "still lost", "not tried"
GREY = "#8c8c8c"  # shows on white and on black
HATCH = f"repeating-linear-gradient(135deg,{GREY} 0 1.5px,transparent 1.5px 5px)"

TEXT = (
    "A difficult group, in which no rollout succeeds, teaches nothing; the ladder samples it again with a hint, then "
    "with longer ones. It works where the dark and the hatched layer are thin. The bright layer should grow: it is "
    "what the model solves alone."
)
OMEGA = Curve(
    "omega",
    "Hint that it took",
    "Mean share ω of the trace in the hint with which groups were rescued. It should fall as the model learns; "
    "stuck near the end of the ladder, hints give away most of the solution.",
    "share of the trace",
    (Line("rescue/omega", "mean ω of rescued groups"),),
    share=True,
)
COST = Curve(
    "rescue-cost",
    "Cost of rescue",
    "Share of the generated tokens, and of the seconds of a step, that went into attempts on the ladder. It is paid "
    "back if the run learns more from the same number of tokens, further up.",
    "share of the step",
    (
        Line("rescue/tokens", "tokens", over="tokens/generated"),
        Line("time/rescue", "seconds", "dash", over="step_time"),
    ),
    share=True,
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
    found = {
        int(match[1]) for run in runs for record in run.metrics for match in map(ATTEMPT.fullmatch, record) if match
    }
    return sorted(found)


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


def key(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The layers of all the charts, each with its paint in CSS."""
    return [(label, HATCH if label == UNTRIED else paint) for label, paint in layer_colours(attempts(runs)).items()]


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
    found = outcomes(run)
    notes = []
    if found.left_out:
        notes.append(f"Steps left out, without signal/difficult or with shares that do not add up: {found.left_out}.")
    if not found.steps:
        return Plot(
            identifier,
            title,
            "",
            None,
            ["Left out: no step records signal/difficult with shares that add up.", *notes],
            run=run,
        )
    layout = {
        "xaxis": {"title": {"text": "optimizer step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "share of groups"}, "range": [0, 1], "fixedrange": True},
        "hovermode": "x unified",
        "height": 320,
    }
    data = [_layer(run, found, label, colours[label]) for label in found.shares]
    return Plot(identifier, title, in_words(found), {"data": data, "layout": layout}, notes, run=run)


def _layer(run: Run, found: Outcomes, label: str, colour: str) -> dict[str, Any]:
    """One layer of the stack. Running means of one width over each share still sum to 1."""
    # The ladder starts at once: a mean across that step would show a slow start.
    share = found.shares[label]
    smooth = [*running_mean(share[: found.cold]), *running_mean(share[found.cold :])]
    paint: dict[str, Any] = {"fillcolor": colour}
    if label == UNTRIED:
        paint = {
            "fillpattern": {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(0,0,0,0)", "size": 6, "solidity": 0.3}
        }
    return {
        "type": "scatter",
        "mode": "lines" if len(found.steps) > 1 else "markers",  # one step spans no area
        "marker": {"color": colour},
        "name": label,
        "meta": {"run": run.index, "edge": "--card"},
        "stackgroup": "outcomes",
        "line": {"width": 1},
        **paint,
        "hovertemplate": "%{y:.1%}",
        "hoverlabel": {"namelength": -1},
        **coordinates(found.steps, smooth),
    }


def in_words(found: Outcomes) -> str:
    """What happened to difficult groups once the ladder was there. Every step has as many groups: shares add up."""
    totals = {label: math.fsum(share[found.cold :]) for label, share in found.shares.items()}
    difficult = math.fsum(total for label, total in totals.items() if label != SOLVED)
    steps = "1 step" if found.cold == 1 else f"{found.cold} steps"
    after = f" after the cold start of {steps}" if found.cold else ""
    if len(found.steps) == found.cold:
        return f"Nothing is known{after}."
    if difficult <= 0:
        return f"No group was difficult{after}."
    parts = ", ".join(f"{percent(total / difficult)} {label}" for label, total in totals.items() if label != SOLVED)
    return f"{percent(difficult / (len(found.steps) - found.cold))} of groups were difficult{after}; of these {parts}."
