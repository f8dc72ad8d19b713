"""From wherever problems come to rows for training.

record (`records.py`) → mapping (their column names to ours) → reader (gsm8k, or our columns) → checks (`rows.py`) → row

What is wrong is said when the data is loaded, with file and line, not in the middle of a training run. Where data has
no lines, the line is the number of the record, counted from 1. Other schemas go through `guided-grpo data prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types

from guided_grpo.data.reading.gsm8k import is_gsm8k, read_gsm8k
from guided_grpo.data.reading.rows import checked_row
from guided_grpo.data.reading.streams import Record, first_line, records, renamed
from guided_grpo.errors import InputError

Reader = Callable[..., dict[str, Any]]  # (record, *, file, line) -> row


def read_plain(record: Record, *, file: str, line: int) -> dict[str, Any]:
    """Columns that already carry our names."""
    return dict(record)


READERS: dict[str, Reader] = {"gsm8k": read_gsm8k, "plain": read_plain}


def load_rows(
    source: str,
    *,
    mapping: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    reader: str | None = None,
    require_guidance: bool = False,
) -> datasets.Dataset:
    """Problems as a data set with the columns prompt, answer, guidance, guidance_limit, task, difficulty if known.

    All other columns of the data are kept. Rows without a trace are kept with guidance None: they train unguided.

    Args:
        source: a generator, a file, a folder or a hub id: see `records.items`.
        mapping: our column → the data's column, such as {"prompt": "problem", "guidance": "solution"}; None = same
            names. A column of the data that stands where a mapped one belongs is kept as `original_<name>`.
        split: of a hub data set or folder; files and generators have one split only.
        limit: the first so many records; None = all.
        reader: a name in READERS; None = gsm8k where the records are of that form, else plain.
        require_guidance: whether data without a single trace is an error.

    Raises InputError, in one line, for whatever the user can mend.
    """
    if limit is not None and limit < 1:
        raise InputError("is below 1", field="limit", value=limit, fix="give at least 1, or leave it out")
    if reader is not None and reader not in READERS:
        raise InputError("is no reader", field="reader", value=reader, fix=f"choose from {', '.join(READERS)}")
    rows, read = [], READERS[reader] if reader else None
    kind: type | None = None
    for line, record in islice(records(source, split), limit):
        if read is None:
            read = read_gsm8k if mapping is None and is_gsm8k(record) else read_plain
        row = read(renamed(record, mapping or {}, source, line), file=source, line=line)
        rows.append(checked_row(row, file=source, line=line, kind=kind))
        kind = kind or type(row["prompt"])
    if not rows:
        raise InputError("is empty: it holds no records", file=source, fix="give a file with at least one problem")
    if require_guidance and all(row["guidance"] is None for row in rows):
        raise InputError(
            "has no trace in any row, and the method guides",
            file=source,
            field="guidance",
            fix='map the column of worked solutions ({"guidance": COLUMN}), or choose the method grpo',
        )
    return _table(rows, source)


def _table(rows: list[dict[str, Any]], source: str) -> datasets.Dataset:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table: dict[str, Any] = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        if name == "difficulty" and all(value is None for value in values):
            continue
        try:
            table[name] = pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"holds values of different types ({first_line(error)})",
                file=source,
                field=name,
                fix="give all rows of a column the same type",
            ) from error
    return datasets.Dataset(datasets.table.InMemoryTable(pa.table(table)))
