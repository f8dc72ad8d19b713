"""What commands of `data` share: options of a recipe, the stream of records with its progress, examples."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Generator, Sequence
from itertools import islice

from tqdm.auto import tqdm

from guided_grpo.data.preparing.curate import REASONS
from guided_grpo.data.preparing.recipe import Recipe
from guided_grpo.data.preparing.survey import Survey
from guided_grpo.data.reading.streams import Item, items, total_bytes
from guided_grpo.settings import add_options, describe


def add_recipe_options(parser: ArgumentParser, *names: str) -> None:
    """Options for these fields of a recipe."""
    add_options(parser, Recipe, without=[item.name for item in describe(Recipe) if item.name not in names])


def stream(
    sources: Sequence[str], split: str, *, limit: int | None = None, bars: bool = False
) -> Generator[Item, None, None]:
    """The records of all sources in order, with a bar: in bytes for files, in rows else; rows a second beside.

    Args:
        limit: the first so many records of all; None = all.
        bars: whether to show it.
    """
    sizes = [total_bytes(source) for source in sources]
    in_bytes = None not in sizes and limit is None
    total = sum(size or 0 for size in sizes) if in_bytes else limit
    unit = "B" if in_bytes else "row"
    with tqdm(total=total, unit=unit, unit_scale=in_bytes, unit_divisor=1024, disable=not bars) as bar:
        every = (item for source in sources for item in items(source, split))
        for count, item in enumerate(islice(every, limit), 1):
            yield item
            bar.update(item.size if in_bytes else 1)
            if count % 1000 == 0 and bars:
                seconds = bar.format_dict["elapsed"] or 1e-9
                bar.set_postfix_str(f"{count:,} rows, {count / seconds:,.0f} rows/s", refresh=False)


def reason_lines(counts: Sequence[tuple[str, int]], survey: Survey) -> list[str]:
    """A line for each reason with its count and meaning, and examples below it where there are some."""
    lines = []
    for reason, count in counts:
        lines.append(f"  {reason:18}{count:>10,}  {REASONS[reason]}")
        for outcome in survey.examples.get(reason, []):
            text = " ".join(outcome.item.original().split())
            lines.append(f"      line {outcome.item.line}: {outcome.detail or '-'}")
            lines.append(f"        {text[:160]}{'…' if len(text) > 160 else ''}")
    return lines


def write_json(data: object) -> None:
    """For `--json`."""
    print(json.dumps(data, indent=2, ensure_ascii=False))
