"""`guided-grpo data check`: one page on a data set, before anything trains on it. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guided_grpo.commands.data_stream import add_recipe_options, curation, reason_lines, write_json
from guided_grpo.commands.options import OneLineParser, add_map, mapping_of
from guided_grpo.data.preparing.curate import Curator
from guided_grpo.data.preparing.recipe import make_recipe
from guided_grpo.data.preparing.survey import Survey, as_text
from guided_grpo.errors import InputError
from guided_grpo.guidance.placement import Tokenizer, opening
from guided_grpo.guidance.slicing import slice_text
from guided_grpo.types import Strength

SHARES = (0.25, 0.5, 0.75)
OF_RECIPE = ("split", "reader", "trace", "ngram", "offline_benchmarks", "tokenizer", "seed", "workers")


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Read everything, print the page."""
    parser = OneLineParser(
        prog="guided-grpo data check", description="What is in a data set, and what is wrong with it."
    )
    parser.add_argument("data", nargs="+", help="file, folder, hub id (owner/name or owner/name:subset) or generator")
    add_map(parser)
    add_recipe_options(parser, *OF_RECIPE)
    parser.add_argument("--verify", action="store_true", help="grade the traces; slow where answers are no numbers")
    parser.add_argument("--benchmark", action="append", default=[], help="name, file or hub id to compare with")
    parser.add_argument("--limit", type=int, help="the first so many records")
    parser.add_argument("--samples", type=int, default=3, help="random rows to show")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the trace, shown with each")
    parser.add_argument("--explain", action="store_true", help="three examples of each fault")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if not all(0 <= share <= 1 for share in options.shares):
        raise InputError("are no shares", field="shares", value=options.shares, fix="use numbers from 0 to 1")
    if options.samples < 0:
        raise InputError("is below 0", field="samples", value=options.samples, fix="use 0 or more")
    recipe = make_recipe(
        {
            **{name: getattr(options, name) for name in OF_RECIPE},
            "source": options.data,
            "mapping": mapping_of(options.map),
            "verify": "strict" if options.verify else "off",
            "require_trace": False,
            "read_limit": options.limit,
            "benchmarks": options.benchmark,
        }
    )
    with curation(recipe, quiet=options.quiet) as (curator, records):
        examples = 3 if options.explain else 0
        survey = Survey(options.samples, examples, recipe.seed, curator.tokenizer)
        for outcome in curator.run(records):
            survey.add(outcome)
    if not curator.read:
        sources = ", ".join(recipe.source)
        raise InputError("is empty: it holds no records", file=sources, fix="give at least one problem")
    figures: dict[str, Any] = {
        "records": curator.read,
        "readers": curator.readers,
        "duplicates": curator.counts["duplicate"],
        "contaminated": curator.counts["contaminated"],
        "unparseable_golds": curator.counts["unparseable-gold"],
        **curator.to_json(),
        **survey.to_json(),
        "samples": survey.samples.sample(),
    }
    if as_json:
        write_json(figures)
    else:
        print("\n".join(_page(figures, curator, survey, options.shares)))
    return 0


def _page(figures: dict[str, Any], curator: Curator, survey: Survey, shares: Sequence[float]) -> list[str]:
    rows, rejected = figures["rows"], figures["rejected"]
    readers = ", ".join(sorted(set(curator.readers.values()))) or "none"
    lines = [f"records     {curator.read:,} (reader {readers}); {rows:,} make rows"]
    if rejected:
        lines.append(f"faults      {sum(rejected.values()):,}")
        lines += reason_lines(list(rejected.items()), survey)
        lines += [] if rows else [f"  such as     {curator.fault}"]
    for name in ("duplicates", "unparseable_golds"):
        lines.append(f"{name.replace('_', ' '):<18}{figures[name]:,}")
    overlap = figures["contamination"]
    if overlap["problems"]:
        hits = ", ".join(f"{name} {hit:,} (of {overlap['problems'][name]:,})" for name, hit in overlap["hits"].items())
        lines.append(f"contamination     runs of {overlap['ngram']} words shared with {hits}")
    else:
        lines.append("contamination     not looked for (--benchmark math500 --benchmark aime24 …)")
    lines += [f"  NOT compared with {name}: {why}" for name, why in overlap["skipped"].items()]
    if rows:
        lines.append(f"guidance    {figures['guided']:,} of {rows:,} rows ({figures['guided'] / rows:.1%})")
    if figures["without_trace"]:
        lines.append("  without: " + ", ".join(f"{name} {n:,}" for name, n in figures["without_trace"].items()))
    if figures["guided"]:
        lines.append(
            f"  {figures['states_answer'] / figures['guided']:.1%} of the traces state the answer and are cut before "
            f"it; on average {figures['usable_share']:.1%} of a trace can be given"
        )
    lines += _length_table(figures)
    for name in ("difficulty", "source"):
        values = ", ".join(f"{value} {count:,}" for value, count in figures[name].items())
        lines.append(f"{name:<12}{values or '-'}")
    for row in figures["samples"]:
        lines += ["", "─" * 80, *_sample(row, curator.tokenizer, shares)]
    return lines


def _length_table(figures: dict[str, Any]) -> list[str]:
    lines = [f"{'lengths':22}{'min':>8}{'median':>8}{'90 %':>8}{'99 %':>8}{'max':>8}"]
    for unit in ("characters", "tokens"):
        for name in ("prompt", "trace", "usable"):
            lengths = figures.get(f"{name}_{unit}")
            if lengths and lengths["count"]:
                numbers = "".join(f"{lengths[key]:>8,}" for key in ("min", "median", "p90", "p99", "max"))
                lines.append(f"  {name + ', ' + unit:20}{numbers}")
    return lines


def _sample(row: Mapping[str, Any], tokenizer: Tokenizer | None, shares: Sequence[float]) -> list[str]:
    answer = row["answer"] if row["task"] == "math" else f"{len(row['tests'])} tests"
    source = f", source {row['source']}" if row.get("source") else ""
    prompt = as_text(row["prompt"], tokenizer)
    lines = [f"answer {answer}, difficulty {row['difficulty']}{source}", prompt]
    if not row["guidance"]:
        return [*lines, "(no guidance)"]
    begin = opening(prompt, tokenizer) if tokenizer is not None else ""
    for share in shares:
        strength, limit = Strength("ratio-steps", share), int(row["guidance_limit"])
        text = slice_text(row["guidance"], strength, limit, token_ends=None)[0]  # cut before the answer
        lines += [f"── guidance {share:.0%}", f"{begin}{text}".rstrip()]
    return lines
