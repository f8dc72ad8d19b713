"""The page: what is on it, in which order, under which headings; written at once or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from guided_grpo.errors import InputError
from guided_grpo.studies.report import curves, ladder
from guided_grpo.studies.report.assets import SCRIPT, STYLE
from guided_grpo.studies.report.curves import Plot, curve_plot
from guided_grpo.studies.report.loading import load_runs
from guided_grpo.studies.report.plots import REWARD_COLOURS, batch_summary, heatmap, reward_range, tiers_plot
from guided_grpo.studies.report.rollouts import NO_SAMPLES, rollouts_section
from guided_grpo.studies.report.runs import PALETTE, Run, by_variant
from guided_grpo.studies.report.tables import settings_table, summary_table, warning_list


def build_report(runs: list[Path], output: Path) -> Path:
    """Write one HTML page on the given run directories to `output`, and return its path.

    The page holds everything it needs: it opens from disk, and its own policy forbids it to load anything. A run that
    lacks a file or a metric is shown without it, with a note; a path that is no run directory, and a file that is
    damaged rather than cut short, raise `InputError`.
    """
    if output.is_dir():
        raise InputError("is a directory", file=output, fix="give the name of an HTML file")
    text = render(load_runs(runs))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        # Text of a model may hold lone surrogates, which no encoding can write.
        partial.write_bytes(text.encode("utf-8", "replace"))
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return output


def render(runs: Sequence[Run]) -> str:
    """The page on `runs` as text."""
    figures: dict[str, Any] = {}
    body = "".join(
        (
            _header(runs),
            _legend(runs),
            f'<main><p id="failure" role="alert"></p>{_summary(runs)}',
            _plots(figures, "Did the model learn?", LEARNED, [tiers_plot(runs), *_curves(runs, _LEARNED)]),
            _plots(figures, "Was there something to learn from?", SIGNAL, _curves(runs, _signal(runs))),
            _ladder(figures, runs),
            _heatmaps(figures, runs),
            _plots(figures, "How much help was given?", HELP, _curves(runs, (curves.GUIDANCE,))),
            _plots(figures, "Was training healthy?", HEALTH, _curves(runs, _health(runs))),
            _section("What did the model write?", WRITTEN, rollouts_section(runs)),
            _settings(runs),
            "</main>",
        )
    )
    scripts = (get_plotlyjs(), SCRIPT)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{content_policy(scripts)}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(runs))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        f'<footer>{FOOTER}</footer>\n<script type="application/json" id="figures">{script_json(figures)}</script>\n'
        f"<script>{scripts[0]}</script>\n<script>{scripts[1]}</script>\n</body>\n</html>\n"
    )


_LEARNED = (curves.ACCURACY, curves.TOKENS)
# What the ladder is for: Fig. 6 of the GHPO paper lays these over each other, with and without it.
_LADDER = (curves.ZERO_GROUPS, curves.GRADIENT)
_COST = (ladder.OMEGA, ladder.COST)
LEARNED = (
    "Training pays off only if the model solves more problems alone. Guided rewards are shown beside, never counted."
)
SUMMARY = "Accuracy is measured without guidance on held-out problems; brackets are 95 % intervals."
SETTINGS = "Settings that are not the same in every run: a fair comparison has few rows here."
SIGNAL = "A group teaches only if some of its rollouts succeed and others fail."
BATCH = (
    "Each row is a group (one problem), each column a rollout. Bright cells earned a reward; a row of one colour "
    "teaches nothing. Guided columns should light up first, unguided ones by the end."
)
HELP = "Guidance is a crutch: it should be long enough to reach a reward, and then be taken away."
HEALTH = "These curves show trouble early; none of them should run away."
WRITTEN = (
    'Read a few: <mark class="guidance">marked text was given as guidance</mark>, the rest was generated. '
    "Is an answer right for the right reason, and does the text still read well at the last step?"
)
FOOTER = (
    "Bold lines are running means over about 5 % of a run's steps; the faint lines behind are the recorded values. "
    "Stacked layers are running means too."
)


def content_policy(scripts: Sequence[str]) -> str:
    """A content policy that admits these two scripts by hash and no network, so that stray markup stays inert."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    rules = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def script_json(value: object) -> str:
    """JSON that cannot end its script element early."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _title(runs: Sequence[Run]) -> str:
    return f"Guided GRPO: {', '.join(run.name for run in runs)}"


def _header(runs: Sequence[Run]) -> str:
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    hint = "" if len(runs) == 1 else "; a click on a name hides or shows that run in every plot"
    if len(by_variant(runs)) < len(runs):
        hint += ". Seeds of one variant share a colour: thin lines are seeds, bold ones their mean"
    return f'<header><h1>Guided GRPO report</h1><p class="lead">{count}{hint}.</p></header>'


def _section(heading: str, text: str, content: str) -> str:
    """A heading, a sentence on what to look for (HTML), and the content (HTML)."""
    return f'<section><h2>{heading}</h2><p class="lead">{text}</p>{content}</section>'


def _legend(runs: Sequence[Run]) -> str:
    groups, buttons = by_variant(runs), ""
    for group in groups:
        places = " ".join(str(run.index) for run in group)
        name = group[0].name if len(group) == 1 else f"{group[0].variant} × {len(group)}"
        what = "this run" if len(group) == 1 else "these seeds"
        buttons += (
            f'<button type="button" data-run="{places}" aria-pressed="true" title="Show or hide {what}">'
            f'<span class="swatch" style="background:{group[0].colour}"></span>{escape(name)}</button>'
        )
    repeat = f'<span class="note">colours repeat after {len(PALETTE)}</span>' if len(groups) > len(PALETTE) else ""
    return f'<nav id="legend" aria-label="Runs"><div>{buttons}{repeat}</div></nav>'


def _summary(runs: Sequence[Run]) -> str:
    notes = _notes([f"{run.name}: {note}" for run in runs for note in run.notes])
    return _section("Summary", SUMMARY, f'<div class="card">{warning_list(runs)}{summary_table(runs)}{notes}</div>')


def _settings(runs: Sequence[Run]) -> str:
    table = settings_table(runs)
    return _section("What differs between the runs?", SETTINGS, f'<div class="card">{table}</div>') if table else ""


def _curves(runs: Sequence[Run], wanted: Sequence[curves.Curve]) -> list[Plot]:
    return [curve_plot(curve, runs) for curve in wanted]


def _has_ladder(runs: Sequence[Run]) -> bool:
    return any(run.has_ladder for run in runs)


def _signal(runs: Sequence[Run]) -> list[curves.Curve]:
    """Older runs do not know which groups were hopeless: the plot would be an empty box."""
    wanted = [] if _has_ladder(runs) else [curves.ZERO_GROUPS]
    wanted += [curves.DIFFICULT] if any(run.points("signal/difficult").y for run in runs) else []
    return [*wanted, curves.ADVANTAGE]


def _health(runs: Sequence[Run]) -> list[curves.Curve]:
    return [*([] if _has_ladder(runs) else [curves.GRADIENT]), curves.LENGTH, curves.TRUNCATED]


def _ladder(figures: dict[str, Any], runs: Sequence[Run]) -> str:
    """What became of hopeless groups, run by run; what the ladder brought, against the other runs; what it cost."""
    climbing = [run for run in runs if run.has_ladder]
    if not climbing:
        return ""
    layers = "".join(f'<span class="item">{_swatch(paint)}{label}</span>' for label, paint in ladder.key(climbing))
    rows = (ladder.outcome_plots(climbing), _curves(runs, _LADDER), _curves(climbing, _COST))
    grids = "".join(_grid(figures, plots) for plots in rows)
    return _section("Were hopeless groups rescued?", ladder.TEXT, f'<p class="note key">{layers}</p>{grids}')


def _plots(figures: dict[str, Any], heading: str, text: str, plots: Sequence[Plot]) -> str:
    return _section(heading, text, _grid(figures, plots))


def _grid(figures: dict[str, Any], plots: Sequence[Plot]) -> str:
    cards = []
    for plot in plots:
        drawn = ""
        if plot.figure is not None:
            figures[f"plot-{plot.id}"] = plot.figure
            drawn = _box(f"plot-{plot.id}", plot.figure)
        key = f" <small>({escape(plot.key)})</small>" if plot.key else ""
        owner, swatch = "", ""
        if plot.run is not None:
            owner, swatch = f' data-run="{plot.run.index}"', _swatch(plot.run.colour)
        kind = f"card{' wide' if plot.wide else ''}{' run' if owner else ''}"
        cards.append(
            f'<div class="{kind}" id="{plot.id}"{owner}><h3>{swatch}{plot.title}{key}</h3>'
            f"<p>{plot.text}</p>{drawn}{_notes(plot.notes)}</div>"
        )
    three = " three" if len(plots) == 3 and not any(plot.wide for plot in plots) else ""
    return f'<div class="grid{three}">{"".join(cards)}</div>'


def _swatch(background: str) -> str:
    return f'<span class="swatch" style="background:{background}"></span>'


def _heatmaps(figures: dict[str, Any], runs: Sequence[Run]) -> str:
    """One card per run: the first and the last sampled batch side by side, as in Fig. 4 of the G²RPO-A paper."""
    scale = reward_range(runs)
    gradient = f"background:linear-gradient(90deg,{','.join(REWARD_COLOURS)})"
    cards = []
    for run in runs:
        if not run.samples:
            continue
        maps = []
        for place, sample in zip(("first", "last"), run.samples, strict=False):
            identifier = f"plot-batch-{run.index}-{place}"
            figures[identifier] = heatmap(run, sample, scale)
            maps.append(
                f"<div><h4>Step {sample.step} <small>{place} sampled batch</small></h4>"
                f'{_box(identifier, figures[identifier])}<p class="note">{batch_summary(sample)}</p></div>'
            )
        cards.append(
            f'<div class="card run" data-run="{run.index}"><h3><span class="swatch" style="background:{run.colour}">'
            f'</span>{escape(run.name)}</h3><div class="pair">{"".join(maps)}</div></div>'
        )
    legend = f'<p class="note">reward {scale[0]:.3g}<span class="scale" style="{gradient}"></span>{scale[1]:.3g}</p>'
    content = f'{legend}<div class="grid">{"".join(cards)}</div>' if cards else NO_SAMPLES
    return _section("Where do rewards come from?", BATCH, content)


def _box(identifier: str, figure: dict[str, Any]) -> str:
    """An empty plot of its final height, so that the page does not jump while it draws."""
    return f'<div class="plot" id="{identifier}" style="height:{figure["layout"]["height"]}px"></div>'


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""
