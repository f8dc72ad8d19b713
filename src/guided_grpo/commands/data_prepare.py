"""`guided-grpo data prepare`: run a recipe; rows, rejects and a card in one folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from guided_grpo.commands.data_stream import curation, reason_lines, write_json
from guided_grpo.commands.options import OneLineParser, add_map, find_config, mapping_of, read_yaml
from guided_grpo.data.preparing.prepare import ROWS, check_output, write_set
from guided_grpo.data.preparing.recipe import Recipe, SampleFilter, make_recipe
from guided_grpo.data.preparing.survey import Survey
from guided_grpo.errors import InputError
from guided_grpo.settings import describe


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Prepare a set and say what became of every record."""
    recipe, options = parse(arguments)
    check_output(recipe, overwrite=options.overwrite)
    survey = Survey(examples=3 if options.explain else 0, seed=recipe.seed)
    try:
        with curation(recipe, quiet=options.quiet) as (curator, records):
            card = write_set(recipe, records, curator, survey, overwrite=options.overwrite)
    except KeyboardInterrupt:
        print("\nguided-grpo data prepare: interrupted; nothing is left, the same command starts anew", file=sys.stderr)
        return 130
    if as_json:
        write_json(card)
    else:
        print("\n".join(_page(card, survey, recipe)))
    return 0


def parse(arguments: list[str]) -> tuple[Recipe, Any]:
    """The recipe of a command line, and the other options. Raises `InputError` in one line."""
    parser = OneLineParser(
        prog="guided-grpo data prepare",
        usage="guided-grpo data prepare [--config FILE] [--field value …]",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=120),
        description="Records → rows.jsonl, rejects.jsonl and card.json. Every field of a recipe is an option.",
    )
    parser.add_argument("--config", type=Path, help="YAML with the fields below: a file, or the name of a shipped one")
    for item in describe(Recipe):
        parser.add_argument(
            f"--{item.name}",
            nargs="+" if get_origin(item.type) is list else None,
            metavar="VALUE",
            help=(item.help if isinstance(item.default, str | int) else item.meaning).replace("%", "%%"),
        )
    add_map(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the prepared set in output")
    parser.add_argument("--explain", action="store_true", help="three examples of each reason")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    values = read_yaml(find_config(options.config)) if options.config else {}
    for item in describe(Recipe):
        word = getattr(options, item.name)
        if word is not None:
            values[item.name] = _value(item.name, item.type, word)
    if options.map:
        values["mapping"] = {**values.get("mapping", {}), **mapping_of(options.map)}
    return make_recipe(values, file=options.config), options


def _value(name: str, kind: Any, word: Any) -> Any:
    """A word of the command line as the type of its field."""
    if isinstance(word, list):
        return word
    if kind is bool:
        if word.lower() not in ("true", "false"):
            raise InputError("is neither true nor false", field=name, value=word, fix="write true or false")
        return word.lower() == "true"
    if int in (kind, *get_args(kind)):
        if word.lower() in ("none", "null"):
            return None
        try:
            return int(word)
        except ValueError:
            raise InputError("is no whole number", field=name, value=word, fix="give a whole number") from None
    if get_origin(kind) is dict or (kind is SampleFilter and word.lstrip().startswith("{")):
        try:
            return json.loads(word)
        except json.JSONDecodeError:
            raise InputError("is not JSON", field=name, value=word, fix='write {"prompt": "COLUMN"}') from None
    return word


def _page(card: dict[str, Any], survey: Survey, recipe: Recipe) -> list[str]:
    rejected = card["rejected"]
    lines = [f"{Path(recipe.output) / ROWS}: {card['rows']:,} rows of {card['read']:,} records"]
    if card["repeated"]:
        lines.append(f"  {card['repeated']:,} rows stand more than once (sample filter replace)")
    if rejected:
        lines.append(f"rejected {sum(rejected.values()):,}, in rejects.jsonl:")
        lines += reason_lines(list(rejected.items()), survey)
    if card["without_trace"]:
        lines.append("kept without a trace (they train unguided): " + _counts(card["without_trace"]))
    overlap = card["contamination"]
    if overlap["problems"] or overlap["skipped"]:
        lines.append(f"overlap by {overlap['ngram']} words with: " + (_counts(overlap["hits"]) or "no benchmark"))
        lines += [f"  NOT compared with {name}: {why}" for name, why in overlap["skipped"].items()]
    if card["labels_against_verifier"]:
        lines.append("traces graded: " + _counts(card["labels_against_verifier"]))
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
