"""Before against after by tier, and the rewards of one batch as a heatmap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from guided_grpo.studies.report.curves import Plot, plain
from guided_grpo.studies.report.runs import SETTINGS, Evaluation, Run, Score, by_variant
from guided_grpo.studies.report.samples import Group, Rollout, Sample

MAX_GROUPS = 64  # rows of a heatmap
MAX_TICKS = 8
ARM_GAP = 0.5  # columns between guided and unguided rollouts
# The upper part of Cividis: readable with any colour vision, and its dark end still shows on a dark page.
REWARD_COLOURS = ("#31446b", "#666870", "#958f78", "#cab969", "#ffea46")
ALL_PROBLEMS = "all problems"


def tiers_plot(runs: Sequence[Run]) -> Plot:
    """Unguided accuracy before and after training, over all problems and by tier, with the recorded intervals."""
    identifier, title = "tiers", "Accuracy alone, before and after"
    text = (
        "Accuracy on held-out problems without any guidance: the result that counts. Whiskers are 95 % intervals; "
        "where a run's before and after whiskers do not overlap, the change is more than chance."
    )
    moments = [
        (run, label, evaluation)
        for run in runs
        for label, evaluation in (("before", run.before), ("after", run.after))
        if evaluation is not None
    ]
    if not moments:
        return Plot(identifier, title, text, None, ["Left out: no run holds an evaluation."])
    tiers = list(dict.fromkeys(tier for _, _, evaluation in moments for tier in evaluation.tiers))
    traces, notes = [], []
    for group in by_variant(runs):
        for label in ("before", "after"):
            seeds = [evaluation for run, when, evaluation in moments if run in group and when == label]
            if len(seeds) > 1:
                traces.append(_bars(group[0], label, _mean_of(seeds), tiers, group[0].variant))
            elif seeds:
                [owner] = [run for run, when, _ in moments if run in group and when == label]
                traces.append(_bars(owner, label, seeds[0], tiers, owner.name))
    if any(len(group) > 1 for group in by_variant(runs)):
        notes.append("Several seeds: the bar is their mean, the whisker spans their own intervals.")
    for label, side in (("before", "before"), ("after", "after")):
        without = [run.name for run in runs if (run.before if side == "before" else run.after) is None]
        if without:
            notes.append(f"No evaluation {label} training: {', '.join(without)}.")
    if len({evaluation.settings for _, _, evaluation in moments}) > 1:
        notes.append(f"The evaluations differ in their settings ({', '.join(SETTINGS)}): compare them with care.")
    layout = {
        "barmode": "group",
        "bargap": 0.25,
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": "unguided accuracy"}, "range": [0, 1.02]},
        "hovermode": "closest",
        "height": 340,
    }
    return Plot(
        identifier, title, text, {"data": traces, "layout": layout}, notes, "pale: before, full: after", wide=True
    )


def _mean_of(seeds: Sequence[Evaluation]) -> Evaluation:
    """The mean over seeds, from the lowest to the highest end of their intervals: never narrower than either."""

    def mean(scores: Sequence[Score]) -> Score:
        ends = [score.interval or (score.accuracy, score.accuracy) for score in scores]
        bounds = (min(low for low, _ in ends), max(high for _, high in ends))
        return Score(math.fsum(score.accuracy for score in scores) / len(scores), bounds, scores[0].problems)

    names = [name for name in seeds[0].tiers if all(name in seed.tiers for seed in seeds)]
    tiers = {name: mean([seed.tiers[name] for seed in seeds]) for name in names}
    return Evaluation(mean([seed.total for seed in seeds]), tiers, seeds[0].settings)


def _bars(run: Run, label: str, evaluation: Evaluation, tiers: Sequence[str], name: str) -> dict[str, Any]:
    named: list[tuple[str, Score]] = [(ALL_PROBLEMS, evaluation.total)]
    named += [(tier, evaluation.tiers[tier]) for tier in tiers if tier in evaluation.tiers]
    scores = [score for _, score in named]
    bounds = [score.interval or (score.accuracy, score.accuracy) for score in scores]
    return {
        "type": "bar",
        "name": plain(f"{name} · {label}"),
        "meta": {"run": run.index},
        "offsetgroup": f"{run.index}-{label}",
        "x": [plain(name) for name, _ in named],
        "y": [score.accuracy for score in scores],
        "marker": {
            "color": _pale(run.colour) if label == "before" else run.colour,
            "line": {"color": run.colour, "width": 1},
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - score.accuracy) for score, (_, high) in zip(scores, bounds, strict=True)],
            "arrayminus": [max(0.0, score.accuracy - low) for score, (low, _) in zip(scores, bounds, strict=True)],
            "thickness": 1.3,
            "width": 3,
        },
        "text": [_score_text(score) for score in scores],
        "textposition": "none",
        "hovertemplate": "%{x}<br>%{text}",
    }


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.3)"


def _score_text(score: Score) -> str:
    parts = [f"{score.accuracy:.3f}"]
    if score.interval is not None:
        parts.append(f"[{score.interval[0]:.3f}, {score.interval[1]:.3f}]")
    if score.problems is not None:
        parts.append(f"{score.problems} problems")
    return " · ".join(parts)


def reward_range(runs: Sequence[Run]) -> tuple[float, float]:
    """One colour scale for all heatmaps: 0 to 1, wider only where rewards are."""
    rewards = [
        rollout.reward
        for run in runs
        for sample in run.samples
        for group in sample.groups
        for rollout in group.rollouts
        if rollout.reward is not None
    ]
    return min(0.0, *rewards, 0.0), max(1.0, *rewards, 1.0)


def heatmap(run: Run, sample: Sample, scale: tuple[float, float]) -> dict[str, Any]:
    """Rows are groups, columns rollouts: the guided ones first, a gap, then the unguided, each in its order."""
    groups = sample.groups[:MAX_GROUPS]
    guided = [group.guided for group in groups]
    unguided = [group.unguided for group in groups]
    width = max((len(rollouts) for rollouts in guided), default=0)
    others = max((len(rollouts) for rollouts in unguided), default=0)
    start = width + ARM_GAP if width else 0.0
    ticks = range(0, len(groups), math.ceil(len(groups) / MAX_TICKS)) if groups else range(0)
    traces = []
    marks = []
    for label, arms, columns, left in (("guided", guided, width, 0.0), ("unguided", unguided, others, start)):
        if columns:
            traces.append(_cells(run, groups, arms, columns, left, label, scale))
            marks.append(_mark(label, left, columns))
    return {
        "data": traces,
        "layout": {
            "xaxis": {"visible": False, "fixedrange": True},
            "yaxis": {
                "title": {"text": "group"},
                "autorange": "reversed",
                "fixedrange": True,
                "showgrid": False,
                "zeroline": False,
                "ticklen": 4,
                "tickcolor": "rgba(0,0,0,0)",
                # Rows stand evenly even where a file holds only some groups of the batch.
                "tickvals": list(ticks),
                "ticktext": [str(groups[row].index) for row in ticks],
            },
            "annotations": marks,
            "hovermode": "closest",
            "height": 34 + min(320, max(120, 22 * len(groups))),
            "margin": {"t": 8, "b": 26},
        },
    }


def _cells(
    run: Run,
    groups: Sequence[Group],
    arms: Sequence[Sequence[Rollout]],
    columns: int,
    left: float,
    label: str,
    scale: tuple[float, float],
) -> dict[str, Any]:
    padded = [[*rollouts, *[None] * (columns - len(rollouts))] for rollouts in arms]
    return {
        "type": "heatmap",
        "name": label,
        "meta": {"run": run.index},
        "x0": left,
        "dx": 1,
        "y": list(range(len(groups))),
        "z": [[None if rollout is None else rollout.reward for rollout in row] for row in padded],
        "text": [
            ["" if rollout is None else _cell_text(group, label, column, rollout) for column, rollout in enumerate(row)]
            for group, row in zip(groups, padded, strict=True)
        ],
        "hoverinfo": "text",
        "zmin": scale[0],
        "zmax": scale[1],
        "colorscale": [[place / (len(REWARD_COLOURS) - 1), colour] for place, colour in enumerate(REWARD_COLOURS)],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }


def _cell_text(group: Group, label: str, column: int, rollout: Rollout) -> str:
    reward = "not graded" if rollout.reward is None else f"reward {rollout.reward:.3g}"
    advantage = "" if rollout.advantage is None else f" · advantage {rollout.advantage:+.2f}"
    stage = f" · stage {rollout.stage}" if rollout.stage else ""
    return f"group {group.index} · {label} rollout {column + 1}{stage}<br>{reward}{advantage}"


def _mark(label: str, left: float, columns: int) -> dict[str, Any]:
    return {
        "text": label,
        "x": left + (columns - 1) / 2,
        "xref": "x",
        "y": 0,
        "yref": "paper",
        "yanchor": "top",
        "showarrow": False,
    }


def batch_summary(sample: Sample) -> str:
    """One line on a sampled batch: mean reward by arm, and how many groups carry a signal."""
    means = []
    for label, arms in (
        ("guided", [group.guided for group in sample.groups]),
        ("unguided", [group.unguided for group in sample.groups]),
    ):
        rewards = [rollout.reward for rollouts in arms for rollout in rollouts if rollout.reward is not None]
        if rewards:
            means.append(f"{math.fsum(rewards) / len(rewards):.2f} {label}")
    parts = [f"mean reward {', '.join(means)}"] if means else []
    signal = sum(group.has_signal for group in sample.groups)
    parts.append(f"{signal} of {len(sample.groups)} groups carry a signal")
    if len(sample.groups) > MAX_GROUPS:
        parts.append(f"first {MAX_GROUPS} groups shown")
    return " · ".join(parts)
