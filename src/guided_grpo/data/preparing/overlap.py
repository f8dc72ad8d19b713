"""What occurs twice: duplicates within the data, and overlap with benchmarks. Texts are kept as 64-bit hashes only.

A duplicate is a problem whose text is the same but for case, white space, `$` and the form of Unicode characters;
operators count, so `x+1` and `x-1` are two problems. A problem is contaminated when it shares a run of n words with a
problem of a benchmark (n = 8 unless set, as open-r1 and s1 do), or, where it has fewer than n words, when it is a
duplicate of one.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from guided_grpo.data.reading.benchmarks import BENCHMARKS
from guided_grpo.data.reading.streams import items
from guided_grpo.errors import InputError

NGRAM = 8  # words

_COLUMNS = ("problem", "question", "prompt", "Question", "question_content", "text")
_IGNORED = re.compile(r"[\s$]+")
_WORD = re.compile(r"\w+")


def text_hash(text: str) -> int:
    """64 bits of what makes a problem the same problem; never 0."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    digest = blake2b(_IGNORED.sub("", plain.casefold()).encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest) or 1


class HashTable:
    """64-bit hashes → numbers, in two flat arrays: 24 to 48 bytes an entry, an eighth of a dict's."""

    def __init__(self) -> None:
        self._allocate(1 << 10)
        self.entries = 0

    def _allocate(self, size: int) -> None:
        self._keys, self._values = array("Q", bytes(8 * size)), array("Q", bytes(8 * size))

    def __len__(self) -> int:
        return self.entries

    def get(self, key: int) -> int | None:
        """The number kept with `key`, or None."""
        place = self._find(key)
        return self._values[place] if self._keys[place] else None

    def add(self, key: int, value: int) -> None:
        """Keep `value` with `key` (not 0), unless there is one."""
        if 3 * (self.entries + 1) > 2 * len(self._keys):
            keys, values = self._keys, self._values
            self._allocate(2 * len(keys))
            for old, number in zip(keys, values, strict=True):
                if old:
                    place = self._find(old)
                    self._keys[place], self._values[place] = old, number
        place = self._find(key)
        if not self._keys[place]:
            self._keys[place], self._values[place] = key, value
            self.entries += 1

    def _find(self, key: int) -> int:
        keys, mask = self._keys, len(self._keys) - 1
        place = key & mask
        while keys[place] and keys[place] != key:
            place = (place + 1) & mask
        return place


def word_runs(text: str, n: int = NGRAM) -> Iterator[tuple[str, ...]]:
    """Each run of n words, lower case, without punctuation; none where there are fewer than n."""
    words = _WORD.findall(text.lower())
    for start in range(len(words) - n + 1):
        yield tuple(words[start : start + n])


@dataclass
class Contamination:
    """Runs of words of the benchmarks, and what was hit.

    >>> overlap = Contamination(n=3)
    >>> overlap.add("tiny", ["How many clips did Natalia sell?"])
    >>> overlap.find("Tell me: how many clips are there?")
    ('tiny', 'how many clips')
    """

    n: int = NGRAM
    problems: dict[str, int] = field(default_factory=dict)  # by benchmark
    hits: dict[str, int] = field(default_factory=dict)  # by benchmark
    skipped: dict[str, str] = field(default_factory=dict)  # by benchmark: why it was not loaded
    _runs: dict[int, str] = field(default_factory=dict)  # hash of a run → name of the first benchmark that has it

    def add(self, name: str, problems: Iterable[str]) -> None:
        """Take the problems of one benchmark."""
        count = 0
        for count, problem in enumerate(problems, 1):  # noqa: B007  # the last value is used
            runs = [hash(run) for run in word_runs(problem, self.n)]
            for key in runs or [text_hash(problem)]:
                self._runs.setdefault(key, name)
        self.problems[name], self.hits[name] = count, 0

    def find(self, problem: str) -> tuple[str, str] | None:
        """The benchmark and the shared words of the first hit, counted; None where there is none."""
        if not self._runs:
            return None
        run: tuple[str, ...] = ()
        for run in word_runs(problem, self.n):
            if name := self._runs.get(hash(run)):
                self.hits[name] += 1
                return name, " ".join(run)
        name = None if run else self._runs.get(text_hash(problem))
        if name is None:
            return None
        self.hits[name] += 1
        return name, problem[:100]

    def to_json(self) -> dict[str, Any]:
        """The figures for a card."""
        return {"ngram": self.n, "problems": self.problems, "hits": self.hits, "skipped": self.skipped}


def load_benchmarks(
    entries: Sequence[str | Mapping[str, str]], n: int = NGRAM, *, skip_missing: bool = False
) -> Contamination:
    """The benchmarks to compare with.

    Args:
        entries: names in BENCHMARKS, files or hub ids (the column of the problem is found by its usual names), or
            mappings with source and, where needed, split, column, name.
        n: words of a run.
        skip_missing: go on without a benchmark that cannot be loaded, and say so in `skipped`.

    Raises InputError for a benchmark that cannot be loaded or has no column of problems.
    """
    contamination = Contamination(n)
    for entry in entries:
        name, source, split, column = _place(entry)
        try:
            contamination.add(name, _problems(source, split, column))
        except InputError as error:
            if not skip_missing:
                raise InputError(
                    f"cannot be compared with ({error})",
                    field="benchmarks",
                    value=name,
                    fix="give a local file (benchmarks: [{source: FILE, column: COLUMN}]), or say "
                    "offline_benchmarks: skip to go on without it",
                ) from error
            contamination.skipped[name] = str(error)
    return contamination


def _place(entry: str | Mapping[str, str]) -> tuple[str, str, str, str | None]:
    """Name, source, split and column of a benchmark."""
    if isinstance(entry, str):
        published = BENCHMARKS.get(entry)
        return (entry, published.source, published.split, None) if published else (entry, entry, "test", None)
    if set(entry) - {"name", "source", "split", "column"} or "source" not in entry:
        fix = "give source, and split, column, name"
        raise InputError("is no benchmark", field="benchmarks", value=dict(entry), fix=fix)
    return entry.get("name", entry["source"]), entry["source"], entry.get("split", "test"), entry.get("column")


def _problems(source: str, split: str, column: str | None) -> Iterator[str]:
    for item in items(source, split):
        record = item.record or {}
        name = column or next((usual for usual in _COLUMNS if usual in record), None)
        value = record.get(name) if name else None
        if isinstance(value, list):  # chat messages
            value = "\n".join(str(message.get("content", "")) for message in value if isinstance(message, Mapping))
        if not isinstance(value, str):
            raise InputError(
                f"holds no text to compare; the columns are {', '.join(record)}",
                file=source,
                line=item.line,
                field=column or "problem",
                fix="name the column of the problem",
            )
        yield value
