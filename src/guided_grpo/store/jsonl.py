"""Lines of JSON, of every file that grows while something runs: one reader, one writer.

Lines are handed to the system in one piece: the death of the process loses none, a power cut may lose the last
seconds. So only the last line can be half written; what a reader makes of a broken one is its own matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of a file, blank ones left out."""

    number: int  # from 1
    start: int  # bytes before it
    raw: bytes
    record: Record | None  # None = it is no JSON object


def read_lines(path: Path) -> Iterator[Line]:
    """Every line of `path`, the broken ones too."""
    start = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield Line(number, start, raw, _record(raw))
            start += len(raw)


def whole_rows(path: Path) -> Iterator[Record]:
    """The JSON objects of `path` up to the first broken line; nothing where the file is missing."""
    if path.exists():
        for line in read_lines(path):
            if line.record is None:
                return
            yield line.record


def encoded(records: Iterable[Mapping[str, Any]]) -> bytes:
    """As lines. Text of a model may hold lone surrogates, and is read back as it was."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode(errors="surrogatepass")


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append lines in one write."""
    with path.open("ab") as file:
        file.write(encoded(rows))


def _record(raw: bytes) -> Record | None:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):  # also bytes that are no UTF-8
        return None
    return record if isinstance(record, dict) else None
