"""`guided-grpo compare --config FILE`: variants × seeds of one training config, as a resumable queue.

The config names a training config and what varies:

    config: ../quickstart.yaml    # relative to this file; its fields are the common settings
    output_dir: runs/quickstart         # runs are OUTPUT/VARIANT-seedN
    seeds: [0, 1, 2]
    baseline: grpo
    common: {max_steps: 400}            # for every variant; a variant's own fields win
    variants:
      grpo: {method: grpo}
      g2rpo-a: {method: g2rpo-a, guidance_length: 45}

Give every variant the same `max_generated_tokens` (or `max_steps`) to compare on equal budgets. One bad run does not
end the rest: its error is in summary.json, and the exit code is 1.
"""

from __future__ import annotations

import json
import time
import traceback
from pathlib import Path
from typing import Any

from guided_grpo import rundir
from guided_grpo.commands.report import OneLineParser
from guided_grpo.commands.settings import parse, read_yaml, say
from guided_grpo.commands.train import run as train
from guided_grpo.errors import InputError
from guided_grpo.report import build_report
from guided_grpo.stats import mean_interval, seeds_interval

_FIELDS = {"config", "output_dir", "seeds", "variants", "baseline", "common"}


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Run the queue, write summary.json and report.html, print the table."""
    parser = OneLineParser(prog="guided-grpo compare", description="Variants × seeds of one training config.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the config's")
    parser.add_argument("--variants", nargs="+", help="a part of the config's")
    parser.add_argument("--output_dir", type=Path, help="instead of the config's")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    plan = _read_plan(options.config)
    seeds = options.seeds or plan["seeds"]
    chosen = _chosen(plan["variants"], options.variants)
    variants = {name: {**(plan.get("common") or {}), **overrides} for name, overrides in chosen.items()}
    output = Path(options.output_dir or plan["output_dir"])
    common = options.config.parent / plan["config"]
    queue = [
        (name, seed, _settings(common, output / f"{name}-seed{seed}", seed, overrides, quiet=options.quiet))
        for seed in seeds
        for name, overrides in variants.items()
    ]  # every variant is checked before the first one runs
    started, results = time.perf_counter(), []
    for number, (name, seed, settings) in enumerate(queue, 1):
        say(f"[{number}/{len(queue)}] {name}, seed {seed} → {settings.output}")
        try:
            summary: dict[str, Any] = train(settings)
        except InputError:
            raise
        except Exception as error:  # one bad run must not take the others with it
            traceback.print_exc()
            summary = {"error": f"{type(error).__name__}: {error}"}
        results.append({"variant": name, **summary, "seed": seed, "run": str(settings.output)})
    summary = summarise(results, str(plan.get("baseline") or next(iter(variants))))
    summary["wall_seconds"] = round(time.perf_counter() - started, 1)
    rundir.write_json(output / rundir.SUMMARY, summary)
    finished = [Path(result["run"]) for result in results if "error" not in result]
    if finished:
        summary["report"] = str(build_report(finished, output / "report.html"))
    print(json.dumps(summary, indent=2) if as_json else table(summary))
    return 0 if len(finished) == len(results) else 1


def summarise(results: list[dict[str, Any]], baseline: str) -> dict[str, Any]:
    """Runs, and by variant the mean over seeds with the interval over problems (one seed) or seeds (several)."""
    summary: dict[str, Any] = {"baseline": baseline, "variants": {}, "runs": results}
    for name in dict.fromkeys(result["variant"] for result in results):
        runs = [result for result in results if result["variant"] == name and "after" in result]
        if not runs:
            continue
        entry: dict[str, Any] = {"seeds": [run["seed"] for run in runs]}
        for when in ("before", "after"):
            entry[when] = _over_runs([Path(run["run"]) for run in runs], when)
        for key in _AVERAGED:
            entry[key] = _over_seeds([run[key] for run in runs])
        summary["variants"][name] = entry
    return summary


_AVERAGED = (
    "tokens_generated", "rescue_tokens", "steps", "train_seconds",
    "zero_groups", "difficult_groups", "grad_norm_mean", "grad_norm_variance",
)  # fmt: skip


def _over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean of a figure of the runs; from three seeds on with the 95 % interval over them."""
    mean = sum(values) / len(values)
    if len(values) < 3:
        return {"mean": mean}
    interval = seeds_interval(values)
    return {"mean": mean, "interval": [interval.low, interval.high], "by_seed": values}


def _over_runs(runs: list[Path], when: str) -> dict[str, Any]:
    """Mean accuracy; the interval is over problems, and from three seeds on over seeds too, the wider of both."""
    evaluations = [rundir.read_json(run / rundir.EVAL)[when] for run in runs]
    scores = [[score for score in evaluation["scores"] if score is not None] for evaluation in evaluations]
    problems = mean_interval([sum(column) / len(column) for column in zip(*scores, strict=False)])
    low, high = problems.low, problems.high
    entry: dict[str, Any] = {"accuracy": problems.mean, "by_seed": [sum(s) / len(s) for s in scores]}
    if len(runs) >= 3:
        seeds = seeds_interval(entry["by_seed"])
        low, high = max(0.0, min(low, seeds.low)), min(1.0, max(high, seeds.high))
    return {**entry, "interval": [low, high], "problems": problems.problems}


def table(summary: dict[str, Any]) -> str:
    """The comparison, for people."""
    titles = f"{'method':<20} {'before':>8} {'after':>8}  {'95 % interval':<18}"
    lines = [f"{titles} {'no signal':>9} {'grad variance':>13} {'tokens':>10} {'rescue':>7} {'seconds':>8}  seeds"]
    for name, entry in summary["variants"].items():
        low, high = entry["after"]["interval"]
        mean = {key: entry[key]["mean"] for key in _AVERAGED}
        lines.append(
            f"{name:<20} {entry['before']['accuracy']:>8.1%} {entry['after']['accuracy']:>8.1%}  "
            f"{f'[{low:.1%}, {high:.1%}]':<18} {mean['zero_groups']:>9.0%} {mean['grad_norm_variance']:>13.3g} "
            f"{mean['tokens_generated']:>10,.0f} {mean['rescue_tokens'] / mean['tokens_generated']:>7.0%} "
            f"{mean['train_seconds']:>8.0f}  {len(entry['seeds'])}"
        )
    lines += [f"failed: {run['run']}: {run['error']}" for run in summary["runs"] if "error" in run]
    lines += [f"{run['run']}: {', '.join(run['warnings'])}" for run in summary["runs"] if run.get("warnings")]
    if "report" in summary:
        lines.append(f"report: {summary['report']}")
    return "\n".join(lines)


def _settings(common: Path, output: Path, seed: int, overrides: dict[str, Any], *, quiet: bool) -> Any:
    words = ["--config", str(common), "--output_dir", str(output), "--seed", str(seed)]
    for name, value in overrides.items():
        words += [f"--{name}", *([str(v) for v in value] if isinstance(value, list) else [str(value)])]
    return parse([*words, *(["--quiet"] if quiet else [])], prog="guided-grpo compare")


def _chosen(variants: dict[str, Any], names: list[str] | None) -> dict[str, Any]:
    unknown = [name for name in names or [] if name not in variants]
    if unknown:
        raise InputError("is not a variant", field="variants", value=unknown[0], fix=f"use {', '.join(variants)}")
    return {name: variants[name] or {} for name in names or variants}


def _read_plan(path: Path) -> dict[str, Any]:
    plan = read_yaml(path)
    for key in plan:
        if key not in _FIELDS:
            raise InputError("is not known", file=path, field=str(key), fix=f"use {', '.join(sorted(_FIELDS))}")
    for key in ("config", "output_dir", "variants"):
        if not plan.get(key):
            raise InputError("is missing", file=path, field=key, fix="see guided-grpo compare --help")
    return {"seeds": [0], **plan}
