"""The summary of the runs with their warnings, and the settings in which they differ, as HTML tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html import escape

from guided_grpo.studies.report.runs import Evaluation, Run, RunWarning

UNKNOWN = "–"
WARNINGS_SHOWN = 5  # of each run: one that warns at every step must not bury the table
# Where a run was stored says nothing of how it learned, and a report that is passed on must carry no credentials.
NOT_SHOWN = re.compile(r"output_dir|logging_dir|run_name|hub_token|api_key|password|secret")


def summary_table(runs: Sequence[Run]) -> str:
    """One row per run; on a narrow screen one block per run."""
    columns = [
        ("Run", "name"),
        ("Method", ""),
        ("Seed", "number"),
        ("Group size", "number"),
        ("Steps", "number"),
        ("Generated tokens", "number"),
        ("Seconds", "number"),
        ("Accuracy before", "number"),
        ("Accuracy after", "number"),
        ("Change", "number"),
    ]
    optional = [(label, cell) for label, cell in OPTIONAL.items() if any(cell(run) != UNKNOWN for run in runs)]
    columns += [(label, "number") for label, _ in optional]
    head = "".join(f'<th class="{kind}">{label}</th>' for label, kind in columns)
    rows = []
    for run in runs:
        cells = "".join(
            f'<td class="{kind}" data-label="{label}"><span>{cell}</span></td>'
            for (label, kind), cell in zip(
                columns, [*_summary_cells(run), *(cell(run) for _, cell in optional)], strict=True
            )
        )
        rows.append(f'<tr class="run" data-run="{run.index}">{cells}</tr>')
    return (
        f'<div class="scroll"><table class="stacked"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def _summary_cells(run: Run) -> list[str]:
    steps = int(run.metrics[-1]["step"]) if run.metrics else 0
    change = UNKNOWN
    if run.before is not None and run.after is not None:
        change = f"{run.after.total.accuracy - run.before.total.accuracy:+.3f}"
    return [
        f'<span class="swatch" style="background:{run.colour}"></span>{escape(run.name)}',
        _setting(run, "method"),
        _setting(run, "seed"),
        _setting(run, "num_generations"),
        f"{steps:,}",
        _count(run.generated_tokens),
        _count(run.total("step_time")),
        _accuracy(run.before),
        _accuracy(run.after),
        change,
    ]


def _gradient(run: Run) -> str:
    mean, variance = run.summary.get("grad_norm_mean"), run.summary.get("grad_norm_variance")
    if mean is None:
        return UNKNOWN
    return f"{mean:.3g}" + ("" if variance is None else f"<br><small>variance {variance:.2g}</small>")


def _difficult(run: Run) -> str:
    difficult, silent = run.summary.get("difficult_groups"), run.summary.get("zero_groups")
    if difficult is None:
        return UNKNOWN
    return percent(difficult) + ("" if silent is None else f"<br><small>{percent(silent)} without a signal</small>")


def _rescue_tokens(run: Run) -> str:
    rescue, generated = run.summary.get("rescue_tokens"), run.summary.get("tokens_generated")
    return UNKNOWN if rescue is None or not generated else percent(rescue / generated)


# Of summary.json: a column is there if any run has it.
OPTIONAL: dict[str, Callable[[Run], str]] = {
    "Gradient norm": _gradient,
    "Difficult groups": _difficult,
    "Rescue tokens": _rescue_tokens,
}


def percent(share: float) -> str:
    """A share as the page writes it, with a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def warning_list(runs: Sequence[Run]) -> str:
    """What the runs warned of, with the step; the first few of each run. Nothing where none did."""
    items = []
    for run in runs:
        name = f'<span class="swatch" style="background:{run.colour}"></span><strong>{escape(run.name)}</strong>'
        texts = [
            f"{_when(warning)}: <code>{escape(warning.kind)}</code> {escape(warning.message)}"
            for warning in run.warnings[:WARNINGS_SHOWN]
        ]
        hidden = run.warnings[WARNINGS_SHOWN:]
        if hidden:
            texts.append(f": {len(hidden)} more, up to{_when(hidden[-1]).lstrip(',')}")
        items += [f'<li class="run" data-run="{run.index}">{name}{text}</li>' for text in texts]
    return f'<ul class="warnings" aria-label="Warnings">{"".join(items)}</ul>' if items else ""


def _when(warning: RunWarning) -> str:
    return ", at no known step" if warning.step is None else f", step {warning.step}"


def _setting(run: Run, key: str) -> str:
    return escape(_shown(run.config[key])) if key in run.config else UNKNOWN


def _count(value: float | None) -> str:
    if value is None or not abs(value) < float("inf"):
        return UNKNOWN
    return f"{value:,.0f}"


def _accuracy(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return UNKNOWN
    score = evaluation.total
    bounds = f" <small>[{score.interval[0]:.3f}, {score.interval[1]:.3f}]</small>" if score.interval else ""
    return f"{score.accuracy:.3f}{bounds}"


def settings_table(runs: Sequence[Run]) -> str:
    """The settings in which the runs differ; nothing for a single run."""
    configured = [run for run in runs if run.config]
    if len(configured) < 2:
        return ""
    keys = sorted({str(key) for run in configured for key in run.config if not NOT_SHOWN.search(str(key))})
    values = {key: [_shown(run.config[key]) if key in run.config else UNKNOWN for run in configured] for key in keys}
    differing = {key: shown for key, shown in values.items() if len(set(shown)) > 1}
    if not differing:
        return '<p class="note">Their configurations are the same.</p>'
    names = "".join(
        f'<th><span class="swatch" style="background:{run.colour}"></span>{escape(run.name)}</th>' for run in configured
    )
    rows = "".join(
        f"<tr><td><code>{escape(key)}</code></td>{''.join(f'<td>{escape(value)}</td>' for value in shown)}</tr>"
        for key, shown in differing.items()
    )
    return (
        f'<div class="scroll"><table class="settings"><thead><tr><th>Setting</th>{names}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _shown(value: object, limit: int = 80) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
