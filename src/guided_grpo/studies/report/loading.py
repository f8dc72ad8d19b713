"""Run directories → `Run`s. Damage is named with its file and line; what a run has not written yet becomes a note."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from guided_grpo.errors import InputError
from guided_grpo.studies.report.jsonl import as_text, optional_integer, optional_number, read_jsonl
from guided_grpo.studies.report.runs import ATTEMPT, SETTINGS, Evaluation, Run, RunWarning, Score
from guided_grpo.studies.report.samples import Sample, first_and_last

# The metrics that the page reads; other keys of a record are ignored, whatever they hold.
KEYS = (
    "step",
    "grad_norm",
    "reward/accuracy",
    "reward/guided",
    "reward/unguided",
    "reward/first",
    "advantage/std",
    "signal/zero_groups",
    "signal/difficult",
    "guidance/length",
    "tokens/generated",
    "tokens/generated_total",
    "completions/generated_length",
    "completions/truncated",
    "step_time",
    "time/rescue",
    "rescue/lost",
    "rescue/unguidable",
    "rescue/omega",
    "rescue/tokens",
)
SUMMARY_KEYS = (
    "grad_norm_mean",
    "grad_norm_variance",
    "zero_groups",
    "difficult_groups",
    "rescue_tokens",
    "tokens_generated",
)


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in the given order, each directory once, with names that tell them apart."""
    if not paths:
        raise InputError("names no run directory", field="runs", fix="give at least one directory with metrics.jsonl")
    distinct = list({path.resolve(): path for path in paths}.values())
    loaded = [
        _load(index, name, path) for index, (name, path) in enumerate(zip(_names(distinct), distinct, strict=True))
    ]
    places = {variant: place for place, variant in enumerate(dict.fromkeys(run.variant for run in loaded))}
    return [replace(run, group=places[run.variant]) for run in loaded]


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths, equally deep, that differ: `grpo`, or `seed0/grpo` and `seed1/grpo`."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def _load(index: int, name: str, path: Path) -> Run:
    if not (path / "metrics.jsonl").is_file():
        found = "has no metrics.jsonl" if path.is_dir() else "is no directory"
        raise InputError(f"{found}, so it is no run directory", file=path, fix="give the output_dir of a training run")
    notes: list[str] = []
    metrics = _load_metrics(path / "metrics.jsonl", notes)
    before, after = _load_evaluations(path / "eval.json", notes)
    config = _load_config(path / "config.yaml", notes)
    samples: list[Sample] = []
    if (path / "rollouts.jsonl").is_file():
        samples = first_and_last(path / "rollouts.jsonl", notes)
    else:
        notes.append("There is no rollouts.jsonl: no heatmap and no sample rollouts.")
    warnings = _load_warnings(path / "warnings.jsonl", notes)
    summary = _load_summary(path / "summary.json")
    return Run(index, name, config, metrics, before, after, samples, notes, warnings, summary)


def _load_metrics(path: Path, notes: list[str]) -> list[dict[str, float]]:
    """Records by step. A resumed run repeats the steps after its checkpoint; the later record of a step counts."""
    by_step: dict[float, dict[str, float]] = {}
    for position, (line, record) in enumerate(read_jsonl(path, notes), start=1):
        numbers: dict[str, float] = {}
        for key in (*KEYS, *filter(ATTEMPT.fullmatch, record)):
            number = optional_number(record, key, path, line)
            if number is not None:
                numbers[key] = number
        step = numbers.setdefault("step", float(position))
        if not math.isfinite(step):
            raise InputError("is no step", file=path, line=line, field="step", value=step, fix="write a number from 1")
        by_step[step] = numbers
    if not by_step:
        notes.append("metrics.jsonl holds no complete step yet.")
    return [by_step[step] for step in sorted(by_step)]


def _load_config(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.is_file():
        notes.append("There is no config.yaml: method and settings are unknown.")
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise InputError("is no YAML", file=path, line=line, fix="restore the file that the run wrote") from error
    if not isinstance(config, dict):
        raise InputError(
            "is no mapping of settings", file=path, value=config, fix="restore the file that the run wrote"
        )
    return config


def _load_warnings(path: Path, notes: list[str]) -> list[RunWarning]:
    """By step. A resumed run may warn again of a step; the later row counts."""
    if not path.is_file():
        return []
    found: dict[tuple[int | None, str], RunWarning] = {}
    for line, record in read_jsonl(path, notes):
        step = optional_integer(record, "step", path, line)
        kind = as_text(record.get("warning"))
        found[step, kind] = RunWarning(step, kind, as_text(record.get("message")))
    return sorted(found.values(), key=lambda warning: -1 if warning.step is None else warning.step)


def _load_summary(path: Path) -> dict[str, float]:
    """The run's own totals; empty while it is not finished."""
    if not path.is_file():
        return {}
    content = _load_object(path, "delete it and run the same command again")
    numbers = {key: optional_number(content, key, path) for key in SUMMARY_KEYS}
    return {key: number for key, number in numbers.items() if number is not None and math.isfinite(number)}


def _load_evaluations(path: Path, notes: list[str]) -> tuple[Evaluation | None, Evaluation | None]:
    if not path.is_file():
        notes.append("There is no eval.json: the run was not evaluated.")
        return None, None
    content = _load_object(path, "evaluate the run again")
    return _evaluation(path, content, "before"), _evaluation(path, content, "after")


def _load_object(path: Path, fix: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise InputError("is no JSON", file=path, line=line, fix=fix) from error
    if not isinstance(content, dict):
        raise InputError("is no JSON object", file=path, value=content, fix=fix)
    return content


def _evaluation(path: Path, content: Mapping[str, Any], moment: str) -> Evaluation | None:
    record = content.get(moment)
    if record is None:
        return None
    total = _score(path, record, moment)
    tiers = record.get("tiers") or {}
    if not isinstance(tiers, dict):
        raise InputError("is no object", file=path, field=f"{moment}.tiers", value=tiers, fix="evaluate the run again")
    scores = {str(name): _score(path, tier, f"{moment}.tiers.{name}") for name, tier in tiers.items()}
    return Evaluation(total, scores, tuple(optional_number(record, key, path) for key in SETTINGS))


def _score(path: Path, record: object, field: str) -> Score:
    again = "evaluate the run again"
    if not isinstance(record, dict):
        raise InputError("is no object", file=path, field=field, value=record, fix=again)
    accuracy = optional_number(record, "accuracy", path)
    if accuracy is None or not math.isfinite(accuracy):
        raise InputError("has no finite accuracy", file=path, field=field, fix=again)
    problems = optional_number(record, "problems", path) or 0.0
    interval = record.get("interval")
    bounds: tuple[float, float] | None = None
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise InputError("is no pair", file=path, field=f"{field}.interval", value=interval, fix=again)
        low, high = (optional_number({"interval": end}, "interval", path) for end in interval)
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            bounds = (low, high)
    return Score(accuracy, bounds, int(problems) if math.isfinite(problems) and problems > 0 else None)
