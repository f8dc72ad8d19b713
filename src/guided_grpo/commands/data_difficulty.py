"""`guided-grpo data difficulty`: how often a policy solves each problem, unguided, as the column `success_rate`.

`curriculum: success` orders by it, `adaptive` can follow it. Every finished batch of problems is in a journal beside
the output; the same command goes on after a kill and gives the same file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from datasets import Dataset
from tqdm.auto import tqdm

from guided_grpo.commands.options import OneLineParser, add_map, mapping_of, wants_bars
from guided_grpo.commands.policies import load_for_sampling, load_tokenizer
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.evaluation.evaluate import Decoding, evaluate, questions
from guided_grpo.grading import Grader, reward_functions
from guided_grpo.store import rundir
from guided_grpo.store.journals import Journal

JOURNAL = ".journal.jsonl"  # behind the name of the output


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Sample, grade, write the rows with their success rates."""
    options = _parse(arguments)
    rows = load_rows(
        options.data, mapping=mapping_of(options.map), split=options.split, limit=options.limit, reader=options.reader
    )
    decoding = Decoding(
        samples=options.samples,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    settings = {"model": options.model, "data": options.data, "rows": len(rows), **vars(decoding)}
    done: list[float | None] = []
    with Journal(
        options.output.with_name(options.output.name + JOURNAL), settings,
        lambda record, *_: done.append(record["success_rate"]), what="success rates that are", line="success rates",
    ) as journal:  # fmt: skip
        _measure(options, rows, decoding, journal, done)
    lines = ({**row, "success_rate": rate} for row, rate in zip(rows, done, strict=True))
    rundir.write_text(options.output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    rates = [rate for rate in done if rate is not None]
    figures = {
        "rows": len(done),
        "ungraded": len(done) - len(rates),
        "mean": sum(rates) / len(rates) if rates else None,
        "never solved": sum(rate == 0 for rate in rates),
        "always solved": sum(rate == 1 for rate in rates),
    }
    print(json.dumps(figures, indent=2) if as_json else "\n".join(f"{name}: {n}" for name, n in figures.items()))
    return 0


def _measure(
    options: argparse.Namespace, rows: Dataset, decoding: Decoding, journal: Journal, done: list[float | None]
) -> None:
    """The rates that the journal lacks, into it and `done`."""
    model_path = rundir.model_of(options.model)
    tokenizer = load_tokenizer(model_path)
    model = load_for_sampling(model_path)
    asked = questions(rows)
    at_once = max(1, decoding.batch_size // decoding.samples)
    with (
        Grader() as grader,
        tqdm(total=len(asked), initial=len(done), unit="problem", disable=not wants_bars(options.quiet)) as bar,
    ):
        grader.start(sorted(set(rows["task"])))
        [accuracy] = reward_functions(["accuracy"], grader)
        for start in range(len(done), len(asked), at_once):
            drawn = Decoding(**{**vars(decoding), "seed": decoding.seed + start})  # other responses for every batch
            found = evaluate(model, tokenizer, asked[start : start + at_once], accuracy, drawn)
            journal.append(*({"success_rate": score} for score in found.scores))
            done += found.scores
            bar.update(len(done) - bar.n)


def _parse(arguments: list[str]) -> argparse.Namespace:
    defaults = Decoding(samples=8, temperature=1.0, top_p=1.0, top_k=0)
    parser = OneLineParser(prog="guided-grpo data difficulty", description="Success rate of a policy on each problem.")
    parser.add_argument("--model", required=True, help="hub id, checkpoint folder, or a run directory (its model)")
    parser.add_argument("--data", required=True, help="hub id, .jsonl, .parquet, or a generator")
    parser.add_argument("--output", type=Path, required=True, help="JSONL: the rows, with success_rate")
    add_map(parser)
    parser.add_argument("--split", default="train", help="split of a hub data set")
    parser.add_argument("--reader", help="schema of the data; default: detect")
    parser.add_argument("--limit", type=int, help="the first so many problems")
    parser.add_argument("--samples", type=int, default=defaults.samples, help="responses a problem")
    parser.add_argument("--temperature", type=float, default=defaults.temperature, help="0 = greedy")
    parser.add_argument("--top-p", type=float, default=defaults.top_p)
    parser.add_argument("--top-k", type=int, default=defaults.top_k, help="0 = off")
    parser.add_argument("--max-tokens", type=int, default=defaults.max_tokens)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="responses at a time")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    if options.samples < 1:
        raise InputError("is below 1", field="samples", value=options.samples, fix="use 1 or more")
    return options
