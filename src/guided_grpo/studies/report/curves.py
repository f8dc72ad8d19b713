"""Metrics against steps or tokens, as Plotly figures: one table of curves, several runs laid over each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from guided_grpo.studies.report.runs import Points, Run, by_variant

MAX_POINTS = 1500  # a trace with more is thinned evenly: the eye sees no more, and the page stays small
SMOOTHED_FROM = 20  # points; shorter traces are drawn as they are
SPIKE = 20.0  # largest over median value from which a `log` curve takes a logarithmic axis


@dataclass(frozen=True)
class Plot:
    """A figure in Plotly's JSON form, or None where no run has its data, with the words around it."""

    id: str
    title: str
    text: str
    figure: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)
    key: str = ""  # what the line styles mean, where one run has several
    wide: bool = False
    run: Run | None = None  # of a plot on one run alone


@dataclass(frozen=True)
class Line:
    """One metric in one line style, as a share of the metric `over` where there is one."""

    metric: str
    label: str
    dash: Literal["solid", "dash", "dot"] = "solid"
    over: str | None = None


@dataclass(frozen=True)
class Curve:
    """A plot of one or more metrics.

    `fallback` stands in for a run that records none of `lines`; `ladder` for the first line of a run with a rescue
    ladder, whose unguided rollouts are those of the groups that needed no rescue, which are no fair sample.
    """

    id: str
    title: str
    text: str
    axis: str
    lines: tuple[Line, ...]
    fallback: Line | None = None
    ladder: Line | None = None
    against: Literal["steps", "tokens"] = "steps"
    share: bool = False  # the axis spans 0 to 1
    log: bool = False  # a logarithmic axis where spikes would flatten the rest
    smooth: bool = True  # off for what a schedule sets: its corners are no noise
    wide: bool = False


ALL_ROLLOUTS = Line("reward/accuracy", "all rollouts", "dot")
FIRST_SAMPLING = Line("reward/first", "first sampling")

ACCURACY = Curve(
    "accuracy",
    "Accuracy reward during training",
    "Look at the solid lines: they are what the model can do alone. A dashed line far above means that guidance opens "
    "problems the model cannot yet solve; the solid line should rise towards it.",
    "accuracy reward",
    (Line("reward/unguided", "unguided"), Line("reward/guided", "guided", "dash")),
    fallback=ALL_ROLLOUTS,
    ladder=FIRST_SAMPLING,
    wide=True,
)
TOKENS = Curve(
    "tokens",
    "Learning against generated tokens",
    "The same unguided reward against what it cost to sample: the run whose line is higher at the same place on the "
    "axis learns more from the same budget.",
    "unguided accuracy reward",
    (Line("reward/unguided", "unguided"),),
    fallback=ALL_ROLLOUTS,
    ladder=FIRST_SAMPLING,
    against="tokens",
    wide=True,
)
ZERO_GROUPS = Curve(
    "zero-groups",
    "Groups without a signal",
    "Share of groups whose rollouts all got the same reward: they teach nothing. Near 1 means that most of the "
    "compute is wasted; guidance should bring it down.",
    "share of groups",
    (Line("signal/zero_groups", "zero-signal groups"),),
    share=True,
)
DIFFICULT = Curve(
    "difficult",
    "Difficult groups",
    "Share of groups in which no rollout of the first sampling succeeded. Below about 0.2 there is little for "
    "guidance to gain; it should fall as the model learns.",
    "share of groups",
    (Line("signal/difficult", "difficult groups"),),
    share=True,
)
ADVANTAGE = Curve(
    "advantage",
    "Spread of the advantages",
    "How strongly rollouts of one group differ in reward. Near 0 there is nothing to learn from, "
    "whether all fail or all succeed.",
    "standard deviation",
    (Line("advantage/std", "advantage std"),),
)
GUIDANCE = Curve(
    "guidance",
    "Guidance length",
    "How much of the solution guided rollouts are given. It should shrink as the model learns to go alone; "
    "stuck high or gone within a few steps, the schedule does not fit.",
    "tokens per guided rollout",
    (Line("guidance/length", "guidance length"),),
    smooth=False,
)
GRADIENT = Curve(
    "gradient",
    "Gradient norm",
    "Spikes, or a steady climb, warn of an unstable run; a flat zero means that no group carries a signal.",
    "gradient norm",
    (Line("grad_norm", "gradient norm"),),
    log=True,
)
LENGTH = Curve(
    "length",
    "Completion length",
    "Tokens that the model generates itself, guidance not counted. A collapse or an endless climb often comes "
    "before the reward goes wrong.",
    "generated tokens",
    (Line("completions/generated_length", "generated tokens"),),
)
TRUNCATED = Curve(
    "truncated",
    "Truncated completions",
    "Share of completions cut off at the length limit: a high share means that answers are lost, and the limit "
    "should be raised.",
    "share of completions",
    (Line("completions/truncated", "truncated"),),
    share=True,
)


def curve_plot(curve: Curve, runs: Sequence[Run]) -> Plot:
    """The curve of every run that records it, with a note on every run that does not."""
    traces: list[dict[str, Any]] = []
    notes: list[str] = []
    missing: dict[str, list[str]] = {}
    values: list[float] = []
    drawn: set[Line] = set()
    seeds: dict[tuple[str, Line], list[tuple[Run, Points]]] = {}
    several = {run.index for group in by_variant(runs) if len(group) > 1 for run in group}
    for run in runs:
        lines = _lines(curve, run, notes)
        for line in lines:
            points = _points(run, line, curve)
            if points.lost:
                notes.append(f"{run.name}: {points.lost} values of {line.metric} are not finite and left out.")
            if points.y:
                drawn.add(line)
                values += points.y
                if run.index in several:
                    seeds.setdefault((run.variant, line), []).append((run, points))
                else:
                    traces += _traces(run, line, points, curve)
            else:
                reason = line.metric if not run.points(line.metric).y else line.over or "tokens/generated"
                missing.setdefault(reason, []).append(run.name)
    for (_, line), found in seeds.items():
        traces += _mean_traces(found, line, curve)
    if not traces:
        recorded = ", ".join(missing)
        return Plot(curve.id, curve.title, curve.text, None, [f"Left out: no run records {recorded}.", *notes])
    notes += [f"{metric} is not recorded by {', '.join(names)}." for metric, names in missing.items()]
    if curve.ladder in drawn:
        notes.append(
            f"Runs with a rescue ladder: the solid line is {curve.ladder.metric}, over all groups before rescue; "
            f"their {curve.lines[0].metric} leaves out the hard groups, which were rescued."
        )
    layout = _layout(curve, values)
    if layout["yaxis"].get("type") == "log":
        notes.append("The axis is logarithmic, because single values stand far above the rest.")
    figure = {"data": traces, "layout": layout}
    return Plot(curve.id, curve.title, curve.text, figure, notes, _key(curve, drawn), curve.wide)


def _lines(curve: Curve, run: Run, notes: list[str]) -> tuple[Line, ...]:
    """The curve's lines, or what stands in for them in this run."""
    fallback = curve.fallback
    if curve.ladder is not None and run.has_ladder and run.points(curve.ladder.metric).y:
        return (curve.ladder, *curve.lines[1:])
    if fallback is None or any(run.points(line.metric).y for line in curve.lines) or not run.points(fallback.metric).y:
        return curve.lines
    notes.append(f"{run.name} does not tell guided from unguided rollouts: {fallback.metric} is shown.")
    return (fallback,)


def _points(run: Run, line: Line, curve: Curve) -> Points:
    return run.points_by_tokens(line.metric) if curve.against == "tokens" else run.points(line.metric, line.over)


def _traces(run: Run, line: Line, points: Points, curve: Curve) -> list[dict[str, Any]]:
    """The line, smoothed where it is long enough, over its faint raw values."""
    name = plain(f"{run.name} · {line.label}" if len(curve.lines) > 1 else run.name)
    smooth = running_mean(points.y) if curve.smooth else points.y
    shared = {"type": "scatter", "meta": {"run": run.index}}
    raw = {
        **shared,
        "name": name,
        "mode": "lines",
        "opacity": 0.25,
        "line": {"color": run.colour, "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
        **coordinates(points.x, points.y),
    }
    bold = {
        **shared,
        "name": name,
        # A single point draws no line, and few points are easier to read when marked.
        "mode": "lines" if len(points.y) >= SMOOTHED_FROM else "lines+markers",
        "line": {"color": run.colour, "width": 2, "dash": line.dash},
        "hovertemplate": "%{y:.3~g}",
        **coordinates(points.x, smooth),
    }
    return [bold] if smooth == points.y else [raw, bold]


def _mean_traces(found: Sequence[tuple[Run, Points]], line: Line, curve: Curve) -> list[dict[str, Any]]:
    """A thin line for every seed of a variant, and their bold mean as far as all of them go."""
    thin, smooth = [], []
    for run, points in found:
        values = running_mean(points.y) if curve.smooth else points.y
        smooth.append((points.x, values))
        thin.append(
            {
                "type": "scatter",
                "meta": {"run": run.index},
                "name": plain(run.name),
                "mode": "lines",
                "opacity": 0.3,
                "line": {"color": run.colour, "width": 1, "dash": line.dash},
                "hoverinfo": "skip",
                "showlegend": False,
                **coordinates(points.x, values),
            }
        )
    start, end = max(x[0] for x, _ in smooth), min(x[-1] for x, _ in smooth)
    places = [x for x in smooth[0][0] if start <= x <= end] or [end]
    mean = np.mean([np.interp(places, x, y) for x, y in smooth], axis=0).tolist()
    first = found[0][0]
    bold = {
        **thin[0],
        "name": plain(f"{first.variant} · {line.label}" if len(curve.lines) > 1 else first.variant),
        "mode": "lines" if len(places) >= SMOOTHED_FROM else "lines+markers",
        "opacity": 1,
        "line": {"color": first.colour, "width": 2, "dash": line.dash},
        "hovertemplate": "%{y:.3~g}",
        "showlegend": True,
        **coordinates(places, mean),
    }
    del bold["hoverinfo"]
    return [*thin, bold]


def coordinates(x: Sequence[float], y: Sequence[float]) -> dict[str, list[float]]:
    """A trace's x and y, thinned and rounded."""
    stride = math.ceil(len(y) / MAX_POINTS)
    kept = [index for index in range(len(y)) if index % stride == 0 or index == len(y) - 1]
    return {
        "x": [int(x[index]) if x[index].is_integer() else x[index] for index in kept],
        "y": [float(f"{y[index]:.5g}") for index in kept],
    }


def running_mean(values: Sequence[float]) -> list[float]:
    """Centred mean over about 5 % of the values (an odd number, at least 5); at the ends over those that are there."""
    if len(values) < SMOOTHED_FROM:
        return list(values)
    half = max(5, len(values) // 20) // 2
    means = []
    for index in range(len(values)):
        window = values[max(0, index - half) : index + half + 1]
        means.append(math.fsum(window) / len(window))
    return means


def _layout(curve: Curve, values: Sequence[float]) -> dict[str, Any]:
    yaxis: dict[str, Any] = {"title": {"text": curve.axis}, "rangemode": "tozero"}
    if curve.share:
        yaxis |= {"range": [-0.02, 1.02]}
    elif curve.log and min(values) > 0 and max(values) > SPIKE * statistics.median(values):
        yaxis |= {"type": "log"}
    steps = curve.against == "steps"
    return {
        "xaxis": {"title": {"text": "optimizer step" if steps else "generated tokens"}, "rangemode": "tozero"},
        "yaxis": yaxis,
        "hovermode": "x unified" if steps else "closest",
        "height": 340 if curve.wide else 280,
    }


def _key(curve: Curve, drawn: set[Line]) -> str:
    if drawn == {curve.lines[0]}:
        return ""
    styles = {"solid": "solid", "dash": "dashed", "dot": "dotted"}
    options = [line for line in (*curve.lines, curve.ladder, curve.fallback) if line in drawn and line is not None]
    labels = {dash: " or ".join(line.label for line in options if line.dash == dash) for dash in styles}
    return ", ".join(f"{styles[dash]}: {label}" for dash, label in labels.items() if label)


def plain(text: str) -> str:
    """`text` for a Plotly label, which reads a little HTML: these entities it shows as the characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
