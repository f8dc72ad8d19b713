"""Before against after by tier, and the rewards of one batch as a heatmap."""

from __future__ import annotations

import math
from collections.abc import Sequence

from guided_grpo.studies.html import Figure, heat_trace, layout, plain, whiskers
from guided_grpo.studies.report.curves import Plot
from guided_grpo.studies.report.logs import (
    SETTINGS,
    GroupRecord,
    HeldOut,
    RolloutRecord,
    Run,
    Score,
    StepSample,
    by_variant,
)

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
    evaluations = [evaluation for run in runs for evaluation in run.evaluations.values()]
    if not evaluations:
        return Plot(identifier, title, text, None, ["Left out: no run holds an evaluation."])
    tiers = list(dict.fromkeys(tier for evaluation in evaluations for tier in evaluation.tiers))
    traces, notes = [], []
    for group in by_variant(runs):
        for when in ("before", "after"):
            scored = [run for run in group if when in run.evaluations]
            if len(scored) > 1:
                mean = _mean_of([run.evaluations[when] for run in scored])
                traces.append(_bars(group[0], when, mean, tiers, group[0].variant))
            elif scored:
                traces.append(_bars(scored[0], when, scored[0].evaluations[when], tiers, scored[0].name))
    if any(len(group) > 1 for group in by_variant(runs)):
        notes.append("Several seeds: the bar is their mean, the whisker spans their own intervals.")
    for when in ("before", "after"):
        without = [run.name for run in runs if when not in run.evaluations]
        if without:
            notes.append(f"No evaluation {when} training: {', '.join(without)}.")
    if len({evaluation.settings for evaluation in evaluations}) > 1:
        notes.append(f"The evaluations differ in their settings ({', '.join(SETTINGS)}): compare them with care.")
    shape = layout("", "unguided accuracy", 340, range=[0, 1.02])
    shape |= {"barmode": "group", "bargap": 0.25, "xaxis": {"type": "category"}}
    figure = {"data": traces, "layout": shape}
    return Plot(identifier, title, text, figure, notes, "pale: before, full: after", wide=True)


def _mean_of(seeds: Sequence[HeldOut]) -> HeldOut:
    """The mean over seeds, from the lowest to the highest end of their intervals: never narrower than either."""

    def mean(scores: Sequence[Score]) -> Score:
        bounds = (min(score.ends[0] for score in scores), max(score.ends[1] for score in scores))
        return Score(math.fsum(score.accuracy for score in scores) / len(scores), bounds, scores[0].problems)

    names = [name for name in seeds[0].tiers if all(name in seed.tiers for seed in seeds)]
    tiers = {name: mean([seed.tiers[name] for seed in seeds]) for name in names}
    return HeldOut(mean([seed.total for seed in seeds]), tiers, seeds[0].settings)


def _bars(run: Run, when: str, evaluation: HeldOut, tiers: Sequence[str], name: str) -> Figure:
    scores = {ALL_PROBLEMS: evaluation.total}
    scores |= {tier: evaluation.tiers[tier] for tier in tiers if tier in evaluation.tiers}
    heights, ends = [score.accuracy for score in scores.values()], [score.ends for score in scores.values()]
    return {
        "type": "bar",
        "name": plain(f"{name} · {when}"),
        "meta": {"run": run.index},
        "offsetgroup": f"{run.index}-{when}",
        "x": [plain(tier) for tier in scores],
        "y": heights,
        "marker": {
            "color": _pale(run.colour) if when == "before" else run.colour,
            "line": {"color": run.colour, "width": 1},
        },
        "error_y": whiskers(heights, ends, thickness=1.3, width=3),
        "text": [_score_text(score) for score in scores.values()],
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
    groups = [group for run in runs for sample in run.samples for group in sample.groups]
    rewards = [rollout.reward for group in groups for rollout in group.rollouts if rollout.reward is not None]
    return min([0.0, *rewards]), max([1.0, *rewards])


def heatmap(run: Run, sample: StepSample, scale: tuple[float, float]) -> Figure:
    """Rows are groups, columns rollouts: the guided ones first, a gap, then the unguided, each in its order."""
    groups = sample.groups[:MAX_GROUPS]
    traces, marks, left = [], [], 0.0
    for label in ("guided", "unguided"):
        rows = [group.arm(label == "guided") for group in groups]
        columns = max(map(len, rows), default=0)
        if columns:
            traces.append(_cells(run, groups, rows, columns, left, label, scale))
            place = {"x": left + (columns - 1) / 2, "xref": "x", "y": 0, "yref": "paper", "yanchor": "top"}
            marks.append({"text": label, **place, "showarrow": False})
            left = columns + ARM_GAP
    ticks = range(0, len(groups), math.ceil(len(groups) / MAX_TICKS)) if groups else range(0)
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
    groups: Sequence[GroupRecord],
    rows: Sequence[Sequence[RolloutRecord]],
    columns: int,
    left: float,
    label: str,
    scale: tuple[float, float],
) -> Figure:
    padding: list[list[None]] = [[None] * (columns - len(row)) for row in rows]
    texts = [
        [_cell_text(group, label, column, rollout) for column, rollout in enumerate(row)]
        for group, row in zip(groups, rows, strict=True)
    ]
    return heat_trace(
        [[*(rollout.reward for rollout in row), *rest] for row, rest in zip(rows, padding, strict=True)],
        REWARD_COLOURS,
        name=label,
        meta={"run": run.index},
        x0=left,
        dx=1,
        y=list(range(len(groups))),
        text=[[*row, *("" for _ in rest)] for row, rest in zip(texts, padding, strict=True)],
        hoverinfo="text",
        zmin=scale[0],
        zmax=scale[1],
    )


def _cell_text(group: GroupRecord, label: str, column: int, rollout: RolloutRecord) -> str:
    reward = "not graded" if rollout.reward is None else f"reward {rollout.reward:.3g}"
    advantage = "" if rollout.advantage is None else f" · advantage {rollout.advantage:+.2f}"
    stage = f" · stage {rollout.stage}" if rollout.stage else ""
    return f"group {group.index} · {label} rollout {column + 1}{stage}<br>{reward}{advantage}"


def batch_summary(sample: StepSample) -> str:
    """One line on a sampled batch: mean reward by arm, and how many groups carry a signal."""
    means = []
    for label in ("guided", "unguided"):
        rollouts = [rollout for group in sample.groups for rollout in group.arm(label == "guided")]
        rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
        if rewards:
            means.append(f"{math.fsum(rewards) / len(rewards):.2f} {label}")
    parts = [f"mean reward {', '.join(means)}"] if means else []
    signal = sum(group.has_signal for group in sample.groups)
    parts.append(f"{signal} of {len(sample.groups)} groups carry a signal")
    if len(sample.groups) > MAX_GROUPS:
        parts.append(f"first {MAX_GROUPS} groups shown")
    return " · ".join(parts)
