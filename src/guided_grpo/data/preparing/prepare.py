"""Writes a prepared set: `rows.jsonl`, `rejects.jsonl`, `card.json` in one folder, which appears whole or not at all.

Everything is written into a folder beside the output, flushed, and renamed at the end. A run that was killed leaves
that folder; the next one removes it and starts anew: a half-graded set is not worth trusting.
kept + rejected = read, always: a run where that does not hold is an error, not a set.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from guided_grpo.data.preparing.curate import Curator, RecordOutcome
from guided_grpo.data.preparing.recipe import Recipe
from guided_grpo.data.preparing.selection import select
from guided_grpo.data.preparing.survey import Survey
from guided_grpo.data.reading.hub import seek
from guided_grpo.data.reading.streams import Item, first_line
from guided_grpo.errors import InputError
from guided_grpo.guidance.placement import Tokenizer

ROWS, REJECTS, CARD = "rows.jsonl", "rejects.jsonl", "card.json"
SCRATCH_ROWS, ORIGINALS = "kept.jsonl", "originals.jsonl"  # gone once the rows are chosen


def check_output(recipe: Recipe, *, overwrite: bool) -> Path:
    """The output folder. Raises InputError where it is not named, or there already and not to be overwritten."""
    if not recipe.output:
        raise InputError("is missing", field="output", fix="say which folder to write")
    path = Path(recipe.output)
    if _old(path).exists() and not path.exists():  # killed between two renames: the set that was to be replaced
        _old(path).rename(path)
    ours = (path / CARD).is_file()
    if path.exists() and not (overwrite and ours):
        problem = "is there already" if ours else "is there, and is no prepared set"
        fix = "choose another folder" + (", or say --overwrite" if ours else "")
        raise InputError(problem, field="output", value=str(path), fix=fix)
    return path


def write_set(
    recipe: Recipe, items: Iterator[Item], curator: Curator, survey: Survey, *, overwrite: bool = False
) -> dict[str, Any]:
    """Run the whole recipe and write its folder; returns the card.

    Args:
        recipe: the settings.
        items: the records of all sources, in order.
        curator: fresh; it counts.
        survey: takes every outcome.
        overwrite: replace a prepared set that is there.

    Raises InputError where the output cannot be written or no row is left.
    """
    output = check_output(recipe, overwrite=overwrite)
    scratch = output.with_name(f".{output.name}.partial")
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True)
    try:
        card = _Writer(recipe, scratch).run(items, curator, survey)
    except BaseException:  # an interrupt too: nothing half-written stays
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    if output.exists():
        shutil.rmtree(_old(output), ignore_errors=True)
        output.rename(_old(output))
    scratch.rename(output)
    shutil.rmtree(_old(output), ignore_errors=True)
    return card


def _old(output: Path) -> Path:
    return output.with_name(f".{output.name}.old")


class _Writer:
    """The files of one set in the making."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        limits = recipe.limit is not None or recipe.per_tier is not None
        self.selects = limits or recipe.sample_filter.mode != "keep" or recipe.order != "source"
        self.difficulties: list[Any] = []
        self.tiers: list[str | None] = []
        self.places, self.lines = array("Q"), array("Q")  # of each row: in kept.jsonl, in originals.jsonl
        self.by_source: Counter[str] = Counter()

    def run(self, items: Iterator[Item], curator: Curator, survey: Survey) -> dict[str, Any]:
        folder = self.folder
        with (
            (folder / SCRATCH_ROWS).open("wb") as rows_file,
            (folder / ORIGINALS).open("wb") as originals,
            (folder / REJECTS).open("wb") as rejects,
        ):
            for outcome in curator.run(items):
                self.by_source[outcome.item.source] += 1
                survey.add(outcome)
                if outcome.row is None:
                    rejects.write(_line(_reject(outcome.item, outcome.reason, outcome.detail)))
                    continue
                if self.selects:
                    self._remember(outcome, rows_file, originals)
                rows_file.write(_line(outcome.row))
        counts, rows, repeated = Counter(curator.counts), survey.rows, 0
        if self.selects:
            rows, repeated = self._select(counts)
        else:
            (folder / SCRATCH_ROWS).rename(folder / ROWS)
        for name in (SCRATCH_ROWS, ORIGINALS):
            (folder / name).unlink(missing_ok=True)
        if rows - repeated + counts.total() != curator.read:
            raise RuntimeError(f"{curator.read} records read, but {rows} rows and {counts.total()} rejects")
        if not rows:
            reasons = ", ".join(f"{name} {count}" for name, count in counts.most_common(3)) or "there were none"
            first = f": {curator.fault}" if curator.fault else ""
            raise InputError(
                f"leaves no row of {curator.read} records ({reasons}){first}",
                field="source",
                fix="see what is wrong with guided-grpo data check --explain",
            )
        card = self._card(curator, survey, counts, rows, repeated)
        with (folder / CARD).open("w", encoding="utf-8") as file:
            json.dump(card, file, indent=2, ensure_ascii=False)
        for name in (ROWS, REJECTS, CARD):
            with (folder / name).open("rb") as handle:
                os.fsync(handle.fileno())
        return card

    def _remember(self, outcome: RecordOutcome, rows_file: IO[bytes], originals: IO[bytes]) -> None:
        assert outcome.row is not None
        self.places.append(rows_file.tell())
        self.lines.append(originals.tell())
        self.difficulties.append(outcome.row["difficulty"])
        tier = outcome.row.get("source")
        self.tiers.append(tier if isinstance(tier, str) else None)
        originals.write(_line(_reject(outcome.item, "", "")))

    def _select(self, counts: Counter[str]) -> tuple[int, int]:
        """Write the chosen rows in their order, the others to the rejects; rows written, and repeats among them."""
        recipe = self.recipe
        selection = select(
            self.difficulties,
            self.tiers,
            per_tier=recipe.per_tier,
            limit=recipe.limit,
            order=recipe.order,
            seed=recipe.seed,
            mode=recipe.sample_filter.mode,
            hard=recipe.sample_filter.hard,
            moderate=recipe.sample_filter.moderate,
        )
        with (self.folder / SCRATCH_ROWS).open("rb") as source, (self.folder / ROWS).open("wb") as rows:
            for row in selection.rows:
                source.seek(self.places[row])
                rows.write(source.readline())
        with (self.folder / ORIGINALS).open("rb") as originals, (self.folder / REJECTS).open("ab") as rejects:
            for row, reason in selection.dropped.items():
                originals.seek(self.lines[row])
                record = json.loads(originals.readline())
                rejects.write(_line({**record, "reason": reason}))
        counts.update(Counter(selection.dropped.values()))
        return len(selection.rows), selection.repeated

    def _card(self, curator: Curator, survey: Survey, counts: Counter[str], rows: int, repeated: int) -> dict[str, Any]:
        recipe = asdict(self.recipe)
        text = json.dumps(recipe, sort_keys=True, default=str)
        return {
            "guided_grpo": version("guided-grpo"),
            "recipe": recipe,
            "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "sources": [
                {"source": name, "reader": curator.readers.get(name), "records": count, "sha256": _hash(Path(name))}
                for name, count in self.by_source.items()
            ],
            "read": curator.read,
            "rows": rows,
            "repeated": repeated,
            **curator.to_json(),
            "rejected": dict(counts.most_common()),  # after the selection
            "before_selection": survey.to_json(),
            "files": {name: {"sha256": _hash(self.folder / name)} for name in (ROWS, REJECTS)},
        }


def _reject(item: Item, reason: str, detail: str) -> dict[str, Any]:
    return {
        "source": item.source, "line": item.line, "reason": reason, "detail": detail, "original": item.original()
    }  # fmt: skip


def _line(record: Any) -> bytes:
    # Half of a character, from a broken escape in the data, has no UTF-8: it stays an escape in the rejects.
    text = json.dumps(record, ensure_ascii=False, default=str) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return (json.dumps(record, default=str) + "\n").encode()


def _hash(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tokenizer(name: str) -> Tokenizer:
    """The policy's tokenizer. Raises InputError where it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        seek(name)
        return AutoTokenizer.from_pretrained(name)  # type: ignore[no-any-return]  # transformers is Any here
    except (OSError, ValueError) as error:
        problem = f"cannot be loaded ({first_line(error)})"
        raise InputError(problem, field="tokenizer", value=name, fix="give a hub id or a checkpoint folder") from error
