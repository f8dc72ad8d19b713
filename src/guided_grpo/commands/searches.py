"""The searches of a comparison, carried out: trials of each variant, and what search.json keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_grpo.commands.queue import QueuedRun
from guided_grpo.commands.runs import load_rows_of
from guided_grpo.errors import InputError
from guided_grpo.store import rundir
from guided_grpo.store.journals import key_of
from guided_grpo.studies.comparison import search as searching
from guided_grpo.studies.comparison.search import Search

_COSTS = ("flops", "tokens_generated", "train_seconds")  # of a trial, in search.json
Fields = Mapping[str, Mapping[str, Any]]  # by variant
Queued = Callable[[str, Path, int, Mapping[str, Any]], QueuedRun]  # of name, folder, seed and fields
Train = Callable[[Sequence[QueuedRun]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Trial:
    """One point of a variant's search."""

    variant: str
    values: Mapping[str, Any]
    run: QueuedRun


class Searches:
    """What is chosen for each variant, as far as it is known.

    Args:
        search: of the plan.
        variants: the fields of each.
        output: of the comparison.
        queued: makes a run.
    """

    def __init__(self, search: Search, variants: Fields, output: Path, queued: Queued) -> None:
        self.search, self._output = search, output
        self.trials = [
            Trial(name, values, _queued_trial(search, name, variants[name], values, output, queued))
            for name, grid in search.grids.items()
            for values in searching.points(grid)
        ]
        self._stored = rundir.read_json(output / searching.FILE) or {}
        self.best = {name: searching.chosen(self._stored, search, name) for name in search.grids}

    @property
    def open_trials(self) -> list[Trial]:
        """Those of variants for which nothing is chosen yet."""
        return [trial for trial in self.trials if self.best[trial.variant] is None]

    @property
    def results(self) -> dict[str, Any]:
        """Of each variant, once all are searched."""
        return {name: self._stored[name] for name in self.search.grids}

    def is_open(self, variant: str) -> bool:
        """Whether the variant is searched, and nothing is chosen for it: yet, or because no trial had an accuracy."""
        return self.best.get(variant, {}) is None

    def applied(self, variants: Fields) -> dict[str, dict[str, Any]]:
        """The variants with what is chosen for them; where it is open the first point stands for it."""
        grids = self.search.grids
        values = {name: best or searching.points(grids[name])[0] for name, best in self.best.items()}
        return {name: {**fields, **values.get(name, {})} for name, fields in variants.items()}

    def run(self, train: Train) -> None:
        """Carry out the open trials and choose."""
        trials = self.open_trials
        if not trials:
            return
        candidates: dict[str, list[dict[str, Any]]] = {}
        for trial, result in zip(trials, train([trial.run for trial in trials]), strict=True):
            entry = {"values": dict(trial.values), "run": result["run"]}
            entry |= {"accuracy": (result.get("after") or {}).get("accuracy")}
            entry |= {name: result[name] for name in (*_COSTS, "error") if name in result}
            candidates.setdefault(trial.variant, []).append(entry)
        for name, entries in candidates.items():
            self.best[name] = searching.choose(entries)
            self._stored[name] = {**self.search.to_json(name), "candidates": entries, "best": self.best[name]}
        self._output.mkdir(parents=True, exist_ok=True)
        path = self._output / searching.FILE
        others = rundir.read_json(path) or {}  # another start may have searched other variants meanwhile
        rundir.write_json(path, {**others, **{name: self._stored[name] for name in candidates}})

    def why_open(self, variant: str) -> str:
        """Why nothing was chosen for a variant, after `run`."""
        errors = [entry["error"] for entry in self._stored[variant]["candidates"] if "error" in entry]
        return f"its search found no accuracy: {errors[0] if errors else 'nothing was evaluated'}"

    def check_apart(self, queue: Sequence[QueuedRun], path: Path, *, by_rows: bool) -> None:
        """Raise InputError where the search would choose on problems of the figure.

        Args:
            queue: runs of the figure.
            path: of the plan.
            by_rows: whether to read the problems; else only names of data are compared.
        """
        looked: set[str] = set()
        for run in queue:
            arguments, data = run.settings.run, self.search.data
            key = repr((arguments.eval_data, arguments.eval_limit, arguments.data_split, arguments.data_mapping))
            if run.variant not in self.search.grids or arguments.eval_data is None or key in looked:
                continue
            looked.add(key)
            fix = "use other problems to search on"
            if arguments.eval_data == data:
                raise InputError("is eval_data too", file=path, field="search_data", value=data, fix=fix)
            if by_rows:
                figure, other = (
                    {key_of(prompt) for prompt in load_rows_of(arguments, source, arguments.eval_limit)["prompt"]}
                    for source in (arguments.eval_data, data)
                )
                if both := len(figure & other):
                    problem = f"has {both} of the {len(figure)} problems of eval_data"
                    raise InputError(problem, file=path, field="search_data", value=data, fix=fix)


def _queued_trial(
    search: Search, name: str, fields: Mapping[str, Any], values: Mapping[str, Any], output: Path, queued: Queued
) -> QueuedRun:
    """The run of one point, on its share of the budgets and the search's own held-out problems."""
    label = searching.label(values)
    folder = output / searching.FOLDER / name / label
    whole = queued(name, folder, search.seed, {**fields, **values})
    budget = searching.shared_budget(whole.settings.training, search.share)
    own = {**fields, **values, **budget, "eval_data": search.data, "eval_every": 0}
    return queued(f"{name} {label}", folder, search.seed, own)
