"""What the pages of report and audit share: the document, its parts as HTML, and what their figures have in common.

A page holds everything it needs, opens from disk, and its own policy forbids it to load anything. page.js draws the
figures (Plotly's JSON form, by the id of their box), follows the colour scheme, and shows and hides runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

Figure = dict[str, Any]

# Okabe and Ito's colours that show on white and on black, then some of Tol's; they repeat after fourteen.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c",
    "#aa4499", "#999933", "#6f6fd8", "#117733", "#ee6677", "#882255", "#44aa99",
)  # fmt: skip
_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")


def document(
    title: str, heading: str, lead: str, body: str, footer: str, figures: Mapping[str, Figure], legend: str = ""
) -> str:
    """The page. All texts but the title are HTML."""
    scripts = (get_plotlyjs(), _SCRIPT)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_content_policy(scripts)}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{heading}</h1><p class="lead">{lead}</p></header>{legend}\n'
        f'<main><p id="failure" role="alert"></p>{body}</main>\n<footer>{footer}</footer>\n'
        f'<script type="application/json" id="figures">{_script_json(figures)}</script>\n'
        f"<script>{scripts[0]}</script>\n<script>{scripts[1]}</script>\n</body>\n</html>\n"
    )


def section(heading: str, lead: str, content: str) -> str:
    """A heading, a sentence on what to look for (HTML), and the content (HTML)."""
    return f'<section><h2>{heading}</h2><p class="lead">{lead}</p>{content}</section>'


def grid(cards: Sequence[str], *, wide: bool = False) -> str:
    """Cards side by side; `wide` where one of them takes the whole width."""
    three = " three" if len(cards) == 3 and not wide else ""
    return f'<div class="grid{three}">{"".join(cards)}</div>'


def card(content: str, heading: str = "", *, wide: bool = False, name: str = "", run: int | None = None) -> str:
    """A box. It is hidden with the run whose index it carries."""
    head = f"<h3>{heading}</h3>" if heading else ""
    kind = f"card{' wide' if wide else ''}{'' if run is None else ' run'}"
    marks = (f' id="{name}"' if name else "") + ("" if run is None else f' data-run="{run}"')
    return f'<div class="{kind}"{marks}>{head}{content}</div>'


def plot_box(figures: dict[str, Figure], name: str, figure: Figure) -> str:
    """An empty plot of its final height, so that the page does not jump while it draws; its figure is put down."""
    figures[f"plot-{name}"] = figure
    return f'<div class="plot" id="plot-{name}" style="height:{figure["layout"]["height"]}px"></div>'


def table(columns: Sequence[tuple[str, str]], rows: Iterable[tuple[int | None, Sequence[str]]]) -> str:
    """On a narrow screen one block a row.

    Args:
        columns: heading (HTML) and CSS class.
        rows: the run with which the row is hidden, and its cells (HTML).
    """
    head = "".join(f'<th class="{kind}">{label}</th>' for label, kind in columns)
    body = ""
    for run, cells in rows:
        inside = "".join(
            f'<td class="{kind}" data-label="{label}"><span>{cell}</span></td>'
            for (label, kind), cell in zip(columns, cells, strict=True)
        )
        owner = "" if run is None else f' class="run" data-run="{run}"'
        body += f"<tr{owner}>{inside}</tr>"
    return (
        f'<div class="scroll"><table class="stacked"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def swatch(paint: str) -> str:
    """A small square of a colour."""
    return f'<span class="swatch" style="background:{paint}"></span>'


def key(items: Sequence[tuple[str, str]]) -> str:
    """What the colours of a section mean: paint and label (text)."""
    labels = "".join(f'<span class="item">{swatch(paint)}{escape(label)}</span>' for paint, label in items)
    return f'<p class="note key">{labels}</p>'


def note_list(notes: Sequence[str]) -> str:
    """Notes (text) under a plot or table; nothing where there are none."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def layout(x: str, y: str, height: int, *, hover: str = "closest", **axis: Any) -> dict[str, Any]:
    """Of a figure with two named axes; `axis` are fields of the vertical one."""
    names = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, **axis}}
    return {**names, "hovermode": hover, "height": height}


def whiskers(means: Sequence[float], ends: Sequence[tuple[float, float]], **style: Any) -> dict[str, Any]:
    """Error bars from the means to the ends of their intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - mean) for mean, (_, high) in zip(means, ends, strict=True)],
        "arrayminus": [max(0.0, mean - low) for mean, (low, _) in zip(means, ends, strict=True)],
        **style,
    }


def heat_trace(values: Sequence[Sequence[float | None]], colours: Sequence[str], **fields: Any) -> dict[str, Any]:
    """A heatmap of rows of values, in colours from least to most."""
    scale = [[place / (len(colours) - 1), colour] for place, colour in enumerate(colours)]
    return {"type": "heatmap", "z": values, "colorscale": scale, "showscale": False, "xgap": 1, "ygap": 1, **fields}


def plain(text: str) -> str:
    """`text` for a Plotly label, which reads a little HTML: these entities it shows as the characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _content_policy(scripts: Sequence[str]) -> str:
    """A content policy that admits these scripts by hash and no network, so that stray markup stays inert."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    rules = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def _script_json(value: object) -> str:
    """JSON that cannot end its script element early."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
