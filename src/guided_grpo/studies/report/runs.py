"""What a report knows of one run: configuration, metrics by step, evaluation, sampled rollouts. loading.py reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guided_grpo.studies.report.samples import Sample

# Okabe and Ito's colours that show on white and on black, then some of Tol's; they repeat after fourteen variants.
PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c8c8c",
    "#aa4499",
    "#999933",
    "#6f6fd8",
    "#117733",
    "#ee6677",
    "#882255",
    "#44aa99",
)
SEED = re.compile(r"[-_/ ]?seed[-_=]?\d+$")  # at the end of a run's name: such runs are one variant
ATTEMPT = re.compile(r"rescue/([1-9]\d*)")  # share of the groups that this attempt on the ladder rescued
SETTINGS = ("problems", "samples", "temperature", "top_p", "top_k")


@dataclass(frozen=True)
class Score:
    """Accuracy on a set of problems with its interval, where one was recorded."""

    accuracy: float
    interval: tuple[float, float] | None
    problems: int | None


@dataclass(frozen=True)
class Evaluation:
    """One unguided evaluation: over all problems, by tier, and the settings it was sampled with."""

    total: Score
    tiers: dict[str, Score]
    settings: tuple[float | None, ...]  # in the order of SETTINGS


@dataclass(frozen=True)
class Points:
    """One metric of one run where it is recorded and finite; `lost` counts NaN and infinite values."""

    x: list[float]
    y: list[float]
    lost: int


@dataclass(frozen=True)
class RunWarning:
    """What the run said of itself while it trained. `step` is None where the row has none."""

    step: int | None
    kind: str
    message: str


@dataclass(frozen=True)
class Run:
    """One run directory, ready to plot. `index` is its place on the page and stays its identity in every plot.

    Runs whose names differ in the seed alone are one variant, with one `group`: one colour, one button, one mean curve.
    """

    index: int
    name: str
    config: Mapping[str, Any]
    metrics: list[dict[str, float]]  # ascending steps, each step once
    before: Evaluation | None
    after: Evaluation | None
    samples: list[Sample]  # first and last sampled step; one if they are the same
    notes: list[str]
    warnings: list[RunWarning]
    summary: Mapping[str, float]  # what summary.json holds of SUMMARY_KEYS
    group: int = 0  # place of its variant on the page

    @property
    def colour(self) -> str:
        """The run's colour in every plot, that of its variant."""
        return PALETTE[self.group % len(PALETTE)]

    @property
    def variant(self) -> str:
        """The name without the seed."""
        return SEED.sub("", self.name) or self.name

    @property
    def has_ladder(self) -> bool:
        """Whether groups without a success were sampled again with a hint."""
        return any(map(on_ladder, self.metrics))

    def points(self, key: str, over: str | None = None) -> Points:
        """`key` against the optimizer step; as a share of `over` where one is named."""
        recorded = [
            (record["step"], record[key] if over is None else record[key] / record[over])
            for record in self.metrics
            if key in record and (over is None or record.get(over))
        ]
        return _finite(recorded)

    def points_by_tokens(self, key: str) -> Points:
        """`key` against the tokens generated since the start of the run."""
        recorded: list[tuple[float, float]] = []
        total = 0.0
        for record in self.metrics:
            total = record.get("tokens/generated_total", total + record.get("tokens/generated", 0.0))
            if key in record and ("tokens/generated_total" in record or "tokens/generated" in record):
                recorded.append((total, record[key]))
        return _finite(recorded)

    @property
    def generated_tokens(self) -> float | None:
        """Tokens generated over the whole run, None where they were not recorded."""
        if any("tokens/generated_total" in record for record in self.metrics):
            return max(record.get("tokens/generated_total", 0.0) for record in self.metrics)
        return self.total("tokens/generated")

    def total(self, key: str) -> float | None:
        """Sum of `key` over the steps, None where no step records it."""
        values = [record[key] for record in self.metrics if key in record]
        return math.fsum(values) if values else None


def on_ladder(record: Mapping[str, float]) -> bool:
    """Whether a step's record has any metric of the rescue ladder: it lacks them during the cold start."""
    return any(key.startswith("rescue/") for key in record)


def _finite(recorded: list[tuple[float, float]]) -> Points:
    kept = [(x, y) for x, y in recorded if math.isfinite(x) and math.isfinite(y)]
    return Points([x for x, _ in kept], [y for _, y in kept], len(recorded) - len(kept))


def by_variant(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each variant, in the order of their first ones."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return list(groups.values())
