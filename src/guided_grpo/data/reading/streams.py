"""Raw records, one at a time, from wherever they lie: a generator, a file, a saved data set, a hub id.

A line that is no record is handed on with its fault: training stops at it (`records`), curation counts it (`items`).
Nothing is held in memory but the record at hand.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from guided_grpo.data.domains.chains import ANSWER_VALUES, chains
from guided_grpo.data.domains.damage import STYLES, Damage, damaged
from guided_grpo.data.domains.programs import programs
from guided_grpo.data.reading.hub import seek
from guided_grpo.errors import InputError
from guided_grpo.types import Row

Record = Mapping[str, Any]

# Problems by number of steps: what makes them, and the fewest steps.
BY_STEPS: dict[str, tuple[Callable[[int, int, int, int], Iterator[Row]], int]] = {
    "chains": (chains, ANSWER_VALUES),
    "programs": (programs, 1),
}
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".parquet")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape of half a UTF-16 pair; the other half may be missing


class ExactNumber(float):
    """A JSON number that remembers its digits: an answer of twenty digits must not be rounded."""

    text: str

    def __new__(cls, text: str) -> ExactNumber:
        number = super().__new__(cls, text)
        number.text = text
        return number


def exact_text(value: object) -> str:
    """A value as text, a number with all the digits that it was written with."""
    return value.text if isinstance(value, ExactNumber) else str(value)


@dataclass(frozen=True, slots=True)
class Item:
    """One line or record: the record, or what is wrong with the line."""

    source: str
    line: int  # from 1; the number of the record where the data has no lines
    record: Record | None
    raw: str | None = None  # the line as it stands; None where the data has no lines
    size: int = 0  # bytes of the line
    fault: str = ""  # why there is no record
    field: str | None = None  # the column at fault
    fix: str = "write one JSON object a line"

    def original(self) -> str:
        """The line as it stands, or the record as one line of JSON."""
        return self.raw if self.raw is not None else json.dumps(self.record, ensure_ascii=False, default=str)


def items(source: str, split: str = "train") -> Iterator[Item]:
    """All lines or records of `source`, faulty lines too. Raises `InputError` where the source itself cannot be read.

    Args:
        source: a generator (`chains:steps=10-14,count=640,seed=1`, `programs:…` with the same settings,
            `reasoning-gym:chain_sum,count=100,seed=1`), a file (`.jsonl`, `.json` with one object a line, `.jsonl.gz`,
            `.parquet`), a folder, or a hub id `owner/name` or `owner/name:subset`.
        split: of a hub data set or folder; files and generators have one split only.
    """
    path = Path(source).expanduser()
    name = source.partition(":")[0]
    if name in BY_STEPS:
        rows = _by_steps(source, name)
    elif name == "reasoning-gym":
        rows = _reasoning_gym(source)
    elif path.name.endswith(SUFFIXES):
        if not path.is_file():
            raise InputError("is not there", file=source, fix="check the path")
        if path.suffix != ".parquet":
            return _lines(source, path)
        rows = _parquet(path)
    elif path.is_dir() and (path / "card.json").is_file() and (path / "rows.jsonl").is_file():
        return _lines(source, path / "rows.jsonl")  # what `data prepare` wrote
    elif path.is_file():
        raise InputError("is no format that is read here", file=source, fix=f"give a file of {', '.join(SUFFIXES)}")
    else:
        rows = _data_set(source, path, split)
    return (Item(source, number, record) for number, record in enumerate(rows, 1))


def records(source: str, split: str = "train") -> Iterator[tuple[int, Record]]:
    """The same for training, with the numbers: the first line that is no record raises `InputError`."""
    for item in items(source, split):
        if item.record is None:
            raise InputError(item.fault, file=item.source, line=item.line, field=item.field, fix=item.fix)
        yield item.line, item.record


def total_bytes(source: str) -> int | None:
    """Size of what `items` reads, for progress; None where it is not known beforehand."""
    path = Path(source).expanduser()
    return path.stat().st_size if path.suffix in (".jsonl", ".json") and path.is_file() else None


def _lines(source: str, path: Path) -> Iterator[Item]:
    """A line ends at \\n alone; blank lines are passed over."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            text, record, fault = "", None, ""
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = json.loads(text, parse_float=ExactNumber) if text else None
            except UnicodeDecodeError as error:
                text, fault = raw.decode(errors="backslashreplace").strip(), f"is not UTF-8 ({error.reason})"
            except (ValueError, RecursionError) as error:
                fault = f"is not JSON ({error})"
            if not text:
                continue
            if not fault and not isinstance(record, dict):
                record, fault = None, f"is {type(record).__name__}, not an object"
            if isinstance(record, dict) and _SURROGATE.search(raw) and (half := _half_character(record)):
                yield Item(source, number, None, text, len(raw), *half)
            else:
                yield Item(source, number, record, text, len(raw), fault)


def _half_character(record: Record) -> tuple[str, str, str] | None:
    """Fault, column and fix where a text holds one half of a UTF-16 pair alone: no tokenizer and no file takes it."""
    for name, value in record.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            name = name.encode(errors="backslashreplace").decode()
            return f"holds half a character ({half} without its pair)", name, "write the whole character, or none"
        except RecursionError:
            continue  # too deep to be written again; whoever reads the column says so
    return None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"is no Parquet file ({first_line(error)})", file=path, fix="write it again") from error


def _data_set(source: str, path: Path, split: str) -> Iterator[Record]:
    import datasets

    saved = path.is_dir() and any((path / name).exists() for name in ("state.json", "dataset_dict.json"))
    name, _, subset = source.partition(":")
    try:
        if saved:
            data = datasets.load_from_disk(str(path))
        elif path.is_dir():
            data = datasets.load_dataset(source, split=split)
        else:
            seek(name)
            data = datasets.load_dataset(name, subset or None, split=split)
    except Exception as error:  # the hub, the network, the cache and foreign files each raise their own kinds
        raise InputError(
            f"cannot be loaded ({first_line(error)})",
            file=source,
            fix="check the id (owner/name or owner/name:subset) or path and the split, or give a file",
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            fix = f"use one of {', '.join(data)}"
            raise InputError("is no split", file=source, field="split", value=split, fix=fix)
        data = data[split]
    return iter(data)


_STEPPED = ("steps", "count", "seed", *(one.name for one in fields(Damage)))


def _by_steps(source: str, name: str) -> Iterator[Record]:
    """The rows of `NAME:steps=LOW-HIGH,count=N,seed=S`; steps and count are required, seed is 0 unless given.

    Further settings damage the traces: domains/damage.py.
    """
    generate, fewest = BY_STEPS[name]
    example = f"write {name}:steps=10-14,count=640,seed=1"
    settings: dict[str, str] = {}
    for part in source.partition(":")[2].split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in _STEPPED or not equals or key in settings:
            raise InputError(f"is no setting of {name}, or stands twice", field=source, value=part.strip(), fix=example)
        settings[key] = value
    for key in ("steps", "count"):
        if key not in settings:
            raise InputError(f"lacks {key}", field=source, fix=example)
    low, dash, high = settings["steps"].partition("-")
    lowest = _whole(low, "steps", fewest)
    highest = _whole(high, "steps", lowest) if dash else lowest
    count, seed = _whole(settings["count"], "count", 1), _whole(settings.get("seed", "0"), "seed", 0)
    rows, damage = generate(count, lowest, highest, seed), _damage(settings)
    if damage.needs_chains and name != "chains":
        raise InputError(
            f"has no such traces in {name}", field=source, value="wrong, slip, merge or style", fix="use chains"
        )
    return (dict(row) for row in (rows if damage == Damage() else damaged(rows, damage, seed)))


def _damage(settings: Mapping[str, str]) -> Damage:
    cut = None
    if "cut" in settings:
        low, _, high = settings["cut"].partition("-")
        least = _whole(low, "cut", 1)
        cut = (least, _whole(high or low, "cut", least))
    style = settings.get("style", "own")
    if style not in STYLES:
        raise InputError("is no style", field="style", value=style, fix=f"use {' or '.join(STYLES)}")
    return Damage(
        style=style,
        merge=_whole(settings.get("merge", "1"), "merge", 1),
        traces=_whole(settings["traces"], "traces", 0) if "traces" in settings else None,
        cut=cut,
        wrong=_whole(settings.get("wrong", "0"), "wrong", 0),
        slip=_whole(settings.get("slip", "0"), "slip", 0),
    )


def _reasoning_gym(source: str) -> Iterator[Record]:
    """`reasoning-gym:TASK,count=N,seed=S,…`: further settings go to the task as numbers or text."""
    example = "write reasoning-gym:chain_sum,count=100,seed=1"
    task, *parts = (part.strip() for part in source.partition(":")[2].split(","))
    words = dict(part.split("=", 1) for part in parts if "=" in part)
    if not task or len(words) != len(parts) or "count" not in words:
        raise InputError("is no task with a count and settings", field=source, fix=example)
    count, seed = _whole(words.pop("count"), "count", 1), _whole(words.pop("seed", "0"), "seed", 0)
    try:
        import reasoning_gym
    except ImportError:
        raise InputError("is not installed", field="reasoning-gym", fix="pip install 'guided-grpo[gym]'") from None
    settings = {key: int(value) if value.lstrip("-").isdigit() else value for key, value in words.items()}
    try:
        data = reasoning_gym.create_dataset(task, size=count, seed=seed, **settings)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"is refused ({first_line(error)})", field=source, fix=example) from error
    return (data[number] for number in range(count))


def _whole(text: str, field: str, least: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        fix = f"give a whole number, at least {least}"
        raise InputError("is no such whole number", field=field, value=text, fix=fix)
    return int(text)


def first_line(error: BaseException) -> str:
    """What an exception says, as one short line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
