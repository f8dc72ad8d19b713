"""What the report shows in words, as HTML: summary, warnings, settings, sample rollouts. All of a run is escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html import escape

from guided_grpo.studies.html import swatch, table
from guided_grpo.studies.report.logs import GroupRecord, RolloutRecord, Run, RunWarning, StepSample

UNKNOWN = "–"
WARNINGS_SHOWN = 5  # of each run: one that warns at every step must not bury the table
# Where a run was stored says nothing of how it learned, and a report that is passed on must carry no credentials.
NOT_SHOWN = re.compile(r"output_dir|logging_dir|run_name|hub_token|api_key|password|secret")
GROUPS_SHOWN = 3
PER_ARM_SHOWN = 2
NO_SAMPLES = '<p class="note">Left out: no run holds sampled rollouts.</p>'
HEAD, TAIL = 2500, 1500  # characters left of a longer text


def percent(share: float) -> str:
    """A share as the page writes it, with a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def summary_table(runs: Sequence[Run]) -> str:
    """One row per run."""
    optional = {label: cell for label, cell in OPTIONAL.items() if any(cell(run) != UNKNOWN for run in runs)}
    cells = COLUMNS | optional
    columns = [(label, CLASSES.get(label, "number")) for label in cells]
    return table(columns, [(run.index, [cell(run) for cell in cells.values()]) for run in runs])


def _steps(run: Run) -> str:
    return f"{int(run.metrics[-1]['step']) if run.metrics else 0:,}"


def _accuracy(when: str) -> Callable[[Run], str]:
    def cell(run: Run) -> str:
        if when not in run.evaluations:
            return UNKNOWN
        score = run.evaluations[when].total
        bounds = f" <small>[{score.interval[0]:.3f}, {score.interval[1]:.3f}]</small>" if score.interval else ""
        return f"{score.accuracy:.3f}{bounds}"

    return cell


def _change(run: Run) -> str:
    if len(run.evaluations) < 2:
        return UNKNOWN
    return f"{run.evaluations['after'].total.accuracy - run.evaluations['before'].total.accuracy:+.3f}"


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


def _setting(run: Run, key: str) -> str:
    return escape(_value(run.config[key])) if key in run.config else UNKNOWN


def _count(value: float | None) -> str:
    return UNKNOWN if value is None or not abs(value) < float("inf") else f"{value:,.0f}"


COLUMNS: dict[str, Callable[[Run], str]] = {
    "Run": lambda run: run.label,
    "Method": lambda run: _setting(run, "method"),
    "Seed": lambda run: _setting(run, "seed"),
    "Group size": lambda run: _setting(run, "num_generations"),
    "Steps": _steps,
    "Generated tokens": lambda run: _count(run.generated_tokens),
    "Seconds": lambda run: _count(run.total("step_time")),
    "Accuracy before": _accuracy("before"),
    "Accuracy after": _accuracy("after"),
    "Change": _change,
}
# Of summary.json: a column is there if any run has it.
OPTIONAL: dict[str, Callable[[Run], str]] = {
    "Gradient norm": _gradient,
    "Difficult groups": _difficult,
    "Rescue tokens": _rescue_tokens,
}
CLASSES = {"Run": "name", "Method": ""}  # the other columns are numbers


def warning_list(runs: Sequence[Run]) -> str:
    """What the runs warned of, with the step; the first few of each run. Nothing where none did."""
    items = []
    for run in runs:
        texts = [
            f"{_when(warning)}: <code>{escape(warning.kind)}</code> {escape(warning.message)}"
            for warning in run.warnings[:WARNINGS_SHOWN]
        ]
        rest = run.warnings[WARNINGS_SHOWN:]
        if rest:
            texts.append(f": {len(rest)} more, up to{_when(rest[-1]).lstrip(',')}")
        name = f"{swatch(run.colour)}<strong>{escape(run.name)}</strong>"
        items += [f'<li class="run" data-run="{run.index}">{name}{text}</li>' for text in texts]
    return f'<ul class="warnings" aria-label="Warnings">{"".join(items)}</ul>' if items else ""


def _when(warning: RunWarning) -> str:
    return ", at no known step" if warning.step is None else f", step {warning.step}"


def settings_table(runs: Sequence[Run]) -> str:
    """The settings in which the runs differ; nothing for a single run."""
    configured = [run for run in runs if run.config]
    if len(configured) < 2:
        return ""
    names = sorted({str(key) for run in configured for key in run.config if not NOT_SHOWN.search(str(key))})
    values = {name: [_setting(run, name) for run in configured] for name in names}
    differing = {name: cells for name, cells in values.items() if len(set(cells)) > 1}
    if not differing:
        return '<p class="note">Their configurations are the same.</p>'
    head = "".join(f"<th>{run.label}</th>" for run in configured)
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in differing.items()
    )
    return (
        f'<div class="scroll"><table class="settings"><thead><tr><th>Setting</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _value(value: object, limit: int = 80) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def rollouts_section(runs: Sequence[Run]) -> str:
    """One foldable block per run, the first one open, with its first and last sampled step side by side."""
    blocks: list[str] = []
    for run in runs:
        if run.samples:
            blocks.append(
                f'<details class="card run" data-run="{run.index}"{"" if blocks else " open"}>'
                f'<summary>{run.label}</summary><div class="pair">{"".join(map(_sample, run.samples))}</div></details>'
            )
    return "".join(blocks) or NO_SAMPLES


def _sample(sample: StepSample) -> str:
    groups = sample.groups[:GROUPS_SHOWN]
    return (
        f'<div class="sample"><h4>Step {sample.step} '
        f"<small>first {len(groups)} of {len(sample.groups)} groups</small></h4>{''.join(map(_group, groups))}</div>"
    )


def _group(group: GroupRecord) -> str:
    rollouts = _extremes(group.arm(True)) + _extremes(group.arm(False))
    messages = "".join(
        (f'<div class="role">{escape(role)}</div>' if role else "") + f'<div class="text">{_shortened(text)}</div>'
        for role, text in group.prompt
    )
    facts = [f"<dt>Answer</dt><dd>{_shortened(group.answer)}</dd>"] if group.answer else []
    if group.difficulty:
        facts.append(f"<dt>Difficulty</dt><dd>{escape(group.difficulty)}</dd>")
    count = f"{len(rollouts)} of {len(group.rollouts)} rollouts: the best and the worst of each arm"
    if len(rollouts) == len(group.rollouts):
        count = f"all {len(rollouts)} rollouts"
    return (
        f'<article class="group"><h5>Group {group.index}</h5><div class="prompt">{messages}</div>'
        f'<dl>{"".join(facts)}</dl><p class="note">{count}</p>{"".join(map(_rollout, rollouts))}</article>'
    )


def _extremes(rollouts: list[RolloutRecord]) -> list[RolloutRecord]:
    """Best and worst by reward, so that success and failure can be compared; the earlier one where they tie."""
    if len(rollouts) <= PER_ARM_SHOWN:
        return rollouts
    ranked = sorted(rollouts, key=lambda rollout: -(rollout.reward or 0.0))
    return [ranked[0], ranked[-1]]


def _rollout(rollout: RolloutRecord) -> str:
    arm = "guided" if rollout.guided else "unguided"
    chips = [(f" arm-{arm}", arm), ("", _place(rollout))]
    chips += [
        (" good" if reward > 0 else "", f"{escape(name)} {reward:.3g}") for name, reward in rollout.rewards.items()
    ]
    chips.append(("", "" if rollout.rewards else "not graded"))
    chips.append(("", "" if rollout.advantage is None else f"advantage {rollout.advantage:+.2f}"))
    chips.append((" warn", "truncated" if rollout.truncated else ""))
    facts = "".join(f'<span class="chip{kind}">{text}</span>' for kind, text in chips if text)
    counts = ((rollout.guidance_tokens, "given"), (rollout.generated_tokens, "generated"))
    tokens = " + ".join(f"{number} {what}" for number, what in counts if number)
    if tokens:
        facts += f'<span class="note">{tokens} tokens</span>'
    guidance = f'<mark class="guidance">{_shortened(rollout.guidance)}</mark>' if rollout.guidance else ""
    hint = ""
    if rollout.hinted:
        # The answer does not go on from a hint: the two stand apart.
        hint = f'<div class="hint"><div class="role">hint</div><div class="text">{guidance}</div></div>'
        guidance = ""
    return (
        f'<div class="rollout"><div class="chips">{facts}</div>{hint}'
        f'<div class="text">{guidance}<span class="generated">{_shortened(rollout.generated)}</span></div></div>'
    )


def _place(rollout: RolloutRecord) -> str:
    """Where the guidance stood, and the attempt of the ladder; "" for what needs no word (HTML)."""
    parts = []
    if rollout.hinted:
        parts.append("hint in the prompt")
    elif rollout.stage and rollout.guidance:
        parts.append("start of the answer given")
    if rollout.stage:
        parts.append(f"stage {rollout.stage}")
    if parts and rollout.omega is not None:
        parts.append(f"ω = {rollout.omega:.3g}")
    return ", ".join(parts)


def _shortened(text: str) -> str:
    """Escaped text, the middle of a very long one left out."""
    if len(text) <= HEAD + TAIL:
        return escape(text)
    left_out = len(text) - HEAD - TAIL
    return f'{escape(text[:HEAD])}<span class="cut">… {left_out} characters left out …</span>{escape(text[-TAIL:])}'
