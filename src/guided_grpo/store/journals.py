"""Work kept while it is done: a file of JSON lines, of which the first holds the settings that shaped the others.

    {"settings": {"model": …, "temperature": 1.0}}
    {…}                                            whatever a result is, in the order in which they came

A half-written last line is cut off when the work is taken up again. Answers of a teacher, completions of an
evaluation, trials of an audit and success rates are stored so.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from guided_grpo.errors import InputError
from guided_grpo.store.jsonl import Record, encoded, read_lines

Take = Callable[[Record, int, int], None]  # a line, where it begins and its length, in bytes


def key_of(content: object) -> str:
    """A key of JSON data, the same whatever the order of its fields."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def same_settings(
    old: Mapping[str, Any], new: Mapping[str, Any], path: Path, what: str, *, output: str = "--output"
) -> None:
    """Raise InputError where work that is there was shaped by other settings, naming one and listing the first six.

    Args:
        old: of the file.
        new: of this command, plain JSON; the first of them that differs is the one named.
        path: the file.
        what: is there, with its verb: "answers that are".
        output: the option that chooses another place.
    """
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    if names:
        raise InputError(
            f"is not {old.get(names[0])!r} of the {what} there (what differs: {', '.join(names[:6])})",
            file=path,
            field=names[0],
            value=new.get(names[0], "unset"),
            fix=f"choose another {output}, or repeat the settings to go on",
        )


def read(path: Path, what: str, take: Take) -> tuple[Record | None, int]:
    """Pass every whole line but the first to `take`; the settings (None = not one whole line), and where lines end.

    Raises InputError where a line other than the last is broken, or `take` misses something in it (KeyError,
    TypeError, ValueError).
    """
    settings, end = None, 0
    for line in read_lines(path):
        if not line.raw.endswith(b"\n"):  # not written to its end
            break
        try:
            if line.record is None:
                raise ValueError
            if line.start == 0:
                settings = dict(line.record["settings"])
            else:
                take(line.record, line.start, len(line.raw))
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"is no line of {what}", file=path, line=line.number, fix="choose another --output, or delete it"
            ) from None
        end = line.start + len(line.raw)
    return settings, end


class Journal:
    """The file, locked while it is open; a context manager.

    Args:
        path: made where it is missing, with its folder.
        settings: JSON data. A file that holds work must have the same.
        take: gets what is there.
        what: is there, for errors, with its verb: "answers that are".
        line: what a line belongs to, for errors.
        unusable: called after the last `take`: from which byte on the lines cannot be used and are cut off; None = all
            can be.

    A file without a line but the settings binds no one to them.

    Raises InputError where another process holds it, its settings differ, or it is damaged before its last line.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        take: Take,
        *,
        what: str,
        line: str,
        unusable: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", file=path, fix="check the folder") from None
        lines = 0

        def counting(record: Record, start: int, size: int) -> None:
            nonlocal lines
            lines += 1
            take(record, start, size)

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old, end = read(path, line, counting)
            if lines:
                same_settings(old or {}, json.loads(json.dumps(settings)), path, what)
                cut = unusable()
                self._end = end if cut is None else cut
            else:
                self._end = 0
            os.ftruncate(self._file, self._end)
            if not lines:
                self.append({"settings": settings})
        except BlockingIOError:
            self.close()
            raise InputError(
                "is in use by another process", file=path, fix="wait for it, or choose another --output"
            ) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def append(self, *records: Mapping[str, Any]) -> int:
        """Write these lines; where the first of them begins."""
        start, text = self._end, encoded(records)
        while text:
            written = os.write(self._file, text)
            self._end, text = self._end + written, text[written:]
        return start

    def line(self, start: int, size: int) -> Record:
        """The line that begins there."""
        record: Record = json.loads(os.pread(self._file, size, start))
        return record

    @property
    def end(self) -> int:
        """Where the lines end, in bytes."""
        return self._end
