"""From wherever problems come to rows: a generator, a JSON-lines or Parquet file, a saved data set, a hub id.

record → mapping (their column names to ours) → reader (the schema of the data) → checks (`rows.py`) → row

What is wrong is said when the data is loaded, with file and line, not in the middle of a training run. Where data has
no lines, the line is the number of the record, counted from 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types

from guided_grpo.errors import InputError
from guided_grpo.problems.chains import ANSWER_VALUES, chains
from guided_grpo.problems.gsm8k import is_gsm8k, read_gsm8k
from guided_grpo.problems.rows import Written, checked_row

Record = Mapping[str, Any]
Numbered = tuple[int, Record]  # line or record number from 1, and the record
Reader = Callable[..., dict[str, Any]]  # (record, *, file, line) -> row


def read_plain(record: Record, *, file: str, line: int) -> dict[str, Any]:
    """Columns that already carry our names."""
    return dict(record)


READERS: dict[str, Reader] = {"gsm8k": read_gsm8k, "plain": read_plain}
GENERATORS = ("chains",)


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
        source: a generator (`chains:steps=10-14,count=640,seed=1`), a `.jsonl`, `.json` (one object a line) or
            `.parquet` file, a folder, or a hub id `owner/name`.
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
    records = islice(_records(source, split), limit)
    rows, read = [], READERS[reader] if reader else None
    kind: type | None = None
    for line, record in records:
        if read is None:
            read = read_gsm8k if mapping is None and is_gsm8k(record) else read_plain
        row = read(_renamed(record, mapping or {}, source, line), file=source, line=line)
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


def _records(source: str, split: str) -> Iterator[Numbered]:
    name = source.partition(":")[0]
    if name in GENERATORS:
        return enumerate(_generated(source), 1)
    path = Path(source).expanduser()
    if path.suffix in (".jsonl", ".json", ".parquet"):
        if not path.is_file():
            raise InputError("is not there", file=source, fix="check the path")
        return _json_lines(path) if path.suffix != ".parquet" else enumerate(_parquet(path), 1)
    if path.is_file():
        raise InputError("is no format that is read here", file=source, fix="give a .jsonl, .json or .parquet file")
    return enumerate(_data_set(source, path, split), 1)


def _generated(source: str) -> Iterator[Record]:
    """The rows of `chains:steps=LOW-HIGH,count=N,seed=S`; steps and count are required, seed is 0 unless given."""
    example = "write chains:steps=10-14,count=640,seed=1"
    given: dict[str, str] = {}
    for part in source.partition(":")[2].split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in ("steps", "count", "seed") or not equals or key in given:
            raise InputError("is no setting of chains, or stands twice", field=source, value=part.strip(), fix=example)
        given[key] = value
    for key in ("steps", "count"):
        if key not in given:
            raise InputError(f"lacks {key}", field=source, fix=example)
    low, dash, high = given["steps"].partition("-")
    lowest = _whole(low, "steps", ANSWER_VALUES)
    highest = _whole(high, "steps", lowest) if dash else lowest
    count, seed = _whole(given["count"], "count", 1), _whole(given.get("seed", "0"), "seed", 0)
    return (dict(row) for row in chains(count, lowest, highest, seed))


def _whole(text: str, field: str, least: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise InputError(
            "is no such whole number", field=field, value=text, fix=f"give a whole number, at least {least}"
        )
    return int(text)


def _json_lines(path: Path) -> Iterator[Numbered]:
    """Objects with their line numbers; a line ends at \\n alone, blank lines are passed over."""
    fix = "write one JSON object a line"
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = json.loads(line, parse_float=Written) if line else None
            except UnicodeDecodeError as error:
                raise InputError(f"is not UTF-8 ({error.reason})", file=path, line=number, fix=fix) from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"is not JSON ({error})", file=path, line=number, fix=fix) from None
            if not line:
                continue
            if not isinstance(record, dict):
                raise InputError(f"is {type(record).__name__}, not an object", file=path, line=number, fix=fix)
            yield number, record


def _parquet(path: Path) -> Iterator[Record]:
    try:
        yield from datasets.Dataset.from_parquet(str(path))
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        raise InputError(f"is no Parquet file ({_first_line(error)})", file=path, fix="write it again") from error


def _data_set(source: str, path: Path, split: str) -> Iterator[Record]:
    saved = path.is_dir() and any((path / name).exists() for name in ("state.json", "dataset_dict.json"))
    try:
        data = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(source, split=split)
    except Exception as error:  # the hub, the network, the cache and foreign files each raise their own kinds
        raise InputError(
            f"cannot be loaded ({_first_line(error)})",
            file=source,
            fix="check the id or path and the split, or give a .jsonl or .parquet file",
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise InputError(
                "is no split", file=source, field="split", value=split, fix=f"use one of {', '.join(data)}"
            )
        data = data[split]
    return iter(data)


def _renamed(record: Record, mapping: Mapping[str, str], source: str, line: int) -> Record:
    for ours, theirs in mapping.items():
        if theirs not in record:
            raise InputError(
                f"is not a column of the data, which has {', '.join(record)}",
                file=source,
                line=line,
                field=ours,
                value=theirs,
                fix="name one of these in the mapping",
            )
    used = set(mapping.values())
    kept = {
        f"original_{name}" if name in mapping else name: value for name, value in record.items() if name not in used
    }
    return {**kept, **{ours: record[theirs] for ours, theirs in mapping.items()}}


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
                f"holds values of different types ({_first_line(error)})",
                file=source,
                field=name,
                fix="give all rows of a column the same type",
            ) from error
    return datasets.Dataset(datasets.table.InMemoryTable(pa.table(table)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
