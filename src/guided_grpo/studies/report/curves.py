"""Metrics against steps or tokens, as Plotly figures: the curves of curves.yaml, several runs laid over each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

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


def _read_curves() -> dict[str, Curve]:
    table = yaml.safe_load(Path(__file__).with_name("curves.yaml").read_text(encoding="utf-8"))
    curves = {}
    for name, entry in table.items():
        lines = tuple(Series(*line) for line in entry.pop("lines"))
        stand_ins: dict[str, Any] = {
            field: Series(*entry.pop(field)) for field in ("fallback", "ladder") if field in entry
        }
        curves[name] = Curve(id=name, lines=lines, **stand_ins, **entry)
    return curves


CURVES = _read_curves()  # by name, in the order of the file


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
