"""What finished runs measured, problem by problem, and the tiers of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from guided_grpo.errors import InputError
from guided_grpo.store import jsonl, rundir

ALL = "all"
SEEDS = 3  # from so many on, their spread is taken as known
Tiers = Mapping[str, tuple[float, float]]  # name → lowest and highest difficulty of it
Scores = Sequence[float | None]  # of each problem; None = not graded
BUDGETS = ("max_flops", "max_generated_tokens", "max_train_seconds", "max_steps", "num_train_epochs")
_HELD_OUT = ("eval_data", "eval_limit", "data_split", "data_mapping", "data_reader")  # what decides the problems


@dataclass(frozen=True)
class Measured:
    """What one finished run measured.

    `points` are (tokens generated, accuracies of the problems), ascending; empty where there was no evaluation during
    training.
    """

    seed: int
    problems: object  # equal for runs with the same held-out problems
    before: Scores | None
    after: Scores
    difficulty: Sequence[str]  # "" = the data does not say
    points: list[tuple[float, Scores]]
    budget: Mapping[str, float] = field(default_factory=dict)  # those of `BUDGETS` that are set


def load(result: Mapping[str, Any]) -> Measured:
    """Read the directory of a finished run, from its summary with `run` and `seed`."""
    run = Path(result["run"])
    evaluation = rundir.read_json(run / rundir.EVAL)
    before, after = evaluation["before"], evaluation["after"]
    config = yaml.safe_load((run / rundir.CONFIG).read_text(encoding="utf-8"))
    problems = (len(after["scores"]), *(str(config.get(name)) for name in _HELD_OUT))
    points = _points(run, evaluation.get("between") or before, after, result)
    budget = {name: config[name] for name in BUDGETS if (config.get(name) or 0) > 0}
    scores = before and before["scores"], after["scores"]
    return Measured(result["seed"], problems, *scores, after["difficulty"], points, budget)


def _points(run: Path, first: Any, after: Any, result: Mapping[str, Any]) -> list[tuple[float, Scores]]:
    """Evaluations by generated tokens; `first` is of the policy before the first of them, after any fine-tuning."""
    rows = list(jsonl.whole_rows(run / rundir.EVALS))
    if not rows or first is None:
        return []
    points: list[tuple[float, Scores]] = [(0.0, first["scores"])]
    for row in rows:
        if row["tokens"] > points[-1][0]:
            points.append((float(row["tokens"]), row["scores"]))
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
    return [score if included else None for score, included in zip(scores, inside, strict=True)]


def _number(difficulty: str) -> float:
    try:
        return float(difficulty)
    except ValueError:
        return math.nan  # in no tier


def mean_of(scores: Scores) -> float | None:
    """The mean of what was graded; None where nothing was."""
    graded = [score for score in scores if score is not None]
    return math.fsum(graded) / len(graded) if graded else None


def read_tiers(plan: Mapping[str, Any], path: Path) -> tuple[dict[str, tuple[float, float]], str]:
    """`tiers` and `target` of a plan. Raises InputError for bounds that are no pair, or a target that is no tier."""
    tiers: dict[str, tuple[float, float]] = {}
    mapping = plan.get("tiers") or {}
    if not isinstance(mapping, dict):
        raise InputError("is no mapping", file=path, field="tiers", value=mapping, fix="write hard: [10, 14]")
    for name, bounds in mapping.items():
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
