"""The audit's figures in Plotly's JSON form, and the keys of their colours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from guided_grpo.evaluation.stats import Interval
from guided_grpo.studies.audit.estimates import Cell, Estimates, Point
from guided_grpo.studies.html import PALETTE, Figure, heat_trace, key, layout, whiskers

SHARE: dict[str, Any] = {"tickformat": ".0%", "range": [0, 1.02]}  # of an axis
_META = {"run": 0}  # the page's script wants one
_ZERO_COLOURS = ("#0d3b66", "#2f6f95", "#8fb9c9", "#f2d7a7", "#e8853d")  # few … many groups without a signal
_JITTER = 0.08  # of the distance between strengths: whiskers of tiers side by side


def success(estimates: Estimates, placement: str) -> Figure:
    """Success against strength: all problems bold, each tier thin."""
    points = [estimates.unguided, *_points(estimates, placement)]
    x = [_x(point) for point in points]
    gap = min((b - a for a, b in itertools.pairwise(x)), default=1.0) * _JITTER
    tiers = [] if len(estimates.tiers) == 1 else list(estimates.tiers)
    traces = []
    for place, tier in enumerate(tiers):
        shift = (place - (len(tiers) - 1) / 2) * gap
        intervals = [point.tiers[tier] for point in points]
        traces.append(_success_line(tier, [value + shift for value in x], intervals, _colour(place)))
    traces.append(_success_line("all problems", x, [point.success for point in points], None))
    half = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5}
    half["line"] = {"color": "#8c8c8c", "dash": "dot", "width": 1}
    return {"data": traces, "layout": layout(_axis(points), "success", 380, **SHARE) | {"shapes": [half]}}


def zero(estimates: Estimates, placement: str, size: int, chosen: Cell | None) -> Figure:
    """Share of zero-signal groups over α and strength; a frame around the cell of the advice."""
    points = _points(estimates, placement)
    cells = _cells(estimates, size)
    alphas = sorted({alpha for _, alpha in cells})
    plain = estimates.plain(size).zero
    trace = heat_trace(
        [[plain, *(cells[point.setting, alpha].zero for point in points)] for alpha in alphas],
        _ZERO_COLOURS,
        meta=_META,
        x=["0", *(_short(point) for point in points)],
        y=[f"{alpha:g}" for alpha in alphas],
        zmin=0,
        zmax=1,
        texttemplate="%{z:.0%}",
        hovertemplate="α %{y}, strength %{x}: %{z:.1%}<extra></extra>",
    )
    frames = []
    if chosen is not None and chosen.group == size and chosen.alpha and chosen.setting.placement == placement:
        column = 1 + [point.setting for point in points].index(chosen.setting)
        row = alphas.index(chosen.alpha)
        frame = {"type": "rect", "x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
        frames = [frame | {"line": {"color": "#d00000", "width": 2.5}}]
    shape = layout(_axis(points), "α", 110 + 34 * len(alphas), type="category", showgrid=False)
    shape["xaxis"] |= {"type": "category", "showgrid": False}
    return {"data": [trace], "layout": shape | {"shapes": frames}}


def by_alpha(
    estimates: Estimates, placement: str, size: int, axis: str, *values: Callable[[Cell], float | None], **style: Any
) -> Figure:
    """Values of groups of `size` against strength, a line for each α; those of the second value are dashed."""
    points, cells = _points(estimates, placement), _cells(estimates, size)
    lines = []
    for value, dash in zip(values, ("solid", "dash"), strict=False):
        for alpha, colour in _alpha_colours(estimates, size).items():
            y = [value(cells[point.setting, alpha]) for point in points]
            if any(one is not None for one in y):
                lines.append(_line(f"α = {alpha:g}", [_x(point) for point in points], y, colour, dash=dash))
    return {"data": lines, "layout": layout(_axis(points), axis, 300, **style)}


def tier_key(estimates: Estimates) -> str:
    """Colours of the tiers, as HTML."""
    if len(estimates.tiers) == 1:
        return ""
    return key(
        [("var(--ink)", "all problems"), *((_colour(place), tier) for place, tier in enumerate(estimates.tiers))]
    )


def alpha_key(estimates: Estimates, size: int) -> str:
    """Colours of the shares, as HTML."""
    return key([(colour, f"α = {alpha:g}") for alpha, colour in _alpha_colours(estimates, size).items()])


def zero_key() -> str:
    """The scale, as HTML."""
    gradient = f"background:linear-gradient(90deg,{','.join(_ZERO_COLOURS)})"
    scale = f'0 %<span class="scale" style="{gradient}"></span>100 % of the groups'
    return f'<p class="note">{scale}; red frame: the advice</p>'


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)]


def _alpha_colours(estimates: Estimates, size: int) -> dict[float, str]:
    return {
        alpha: _colour(place) for place, alpha in enumerate(sorted({alpha for _, alpha in _cells(estimates, size)}))
    }


def _cells(estimates: Estimates, size: int) -> dict[tuple[Any, float], Cell]:
    """By setting and α, those with guidance."""
    return {(cell.setting, cell.alpha): cell for cell in estimates.cells if cell.group == size and cell.alpha}


def _points(estimates: Estimates, placement: str) -> list[Point]:
    return [point for point in estimates.points if point.setting.amount and point.setting.placement == placement]


def _x(point: Point) -> float:
    return point.setting.amount * (100 if point.setting.unit.startswith("ratio") else 1)


def _short(point: Point) -> str:
    return f"{_x(point):.3g}{'%' if point.setting.unit.startswith('ratio') else ''}"


def _axis(points: Sequence[Point]) -> str:
    unit = points[-1].setting.unit
    of = {"ratio": "% of the trace", "ratio-steps": "% of its steps", "ratio-chars": "% of its characters"}
    return f"guidance, {of.get(unit, unit)}"


def _success_line(name: str, x: Sequence[float], intervals: Sequence[Interval], colour: str | None) -> Figure:
    """With whiskers; bold where it has no colour of its own."""
    means, ends = [one.mean for one in intervals], [(one.low, one.high) for one in intervals]
    bars = whiskers(means, ends, thickness=0.8 if colour else 1.6, width=2) | ({"color": colour} if colour else {})
    return _line(name, x, means, colour, width=1.8 if colour else 3.5) | {"error_y": bars}


def _line(
    name: str,
    x: Sequence[float],
    y: Sequence[float | None],
    colour: str | None,
    *,
    width: float = 1.8,
    dash: str = "solid",
) -> Figure:
    """Without a colour it follows the colour scheme."""
    line = {"width": width, "dash": dash} | ({"color": colour} if colour else {})
    meta = _META if colour else {**_META, "edge": "--ink"}
    return {"type": "scatter", "mode": "lines", "name": name, "meta": meta, "x": list(x), "y": list(y), "line": line}
