"""The audit's figures in Plotly's JSON form."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from guided_grpo.studies.audit.estimates import Cell, Estimates, Point
from guided_grpo.studies.report.runs import PALETTE

_META = {"run": 0}  # the page's script wants one
_ZERO_COLOURS = ("#0d3b66", "#2f6f95", "#8fb9c9", "#f2d7a7", "#e8853d")  # few … many groups without a signal
_JITTER = 0.08  # of the distance between strengths: whiskers of tiers side by side


def success(found: Estimates, placement: str) -> dict[str, Any]:
    """Success against strength: all problems bold, each tier thin."""
    points = [found.unguided, *_points(found, placement)]
    x = [_x(point) for point in points]
    gap = min((b - a for a, b in itertools.pairwise(x)), default=1.0) * _JITTER
    traces = []
    tiers = [] if len(found.tiers) == 1 else list(found.tiers)
    for place, tier in enumerate(tiers):
        shift = (place - (len(tiers) - 1) / 2) * gap
        colour = PALETTE[place % len(PALETTE)]
        line = _line(tier, [value + shift for value in x], [point.tiers[tier].mean for point in points], colour)
        traces.append(line | {"error_y": _whiskers([point.tiers[tier] for point in points], colour, 0.8)})
    bold = _line("all problems", x, [point.success.mean for point in points], None, width=3.5)
    traces.append(bold | {"error_y": _whiskers([point.success for point in points], None, 1.6)})
    layout = _layout(_axis(points), "success", height=380, percent=True)
    half = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": 0.5,
        "y1": 0.5,
        "line": {"color": "#8c8c8c", "dash": "dot", "width": 1},
    }
    layout["shapes"] = [half]
    return {"data": traces, "layout": layout}


def zero(found: Estimates, placement: str, size: int, chosen: Cell | None) -> dict[str, Any]:
    """Share of zero-signal groups over α and strength."""
    points = _points(found, placement)
    cells = {(cell.setting, cell.alpha): cell for cell in found.cells if cell.group == size and cell.alpha}
    alphas = sorted({alpha for _, alpha in cells})
    plain = found.plain(size).zero
    columns = ["0", *(_short(point) for point in points)]
    rows = [[plain, *(cells[point.setting, alpha].zero for point in points)] for alpha in alphas]
    marks = []
    if chosen is not None and chosen.group == size and chosen.alpha and chosen.setting.placement == placement:
        column = 1 + [point.setting for point in points].index(chosen.setting)
        row = alphas.index(chosen.alpha)
        box = {"type": "rect", "x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
        marks = [box | {"line": {"color": "#d00000", "width": 2.5}}]
    trace = {
        "type": "heatmap",
        "meta": _META,
        "x": columns,
        "y": [f"{alpha:g}" for alpha in alphas],
        "z": rows,
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[place / (len(_ZERO_COLOURS) - 1), colour] for place, colour in enumerate(_ZERO_COLOURS)],
        "showscale": False,
        "texttemplate": "%{z:.0%}",
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "α %{y}, strength %{x}: %{z:.1%}<extra></extra>",
    }
    layout = _layout(_axis(points), "α", height=110 + 34 * len(alphas))
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "showgrid": False}
    return {"data": [trace], "layout": layout | {"shapes": marks}}


def variance(found: Estimates, placement: str, size: int) -> dict[str, Any]:
    """Variance of rewards inside a group, measured and by formula."""
    measured = _by_alpha(found, placement, size, lambda cell: cell.variance)
    formula = _by_alpha(found, placement, size, lambda cell: cell.formula, dash="dash")
    return {"data": measured + formula, "layout": _layout(_axis(_points(found, placement)), "variance")}


def alone(found: Estimates, placement: str, size: int) -> dict[str, Any]:
    """Mean advantage of unguided rollouts."""
    lines = _by_alpha(found, placement, size, lambda cell: cell.unguided_advantage)
    return {"data": lines, "layout": _layout(_axis(_points(found, placement)), "mean advantage")}


def tokens(found: Estimates, placement: str, size: int) -> dict[str, Any]:
    """Generated tokens of a group."""
    layout = _layout(_axis(_points(found, placement)), "generated tokens")
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": _by_alpha(found, placement, size, lambda cell: cell.tokens), "layout": layout}


def waste(found: Estimates, placement: str, size: int) -> dict[str, Any]:
    """Share of the tokens in zero-signal groups."""
    lines = _by_alpha(found, placement, size, lambda cell: cell.wasted)
    return {"data": lines, "layout": _layout(_axis(_points(found, placement)), "share of tokens", percent=True)}


def tier_key(found: Estimates) -> str:
    """Colours of the tiers, as HTML."""
    if len(found.tiers) == 1:
        return ""
    items = [(PALETTE[place % len(PALETTE)], tier) for place, tier in enumerate(found.tiers)]
    return _key([("var(--ink)", "all problems"), *items])


def alpha_key(found: Estimates, size: int) -> str:
    """Colours of the shares, as HTML."""
    return _key([(colour, f"α = {alpha:g}") for alpha, colour in _alpha_colours(found, size).items()])


def zero_key() -> str:
    """The scale, as HTML."""
    gradient = f"background:linear-gradient(90deg,{','.join(_ZERO_COLOURS)})"
    scale = f'0 %<span class="scale" style="{gradient}"></span>100 % of the groups'
    return f'<p class="note">{scale}; red frame: the advice</p>'


def _key(items: Sequence[tuple[str, str]]) -> str:
    shown = "".join(
        f'<span class="item"><span class="swatch" style="background:{colour}"></span>{escape(name)}</span>'
        for colour, name in items
    )
    return f'<p class="note key">{shown}</p>'


def _alpha_colours(found: Estimates, size: int) -> dict[float, str]:
    alphas = sorted({cell.alpha for cell in found.cells if cell.group == size and cell.alpha})
    return {alpha: PALETTE[place % len(PALETTE)] for place, alpha in enumerate(alphas)}


def _by_alpha(
    found: Estimates, placement: str, size: int, value: Callable[[Cell], float | None], dash: str = "solid"
) -> list[dict[str, Any]]:
    points = _points(found, placement)
    cells = {(cell.setting, cell.alpha): cell for cell in found.cells if cell.group == size and cell.alpha}
    lines = []
    for alpha, colour in _alpha_colours(found, size).items():
        y = [value(cells[point.setting, alpha]) for point in points]
        if any(value is not None for value in y):
            lines.append(_line(f"α = {alpha:g}", [_x(point) for point in points], y, colour, dash=dash))
    return lines


def _points(found: Estimates, placement: str) -> list[Point]:
    return [point for point in found.points if point.setting.amount and point.setting.placement == placement]


def _x(point: Point) -> float:
    return point.setting.amount * (100 if point.setting.unit.startswith("ratio") else 1)


def _short(point: Point) -> str:
    return f"{_x(point):.3g}{'%' if point.setting.unit.startswith('ratio') else ''}"


def _axis(points: Sequence[Point]) -> str:
    unit = points[-1].setting.unit
    of = {"ratio": "% of the trace", "ratio-steps": "% of its steps", "ratio-chars": "% of its characters"}
    return f"guidance, {of.get(unit, unit)}"


def _line(
    name: str,
    x: Sequence[float],
    y: Sequence[float | None],
    colour: str | None,
    *,
    width: float = 1.8,
    dash: str = "solid",
) -> dict[str, Any]:
    line: dict[str, Any] = {"width": width, "dash": dash}
    meta: dict[str, Any] = dict(_META)
    if colour is None:
        meta["edge"] = "--ink"  # follows the colour scheme
    else:
        line["color"] = colour
    return {"type": "scatter", "mode": "lines", "name": name, "meta": meta, "x": list(x), "y": list(y), "line": line}


def _whiskers(intervals: Sequence[Any], colour: str | None, thickness: float) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": "data",
        "symmetric": False,
        "array": [one.high - one.mean for one in intervals],
        "arrayminus": [one.mean - one.low for one in intervals],
        "thickness": thickness,
        "width": 2,
    }
    return shown if colour is None else shown | {"color": colour}


def _layout(x: str, y: str, *, height: int = 300, percent: bool = False) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": y}}
    if percent:
        axis |= {"tickformat": ".0%", "range": [0, 1.02]}
    return {"xaxis": {"title": {"text": x}}, "yaxis": axis, "hovermode": "closest", "height": height}
