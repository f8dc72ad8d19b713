"""How a training set is prepared: one YAML file, or the same fields on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guided_grpo.data.preparing.overlap import NGRAM
from guided_grpo.data.preparing.selection import FILTERS, ORDERS, Bound, bound_value
from guided_grpo.errors import InputError

VERIFY = ("strict", "lenient", "off")
DIFFICULTIES = ("auto", "tier", "steps", "length", "none")


@dataclass(frozen=True)
class SampleFilter:
    """Table 7 of G²RPO-A; see selection.py for what hard and moderate mean."""

    mode: str = "keep"
    hard: Bound = "quantile 0.8"
    moderate: Bound = "quantile 0.4"


# What each field means, for --help and docs.
HELP: dict[str, str] = {
    "source": "Hub id (owner/name or owner/name:subset), file, folder or generator; several allowed.",
    "split": "Split of a hub data set or folder.",
    "reader": "Schema of the data; unset = by its columns.",
    "mapping": "Our column names to yours: prompt=problem …",
    "read_limit": "Read the first so many records only.",
    "trace": "first-correct, shortest-correct, or the column of the trace.",
    "verify": "strict: a trace must declare the gold answer; lenient: or none; off.",
    "reference_tests": "Make tests by running the reference on the data's inputs (MBPP+).",
    "require_trace": "Drop problems without a good trace; false = keep them, to train unguided.",
    "drop_bare": "A solution that is no more than its answer is no trace.",
    "drop_proofs": "Drop problems that ask to prove something, by their wording.",
    "deduplicate": "Keep the first of equal problems.",
    "benchmarks": "Names, files or {source, split, column}: problems that overlap are dropped.",
    "ngram": "Words in a row that make an overlap.",
    "offline_benchmarks": "A benchmark that cannot be loaded: fail, or skip (the card says so).",
    "tokenizer": "Counts lengths in the policy's tokens; unset = in characters.",
    "max_prompt": "Longest prompt, in tokens (characters without a tokenizer).",
    "min_trace": "Shortest trace.",
    "max_trace": "Longest trace.",
    "difficulty": "auto (what the data says), tier, steps, length, or none.",
    "tiers": "Keep these sources only ('unknown': the data names none); empty = all.",
    "per_tier": "At most so many rows of a tier, drawn by seed.",
    "limit": "At most so many rows, spread over the tiers, drawn by seed.",
    "order": "source, difficulty (easy first) or shuffle.",
    "sample_filter": "mode (keep, remove, replace), hard, moderate: see selection.py.",
    "instruction": "Text under each problem; unset = the reader's own, '' = none.",
    "system": "System message of each prompt.",
    "prompt_form": "chat or text; unset = chat, for plain rows as they are.",
    "keep": "Further columns of the data to write, as text.",
    "seed": "Of every draw.",
    "workers": "Processes that grade traces.",
    "output": "Folder to write; must not exist.",
}


@dataclass(frozen=True)
class Recipe:
    """Every setting of `guided-grpo data prepare`. Raises `InputError` for values that do not go."""

    source: list[str] = field(default_factory=list)
    split: str = "train"
    reader: str | None = None
    mapping: dict[str, str] = field(default_factory=dict)
    read_limit: int | None = None
    trace: str = "first-correct"
    verify: str = "strict"
    reference_tests: bool = False
    require_trace: bool = True
    drop_bare: bool = True
    drop_proofs: bool = True
    deduplicate: bool = True
    benchmarks: list[Any] = field(default_factory=list)
    ngram: int = NGRAM
    offline_benchmarks: str = "fail"
    tokenizer: str | None = None
    max_prompt: int | None = None
    min_trace: int | None = None
    max_trace: int | None = None
    difficulty: str = "auto"
    tiers: list[str] = field(default_factory=list)
    per_tier: int | None = None
    limit: int | None = None
    order: str = "source"
    sample_filter: SampleFilter = field(default_factory=SampleFilter)
    instruction: str | None = None
    system: str | None = None
    prompt_form: str | None = None
    keep: list[str] = field(default_factory=list)
    seed: int = 0
    workers: int = 1
    output: str = ""

    def __post_init__(self) -> None:
        for name, allowed in {
            "verify": VERIFY,
            "difficulty": DIFFICULTIES,
            "order": ORDERS,
            "offline_benchmarks": ("fail", "skip"),
            "prompt_form": (None, "chat", "text"),
        }.items():
            value = getattr(self, name)
            if value not in allowed:
                words = ", ".join(str(each) for each in allowed if each is not None)
                raise InputError("is not known", field=name, value=value, fix=f"use one of {words}")
        for name in ("read_limit", "max_prompt", "max_trace", "min_trace", "per_tier", "limit", "ngram", "workers"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError("is no whole number ≥ 1", field=name, value=value, fix="give one, or leave it out")
        if not self.source:
            raise InputError("is missing", field="source", fix="name a hub id, a file or a generator")
        if self.sample_filter.mode not in FILTERS:
            raise InputError(
                "is no sample filter", field="sample_filter.mode", value=self.sample_filter.mode,
                fix=f"use {', '.join(FILTERS)}",
            )  # fmt: skip
        for name in ("hard", "moderate"):
            bound_value(getattr(self.sample_filter, name), name, [0.0])

    def to_json(self) -> dict[str, Any]:
        """All settings, for the card."""
        return dataclasses.asdict(self)


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "str | None": (str, type(None)), "bool": (bool,), "int": (int,), "int | None": (int, type(None)),
    "list[str]": (list,), "list[Any]": (list,), "dict[str, str]": (dict,),
}  # fmt: skip


def make_recipe(values: Mapping[str, Any], *, file: str | Path | None = None) -> Recipe:
    """A recipe from a mapping. Raises `InputError` for an unknown field or a value of the wrong type."""
    known = {item.name: item for item in dataclasses.fields(Recipe)}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError("is no field of a recipe", file=file, field=name, fix=f"use {', '.join(known)}")
        if name in ("source", "benchmarks", "tiers", "keep") and isinstance(value, str):
            value = [value]
        if name == "sample_filter":
            given[name] = _sample_filter(value, file)
            continue
        kinds = _KINDS[str(known[name].type)]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError("has the wrong type", file=file, field=name, value=value, fix=f"give {known[name].type}")
        given[name] = value
    return Recipe(**given)


def _sample_filter(value: Any, file: str | Path | None) -> SampleFilter:
    if isinstance(value, str):
        value = {"mode": value}
    names = [item.name for item in dataclasses.fields(SampleFilter)]
    if not isinstance(value, Mapping) or set(value) - set(names):
        raise InputError(
            "is no sample filter", file=file, field="sample_filter", value=value, fix=f"give {', '.join(names)}"
        )
    return SampleFilter(**value)
