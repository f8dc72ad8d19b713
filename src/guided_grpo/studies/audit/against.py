"""What was predicted beside what a run then measured, step by step, as long as the policy is still the one audited.

The prediction of a step is that of its problems' tiers at the guidance length that the step used; between two audited
strengths it is interpolated. The run's own log gives length and measured share, its config the order of its problems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from guided_grpo.data.curriculum import MATHS_TIERS, hardness, row_order
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import guided_count
from guided_grpo.guidance.slicing import SHARES
from guided_grpo.store import jsonl, rundir
from guided_grpo.studies.audit.estimates import Table, climb, stages_of
from guided_grpo.studies.audit.trials import GuidanceSetting
from guided_grpo.train.checks import rows_by_column

WINDOWS = ((1, 5), (6, 10), (11, 20), (21, 40))  # steps


@dataclass(frozen=True)
class Window:
    """Mean shares of zero-signal groups over some steps."""

    first: int
    last: int
    groups: int
    predicted: float
    measured: float

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"steps {self.first}–{self.last} ({self.groups} groups): predicted {self.predicted:.1%}, measured "
            f"{self.measured:.1%}, difference {100 * (self.measured - self.predicted):+.1f} points"
        )


@dataclass(frozen=True)
class Comparison:
    """One run."""

    run: str
    method: str
    predicted: tuple[float, ...]  # by step
    measured: tuple[float, ...]
    windows: tuple[Window, ...]


def compare(table: Table, run: Path, *, tiers: Mapping[Any, str], sizes: Mapping[str, int]) -> Comparison:
    """Prediction against the metrics of `run`.

    Args:
        table: the trials.
        run: a run directory.
        tiers: difficulty → tier, of the audit's data; problems of another difficulty count as average.
        sizes: tier → problems of it in the data, which that average is over.

    Raises InputError for a run that the audit cannot speak of.
    """
    config = _config(run)
    steps = [row for row in jsonl.whole_rows(run / rundir.METRICS) if row.get("signal/zero_groups") is not None]
    size = int(config["num_generations"])
    settings, zero = (_ladder if config.get("guidance_trigger") == "rescue" else _levels)(table, config, run, size)
    weights = [sizes[tier] for tier in table.names]
    for one in zero:
        one[""] = float(np.average([one[tier] for tier in table.names], weights=weights))
    amounts = [setting.amount for setting in settings]
    predicted = []
    for step, batch in zip(steps, _batches(config, len(steps), tiers), strict=False):
        length = float(step.get("guidance/length") or 0.0) if len(settings) > 1 else amounts[0]
        at = {tier: float(np.interp(length, amounts, [one[tier] for one in zero])) for tier in (*table.names, "")}
        predicted.append(float(np.mean([at.get(tier, at[""]) for tier in batch])))
    measured = [float(step["signal/zero_groups"]) for step in steps[: len(predicted)]]
    per_step = int(config.get("generation_batch_size") or size) // size
    windows = _windows(predicted, measured, per_step)
    return Comparison(str(run), str(config.get("method")), tuple(predicted), tuple(measured), windows)


Levels = tuple[list[GuidanceSetting], list[dict[str, float]]]  # strengths, and the share of each tier at each


def _levels(table: Table, config: Mapping[str, Any], run: Path, size: int) -> Levels:
    """Groups with guidance from the start: α may be 0."""
    settings, guided = [table.unguided], 0
    if config.get("guidance_strength", "none") != "none":
        for name, value in (("guidance_allocation", "spread"), ("guidance_trigger", "both")):
            if config.get(name) == value:
                raise InputError("is not predicted", file=run, field=name, value=value, fix="leave that run out")
        guided = guided_count(size, float(config["guidance_ratio"]))
    if guided:
        placement, unit = config["guidance_placement"], config["guidance_unit"]
        settings += [one for one in table.guided if (one.placement, one.unit) == (placement, unit)]
        if len(settings) == 1:
            raise InputError(
                f"guides by {placement} in {unit}, which was not audited", file=run, field="guidance_unit",
                value=unit, fix=f"audit with --placement {placement} --unit {unit}",
            )  # fmt: skip
    return settings, [table.zero_by_tier(one, guided if one.amount else 0, size) for one in settings]


def _ladder(table: Table, config: Mapping[str, Any], run: Path, size: int) -> Levels:
    """Groups that are sampled again when they fail."""
    unit, placement = SHARES[config["rescue_slice"]], config["guidance_placement"]
    stages = [one for one in stages_of(table, placement) if one.unit == unit]
    same = config["rescue_strength"] == "stages" and [one.amount for one in stages] == config["rescue_stages"]
    if not same or config["guidance_ratio"] != 1.0 or config["rescue_cold_start"]:
        raise InputError(
            "is predicted only for whole groups, the stages .25 .5 .75, audited, and no cold start", file=run,
            field="guidance_trigger", value="rescue", fix=f"audit with --placement {placement} --unit {unit}",
        )  # fmt: skip
    return [table.unguided], [table.shrunk(climb(table, stages, size)[2])]


def pooled(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Several runs of one method as one: a single run's shares are coarse. Methods of one run are left out."""
    by_method: dict[str, list[Comparison]] = defaultdict(list)
    for one in comparisons:
        by_method[one.method].append(one)
    return [
        Comparison(f"all {len(runs)} runs of {method}", method, (), (), _pool(runs))
        for method, runs in by_method.items()
        if len(runs) > 1
    ]


def _pool(runs: Sequence[Comparison]) -> tuple[Window, ...]:
    windows = []
    for first, _ in WINDOWS:
        parts = [window for run in runs for window in run.windows if window.first == first]
        groups = sum(part.groups for part in parts)
        if groups:
            predicted = sum(part.predicted * part.groups for part in parts) / groups
            measured = sum(part.measured * part.groups for part in parts) / groups
            windows.append(Window(first, max(part.last for part in parts), groups, predicted, measured))
    return tuple(windows)


def _windows(predicted: Sequence[float], measured: Sequence[float], per_step: int) -> tuple[Window, ...]:
    windows = []
    for first, last in WINDOWS:
        shares = predicted[first - 1 : last]
        if shares:
            end, groups = first + len(shares) - 1, len(shares) * per_step
            windows.append(
                Window(first, end, groups, float(np.mean(shares)), float(np.mean(measured[first - 1 : last])))
            )
    return tuple(windows)


def _config(run: Path) -> dict[str, Any]:
    path = run / rundir.CONFIG
    if not path.exists():
        raise InputError("holds no config.yaml of a run", file=run, field="against", fix="name a run directory")
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config


def _batches(config: Mapping[str, Any], steps: int, tiers: Mapping[Any, str]) -> list[list[str]]:
    """Tiers of the problems of each step, in the run's own order."""
    rows = load_rows(
        config["train_data"],
        mapping=config.get("data_mapping"),
        split=config.get("data_split", "train"),
        limit=config.get("data_limit"),
        reader=config.get("data_reader"),
    )
    curriculum = str(config.get("curriculum", "none"))
    if curriculum == "adaptive":
        order = None  # follows rewards: not known beforehand
    else:
        hard = hardness(curriculum, rows_by_column(rows), config.get("curriculum_tiers") or MATHS_TIERS)
        shuffled = config.get("shuffle_dataset", True) or curriculum == "random"
        order = row_order(len(rows), hard, int(config.get("seed", 42)) if shuffled else None)
    per_step = int(config.get("generation_batch_size") or config["num_generations"]) // int(config["num_generations"])
    difficulties = rows["difficulty"] if "difficulty" in rows.column_names else [None] * len(rows)
    by_row = [tiers.get(value, "") for value in difficulties]
    batches: list[list[str]] = []
    for epoch in range(1 + steps // max(1, len(rows) // per_step)):
        epoch_tiers = [""] * len(rows) if order is None else [by_row[place] for place in order(epoch)]
        batches += [epoch_tiers[n : n + per_step] for n in range(0, len(epoch_tiers) - per_step + 1, per_step)]
    return batches[:steps]
