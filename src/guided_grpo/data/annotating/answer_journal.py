"""Answers of a teacher, kept the moment they arrive: a kill costs the requests in flight, and nothing else.

Behind the settings, in the order of their arrival:

    {"row": KEY, "sample": 0, "text": …, "finish": "stop", "tokens_in": 61, "tokens_out": 412}
    {"row": KEY, "sample": 0, "gold": KEY, "status": "correct"}

Texts stay on disk; memory holds where they are. journals.py says how the file is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_grpo.data.annotating.teacher import TeacherAnswer
from guided_grpo.store.journals import Journal
from guided_grpo.types import Status

Key = tuple[str, int]  # key of the row, number of the sample from 0
UNUSABLE = frozenset({"length", "content_filter"})  # cut off: kept, never chosen


@dataclass(frozen=True)
class AnswerEntry:
    """One answer, without its text."""

    start: int  # where its line begins, in bytes
    size: int
    chars: int
    finish: str
    tokens_in: int | None
    tokens_out: int | None

    @property
    def whole(self) -> bool:
        """Whether the teacher ended by itself."""
        return self.finish not in UNUSABLE


class AnswerJournal(Journal):
    """The journal beside one output file, locked while it is open; a context manager.

    Args:
        path: of the file; made where it is missing.
        settings: JSON data. A journal that holds answers must have the same; one without binds no one, so that a run
            that a wrong key ended costs nothing.

    Raises InputError as `journals.Journal`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.entries: dict[Key, AnswerEntry] = {}
        self._statuses: dict[tuple[Key, str], Status] = {}
        super().__init__(path, settings, self._index, what="answers that are", line="a journal")

    def add(self, key: Key, answer: TeacherAnswer) -> None:
        """Keep an answer."""
        record = {"row": key[0], "sample": key[1], **vars(answer)}
        start = self.append(record)
        self._index(record, start, self.end - start)

    def add_status(self, key: Key, gold: str, status: Status) -> None:
        """Keep how an answer was graded against the gold answer or the tests of this key."""
        self.append({"row": key[0], "sample": key[1], "gold": gold, "status": status.value})
        self._statuses[key, gold] = status

    def status(self, key: Key, gold: str) -> Status | None:
        """How the answer was graded; None = not yet, or the grader could not tell."""
        return self._statuses.get((key, gold))

    def text(self, key: Key) -> str:
        """The answer's text."""
        entry = self.entries[key]
        return str(self.line(entry.start, entry.size)["text"])

    def _index(self, record: Mapping[str, Any], start: int, size: int) -> None:
        key = (record["row"], record["sample"])
        if "status" in record:
            self._statuses[key, record["gold"]] = Status(record["status"])
        else:
            tokens = record["tokens_in"], record["tokens_out"]
            self.entries.setdefault(key, AnswerEntry(start, size, len(record["text"]), record["finish"], *tokens))
