"""Sample rollouts as HTML: guidance set apart from generated text. Everything from a run is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from guided_grpo.studies.report.runs import Run
from guided_grpo.studies.report.samples import Group, Rollout, Sample

GROUPS_SHOWN = 3
PER_ARM_SHOWN = 2
NO_SAMPLES = '<p class="note">Left out: no run holds sampled rollouts.</p>'
HEAD, TAIL = 2500, 1500  # characters kept of a longer text


def rollouts_section(runs: Sequence[Run]) -> str:
    """One foldable block per run, the first one open, with its first and last sampled step side by side."""
    blocks: list[str] = []
    for run in runs:
        if run.samples:
            samples = "".join(_sample(sample) for sample in run.samples)
            blocks.append(
                f'<details class="card run" data-run="{run.index}"{"" if blocks else " open"}>'
                f'<summary><span class="swatch" style="background:{run.colour}"></span>{escape(run.name)}</summary>'
                f'<div class="pair">{samples}</div></details>'
            )
    if not blocks:
        return NO_SAMPLES
    return "".join(blocks)


def _sample(sample: Sample) -> str:
    groups = "".join(_group(group) for group in sample.groups[:GROUPS_SHOWN])
    shown = min(GROUPS_SHOWN, len(sample.groups))
    return (
        f'<div class="sample"><h4>Step {sample.step} <small>first {shown} of {len(sample.groups)} groups</small></h4>'
        f"{groups}</div>"
    )


def _group(group: Group) -> str:
    shown = _extremes(group.guided) + _extremes(group.unguided)
    messages = "".join(
        (f'<div class="role">{escape(role)}</div>' if role else "") + f'<div class="text">{_shortened(text)}</div>'
        for role, text in group.prompt
    )
    facts = [f"<dt>Answer</dt><dd>{_shortened(group.answer)}</dd>"] if group.answer else []
    if group.difficulty:
        facts.append(f"<dt>Difficulty</dt><dd>{escape(group.difficulty)}</dd>")
    count = f"{len(shown)} of {len(group.rollouts)} rollouts: the best and the worst of each arm"
    if len(shown) == len(group.rollouts):
        count = f"all {len(shown)} rollouts"
    return (
        f'<article class="group"><h5>Group {group.index}</h5><div class="prompt">{messages}</div>'
        f'<dl>{"".join(facts)}</dl><p class="note">{count}</p>{"".join(_rollout(rollout) for rollout in shown)}'
        "</article>"
    )


def _extremes(rollouts: list[Rollout]) -> list[Rollout]:
    """Best and worst by reward, so that success and failure can be compared; the earlier one where they tie."""
    if len(rollouts) <= PER_ARM_SHOWN:
        return rollouts
    ranked = sorted(rollouts, key=lambda rollout: -(rollout.reward or 0.0))
    return [ranked[0], ranked[-1]]


def _rollout(rollout: Rollout) -> str:
    arm = "guided" if rollout.guided else "unguided"
    chips = [f'<span class="chip arm-{arm}">{arm}</span>']
    given = _how_given(rollout)
    if given:
        chips.append(f'<span class="chip">{given}</span>')
    for name, value in rollout.rewards.items():
        tone = " good" if value > 0 else ""
        chips.append(f'<span class="chip{tone}">{escape(name)} {value:.3g}</span>')
    if not rollout.rewards:
        chips.append('<span class="chip">not graded</span>')
    if rollout.advantage is not None:
        chips.append(f'<span class="chip">advantage {rollout.advantage:+.2f}</span>')
    if rollout.truncated:
        chips.append('<span class="chip warn">truncated</span>')
    counts = [
        f"{number} {what}"
        for number, what in ((rollout.guidance_tokens, "given"), (rollout.generated_tokens, "generated"))
        if number
    ]
    tokens = f'<span class="note">{" + ".join(counts)} tokens</span>' if counts else ""
    guidance = f'<mark class="guidance">{_shortened(rollout.guidance)}</mark>' if rollout.guidance else ""
    hint = ""
    if rollout.hinted:
        # The answer does not go on from a hint: the two stand apart.
        hint = f'<div class="hint"><div class="role">hint</div><div class="text">{guidance}</div></div>'
        guidance = ""
    generated = f'<span class="generated">{_shortened(rollout.generated)}</span>'
    return (
        f'<div class="rollout"><div class="chips">{"".join(chips)}{tokens}</div>{hint}'
        f'<div class="text">{guidance}{generated}</div></div>'
    )


def _how_given(rollout: Rollout) -> str:
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
