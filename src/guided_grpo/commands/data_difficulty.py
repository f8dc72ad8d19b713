"""`guided-grpo data difficulty`: how often a policy solves each problem, unguided, as the column `success_rate`.

`curriculum: success` orders by it, `adaptive` can follow it. Every completion is in a journal beside the
output; the same command goes on after a kill and gives the same file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from guided_grpo.commands.data_stream import add_data_options, rows_of
from guided_grpo.commands.options import OneLineParser, wants_bars
from guided_grpo.commands.policies import MODEL_HELP, check_prompts, load_for_sampling, load_tokenizer, policy_source
from guided_grpo.evaluation.completions import CompletionRun
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.engines import TransformersEngine
from guided_grpo.evaluation.questions import questions, requests_of
from guided_grpo.evaluation.scoring import tallies
from guided_grpo.grading import Grader
from guided_grpo.settings import add_options, read_options
from guided_grpo.store import rundir

JOURNAL = ".journal.jsonl"  # behind the name of the output


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Sample, grade, write the rows with their success rates."""
    options = _parse(arguments)
    rows = rows_of(options)
    decoding = read_options(options, Decoding)
    settings = {"model": options.model, "data": options.data, "rows": len(rows)}
    journal = options.output.with_name(options.output.name + JOURNAL)
    with CompletionRun(
        len(rows), decoding, settings, journal, what="success rates that are", line="success rates"
    ) as run:
        if run.missing:
            source = policy_source(options.model)
            tokenizer = load_tokenizer(source)
            check_prompts(rows, tokenizer, options.model)
            engine = TransformersEngine(load_for_sampling(source), tokenizer)
            requests = requests_of(questions(rows), tokenizer, {})
            with Grader() as grader:
                run.run(requests, engine, grader, label="difficulty", bars=wants_bars(options.quiet))
        measured = [tally.accuracy if tally.scores else None for tally in tallies(run.records).values()]
    lines = ({**row, "success_rate": rate} for row, rate in zip(rows, measured, strict=True))
    rundir.write_text(options.output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    rates = [rate for rate in measured if rate is not None]
    figures = {
        "rows": len(rows),
        "ungraded": len(rows) - len(rates),
        "mean": sum(rates) / len(rates) if rates else None,
        "never solved": sum(rate == 0 for rate in rates),
        "always solved": sum(rate == 1 for rate in rates),
    }
    print(json.dumps(figures, indent=2) if as_json else "\n".join(f"{name}: {n}" for name, n in figures.items()))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="guided-grpo data difficulty", description="Success rate of a policy on each problem.")
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    parser.add_argument("--data", required=True, help="hub id, .jsonl, .parquet, or a generator")
    parser.add_argument("--output", type=Path, required=True, help="JSONL: the rows, with success_rate")
    add_data_options(parser)
    add_options(parser, Decoding, samples=8, temperature=1.0, top_p=1.0, top_k=0)
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(arguments)
