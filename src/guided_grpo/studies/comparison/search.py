"""The small search that every variant of a comparison gets before its figure is measured.

    search: {learning_rate: [5.0e-5, 1.0e-4]}   for every variant; a variant's own `search` stands in its place
    search_data: chains:…,seed=555              held-out problems apart from those of the figure
    search_seed: 100                            a seed apart from those of the figure
    search_share: 0.3                           of each budget that the variant has

Each point of the grid is one run. The highest unguided accuracy after it wins, of equal ones the first; all seeds of
the variant then train with its values. What was chosen stays chosen (search.json), also where a run that failed would
succeed the next time. Published baselines fell to weak settings (arXiv 2604.23747): without a search, a comparison is
one of settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.studies.comparison.measured import BUDGETS

FOLDER, FILE = "search", "search.json"
MOST = 32  # points of a variant's grid
FIELDS = ("search", "search_data", "search_seed", "search_share")  # of a plan
_WHOLE = ("max_generated_tokens", "max_steps")  # numbers of a budget that are whole
_OURS = {*BUDGETS, "seed", "output_dir", "eval_data"}  # what a search sets itself
Values = Mapping[str, Any]  # field → value
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Search:
    """What a plan says of its search. A variant without a grid is not searched."""

    grids: Mapping[str, Grid]  # by variant
    data: str = ""
    seed: int = 100
    share: float = 0.3

    def to_json(self, variant: str) -> dict[str, Any]:
        """What decides a variant's choice besides its runs: it is made anew where this differs."""
        grid = {name: list(values) for name, values in self.grids[variant].items()}
        return {"grid": grid, "data": self.data, "seed": self.seed, "share": self.share}


def read_search(plan: Mapping[str, Any], path: Path, variants: Sequence[str], seeds: Sequence[int]) -> Search:
    """The search of these variants. Raises InputError, in one line, for what cannot be searched.

    Args:
        plan: as it is written.
        path: of the plan, for messages.
        variants: those that run.
        seeds: of the figure.
    """
    if "search" in (plan.get("common") or {}):
        raise InputError("is no field of a run", file=path, field="common.search", fix="write search at the top level")
    grids = {}
    for name in variants:
        own = plan["variants"][name] or {}
        field = f"variants.{name}.search" if "search" in own else "search"
        grid = own["search"] if "search" in own else plan.get("search")
        if grid:
            grids[name] = _grid(grid, path, field)
    seed, share = plan.get("search_seed", Search.seed), plan.get("search_share", Search.share)
    if type(seed) is not int:
        raise InputError("is no seed", file=path, field="search_seed", value=seed, fix="write a whole number")
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise InputError("is no share", file=path, field="search_share", value=share, fix="write a number in (0, 1]")
    data = plan.get("search_data")
    if not grids:
        return Search({}, str(data or ""), seed, share)
    if not data:
        fix = "name held-out problems that the figure does not ask"
        raise InputError("is missing", file=path, field="search_data", fix=fix)
    if seed in seeds:
        raise InputError("is a seed of the figure", file=path, field="search_seed", value=seed, fix="use another one")
    return Search(grids, str(data), seed, share)


def _grid(grid: Any, path: Path, field: str) -> Grid:
    example = "write learning_rate: [5.0e-5, 1.0e-4]"
    if not isinstance(grid, dict):
        raise InputError("is no grid", file=path, field=field, value=grid, fix=example)
    for name, values in grid.items():
        if name in _OURS:
            fix = f"leave it out: the search sets {', '.join(sorted(_OURS))} itself"
            raise InputError("cannot be searched", file=path, field=f"{field}.{name}", fix=fix)
        if not isinstance(values, list) or not values:
            raise InputError("is no list of values", file=path, field=f"{field}.{name}", value=values, fix=example)
    names = [label(values) for values in points(grid)]
    if len(names) > MOST:
        fix = f"search at most {MOST} for a variant"
        raise InputError(f"has {len(names)} points", file=path, field=field, fix=fix)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError("is there twice", file=path, field=field, value=twice, fix="name each value once")
    return grid


def points(grid: Grid) -> list[dict[str, Any]]:
    """The values of each run, the last field running fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def label(values: Values) -> str:
    """A point as the name of its folder: `learning_rate=0.0001,beta=0.1`."""
    parts = (f"{name}={'+'.join(map(str, v)) if isinstance(v, list) else v}" for name, v in values.items())
    return re.sub(r"[^\w.,=+-]", "-", ",".join(parts))


def shared_budget(training: Any, share: float) -> dict[str, float]:
    """The budgets of a search run.

    Args:
        training: the variant's settings, which has all of `BUDGETS`.
        share: of each of them that is set; whole numbers round up.
    """
    budget = {}
    for name in BUDGETS:
        amount = getattr(training, name)
        if amount > 0 and not (name == "num_train_epochs" and training.max_steps > 0):  # steps go before epochs
            budget[name] = math.ceil(round(amount * share, 6)) if name in _WHOLE else amount * share
    return budget


def choose(candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The values of the best candidate, of equal ones the first; None where none has an accuracy.

    Args:
        candidates: in the grid's order, each with `values`, and `accuracy` where its run finished.
    """
    measured = [candidate for candidate in candidates if candidate.get("accuracy") is not None]
    return dict(max(measured, key=lambda candidate: float(candidate["accuracy"]))["values"]) if measured else None


def chosen(stored: Mapping[str, Any] | None, search: Search, variant: str) -> dict[str, Any] | None:
    """What an earlier start chose for a variant, where it searched the same; None = it is still to be chosen."""
    entry = (stored or {}).get(variant)
    same = entry is not None and all(entry.get(name) == value for name, value in search.to_json(variant).items())
    return entry["best"] if same and entry is not None else None
