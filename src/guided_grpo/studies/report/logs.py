"""A run directory as the report reads it: configuration, metrics by step, evaluations, warnings, sampled rollouts.

Damage is named with its file and line; what a run has not written yet becomes a note.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NoReturn

import yaml

from guided_grpo.errors import InputError
from guided_grpo.store import rundir
from guided_grpo.store.jsonl import Line, read_lines
from guided_grpo.studies.html import PALETTE, swatch

SEED = re.compile(r"[-_/ ]?seed[-_=]?\d+$")  # at the end of a run's name: such runs are one variant
ATTEMPT = re.compile(r"rescue/([1-9]\d*)")  # share of the groups that this attempt on the ladder rescued
SETTINGS = ("problems", "samples", "temperature", "top_p", "top_k")  # of an evaluation
# The metrics that the page reads; other keys of a record are ignored, whatever they hold.
KEYS = (
    "step", "grad_norm", "reward/accuracy", "reward/guided", "reward/unguided", "reward/first", "advantage/std",
    "signal/zero_groups", "signal/difficult", "guidance/length", "tokens/generated", "tokens/generated_total",
    "completions/generated_length", "completions/truncated", "step_time", "time/rescue",
    "rescue/lost", "rescue/unguidable", "rescue/omega", "rescue/tokens",
)  # fmt: skip
SUMMARY_KEYS = (
    "grad_norm_mean", "grad_norm_variance", "zero_groups", "difficult_groups", "rescue_tokens", "tokens_generated",
)  # fmt: skip
FIX = "restore the file that the run wrote"


@dataclass(frozen=True)
class Score:
    """Accuracy on a set of problems with its interval, where one was recorded."""

    accuracy: float
    interval: tuple[float, float] | None
    problems: int | None

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; the accuracy itself where there is none."""
        return self.interval or (self.accuracy, self.accuracy)


@dataclass(frozen=True)
class HeldOut:
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
class RolloutRecord:
    """One response: the guidance in front of it and what the policy generated after it."""

    guided: bool
    guidance: str
    generated: str
    guidance_tokens: int | None
    generated_tokens: int | None
    rewards: dict[str, float]
    advantage: float | None
    truncated: bool
    stage: int  # attempt on the rescue ladder that produced it; 0 = the first sampling
    omega: float | None  # share of the trace that was asked for
    hinted: bool  # guidance is a part of the prompt; else at the start of the answer

    @property
    def reward(self) -> float | None:
        """The accuracy reward; the sum of all where none has that name; None where nothing was graded."""
        if "accuracy" in self.rewards:
            return self.rewards["accuracy"]
        return math.fsum(self.rewards.values()) if self.rewards else None


@dataclass(frozen=True)
class GroupRecord:
    """One problem and its rollouts. `prompt` holds (role, text); role "" for a plain text prompt."""

    index: int
    prompt: list[tuple[str, str]]
    answer: str
    difficulty: str  # a number or the name of a tier; "" = unknown
    rollouts: list[RolloutRecord]

    def arm(self, guided: bool) -> list[RolloutRecord]:
        """The guided or the unguided rollouts, in their order."""
        return [rollout for rollout in self.rollouts if rollout.guided == guided]

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ, so that an advantage is left to learn from."""
        return len({rollout.reward for rollout in self.rollouts if rollout.reward is not None}) > 1


@dataclass(frozen=True)
class StepSample:
    """The groups recorded at one step."""

    step: int
    groups: list[GroupRecord]


@dataclass(frozen=True)
class Run:
    """One run directory, ready to plot. `index` is its place on the page and stays its identity in every plot.

    Runs whose names differ in the seed alone are one variant, with one `group`: one colour, one button, one mean curve.
    """

    index: int
    name: str
    group: int  # place of its variant on the page
    config: Mapping[str, Any]
    metrics: list[dict[str, float]]  # ascending steps, each step once
    evaluations: Mapping[str, HeldOut]  # "before" and "after" training, where there were
    samples: list[StepSample]  # first and last sampled step; one if they are the same
    notes: list[str]
    warnings: list[RunWarning]
    summary: Mapping[str, float]  # what summary.json holds of SUMMARY_KEYS

    @property
    def colour(self) -> str:
        """The run's colour in every plot, that of its variant."""
        return PALETTE[self.group % len(PALETTE)]

    @property
    def label(self) -> str:
        """Colour and name as HTML."""
        return f"{swatch(self.colour)}{escape(self.name)}"

    @property
    def variant(self) -> str:
        """The name without the seed."""
        return variant_of(self.name)

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
        totals = [record["tokens/generated_total"] for record in self.metrics if "tokens/generated_total" in record]
        return max(totals) if totals else self.total("tokens/generated")

    def total(self, key: str) -> float | None:
        """Sum of `key` over the steps, None where no step records it."""
        values = [record[key] for record in self.metrics if key in record]
        return math.fsum(values) if values else None


def variant_of(name: str) -> str:
    """A run's name without the seed."""
    return SEED.sub("", name) or name


def on_ladder(record: Mapping[str, float]) -> bool:
    """Whether a step's record has any metric of the rescue ladder: it lacks them during the cold start."""
    return any(key.startswith("rescue/") for key in record)


def by_variant(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each variant, in the order of their first ones."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return list(groups.values())


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in their order, each directory once, with names that tell them apart."""
    if not paths:
        raise InputError("names no run directory", field="runs", fix="give at least one directory with metrics.jsonl")
    distinct = list({path.resolve(): path for path in paths}.values())
    names = _names(distinct)
    places = {variant: place for place, variant in enumerate(dict.fromkeys(map(variant_of, names)))}
    return [
        _load(path, index, name, places[variant_of(name)])
        for index, (name, path) in enumerate(zip(names, distinct, strict=True))
    ]


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths, equally deep, that differ: `grpo`, or `seed0/grpo` and `seed1/grpo`."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def _load(path: Path, index: int, name: str, group: int) -> Run:
    if not (path / rundir.METRICS).is_file():
        problem = "has no metrics.jsonl" if path.is_dir() else "is no directory"
        raise InputError(
            f"{problem}, so it is no run directory", file=path, fix="give the output_dir of a training run"
        )
    notes: list[str] = []
    metrics = _metrics(path / rundir.METRICS, notes)
    evaluations = _evaluations(path / rundir.EVAL, notes)
    config = _config(path / rundir.CONFIG, notes)
    samples = _samples(path / rundir.ROLLOUTS, notes)
    warnings = _warnings(path / rundir.WARNINGS, notes)
    totals = _object(path / rundir.SUMMARY) or _Fields({}, path)
    numbers = {key: totals.number(key) for key in SUMMARY_KEYS}
    summary = {key: number for key, number in numbers.items() if number is not None and math.isfinite(number)}
    return Run(index, name, group, config, metrics, evaluations, samples, notes, warnings, summary)


@dataclass(frozen=True)
class _Fields:
    """An object of a file, with its place for errors."""

    record: Mapping[str, Any]
    file: Path
    line: int | None = None

    def refuse(self, problem: str, field: str, value: Any = None) -> NoReturn:
        raise InputError(problem, file=self.file, line=self.line, field=field, value=value, fix=FIX)

    def number(self, key: str) -> float | None:
        """None where it is absent or null."""
        value = self.record.get(key)
        if value is not None and type(value) not in (int, float):
            self.refuse("is not a number", key, value)
        return None if value is None else float(value)

    def integer(self, key: str) -> int | None:
        """`number` without its fraction."""
        number = self.number(key)
        if number is not None and not math.isfinite(number):
            self.refuse("is not finite", key, number)
        return None if number is None else int(number)

    def text(self, key: str) -> str:
        """A text as it is, null as none, anything else as its JSON."""
        return _text(self.record.get(key))

    def at(self, record: Mapping[str, Any]) -> _Fields:
        """A part of it, at the same place."""
        return _Fields(record, self.file, self.line)


def _rows(path: Path, notes: list[str]) -> Iterator[_Fields]:
    """The object of every line; none where the file is missing. A broken last line (a killed run) becomes a note.

    A broken line with others after it is damage that nobody should plot over, and raises.
    """
    broken: Line | None = None
    for line in read_lines(path) if path.is_file() else ():
        if broken is not None:
            text = broken.raw.decode("utf-8", "replace").strip()
            raise InputError("is no JSON object", file=path, line=broken.number, value=text, fix="repair or delete it")
        if line.record is None:
            broken = line
        else:
            yield _Fields(line.record, path, line.number)
    if broken is not None:
        notes.append(f"The last line of {path.name} is incomplete (the run was probably killed) and is left out.")


def _object(path: Path) -> _Fields | None:
    """A whole JSON file; None where it is missing."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError("is no JSON", file=path, line=getattr(error, "lineno", None), fix=FIX) from error
    if not isinstance(content, dict):
        raise InputError("is no JSON object", file=path, value=content, fix=FIX)
    return _Fields(content, path)


def _metrics(path: Path, notes: list[str]) -> list[dict[str, float]]:
    """Records by step. A resumed run repeats the steps after its checkpoint; the later record of a step counts."""
    by_step: dict[float, dict[str, float]] = {}
    for position, row in enumerate(_rows(path, notes), start=1):
        numbers = {key: row.number(key) for key in (*KEYS, *filter(ATTEMPT.fullmatch, row.record))}
        record = {key: number for key, number in numbers.items() if number is not None}
        step = record.setdefault("step", float(position))
        if not math.isfinite(step):
            row.refuse("is no step", "step", step)
        by_step[step] = record
    if not by_step:
        notes.append("metrics.jsonl holds no complete step yet.")
    return [by_step[step] for step in sorted(by_step)]


def _config(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.is_file():
        notes.append("There is no config.yaml: method and settings are unknown.")
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError("is no YAML", file=path, line=None if mark is None else mark.line + 1, fix=FIX) from error
    if not isinstance(config, dict):
        raise InputError("is no mapping of settings", file=path, value=config, fix=FIX)
    return config


def _warnings(path: Path, notes: list[str]) -> list[RunWarning]:
    """By step. A resumed run may warn again of a step; the later row counts."""
    rows = [RunWarning(row.integer("step"), row.text("warning"), row.text("message")) for row in _rows(path, notes)]
    latest = {(warning.step, warning.kind): warning for warning in rows}
    return sorted(latest.values(), key=lambda warning: -1 if warning.step is None else warning.step)


def _evaluations(path: Path, notes: list[str]) -> dict[str, HeldOut]:
    content = _object(path)
    if content is None:
        notes.append("There is no eval.json: the run was not evaluated.")
        return {}
    moments = {when: content.record.get(when) for when in ("before", "after")}
    return {when: _held_out(content.at(record), when) for when, record in moments.items() if record is not None}


def _held_out(fields: _Fields, when: str) -> HeldOut:
    tiers = (fields.record.get("tiers") or {}).items()
    scores = {name: _score(fields.at(tier), f"{when}.tiers.{name}") for name, tier in tiers}
    return HeldOut(_score(fields, when), scores, tuple(map(fields.number, SETTINGS)))


def _score(fields: _Fields, place: str) -> Score:
    accuracy, interval = fields.number("accuracy"), fields.record.get("interval")
    if accuracy is None or not math.isfinite(accuracy):
        fields.refuse("has no finite accuracy", place)
    if interval is not None and (not isinstance(interval, list) or len(interval) != 2):
        fields.refuse("is no pair", f"{place}.interval", interval)
    ends = (interval[0], interval[1]) if interval and all(map(math.isfinite, interval)) else None
    return Score(accuracy, ends, fields.integer("problems") or None)


def _samples(path: Path, notes: list[str]) -> list[StepSample]:
    """The first and the last sampled step. Holds no more than these two in memory: the file grows with the run."""
    if not path.is_file():
        notes.append("There is no rollouts.jsonl: no heatmap and no sample rollouts.")
    steps: dict[int, dict[int, GroupRecord]] = {}
    for row in _rows(path, notes):
        step = row.integer("step")
        if step is None:
            row.refuse("is missing", "step")
        groups = steps.setdefault(step, {})
        for between in sorted(steps)[1:-1]:
            del steps[between]
        if step in steps:
            group = _group(row, len(groups))
            groups[group.index] = group  # a resumed run writes a step again; the later record is the run's
    return [StepSample(step, [groups[index] for index in sorted(groups)]) for step, groups in sorted(steps.items())]


def _group(row: _Fields, default: int) -> GroupRecord:
    rollouts, index = row.record.get("rollouts"), row.integer("group")
    if not isinstance(rollouts, list):
        row.refuse("is no list of objects", "rollouts", rollouts)
    prompt = row.record.get("prompt")
    messages = prompt if isinstance(prompt, list) else [{"content": prompt}]
    return GroupRecord(
        index=default if index is None else index,
        prompt=[(_text(message.get("role")), _text(message.get("content"))) for message in messages],
        answer=row.text("answer"),
        difficulty=row.text("difficulty"),
        rollouts=[_rollout(row.at(rollout)) for rollout in rollouts],
    )


def _rollout(fields: _Fields) -> RolloutRecord:
    rewards = fields.at(fields.record.get("rewards") or {})
    numbers = {name: rewards.number(name) for name in rewards.record}
    return RolloutRecord(
        guided=fields.record.get("arm") == "guided",
        guidance=fields.text("guidance"),
        generated=fields.text("generated"),
        guidance_tokens=fields.integer("guidance_tokens"),
        generated_tokens=fields.integer("generated_tokens"),
        rewards={name: value for name, value in numbers.items() if value is not None and math.isfinite(value)},
        advantage=fields.number("advantage"),
        truncated=fields.record.get("truncated") is True,
        stage=fields.integer("stage") or 0,
        omega=fields.number("omega"),
        hinted=fields.text("placement") == "hint" and bool(fields.text("guidance")),
    )


def _text(value: object) -> str:
    """Of the parts of a message their texts."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_text(part.get("text") if isinstance(part, dict) else part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finite(recorded: list[tuple[float, float]]) -> Points:
    finite = [(x, y) for x, y in recorded if math.isfinite(x) and math.isfinite(y)]
    return Points([x for x, _ in finite], [y for _, y in finite], len(recorded) - len(finite))
