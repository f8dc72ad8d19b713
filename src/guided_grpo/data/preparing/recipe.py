"""How a training set is prepared: one YAML file, or the same fields on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge

from guided_grpo.data.preparing.overlap import NGRAM
from guided_grpo.data.preparing.selection import ORDERS, Bound, bound_value, check_mode
from guided_grpo.data.reading.mapping import check_mapping
from guided_grpo.errors import InputError
from guided_grpo.settings import OneOf, check, describe, setting

Count = Annotated[int | None, Ge(1)]  # None = no limit


@dataclass(frozen=True)
class SampleFilter:
    """Table 7 of G²RPO-A; see selection.py for what hard and moderate mean."""

    mode: str = "keep"
    hard: Bound = "quantile 0.8"
    moderate: Bound = "quantile 0.4"


@dataclass(frozen=True)
class Recipe:
    """Every setting of `guided-grpo data prepare`. Raises `InputError` for values that do not go."""

    source: list[str] = setting(
        [], "hub id (owner/name or owner/name:subset), file, folder or generator; several allowed"
    )
    split: str = setting("train", "split of a hub data set or folder")
    reader: str | None = setting(None, "schema of the data; unset = by its columns")
    mapping: dict[str, str] = setting({}, "our column → yours, or a template: prompt={Body} {Question}")
    read_limit: Count = setting(None, "read the first so many records only")
    trace: str = setting("first-correct", "first-correct, shortest-correct, or the column of the trace")
    verify: Annotated[str, OneOf(("strict", "lenient", "off"))] = setting(
        "strict", "strict: a trace must declare the gold answer; lenient: or none; off"
    )
    reference_tests: bool = setting(False, "make tests by running the reference on the data's inputs (MBPP+)")
    require_trace: bool = setting(True, "drop problems without a good trace; false = keep them, to train unguided")
    drop_bare: bool = setting(True, "a solution that is no more than its answer is no trace")
    drop_proofs: bool = setting(True, "drop problems that ask to prove something, by their wording")
    deduplicate: bool = setting(True, "keep the first of equal problems")
    benchmarks: list[Any] = setting([], "names, files or {source, split, column}: problems that overlap are dropped")
    ngram: Annotated[int, Ge(1)] = setting(NGRAM, "words in a row that make an overlap")
    offline_benchmarks: Annotated[str, OneOf(("fail", "skip"))] = setting(
        "fail", "a benchmark that cannot be loaded: fail, or skip (the card says so)"
    )
    tokenizer: str | None = setting(None, "counts lengths in the policy's tokens; unset = in characters")
    max_prompt: Count = setting(None, "longest prompt, in tokens (characters without a tokenizer)")
    min_trace: Count = setting(None, "shortest trace")
    max_trace: Count = setting(None, "longest trace")
    difficulty: Annotated[str, OneOf(("auto", "tier", "steps", "length", "none"))] = setting(
        "auto", "auto (what the data says), tier, steps, length, or none"
    )
    tiers: list[str] = setting([], "keep these sources only ('unknown': the data names none); empty = all")
    per_tier: Count = setting(None, "at most so many rows of a tier, drawn by seed")
    limit: Count = setting(None, "at most so many rows, spread over the tiers, drawn by seed")
    order: Annotated[str, OneOf(ORDERS)] = setting("source", "source, difficulty (easy first) or shuffle")
    sample_filter: SampleFilter = setting(
        SampleFilter(), "mode (keep, remove, replace), hard, moderate: see selection.py"
    )
    instruction: str | None = setting(None, "text under each problem; unset = the reader's own, '' = none")
    system: str | None = setting(None, "system message of each prompt")
    prompt_form: Annotated[str | None, OneOf(("chat", "text"))] = setting(
        None, "chat or text; unset = chat, for plain rows as they are"
    )
    keep: list[str] = setting([], "further columns of the data to write, as text")
    seed: int = setting(0, "of every draw")
    workers: Annotated[int, Ge(1)] = setting(1, "processes that grade traces")
    output: str = setting("", "folder to write; must not exist")

    def __post_init__(self) -> None:
        check(self)
        check_mode(self.sample_filter.mode)
        check_mapping(self.mapping)
        if not self.source:
            raise InputError("is missing", field="source", fix="name a hub id, a file or a generator")
        for name in ("hard", "moderate"):
            bound_value(getattr(self.sample_filter, name), name, [0.0])


def make_recipe(values: Mapping[str, Any], *, file: str | Path | None = None) -> Recipe:
    """A recipe from a mapping. Raises `InputError` for an unknown field or a value of the wrong type."""
    kinds = {item.name: item.type for item in describe(Recipe)}
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise InputError("is no field of a recipe", file=file, field=name, fix=f"use {', '.join(kinds)}")
        kind = kinds[name]
        if kind is SampleFilter:
            value = _sample_filter(value, file)
        elif get_origin(kind) is list and isinstance(value, str):
            value = [value]
        # `int | None` → int, NoneType; `list[str]` → list
        classes = get_args(kind) if isinstance(kind, UnionType) else (get_origin(kind) or kind,)
        if not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes):
            words = kind.__name__ if isinstance(kind, type) else str(kind)
            raise InputError("has the wrong type", file=file, field=name, value=value, fix=f"give {words}")
        fields[name] = value
    return Recipe(**fields)


def _sample_filter(value: Any, file: str | Path | None) -> SampleFilter:
    if isinstance(value, str):
        value = {"mode": value}
    names = [item.name for item in dataclasses.fields(SampleFilter)]
    if not isinstance(value, Mapping) or set(value) - set(names):
        fix = f"give {', '.join(names)}"
        raise InputError("is no sample filter", file=file, field="sample_filter", value=value, fix=fix)
    return SampleFilter(**value)
