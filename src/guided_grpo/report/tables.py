"""The summary of the runs, and the settings in which they differ, as HTML tables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape

from guided_grpo.report.runs import Evaluation, Run

UNKNOWN = "–"
# Where a run was stored says nothing of how it learned, and a report that is passed on must carry no credentials.
NOT_SHOWN = re.compile(r"output_dir|logging_dir|run_name|hub_token|api_key|password|secret")


def summary_table(runs: Sequence[Run]) -> str:
    """One row per run; on a narrow screen one block per run."""
    columns = (
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
    )
    head = "".join(f'<th class="{kind}">{label}</th>' for label, kind in columns)
    rows = []
    for run in runs:
        cells = "".join(
            f'<td class="{kind}" data-label="{label}"><span>{cell}</span></td>'
            for (label, kind), cell in zip(columns, _summary_cells(run), strict=True)
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
