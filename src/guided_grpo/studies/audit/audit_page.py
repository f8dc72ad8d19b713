"""The page of an audit: advice first, then the figures that it stands on. Self-contained, like the report's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml
from plotly.offline import get_plotlyjs

from guided_grpo.studies.audit import charts as figures
from guided_grpo.studies.audit.against import Comparison
from guided_grpo.studies.audit.estimates import Climbing, Estimates
from guided_grpo.studies.audit.rules import Advice
from guided_grpo.studies.report.assets import SCRIPT, STYLE
from guided_grpo.studies.report.page import content_policy, script_json

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


def audit_page(title: str, found: Estimates, advice: Advice, comparisons: Sequence[Comparison]) -> str:
    """The page as text."""
    drawn: dict[str, Any] = {}
    size = advice.cell.group if advice.cell else max(cell.group for cell in found.cells)
    placements = list(dict.fromkeys(point.setting.placement for point in found.points if point.setting.amount))
    parts = [_advice(advice), _measured(found)]
    cards = [_card(drawn, f"success-{one}", f"Success with a {one}", figures.success(found, one)) for one in placements]
    parts.append(_section("Does guidance raise success?", SUCCESS, figures.tier_key(found), cards, wide=True))
    cards = [
        _card(drawn, f"zero-{one}-{group}", f"Groups of {group}, {one}", figures.zero(found, one, group, advice.cell))
        for one in placements
        for group in sorted({cell.group for cell in found.cells})
    ]
    wide = len(found.points) > WIDE * len(placements) + 1
    parts.append(_section("How many groups would teach nothing?", ZERO, figures.zero_key(), cards, wide=wide))
    cards = []
    for one in placements:
        cards.append(_card(drawn, f"variance-{one}", f"Reward variance, {one}", figures.variance(found, one, size)))
        cards.append(
            _card(drawn, f"alone-{one}", f"Advantage of unguided rollouts, {one}", figures.alone(found, one, size))
        )
    parts.append(_section("How much is there to learn from?", VARIANCE, figures.alpha_key(found, size), cards))
    cards = []
    for one in placements:
        cards.append(
            _card(drawn, f"tokens-{one}", f"Tokens of a group of {size}, {one}", figures.tokens(found, one, size))
        )
        cards.append(_card(drawn, f"waste-{one}", f"Tokens without a signal, {one}", figures.waste(found, one, size)))
    parts.append(_section("What does it cost?", COST, figures.alpha_key(found, size), cards))
    if found.ladders:
        cards = [
            _plain_card(f"Ladder of {one}es" if one == "prefix" else "Ladder of hints", _ladder(climbs))
            for one, climbs in found.ladders.items()
        ]
        parts.append(_section("What would the rescue ladder do?", LADDER, "", cards, wide=True))
    if comparisons:
        table = _plain_card("Predicted and measured", _against(comparisons))
        parts.append(_section("Did it come true?", AGAINST, "", [table], wide=True))
    return _document(title, "".join(parts), drawn)


def _document(title: str, body: str, drawn: Mapping[str, Any]) -> str:
    scripts = (get_plotlyjs(), SCRIPT)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{content_policy(scripts)}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Audit: {escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>Can guidance help?</h1><p class="lead">{escape(title)}</p></header>\n'
        f'<main><p id="failure" role="alert"></p>{body}</main>\n<footer>{FOOTER}</footer>\n'
        f'<script type="application/json" id="figures">{script_json(drawn)}</script>\n'
        f"<script>{scripts[0]}</script>\n<script>{scripts[1]}</script>\n</body>\n</html>\n"
    )


def _section(heading: str, text: str, key: str, cards: Sequence[str], *, wide: bool = False) -> str:
    three = " three" if len(cards) == 3 and not wide else ""
    inside = "".join(card.replace('class="card"', 'class="card wide"', 1) if wide else card for card in cards)
    return (
        f'<section><h2>{heading}</h2><p class="lead">{text}</p>{key}<div class="grid{three}">{inside}</div></section>'
    )


def _card(drawn: dict[str, Any], name: str, heading: str, figure: dict[str, Any]) -> str:
    drawn[f"plot-{name}"] = figure
    height = figure["layout"]["height"]
    plot = f'<div class="plot" id="plot-{name}" style="height:{height}px"></div>'
    return f'<div class="card"><h3>{escape(heading)}</h3>{plot}</div>'


def _plain_card(heading: str, content: str) -> str:
    return f'<div class="card"><h3>{escape(heading)}</h3><div class="scroll">{content}</div></div>'


def _advice(advice: Advice) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in advice.reasons)
    settings = ""
    if advice.settings:
        text = yaml.safe_dump(dict(advice.settings), sort_keys=False, allow_unicode=True)
        settings = f'<div class="rollout text">{escape(text.strip())}</div>'
    colour = "good" if advice.settings else "warn"
    return (
        f'<section><h2>Advice</h2><div class="card"><h3><span class="chip {colour}">{escape(advice.verdict)}</span> '
        f"{escape(advice.headline)}</h3><ul>{reasons}</ul>{settings}</div></section>"
    )


def _measured(found: Estimates) -> str:
    tiers = list(found.tiers)
    names = ["success", "95 % interval", *tiers, "gain", "given", "written", "no answer", "cut off", "states answer"]
    rows = []
    for point in found.points:
        gain = (
            ""
            if point.gain is None
            else f"{100 * point.gain.mean:+.1f}\u00a0[{100 * point.gain.low:+.1f},\u00a0{100 * point.gain.high:+.1f}]"
        )
        values = [
            f"{point.success.mean:.1%}",
            f"[{point.success.low:.1%},\u00a0{point.success.high:.1%}]",
            *(f"{point.tiers[tier].mean:.1%}" for tier in tiers),
            gain,
            f"{point.given:.0f}",
            f"{point.generated:.0f}",
            f"{point.no_answer:.1%}",
            f"{point.truncated:.1%}",
            f"{point.stated:.0%}" if point.setting.amount else "",
        ]
        rows.append((point.setting.label.replace(" ", "\u00a0"), values))
    text = (
        f"{escape(found.drawn)}. Gain is in points against unguided, paired over problems, at "
        "95 % for all strengths together. Given and written are mean tokens."
    )
    return _section(
        "What was measured?", text, "", [_plain_card("Success by strength", _table(names, rows))], wide=True
    )


def _ladder(climbs: Sequence[Climbing]) -> str:
    stages = [rung.setting.length for rung in climbs[0].rungs]
    names = [
        "difficult",
        *(f"rescued at {stage}" for stage in stages),
        "lost",
        "without signal",
        "calls a step",
        "rollouts a group",
    ]
    rows = [
        (
            f"G = {one.group}",
            [
                f"{one.difficult:.1%}",
                *(f"{rung.rescued:.1%}" for rung in one.rungs),
                f"{one.lost:.1%}",
                f"{one.zero:.1%}",
                f"{one.calls:.2f}",
                f"{one.rollouts:.1f}",
            ],
        )
        for one in climbs
    ]
    return _table(names, rows)


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
    return _table(["steps", "groups", "predicted", "measured", "difference, points"], rows)


def _table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><td class="name">{escape(label)}</td>'
        + "".join(
            f'<td class="number" data-label="{escape(n)}">{escape(v)}</td>' for n, v in zip(names, values, strict=True)
        )
        + "</tr>"
        for label, values in rows
    )
    return f'<table class="stacked"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'
