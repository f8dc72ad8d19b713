"""Metrics against steps or tokens, as Plotly figures: one table of curves, several runs laid over each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from guided_grpo.studies.html import Figure, layout, plain
from guided_grpo.studies.report.logs import Points, Run, by_variant

MAX_POINTS = 1500  # a trace with more is thinned evenly: the eye sees no more, and the page stays small
SMOOTHED_FROM = 20  # points; shorter traces are drawn as they are
SPIKE = 20.0  # largest over median value from which a `log` curve takes a logarithmic axis


@dataclass(frozen=True)
class Plot:
    """A figure in Plotly's JSON form, or None where no run has its data, with the words around it."""

    id: str
    title: str
    text: str
    figure: Figure | None
    notes: list[str] = field(default_factory=list)
    key: str = ""  # what the line styles mean, where one run has several
    wide: bool = False
    run: Run | None = None  # of a plot on one run alone


@dataclass(frozen=True)
class Series:
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
    axis: str
    text: str
    lines: tuple[Series, ...]
    fallback: Series | None = None
    ladder: Series | None = None
    by_tokens: bool = False  # against generated tokens; else against steps
    share: bool = False  # the axis spans 0 to 1
    log: bool = False  # a logarithmic axis where spikes would flatten the rest
    smooth: bool = True  # off for what a schedule sets: its corners are no noise
    wide: bool = False


ALL_ROLLOUTS = Series("reward/accuracy", "all rollouts", "dot")
FIRST_SAMPLING = Series("reward/first", "first sampling")
UNGUIDED = Series("reward/unguided", "unguided")

ACCURACY = Curve(
    "accuracy", "Accuracy reward during training", "accuracy reward",
    "Look at the solid lines: they are what the model can do alone. A dashed line far above means that guidance opens "
    "problems the model cannot yet solve; the solid line should rise towards it.",
    (UNGUIDED, Series("reward/guided", "guided", "dash")),
    fallback=ALL_ROLLOUTS, ladder=FIRST_SAMPLING, wide=True,
)  # fmt: skip
TOKENS = Curve(
    "tokens", "Learning against generated tokens", "unguided accuracy reward",
    "The same unguided reward against what it cost to sample: the run whose line is higher at the same place on the "
    "axis learns more from the same budget.",
    (UNGUIDED,), fallback=ALL_ROLLOUTS, ladder=FIRST_SAMPLING, by_tokens=True, wide=True,
)  # fmt: skip
ZERO_GROUPS = Curve(
    "zero-groups", "Groups without a signal", "share of groups",
    "Share of groups whose rollouts all got the same reward: they teach nothing. Near 1 means that most of the "
    "compute is wasted; guidance should bring it down.",
    (Series("signal/zero_groups", "zero-signal groups"),), share=True,
)  # fmt: skip
DIFFICULT = Curve(
    "difficult", "Difficult groups", "share of groups",
    "Share of groups in which no rollout of the first sampling succeeded. Below about 0.2 there is little for "
    "guidance to gain; it should fall as the model learns.",
    (Series("signal/difficult", "difficult groups"),), share=True,
)  # fmt: skip
ADVANTAGE = Curve(
    "advantage", "Spread of the advantages", "standard deviation",
    "How strongly rollouts of one group differ in reward. Near 0 there is nothing to learn from, "
    "whether all fail or all succeed.",
    (Series("advantage/std", "advantage std"),),
)  # fmt: skip
GUIDANCE = Curve(
    "guidance", "Guidance length", "tokens per guided rollout",
    "How much of the solution guided rollouts are given. It should shrink as the model learns to go alone; "
    "stuck high or gone within a few steps, the schedule does not fit.",
    (Series("guidance/length", "guidance length"),), smooth=False,
)  # fmt: skip
GRADIENT = Curve(
    "gradient", "Gradient norm", "gradient norm",
    "Spikes, or a steady climb, warn of an unstable run; a flat zero means that no group carries a signal.",
    (Series("grad_norm", "gradient norm"),), log=True,
)  # fmt: skip
LENGTH = Curve(
    "length", "Completion length", "generated tokens",
    "Tokens that the model generates itself, guidance not counted. A collapse or an endless climb often comes "
    "before the reward goes wrong.",
    (Series("completions/generated_length", "generated tokens"),),
)  # fmt: skip
TRUNCATED = Curve(
    "truncated", "Truncated completions", "share of completions",
    "Share of completions cut off at the length limit: a high share means that answers are lost, and the limit "
    "should be raised.",
    (Series("completions/truncated", "truncated"),), share=True,
)  # fmt: skip
OMEGA = Curve(
    "omega", "Hint that it took", "share of the trace",
    "Mean share ω of the trace in the hint with which groups were rescued. It should fall as the model learns; "
    "stuck near the end of the ladder, hints give away most of the solution.",
    (Series("rescue/omega", "mean ω of rescued groups"),), share=True,
)  # fmt: skip
COST = Curve(
    "rescue-cost", "Cost of rescue", "share of the step",
    "Share of the generated tokens, and of the seconds of a step, that went into attempts on the ladder. It is paid "
    "back if the run learns more from the same number of tokens, further up.",
    (Series("rescue/tokens", "tokens", over="tokens/generated"), Series("time/rescue", "seconds", "dash", "step_time")),
    share=True,
)  # fmt: skip


def curve_plot(curve: Curve, runs: Sequence[Run]) -> Plot:
    """The curve of every run that records it, with a note on every run that does not."""
    traces: list[dict[str, Any]] = []
    notes: list[str] = []
    missing: dict[str, list[str]] = {}
    values: list[float] = []
    lines: set[Series] = set()  # of all runs
    seeds: dict[tuple[str, Series], list[tuple[Run, Points]]] = {}
    several = {run.index for group in by_variant(runs) if len(group) > 1 for run in group}
    for run in runs:
        for line in _lines(curve, run, notes):
            points = run.points_by_tokens(line.metric) if curve.by_tokens else run.points(line.metric, line.over)
            if points.lost:
                notes.append(f"{run.name}: {points.lost} values of {line.metric} are not finite and left out.")
            if points.y:
                lines.add(line)
                values += points.y
                if run.index in several:
                    seeds.setdefault((run.variant, line), []).append((run, points))
                else:
                    traces += _run_traces(run, line, points, curve)
            else:
                reason = line.metric if not run.points(line.metric).y else line.over or "tokens/generated"
                missing.setdefault(reason, []).append(run.name)
    for (_, line), parts in seeds.items():
        traces += _mean_traces(parts, line, curve)
    if not traces:
        left_out = f"Left out: no run records {', '.join(missing)}."
        return Plot(curve.id, curve.title, curve.text, None, [left_out, *notes])
    notes += [f"{metric} is not recorded by {', '.join(names)}." for metric, names in missing.items()]
    if curve.ladder in lines:
        notes.append(
            f"Runs with a rescue ladder: the solid line is {curve.ladder.metric}, over all groups before rescue; "
            f"their {curve.lines[0].metric} leaves out the hard groups, which were rescued."
        )
    axis = _axis(curve, values)
    if "type" in axis:
        notes.append("The axis is logarithmic, because single values stand far above the rest.")
    x, hover = ("generated tokens", "closest") if curve.by_tokens else ("optimizer step", "x unified")
    shape = layout(x, curve.axis, 340 if curve.wide else 280, hover=hover, rangemode="tozero", **axis)
    shape["xaxis"]["rangemode"] = "tozero"
    figure = {"data": traces, "layout": shape}
    return Plot(curve.id, curve.title, curve.text, figure, notes, _key(curve, lines), curve.wide)


def _lines(curve: Curve, run: Run, notes: list[str]) -> tuple[Series, ...]:
    """The curve's lines, or what stands in for them in this run."""
    fallback = curve.fallback
    if curve.ladder is not None and run.has_ladder and run.points(curve.ladder.metric).y:
        return (curve.ladder, *curve.lines[1:])
    if fallback is None or any(run.points(line.metric).y for line in curve.lines) or not run.points(fallback.metric).y:
        return curve.lines
    notes.append(f"{run.name} does not tell guided from unguided rollouts: {fallback.metric} is shown.")
    return (fallback,)


def _run_traces(run: Run, line: Series, points: Points, curve: Curve) -> list[Figure]:
    """The line, smoothed where it is long enough, over its faint raw values."""
    name = f"{run.name} · {line.label}" if len(curve.lines) > 1 else run.name
    smooth = _smooth(points, curve)
    bold = _bold(run, name, line, points.x, smooth)
    return [bold] if smooth == points.y else [_thin(run, name, points.x, points.y, opacity=0.25), bold]


def _mean_traces(seeds: Sequence[tuple[Run, Points]], line: Series, curve: Curve) -> list[Figure]:
    """A thin line for every seed of a variant, and their bold mean as far as all of them go."""
    smooth = [(points.x, _smooth(points, curve)) for _, points in seeds]
    thin = [_thin(run, run.name, x, y, line.dash, opacity=0.3) for (run, _), (x, y) in zip(seeds, smooth, strict=True)]
    start, end = max(x[0] for x, _ in smooth), min(x[-1] for x, _ in smooth)
    places = [x for x in smooth[0][0] if start <= x <= end] or [end]
    mean = np.mean([np.interp(places, x, y) for x, y in smooth], axis=0).tolist()
    first = seeds[0][0]
    name = f"{first.variant} · {line.label}" if len(curve.lines) > 1 else first.variant
    return [*thin, _bold(first, name, line, places, mean)]


def _smooth(points: Points, curve: Curve) -> list[float]:
    return running_mean(points.y) if curve.smooth else points.y


def _bold(run: Run, name: str, line: Series, x: Sequence[float], y: Sequence[float]) -> Figure:
    # A single point draws no line, and few points are easier to read when marked.
    mode = "lines" if len(y) >= SMOOTHED_FROM else "lines+markers"
    return _trace(run, name, x, y, 2, line.dash) | {"mode": mode, "hovertemplate": "%{y:.3~g}"}


def _thin(
    run: Run, name: str, x: Sequence[float], y: Sequence[float], dash: str = "solid", *, opacity: float
) -> Figure:
    return _trace(run, name, x, y, 1, dash) | {"opacity": opacity, "hoverinfo": "skip", "showlegend": False}


def _trace(run: Run, name: str, x: Sequence[float], y: Sequence[float], width: int, dash: str) -> Figure:
    line = {"color": run.colour, "width": width, "dash": dash}
    fixed = {"type": "scatter", "mode": "lines", "name": plain(name), "meta": {"run": run.index}, "line": line}
    return {**fixed, **coordinates(x, y)}


def coordinates(x: Sequence[float], y: Sequence[float]) -> dict[str, list[float]]:
    """A trace's x and y, thinned and rounded."""
    stride = math.ceil(len(y) / MAX_POINTS)
    places = [index for index in range(len(y)) if index % stride == 0 or index == len(y) - 1]
    return {
        "x": [int(x[index]) if x[index].is_integer() else x[index] for index in places],
        "y": [float(f"{y[index]:.5g}") for index in places],
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


def _axis(curve: Curve, values: Sequence[float]) -> dict[str, Any]:
    """The vertical axis beyond its name."""
    if curve.share:
        return {"range": [-0.02, 1.02]}
    spiky = curve.log and min(values) > 0 and max(values) > SPIKE * statistics.median(values)
    return {"type": "log"} if spiky else {}


def _key(curve: Curve, lines: set[Series]) -> str:
    if lines == {curve.lines[0]}:
        return ""
    styles = {"solid": "solid", "dash": "dashed", "dot": "dotted"}
    options = [line for line in (*curve.lines, curve.ladder, curve.fallback) if line in lines and line is not None]
    labels = {dash: " or ".join(line.label for line in options if line.dash == dash) for dash in styles}
    return ", ".join(f"{styles[dash]}: {label}" for dash, label in labels.items() if label)
