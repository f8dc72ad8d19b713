"""From wherever problems come to rows for training.

record (`streams.py`) → mapping (their column names to ours) → reader (`readers.py`) → checks (`rows.py`) → row

What is wrong is said when the data is loaded, with file and line, not in the middle of a training run. Where data has
no lines, the line is the number of the record, counted from 1. `guided-grpo data prepare` goes on where this stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types

from guided_grpo.data.curriculum import MATHS_TIERS
from guided_grpo.data.reading.drafts import RejectedError
from guided_grpo.data.reading.mapping import check_mapping, rename
from guided_grpo.data.reading.readers import READERS, find_reader
from guided_grpo.data.reading.rows import check_row
from guided_grpo.data.reading.streams import Record, first_line, records
from guided_grpo.errors import InputError


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

    Columns that the schema of the data does not have are kept. Of several traces the first that is complete becomes the
    guidance, none of them graded (`data prepare` does that). Rows without a trace are kept with guidance None: they
    train unguided.

    Args:
        source: a generator, a file, a folder or a hub id: see `streams.items`.
        mapping: our column → the data's column or a template, such as {"prompt": "{Body} {Question}", "guidance":
            "solution"}; None = same names. See `mapping.rename`.
        split: of a hub data set or folder; files and generators have one split only.
        limit: the first so many records; None = all.
        reader: a name in READERS; None = plain with a mapping, else by the columns of the first record.
        require_guidance: whether data without a single trace is an error.

    Raises InputError, in one line, for whatever the user can mend.
    """
    if limit is not None and limit < 1:
        raise InputError("is below 1", field="limit", value=limit, fix="give at least 1, or leave it out")
    if reader is not None:
        find_reader(reader, {})
    check_mapping(mapping or {})
    rows: list[dict[str, Any]] = []
    kind: type | None = None
    for line, record in islice(records(source, split), limit):
        record = rename(record, mapping or {}, source, line)
        reader = reader or find_reader(None, record, mapping, default="plain")
        row = check_row(read_row(reader, record, file=source, line=line), file=source, line=line, kind=kind)
        rows.append(row)
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


def read_row(reader: str, record: Record, *, file: str, line: int) -> dict[str, Any]:
    """A record as a row that is not checked yet; `file` and `line` are for messages.

    Raises InputError where the reader finds no problem in it.
    """
    if reader == "plain":
        return dict(record)  # our columns already; the checks name those that are missing
    schema = READERS[reader]
    try:
        draft = schema.read(record)
    except RejectedError as error:
        fix = f"correct it, name another reader than {reader}, or let guided-grpo data prepare leave it out"
        raise InputError(error.detail, file=file, line=line, fix=fix) from None
    trace = next((trace for trace in draft.traces if trace.complete is not False), None)
    difficulty = draft.tier if draft.difficulty is None and draft.tier in MATHS_TIERS else draft.difficulty
    rest = {name: value for name, value in record.items() if name not in schema.tells | schema.others}
    return {**rest, **draft.row([{"role": "user", "content": draft.question()}], trace, difficulty)}


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
