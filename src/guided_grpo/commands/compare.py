"""`guided-grpo compare --config FILE`: variants × seeds of one training config, as a resumable queue.

The config names a training config and what varies:

    config: ../quickstart.yaml          # relative to this file, or a shipped one; its fields are the common settings
    output_dir: runs/quickstart         # runs are OUTPUT/VARIANT-seedN
    seeds: [0, 1, 2]
    baseline: grpo
    common: {max_steps: 400}            # for every variant; a variant's own fields win
    variants:
      grpo: {method: grpo}
      g2rpo-a: {method: g2rpo-a, guidance_length: 45}
    tiers: {easy: [3, 9], hard: [10, 14]}   # optional: figures by difficulty, both ends included
    target: hard                            # optional: the tier of "tokens to an accuracy"
    search: {learning_rate: [5.0e-5, 1.0e-4]}   # optional: every variant takes the best of these first, found on
    search_data: chains:steps=3-14,count=240,seed=555   # other held-out problems, with search_seed and search_share

Give every variant the same `max_flops`, `max_generated_tokens`, `max_train_seconds` or `max_steps` to compare on equal
budgets. One bad run does not end the rest: its error is in summary.json, and the exit code is 1. More:
docs/comparing.md.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from guided_grpo.commands.options import OneLineParser, find_config, read_yaml, wants_bars
from guided_grpo.commands.parsing import VOLATILE, parse, tell
from guided_grpo.commands.queue import QueuedRun, run_queue
from guided_grpo.commands.searches import Searches
from guided_grpo.commands.train import run as train
from guided_grpo.errors import InputError
from guided_grpo.store import rundir
from guided_grpo.studies.comparison import search as searching
from guided_grpo.studies.comparison.measured import BUDGETS, read_tiers
from guided_grpo.studies.comparison.summary import summarise
from guided_grpo.studies.comparison.table import table
from guided_grpo.studies.report.page import build_report

_FIELDS = {
    "config", "output_dir", "seeds", "variants", "baseline", "common", "tiers", "target", *searching.FIELDS,
}  # fmt: skip


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Run the queue, write summary.json and report.html, print the table."""
    options = _options(arguments)
    plan = _read_plan(options.config)
    plan["common"] = {**(plan.get("common") or {}), **_given(options.set)}
    tiers, target = read_tiers(plan, options.config)
    output = Path(options.output_dir or plan["output_dir"])
    variants = _selected(plan, options.variants)
    baseline = str(plan.get("baseline") or next(iter(variants)))
    if baseline not in plan["variants"]:
        fix = f"use {', '.join(plan['variants'])}"
        raise InputError("is not a variant", file=options.config, field="baseline", value=baseline, fix=fix)
    common = find_config(Path(plan["config"]), beside=options.config)
    seeds = options.seeds or plan["seeds"]

    def queued(name: str, folder: Path, seed: int, fields: Mapping[str, Any]) -> QueuedRun:
        return _queued(common, name, folder, seed, fields, quiet=options.quiet)

    search = searching.read_search(plan, options.config, list(variants), seeds)
    searches = Searches(search, variants, output, queued)
    queue = list(_queue(common, output, seeds, searches.applied(variants), quiet=options.quiet))
    _check([trial.run for trial in searches.trials])  # every run is checked before the first one starts
    _check([run for run in queue if not searches.is_open(run.variant)])
    searches.check_apart(queue, options.config, by_rows=bool(searches.open_trials) and not options.plan)
    if options.plan:
        states = _states(queue, searches)
        print(json.dumps(states, indent=2) if as_json else _lines(states))
        return 0
    warnings = _unequal_budgets(queue)
    for warning in warnings:
        tell(f"warning: {warning}")
    started = time.perf_counter()
    if searches.open_trials:
        searches.run(lambda runs: _train(runs, options))
        queue = list(_queue(common, output, seeds, searches.applied(variants), quiet=options.quiet))
        _check([run for run in queue if not searches.is_open(run.variant)])
    lost = [run for run in queue if searches.is_open(run.variant)]
    results = _train([run for run in queue if run not in lost], options)
    results += [run.result({"error": searches.why_open(run.variant)}) for run in lost]
    places = {str(run.folder): place for place, run in enumerate(queue)}
    results.sort(key=lambda result: places[result["run"]])
    summary = summarise(results, baseline, tiers, target)
    if search.grids:
        summary["search"] = searches.results
    summary["wall_seconds"] = round(time.perf_counter() - started, 1)
    if warnings:
        summary["warnings"] = warnings
    output.mkdir(parents=True, exist_ok=True)
    rundir.write_json(output / rundir.SUMMARY, summary)
    finished = [Path(r["run"]) for name in variants for r in results if r["variant"] == name and "error" not in r]
    if finished:
        summary["report"] = str(build_report(finished, output / "report.html"))
    print(json.dumps(summary, indent=2) if as_json else table(summary))
    return 0 if len(finished) == len(results) else 1


def _options(arguments: list[str]) -> Any:
    parser = OneLineParser(prog="guided-grpo compare", description="Variants × seeds of one training config.")
    parser.add_argument("--config", type=Path, required=True, help="a file, or the name of a shipped one")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the config's")
    parser.add_argument("--variants", nargs="+", help="a part of the config's")
    parser.add_argument("--output_dir", type=Path, help="instead of the config's")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="into the config's common fields, in YAML"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each on a GPU of its own where there are any"
    )
    parser.add_argument(
        "--plan", "--dry-run", action="store_true", help="print the queue and what is done of it, and exit"
    )
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    options.config = find_config(options.config)
    if options.jobs < 1:
        raise InputError("is below 1", field="jobs", value=options.jobs, fix="use 1 or more")
    return options


def _given(pairs: Sequence[str]) -> dict[str, Any]:
    """Fields from `FIELD=VALUE` words. Raises InputError for anything else."""
    fields = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name:
            fix = "write --set learning_rate=1.0e-4, the value in YAML"
            raise InputError("is not FIELD=VALUE", field="set", value=pair, fix=fix)
        fields[name] = value
    return fields


def _check(queue: Sequence[QueuedRun]) -> None:
    """Raise InputError where a run's directory is that of another run."""
    for run in queue:
        rundir.check(run.folder, run.settings.to_json(), VOLATILE)


def _train(queue: Sequence[QueuedRun], options: Any) -> list[dict[str, Any]]:
    """Train as the options say; the results in the queue's order."""
    return _one_by_one(queue) if options.jobs == 1 else run_queue(queue, options.jobs, bar=wants_bars(options.quiet))


def _one_by_one(queue: Sequence[QueuedRun]) -> list[dict[str, Any]]:
    """Train in this process; the results in the queue's order."""
    results = []
    for number, run in enumerate(queue, 1):
        tell(f"[{number}/{len(queue)}] {run.variant}, seed {run.seed} → {run.folder}")
        try:
            summary: dict[str, Any] = train(run.settings)
        except InputError as error:
            tell(f"{run.folder}: {error}")
            summary = {"error": str(error)}
        except Exception as error:  # one bad run must not take the others with it
            traceback.print_exc()
            summary = {"error": f"{type(error).__name__}: {error}"}
        results.append(run.result(summary))
    return results


def _unequal_budgets(queue: Sequence[QueuedRun]) -> list[str]:
    """One line naming the variants whose budgets differ."""
    by_variant = {run.variant: {name: getattr(run.settings.training, name) for name in BUDGETS} for run in queue}
    differ = [name for name in BUDGETS if len({budget[name] for budget in by_variant.values()}) > 1]
    if not differ:
        return []
    budgets = [
        f"{variant} ({', '.join(f'{name} {budget[name]:g}' for name in differ)})"
        for variant, budget in by_variant.items()
    ]
    return [f"the budgets differ: {', '.join(budgets)}"]


def _state(run: QueuedRun) -> dict[str, Any]:
    """What is done of a run: `finished`, `partly done` with the step it goes on from, or `to do`."""
    checkpoint = rundir.last_checkpoint(run.folder)
    step = None if checkpoint is None else int(checkpoint.name.removeprefix(rundir.CHECKPOINT_PREFIX))
    state = "to do"
    if run.finished:
        state, step = "finished", rundir.read_json(run.folder / rundir.SUMMARY).get("steps")
    elif (run.folder / rundir.CONFIG).exists():
        state, step = "partly done", step or 0
    return {"variant": run.variant, "seed": run.seed, "run": str(run.folder), "state": state, "step": step}


def _states(queue: Sequence[QueuedRun], searches: Searches) -> list[dict[str, Any]]:
    """Of the trials, and of the queue with what was found for it."""
    states = [
        {**_state(trial.run), "variant": trial.variant, "search": dict(trial.values)} for trial in searches.trials
    ]
    for run in queue:
        searched = {"searched": searches.best[run.variant]} if run.variant in searches.best else {}
        states.append({**_state(run), **searched})
    return states


def _lines(states: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(state["variant"]) for state in states)
    lines = []
    for state in states:
        at = "" if state["step"] is None else f" at step {state['step']}"
        if "searched" in state:
            values = state["searched"]
            at += f", with {searching.label(values)}" if values else ", with what its search finds"
        lines.append(f"{state['variant']:<{width}}  seed {state['seed']:<4} {state['run']}  {state['state']}{at}")
    done = sum(state["state"] == "finished" for state in states)
    return "\n".join([*lines, f"{done} of {len(states)} runs are finished"])


def _queue(
    common: Path, output: Path, seeds: Sequence[int], variants: Mapping[str, Mapping[str, Any]], *, quiet: bool
) -> Iterator[QueuedRun]:
    for seed in seeds:
        for name, overrides in variants.items():
            yield _queued(common, name, output / f"{name}-seed{seed}", seed, overrides, quiet=quiet)


def _queued(
    common: Path, name: str, folder: Path, seed: int, overrides: Mapping[str, Any], *, quiet: bool
) -> QueuedRun:
    words = _words(common, folder, seed, overrides, quiet=quiet)
    return QueuedRun(name, seed, words, parse(words, prog="guided-grpo compare"))


def _words(common: Path, run: Path, seed: int, overrides: Mapping[str, Any], *, quiet: bool) -> list[str]:
    """The command line of `guided-grpo train` for one run."""
    words = ["--config", str(common), "--output_dir", str(run), "--seed", str(seed)]
    for name, value in overrides.items():
        words += [f"--{name}", *([str(v) for v in value] if isinstance(value, list) else [str(value)])]
    return [*words, *(["--quiet"] if quiet else [])]


def _selected(plan: Mapping[str, Any], names: list[str] | None) -> dict[str, dict[str, Any]]:
    """All fields of the variants that are asked for."""
    variants, common = plan["variants"], plan.get("common") or {}
    unknown = [name for name in names or [] if name not in variants]
    if unknown:
        raise InputError("is not a variant", field="variants", value=unknown[0], fix=f"use {', '.join(variants)}")
    fields = {name: {**common, **(variants[name] or {})} for name in names or variants}
    for field, fix in (("output_dir", "use --output_dir"), ("seed", "use --seeds")):
        if any(field in own for own in fields.values()):
            raise InputError("is another one for each run", field=field, fix=fix)
    return {name: {key: value for key, value in own.items() if key != "search"} for name, own in fields.items()}


def _read_plan(path: Path) -> dict[str, Any]:
    plan = read_yaml(path)
    for key in plan:
        if key not in _FIELDS:
            raise InputError("is not known", file=path, field=str(key), fix=f"use {', '.join(sorted(_FIELDS))}")
    for key in ("config", "output_dir", "variants"):
        if not plan.get(key):
            raise InputError("is missing", file=path, field=key, fix="see guided-grpo compare --help")
    return {"seeds": [0], **plan}
