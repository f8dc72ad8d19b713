"""What journals have in common: settings that bind, lines that a kill cut off, one process at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guided_grpo.errors import InputError
from guided_grpo.store.journals import Journal, read


def opened(path: Path, settings: dict[str, Any], found: list[int], **more: Any) -> Journal:
    def take(record: dict[str, Any], start: int, size: int) -> None:
        assert json.loads(path.read_bytes()[start : start + size]) == record
        found.append(record["n"])

    return Journal(path, settings, take, what="numbers that are", line="a list", **more)


def numbers(path: Path) -> list[int]:
    found: list[int] = []
    read(path, "a list", lambda record, *_: found.append(record["n"]))
    return found


def test_every_cut_is_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    with opened(path, {"k": 1}, []) as journal:
        starts = [journal.append({"n": n, "text": "é\ud800"}) for n in range(3)]
        assert journal.line(starts[1], starts[2] - starts[1])["n"] == 1
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        left: list[int] = []
        with opened(path, {"k": 1}, left) as journal:
            assert left == list(range(max(0, whole[:length].count(b"\n") - 1)))
            journal.append(*({"n": n, "text": "é\ud800"} for n in range(len(left), 3)))
        assert path.read_bytes() == whole


def test_settings_bind_once_there_is_work(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    opened(path, {"model": "a", "seed": 1}, []).close()
    with opened(path, {"model": "b", "seed": 1}, []) as journal:
        journal.append({"n": 0})
    with pytest.raises(InputError) as refused:
        opened(path, {"model": "c", "seed": 2, "more": True}, [])
    assert str(refused.value) == (
        f"{path}: field 'model': 'c' is not 'b' of the numbers that are there (what differs: model, seed, more); "
        "fix: choose another --output, or repeat the settings to go on"
    )
    assert numbers(path) == [0]


def test_what_cannot_be_used_is_cut_off_only_under_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with opened(path, {}, []) as journal:
        starts = [journal.append({"n": n}) for n in range(4)]
    with pytest.raises(InputError, match="field 'k': 1 is not None of the numbers that are there"):
        opened(path, {"k": 1}, [], unusable=lambda: starts[0])
    assert numbers(path) == [0, 1, 2, 3]
    opened(path, {}, [], unusable=lambda: starts[2]).close()
    assert numbers(path) == [0, 1]
    opened(path, {}, [], unusable=lambda: starts[0]).close()  # the settings stay
    with opened(path, {"k": 2}, []) as journal:
        journal.append({"n": 7})
    assert numbers(path) == [7]


def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    text = '{"settings": {}}\n{"n": 0}\n{"m": 1}\n{"n": 2}\n'
    for damaged in (text, text.replace('"m"', '"m'), text.replace('{"m": 1}', "3")):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"journal.jsonl:3: is no line of a list"):
            opened(path, {}, [])
        assert path.read_text() == damaged


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "j", {}, []), pytest.raises(InputError, match="is in use by another process"):
        opened(tmp_path / "j", {}, [])
    opened(tmp_path / "j", {}, []).close()
