"""Their columns under our names: a column, or a template over several of them.

    prompt=problem                 the column `problem`, as it is
    prompt={Body} {Question}       text made of two columns; {{ and }} are braces

A number in a template keeps the digits that it was written with, and a null in it makes the whole null: half a trace
is no trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from guided_grpo.data.reading.streams import Record, exact_text
from guided_grpo.errors import InputError

_PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[^{}]+|[{}]")


def check_mapping(mapping: Any) -> None:
    """Raise `InputError` for what is no mapping of our columns to names of columns or templates."""
    if not isinstance(mapping, Mapping):
        fix = "write our column and yours, {prompt: COLUMN}"
        raise InputError("is no mapping", field="data_mapping", value=mapping, fix=fix)
    for ours, theirs in mapping.items():
        if not isinstance(theirs, str) or not theirs:
            fix = f"write {ours}: COLUMN, or a template in quotes, {ours}: '{{COLUMN}} {{OTHER}}'"
            raise InputError("is no column and no template", field=str(ours), value=theirs, fix=fix)
        try:
            _parts(theirs)
        except ValueError:
            fix = "write {COLUMN} for a column, and {{ or }} for a brace"
            raise InputError("has a brace that holds no column", field=ours, value=theirs, fix=fix) from None


def rename(record: Record, mapping: Mapping[str, str], source: str, line: int) -> Record:
    """The record under our column names; a column that a mapped one displaces is kept as `original_<name>`.

    Args:
        record: under the data's names.
        mapping: our column → the data's column, which loses its own name, or a template, whose columns keep theirs.
        source: for messages.
        line: for messages.

    Raises InputError where the data lacks a column, or a template holds one that is neither text nor a number.
    """
    values = {}
    for ours, theirs in mapping.items():
        values[ours] = _fill(_parts(theirs), ours, record, source, line)
    rest = {name: value for name, value in record.items() if name not in mapping.values()}
    return {**{f"original_{name}" if name in mapping else name: value for name, value in rest.items()}, **values}


@lru_cache(maxsize=64)
def _parts(text: str) -> str | tuple[tuple[str, str], ...]:
    """The name of a column, or the pieces of a template: words, and the column behind them ("" = none).

    Raises ValueError for a brace that stands alone.
    """
    if "{" not in text and "}" not in text:
        return text
    pieces, words = [], ""
    for match in _PART.finditer(text):
        if match[0] in ("{", "}"):
            raise ValueError(text)
        if match[1]:
            pieces.append((words, match[1]))
            words = ""
        else:
            words += match[0][0] if match[0] in ("{{", "}}") else match[0]
    return (*pieces, (words, ""))


def _fill(parts: str | tuple[tuple[str, str], ...], ours: str, record: Record, source: str, line: int) -> Any:
    """The value of our column."""
    columns = [parts] if isinstance(parts, str) else [column for _, column in parts if column]
    for column in columns:
        problem = fix = ""
        if column not in record:
            problem = f"is not a column of the data, which has {', '.join(record)}"
            fix = "name one of these in the mapping"
        elif parts != column and not isinstance(record[column], str | int | float | None):
            problem, fix = f"holds a {type(record[column]).__name__}", "use columns of text or numbers in a template"
        if problem:
            raise InputError(problem, file=source, line=line, field=ours, value=column, fix=fix)
    if isinstance(parts, str):
        return record[parts]
    if any(record[column] is None for column in columns):
        return None
    return "".join(words + (exact_text(record[column]) if column else "") for words, column in parts)
