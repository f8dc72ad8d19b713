"""What commands that read data share: options, rows, the curation of a recipe with its progress, examples."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from guided_grpo.commands.options import add_map, mapping_of, wants_bars
from guided_grpo.data.preparing.curate import REASONS, Curator
from guided_grpo.data.preparing.overlap import load_benchmarks
from guided_grpo.data.preparing.prepare import load_tokenizer
from guided_grpo.data.preparing.recipe import Recipe
from guided_grpo.data.preparing.survey import Survey
from guided_grpo.data.preparing.traces import Graders
from guided_grpo.data.reading.streams import Item, items, total_bytes
from guided_grpo.settings import add_options, describe

if TYPE_CHECKING:
    from datasets import Dataset


def add_recipe_options(parser: ArgumentParser, *names: str, **defaults: Any) -> None:
    """Options for these fields of a recipe; `defaults` are this command's own."""
    add_options(parser, Recipe, without=[item.name for item in describe(Recipe) if item.name not in names], **defaults)


def add_data_options(parser: ArgumentParser, **defaults: Any) -> None:
    """How `--data` is read, for `rows_of`."""
    add_map(parser)
    add_recipe_options(parser, "split", "reader", **defaults)
    parser.add_argument("--limit", type=int, help="the first so many problems")


def rows_of(options: Namespace) -> Dataset:
    """The rows of `--data`."""
    from guided_grpo.data.sources import load_rows  # not at the top: data check needs no `datasets`

    mapping = mapping_of(options.map)
    return load_rows(options.data, mapping=mapping, split=options.split, limit=options.limit, reader=options.reader)


@contextmanager
def curation(recipe: Recipe, *, quiet: bool) -> Iterator[tuple[Curator, Iterator[Item]]]:
    """A curator with all that the recipe asks for, and the records for it."""
    tokenizer = load_tokenizer(recipe.tokenizer) if recipe.tokenizer else None
    benchmarks = load_benchmarks(recipe.benchmarks, recipe.ngram, skip_missing=recipe.offline_benchmarks == "skip")
    with Graders(recipe.workers) as graders, closing(_stream(recipe, wants_bars(quiet))) as records:
        yield Curator(recipe, benchmarks, tokenizer, graders), records


def _stream(recipe: Recipe, bars: bool) -> Generator[Item, None, None]:
    """The records of all sources in order, with a bar: in bytes for files, in rows else; rows a second beside."""
    sizes = [total_bytes(source) for source in recipe.source]
    in_bytes = None not in sizes and recipe.read_limit is None
    total = sum(size or 0 for size in sizes) if in_bytes else recipe.read_limit
    unit = "B" if in_bytes else "row"
    with tqdm(total=total, unit=unit, unit_scale=in_bytes, unit_divisor=1024, disable=not bars) as bar:
        every = (item for source in recipe.source for item in items(source, recipe.split))
        for count, item in enumerate(islice(every, recipe.read_limit), 1):
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
