"""A setting is stated once: its meaning, default and range stand in a dataclass next to the rule that reads it.

    guidance_ratio: Annotated[float, Interval(ge=0, le=1)] = setting(0.25, "α: share of a group that is guided")

`check` holds the values against the ranges, `add_options` makes command-line options of the fields and `read_options`
the dataclass of what was typed, and `describe` gives help and docs/methods.md what they show. Fields are those of a
plain dataclass, so the parsers of Transformers and TRL take them too. An `axis` is a setting whose default is the
method's to choose. Loads without torch.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from annotated_types import Ge, Gt, Interval, Le, Lt

from guided_grpo.errors import InputError

T = TypeVar("T")


def setting(default: Any, meaning: str) -> Any:
    """A dataclass field with this default and one line of help; a list or dict default is copied for every instance."""
    metadata = {"help": meaning}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def axis(default: Any, meaning: str) -> Any:
    """A setting that a method may preset: the field is None until `fill` gives it the preset's value or this default.

    None is what tells a field that nobody named, whatever parser made the dataclass.
    """
    return dataclasses.field(default=None, metadata={"help": _AxisHelp(meaning, default)})


class _AxisHelp(str):
    """The line of help of an axis, which remembers the default: parsers take every other key for an argument."""

    default: Any

    def __new__(cls, meaning: str, default: Any) -> _AxisHelp:
        text = super().__new__(cls, meaning)
        text.default = default
        return text


def fill(settings: Any, preset: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Give every axis that is None the preset's value, or its default."""
    for item in describe(type(settings)):
        if item.is_axis and getattr(settings, item.name) is None:
            setattr(settings, item.name, preset.get(item.name, item.default))


@dataclass
class AxisGroup:
    """Axes that belong to one rule. On its own it is filled at once; a config fills it with its method's preset."""

    def __post_init__(self) -> None:
        fill(self)


def again(owner: type, name: str, **changes: Any) -> Any:
    """The field `name` of another dataclass once more: its default and meaning, unless `changes` name another one."""
    known = next(item for item in describe(owner) if item.name == name)
    return setting(changes.get("default", known.default), changes.get("meaning", known.meaning))


@dataclass(frozen=True)
class OneOf:
    """A range of names: the value is one of these, such as the keys of a table."""

    names: Collection[str]


@dataclass(frozen=True)
class Setting:
    """One field, as help and docs show it."""

    name: str
    type: Any  # without the range: `float`, `list[float]`, `int | None`
    default: Any
    meaning: str
    ranges: tuple[Any, ...]  # of annotated-types, or OneOf
    is_axis: bool = False  # whether a method may preset it

    @property
    def range(self) -> str:
        """The range in words, such as `in [0, 1]` or `first, spread`; "" = any value."""
        return "; ".join(_words(limit) for limit in self.ranges)

    @property
    def help(self) -> str:
        """The meaning, the names that it may have, and the default."""
        names = f": {', '.join(self.names)}" if self.names and not any(n in self.meaning for n in self.names) else ""
        return f"{self.meaning}{names}{_shown(self.default)}"

    @property
    def names(self) -> list[str] | None:
        """The names that it may have; None = it is no choice of names."""
        return next((list(limit.names) for limit in self.ranges if isinstance(limit, OneOf)), None)


def describe(owner: type) -> tuple[Setting, ...]:
    """The settings of a dataclass in their order: all of its fields that have a meaning."""
    hints = typing.get_type_hints(owner, include_extras=True)
    settings = []
    for item in dataclasses.fields(owner):
        meaning = item.metadata.get("help")
        if meaning is None:
            continue
        kind, ranges = hints[item.name], ()
        if typing.get_origin(kind) is typing.Annotated:
            kind, *extras = typing.get_args(kind)
            ranges = tuple(extras)
        is_axis = isinstance(meaning, _AxisHelp)
        made = item.default_factory() if callable(item.default_factory) else item.default
        default = meaning.default if isinstance(meaning, _AxisHelp) else made
        settings.append(Setting(item.name, kind, default, str(meaning), ranges, is_axis))
    return tuple(settings)


def check(settings: Any, names: Collection[str] | None = None) -> None:
    """Raise `InputError` for the first value outside its range; None passes where the type allows it.

    Args:
        settings: an instance of a dataclass of settings. Of a list every element is held against the range.
        names: the fields to look at; None = all.
    """
    for item in describe(type(settings)):
        value = getattr(settings, item.name)
        if (value is None and _allows_none(item.type)) or (names is not None and item.name not in names):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            for limit in item.ranges:
                if not _holds(limit, one):
                    problem, fix = "is out of range", f"use a number {_words(limit)}"
                    if item.names:
                        problem, fix = "is not known", f"choose one of {_words(limit)}"
                    raise InputError(problem, field=item.name, value=one, fix=fix)


def add_options(parser: ArgumentParser, owner: type, *, without: Collection[str] = (), **defaults: Any) -> None:
    """An option `--some-name` for every setting of a dataclass.

    Args:
        parser: gets them.
        owner: the dataclass.
        without: fields that get no option.
        defaults: of this command, in place of the dataclass's own.
    """
    for item in describe(owner):
        if item.name in without:
            continue
        default, kind = defaults.get(item.name, item.default), _base(item.type)
        options: dict[str, Any] = {"default": default, "help": item.meaning + _shown(default), "dest": item.name}
        if kind is bool:
            options["action"] = BooleanOptionalAction
        else:
            options["type"] = _element(kind)
            options["choices"] = item.names
            options["nargs"] = "+" if typing.get_origin(kind) is list else None
        parser.add_argument(f"--{item.name.replace('_', '-')}", **options)


def read_options(options: Namespace, owner: type[T], **values: Any) -> T:
    """The dataclass of what was typed; `values` stand in for fields without an option. Raises `InputError`."""
    typed = {item.name: getattr(options, item.name) for item in describe(owner) if hasattr(options, item.name)}
    settings = owner(**{**typed, **values})
    check(settings)
    return settings


def _holds(limit: Any, value: Any) -> bool:
    if isinstance(limit, OneOf):
        return value in limit.names
    if isinstance(limit, Interval):
        return all(_holds(part, value) for part in limit)
    match limit:  # NaN is in no range
        case Ge(ge=bound):
            return bool(value >= bound)
        case Gt(gt=bound):
            return bool(value > bound)
        case Le(le=bound):
            return bool(value <= bound)
        case Lt(lt=bound):
            return bool(value < bound)
    raise TypeError(f"{limit!r} is no range")


def _words(limit: Any) -> str:
    """An Interval has both ends here."""
    match limit:
        case OneOf(names=names):
            return ", ".join(names)
        case Ge(ge=bound):
            return f"{bound:g} or more"
        case Gt(gt=bound):
            return f"more than {bound:g}"
        case Le(le=bound):
            return f"at most {bound:g}"
        case Lt(lt=bound):
            return f"less than {bound:g}"
    low = f"({limit.gt:g}" if limit.ge is None else f"[{limit.ge:g}"
    return f"in {low}, " + (f"{limit.lt:g})" if limit.le is None else f"{limit.le:g}]")


def _shown(default: Any) -> str:
    if default is False or not (default or default == 0):
        return ""
    return f" [{' '.join(map(str, default)) if isinstance(default, list | tuple) else default}]"


def _allows_none(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _base(kind: Any) -> Any:
    """`int | None` → `int`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _element(kind: Any) -> Any:
    """What one word of the command line becomes: the type, or that of a list's elements."""
    parts = typing.get_args(kind)
    return parts[0] if typing.get_origin(kind) is list else kind
