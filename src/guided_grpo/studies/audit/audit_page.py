"""The page of an audit: advice first, then the figures that it stands on. Self-contained, like the report's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import yaml

from guided_grpo.studies.audit import charts
from guided_grpo.studies.audit.advice import Advice
from guided_grpo.studies.audit.against import Comparison
from guided_grpo.studies.audit.estimates import Climbing, Estimates
from guided_grpo.studies.html import Figure, card, document, grid, plot_box, section, table

SUCCESS = (
    "Guidance is worth its tokens only if the policy can finish what it began: the lines should rise. Whiskers are "
    "95 % intervals over problems. The right start is where the bold line crosses one half."
)
ZERO = (
    "A group teaches nothing when all of its rewards are equal. Each cell is the predicted share of such groups: rows "
    "are shares of guided rollouts (α), columns strengths; plain GRPO is the first column. Dark is good."
)
VARIANCE = (
    "Left, the variance of the rewards inside a group: what an advantage is made of. Dashed is μ(1 − μ), the formula "
    "for an endless group. Right, the price of the shared baseline: the mean advantage of rollouts without guidance."
)
COST = "Guided rollouts are shorter to write, groups without a signal are paid for all the same."
LADDER = (
    "What GHPO's ladder would do to plain groups: a group without a success is sampled again, whole, with 25, then 50, "
    "then 75 % of the trace."
)
AGAINST = (
    "Shares of zero-signal groups that finished runs measured, beside this audit's prediction for the same problems "
    "and the length that the step used. The two part as the policy learns."
)
WIDE = 6  # strengths above which heat maps stand one below the other
FOOTER = (
    "Shares of groups are predicted from the samples of each problem; docs/audit.md says how, and how far to trust it."
)


def audit_page(title: str, estimates: Estimates, advice: Advice, comparisons: Sequence[Comparison]) -> str:
    """The page as text."""
    figures: dict[str, Figure] = {}
    placements = list(dict.fromkeys(point.setting.placement for point in estimates.points if point.setting.amount))
    size = advice.cell.group if advice.cell else max(cell.group for cell in estimates.cells)
    key = charts.alpha_key(estimates, size)
    boxes = {one: plot_box(figures, f"success-{one}", charts.success(estimates, one)) for one in placements}
    success = [card(box, f"Success with a {one}", wide=True) for one, box in boxes.items()]
    zero = _zero(figures, estimates, placements, advice)
    parts = [
        _advice(advice),
        _measured(estimates),
        section("Does guidance raise success?", SUCCESS, charts.tier_key(estimates) + grid(success, wide=True)),
        section("How many groups would teach nothing?", ZERO, charts.zero_key() + zero),
        section("How much is there to learn from?", VARIANCE, key + _signal(figures, estimates, placements, size)),
        section("What does it cost?", COST, key + _cost(figures, estimates, placements, size)),
    ]
    if estimates.ladders:
        names = {"prefix": "Ladder of prefixes", "hint": "Ladder of hints"}
        cards = [card(_ladder(climbs), names[placement], wide=True) for placement, climbs in estimates.ladders.items()]
        parts.append(section("What would the rescue ladder do?", LADDER, grid(cards, wide=True)))
    if comparisons:
        cards = [card(_against(comparisons), "Predicted and measured", wide=True)]
        parts.append(section("Did it come true?", AGAINST, grid(cards, wide=True)))
    return document(f"Audit: {title}", "Can guidance help?", escape(title), "".join(parts), FOOTER, figures)


def _zero(figures: dict[str, Figure], estimates: Estimates, placements: Sequence[str], advice: Advice) -> str:
    wide = len(estimates.points) > WIDE * len(placements) + 1
    cards = []
    for one in placements:
        for size in sorted({cell.group for cell in estimates.cells}):
            box = plot_box(figures, f"zero-{one}-{size}", charts.zero(estimates, one, size, advice.cell))
            cards.append(card(box, f"Groups of {size}, {one}", wide=wide))
    return grid(cards, wide=wide)


def _signal(figures: dict[str, Figure], estimates: Estimates, placements: Sequence[str], size: int) -> str:
    cards = []
    for one in placements:
        inside = charts.by_alpha(
            estimates, one, size, "variance", lambda cell: cell.variance, lambda cell: cell.formula
        )
        alone = charts.by_alpha(estimates, one, size, "mean advantage", lambda cell: cell.unguided_advantage)
        cards.append(card(plot_box(figures, f"variance-{one}", inside), f"Reward variance, {one}"))
        cards.append(card(plot_box(figures, f"alone-{one}", alone), f"Advantage of unguided rollouts, {one}"))
    return grid(cards)


def _cost(figures: dict[str, Figure], estimates: Estimates, placements: Sequence[str], size: int) -> str:
    cards = []
    for one in placements:
        axis, share = "generated tokens", "share of tokens"
        tokens = charts.by_alpha(estimates, one, size, axis, lambda cell: cell.tokens, rangemode="tozero")
        waste = charts.by_alpha(estimates, one, size, share, lambda cell: cell.wasted, **charts.SHARE)
        cards.append(card(plot_box(figures, f"tokens-{one}", tokens), f"Tokens of a group of {size}, {one}"))
        cards.append(card(plot_box(figures, f"waste-{one}", waste), f"Tokens without a signal, {one}"))
    return grid(cards)


def _advice(advice: Advice) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in advice.reasons)
    settings = ""
    if advice.settings:
        text = yaml.safe_dump(dict(advice.settings), sort_keys=False, allow_unicode=True)
        settings = f'<div class="rollout text">{escape(text.strip())}</div>'
    colour = "good" if advice.settings else "warn"
    heading = f'<span class="chip {colour}">{escape(advice.verdict)}</span> {escape(advice.headline)}'
    return f"<section><h2>Advice</h2>{card(f'<ul>{reasons}</ul>{settings}', heading)}</section>"


def _measured(estimates: Estimates) -> str:
    tiers = list(estimates.tiers)
    names = ["success", "95 % interval", *tiers, "gain", "given", "written", "no answer", "cut off", "states answer"]
    rows = []
    for point in estimates.points:
        gain, space = point.gain, "\u00a0"  # which does not break
        values = [
            f"{point.success.mean:.1%}",
            f"[{point.success.low:.1%},{space}{point.success.high:.1%}]",
            *(f"{point.tiers[tier].mean:.1%}" for tier in tiers),
            ""
            if gain is None
            else f"{100 * gain.mean:+.1f}{space}[{100 * gain.low:+.1f},{space}{100 * gain.high:+.1f}]",
            f"{point.given:.0f}",
            f"{point.generated:.0f}",
            f"{point.no_answer:.1%}",
            f"{point.truncated:.1%}",
            f"{point.stated:.0%}" if point.setting.amount else "",
        ]
        rows.append((point.setting.label.replace(" ", "\u00a0"), values))
    text = (
        f"{escape(estimates.words)}. Gain is in points against unguided, paired over problems, at "
        "95 % for all strengths together. Given and written are mean tokens."
    )
    content = card(_numbers(names, rows), "Success by strength", wide=True)
    return section("What was measured?", text, grid([content], wide=True))


def _ladder(climbs: Sequence[Climbing]) -> str:
    stages = [rung.setting.length for rung in climbs[0].rungs]
    rescues = [f"rescued at {stage}" for stage in stages]
    names = ["difficult", *rescues, "lost", "without signal", "calls a step", "rollouts a group"]
    rows = []
    for one in climbs:
        shares = [one.difficult, *(rung.rescued for rung in one.rungs), one.lost, one.zero]
        values = [*(f"{share:.1%}" for share in shares), f"{one.calls:.2f}", f"{one.rollouts:.1f}"]
        rows.append((f"G = {one.group}", values))
    return _numbers(names, rows)


def _against(comparisons: Sequence[Comparison]) -> str:
    rows = []
    for one in comparisons:
        for window in one.windows:
            values = [
                f"{window.first}–{window.last}",
                str(window.groups),
                f"{window.predicted:.1%}",
                f"{window.measured:.1%}",
                f"{100 * (window.measured - window.predicted):+.1f}",
            ]
            rows.append((one.run if window is one.windows[0] else "", values))
    return _numbers(["steps", "groups", "predicted", "measured", "difference, points"], rows)


def _numbers(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A row for each label (text), with its figures."""
    columns = [("", "name"), *((escape(name), "number") for name in names)]
    return table(columns, [(None, [escape(label), *map(escape, values)]) for label, values in rows])
