"""What finished runs measured, problem by problem, and the tiers of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from guided_grpo.errors import InputError
from guided_grpo.store import jsonl, rundir

ALL = "all"
SEEDS = 3  # from so many on, their spread is taken as known
Tiers = Mapping[str, tuple[float, float]]  # name → lowest and highest difficulty of it
Scores = Sequence[float | None]  # of each problem; None = not graded
_HELD_OUT = ("eval_data", "eval_limit", "data_split", "data_mapping", "data_reader")  # what decides the problems


@dataclass(frozen=True)
class Measured:
    """What one finished run measured.

    `points` are (tokens generated, accuracies of the problems), ascending; empty where there was no evaluation during
    training. `difficulty` is "" where it is not known.
    """

    seed: int
    problems: object  # equal for runs with the same held-out problems
    before: Scores | None
    after: Scores
    difficulty: Sequence[str]
    points: list[tuple[float, Scores]]


def load(result: Mapping[str, Any], difficulty: Sequence[str] | None = None) -> Measured:
    """Read the directory of a finished run.

    Args:
        result: its summary, with `run` and `seed`.
        difficulty: of each held-out problem, for runs from before eval.json held it.
    """
    run = Path(result["run"])
    evaluation = rundir.read_json(run / rundir.EVAL)
    before, after = evaluation["before"], evaluation["after"]
    count = len(after["scores"])
    known = after.get("difficulty") or difficulty or ()
    if len(known) != count:
        known = [""] * count
    config = yaml.safe_load((run / rundir.CONFIG).read_text(encoding="utf-8")) if (run / rundir.CONFIG).exists() else {}
    problems = (count, *(str(config.get(name)) for name in _HELD_OUT))
    points = _points(run, before, after, result)
    return Measured(result["seed"], problems, before and before["scores"], after["scores"], known, points)


def _points(run: Path, before: Any, after: Any, result: Mapping[str, Any]) -> list[tuple[float, Scores]]:
    """Evaluations by tokens. Rows without them are from older runs: metrics.jsonl knows, and only the mean is known."""
    rows = list(jsonl.whole_rows(run / rundir.EVALS))
    if not rows or before is None:
        return []
    log = {row["step"]: row.get("tokens/generated_total") for row in jsonl.whole_rows(run / rundir.METRICS)}
    points: list[tuple[float, Scores]] = [(0.0, before["scores"])]
    for row in rows:
        tokens = row.get("tokens", log.get(row["step"]))
        if tokens is not None and tokens > points[-1][0]:
            points.append((float(tokens), row.get("scores") or [row["accuracy"]]))
    end = float(result["tokens_generated"])
    if points[-1][0] >= end:  # the last step was evaluated twice: the final figure counts
        points.pop()
    return [*points, (end, after["scores"])]


def of_tier(scores: Scores, difficulty: Sequence[str], bounds: tuple[float, float] | None) -> Scores:
    """The scores of a tier's problems, in place: the others become None. All of them where `bounds` is None."""
    if bounds is None:
        return scores
    low, high = bounds
    inside = [low <= number <= high for number in map(_number, difficulty)]
    return [score if kept else None for score, kept in zip(scores, inside, strict=True)]


def _number(difficulty: str) -> float:
    try:
        return float(difficulty)
    except ValueError:
        return math.nan  # in no tier


def mean_of(scores: Scores) -> float | None:
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known else None


def read_tiers(plan: Mapping[str, Any], path: Path) -> tuple[dict[str, tuple[float, float]], str]:
    """`tiers` and `target` of a plan. Raises InputError for bounds that are no pair, or a target that is no tier."""
    tiers: dict[str, tuple[float, float]] = {}
    given = plan.get("tiers") or {}
    if not isinstance(given, dict):
        raise InputError("is no mapping", file=path, field="tiers", value=given, fix="write hard: [10, 14]")
    for name, bounds in given.items():
        ends = bounds if isinstance(bounds, list) else []
        numbers = [float(end) for end in ends if type(end) in (int, float)]
        if len(ends) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
            raise InputError(
                "is no range of difficulties", file=path, field=f"tiers.{name}", value=bounds,
                fix="write [LOWEST, HIGHEST], both included",
            )  # fmt: skip
        if name == ALL:
            raise InputError("means every problem", file=path, field="tiers", value=ALL, fix="choose another name")
        tiers[str(name)] = (numbers[0], numbers[1])
    target = str(plan.get("target") or ALL)
    if target != ALL and target not in tiers:
        raise InputError(
            "is no tier of the plan", file=path, field="target", value=target, fix=f"use {', '.join([ALL, *tiers])}"
        )
    return tiers, target
