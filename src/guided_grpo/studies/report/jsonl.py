"""Lines of JSON from a run that may have been killed while it wrote, and checked access to their fields."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guided_grpo.errors import InputError


def read_jsonl(path: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line. A broken last line (a killed run) is left out with a note.

    A broken line with others after it is damage that nobody should plot over, and raises.
    """
    broken: tuple[int, bytes] | None = None
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            if broken is not None:
                raise InputError(
                    "is no JSON object",
                    file=path,
                    line=broken[0],
                    value=broken[1].decode("utf-8", "replace").strip(),
                    fix="repair or delete the line",
                )
            record = _parse(raw)
            if record is None:
                broken = (number, raw)
            else:
                yield number, record
    if broken is not None:
        notes.append(f"The last line of {path.name} is incomplete (the run was probably killed) and is left out.")


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):  # also bytes that are no UTF-8
        return None
    return record if isinstance(record, dict) else None


def optional_number(record: Mapping[str, Any], key: str, file: Path, line: int | None = None) -> float | None:
    """The number under `key`, None where it is absent or null; anything else is an error."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError("is not a number", file=file, line=line, field=key, value=value, fix="write a number or null")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def optional_integer(record: Mapping[str, Any], key: str, file: Path, line: int | None = None) -> int | None:
    """`optional_number` without its fraction; what is not finite is an error."""
    number = optional_number(record, key, file, line)
    if number is None:
        return None
    if not math.isfinite(number):
        raise InputError("is not finite", file=file, line=line, field=key, value=number, fix="write a whole number")
    return int(number)


def as_text(value: object) -> str:
    """A text as it is, null as none, anything else as its JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
