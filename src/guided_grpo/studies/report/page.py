"""The page: what is on it, in which order, under which headings; written at once or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from guided_grpo.errors import InputError
from guided_grpo.store import rundir
from guided_grpo.studies.html import PALETTE, Figure, card, document, grid, key, note_list, plot_box, section, swatch
from guided_grpo.studies.report import ladder
from guided_grpo.studies.report.curves import CURVES, Plot, curve_plot
from guided_grpo.studies.report.logs import Run, by_variant, load_runs
from guided_grpo.studies.report.plots import REWARD_COLOURS, batch_summary, heatmap, reward_range, tiers_plot
from guided_grpo.studies.report.texts import NO_SAMPLES, rollouts_section, settings_table, summary_table, warning_list

_LEARNED = ("accuracy", "tokens")
# What the ladder is for: Fig. 6 of the GHPO paper lays these over each other, with and without it.
_LADDER = ("zero-groups", "gradient")
_COST = ("omega", "rescue-cost")
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


def build_report(runs: list[Path], output: Path) -> Path:
    """Write one HTML page on these run directories to `output`, and return its path.

    A run that lacks a file or a metric is shown without it, with a note; a path that is no run directory, and a file
    that is damaged rather than cut short, raise `InputError`.
    """
    if output.is_dir():
        raise InputError("is a directory", file=output, fix="give the name of an HTML file")
    text = render(load_runs(runs))
    output.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_bytes(output, text.encode("utf-8", "replace"))  # text of a model may hold lone surrogates
    return output


def render(runs: Sequence[Run]) -> str:
    """The page on `runs` as text."""
    figures: dict[str, Figure] = {}
    learned = [tiers_plot(runs), *_curves(runs, _LEARNED)]
    notes = note_list([f"{run.name}: {note}" for run in runs for note in run.notes])
    settings, health = settings_table(runs), [*_unless_ladder(runs, "gradient"), "length", "truncated"]
    body = "".join(
        (
            section("Summary", SUMMARY, card(f"{warning_list(runs)}{summary_table(runs)}{notes}")),
            section("Did the model learn?", LEARNED, _grid(figures, learned)),
            section("Was there something to learn from?", SIGNAL, _grid(figures, _curves(runs, _signal(runs)))),
            _ladder(figures, runs),
            _heatmaps(figures, runs),
            section("How much help was given?", HELP, _grid(figures, _curves(runs, ("guidance",)))),
            section("Was training healthy?", HEALTH, _grid(figures, _curves(runs, health))),
            section("What did the model write?", WRITTEN, rollouts_section(runs)),
            section("What differs between the runs?", SETTINGS, card(settings)) if settings else "",
        )
    )
    title = f"Guided GRPO: {', '.join(run.name for run in runs)}"
    return document(title, "Guided GRPO report", _lead(runs), body, FOOTER, figures, _legend(runs))


def _lead(runs: Sequence[Run]) -> str:
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    hint = "" if len(runs) == 1 else "; a click on a name hides or shows that run in every plot"
    if len(by_variant(runs)) < len(runs):
        hint += ". Seeds of one variant share a colour: thin lines are seeds, bold ones their mean"
    return f"{count}{hint}."


def _legend(runs: Sequence[Run]) -> str:
    groups, buttons = by_variant(runs), ""
    for group in groups:
        places = " ".join(str(run.index) for run in group)
        name = group[0].name if len(group) == 1 else f"{group[0].variant} × {len(group)}"
        what = "this run" if len(group) == 1 else "these seeds"
        buttons += (
            f'<button type="button" data-run="{places}" aria-pressed="true" title="Show or hide {what}">'
            f"{swatch(group[0].colour)}{escape(name)}</button>"
        )
    repeat = f'<span class="note">colours repeat after {len(PALETTE)}</span>' if len(groups) > len(PALETTE) else ""
    return f'<nav id="legend" aria-label="Runs"><div>{buttons}{repeat}</div></nav>'


def _curves(runs: Sequence[Run], names: Sequence[str]) -> list[Plot]:
    return [curve_plot(CURVES[name], runs) for name in names]


def _signal(runs: Sequence[Run]) -> list[str]:
    """A run that another program wrote may not know which groups were hopeless: the plot would be an empty box."""
    difficult = any(run.points("signal/difficult").y for run in runs)
    return [*_unless_ladder(runs, "zero-groups"), *(["difficult"] if difficult else []), "advantage"]


def _unless_ladder(runs: Sequence[Run], name: str) -> list[str]:
    """A curve that stands with the ladder's where there is one."""
    return [] if any(run.has_ladder for run in runs) else [name]


def _ladder(figures: dict[str, Figure], runs: Sequence[Run]) -> str:
    """What became of hopeless groups, run by run; what the ladder brought, against the other runs; what it cost."""
    climbing = [run for run in runs if run.has_ladder]
    if not climbing:
        return ""
    rows = (ladder.outcome_plots(climbing), _curves(runs, _LADDER), _curves(climbing, _COST))
    grids = "".join(_grid(figures, plots) for plots in rows)
    return section("Were hopeless groups rescued?", ladder.TEXT, f"{key(ladder.layers(climbing))}{grids}")


def _grid(figures: dict[str, Figure], plots: Sequence[Plot]) -> str:
    cards = []
    for plot in plots:
        box = "" if plot.figure is None else plot_box(figures, plot.id, plot.figure)
        styles = f" <small>({escape(plot.key)})</small>" if plot.key else ""
        mark, owner = ("", None) if plot.run is None else (swatch(plot.run.colour), plot.run.index)
        content = f"<p>{plot.text}</p>{box}{note_list(plot.notes)}"
        cards.append(card(content, f"{mark}{plot.title}{styles}", wide=plot.wide, name=plot.id, run=owner))
    return grid(cards, wide=any(plot.wide for plot in plots))


def _heatmaps(figures: dict[str, Figure], runs: Sequence[Run]) -> str:
    """One card per run: the first and the last sampled batch side by side, as in Fig. 4 of the G²RPO-A paper."""
    scale = reward_range(runs)
    cards = []
    for run in runs:
        maps = [
            f"<div><h4>Step {sample.step} <small>{place} sampled batch</small></h4>"
            f"{plot_box(figures, f'batch-{run.index}-{place}', heatmap(run, sample, scale))}"
            f'<p class="note">{batch_summary(sample)}</p></div>'
            for place, sample in zip(("first", "last"), run.samples, strict=False)
        ]
        if maps:
            cards.append(card(f'<div class="pair">{"".join(maps)}</div>', run.label, run=run.index))
    gradient = f"background:linear-gradient(90deg,{','.join(REWARD_COLOURS)})"
    legend = f'<p class="note">reward {scale[0]:.3g}<span class="scale" style="{gradient}"></span>{scale[1]:.3g}</p>'
    return section("Where do rewards come from?", BATCH, f"{legend}{grid(cards, wide=True)}" if cards else NO_SAMPLES)
