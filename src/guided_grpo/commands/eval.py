"""`guided-grpo eval`: unguided accuracy of a model on benchmarks or held-out problems, and two evaluations compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from guided_grpo.commands.data_stream import add_data_options
from guided_grpo.commands.eval_tables import comparison_table, figures_table
from guided_grpo.commands.eval_tasks import STYLES, Task, benchmark_task, data_task, json_option, system_text
from guided_grpo.commands.options import OneLineParser, wants_bars
from guided_grpo.commands.policies import MODEL_HELP, load_for_sampling, load_tokenizer, policy_source, warn_of_unknown
from guided_grpo.data.reading.benchmarks import BENCHMARKS
from guided_grpo.errors import InputError
from guided_grpo.evaluation import scoring
from guided_grpo.evaluation.completions import COMPLETIONS, CompletionRun, read_evaluation
from guided_grpo.evaluation.decoding import DECODINGS, SYSTEMS, Decoding
from guided_grpo.evaluation.engines import Engine, TransformersEngine, VLLMEngine, weights_of
from guided_grpo.grading import Grader
from guided_grpo.settings import add_options
from guided_grpo.store import rundir
from guided_grpo.store.journals import key_of


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Evaluate, or compare two evaluations; prints tables, or JSON."""
    options = _parser().parse_args(arguments)
    if options.compare:
        differences = compare(*options.compare)
        if options.output:
            rundir.write_json(options.output, differences)
        print(json.dumps(differences, indent=2) if as_json else comparison_table(differences))
        return 0
    if options.model is None or bool(options.data) == bool(options.benchmark):
        raise InputError(
            "needs --model, and either --data or --benchmark", fix="see guided-grpo eval --help, or --compare RUN RUN"
        )
    model = policy_source(options.model)
    tokenizer = load_tokenizer(model)
    if options.data:
        tasks = [data_task(options, tokenizer)]
    else:
        tasks = [benchmark_task(word, options, tokenizer, model) for word in options.benchmark]
    several = len({task.name for task in tasks})
    if several < len(tasks):
        raise InputError("names a benchmark twice", field="benchmark", fix="name each once")
    warn_of_unknown([request.prompt for task in tasks for request in task.requests[:100]], tokenizer, options.model)
    results = _run(options, tasks, model, tokenizer)
    if as_json:
        print(json.dumps(results if several > 1 else results[tasks[0].name], indent=2))
    else:
        print("\n\n".join(figures_table(figures, name if several > 1 else "") for name, figures in results.items()))
    return 0


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Paired differences second − first, by benchmark where the folders hold several.

    Raises InputError where a folder holds no finished evaluation, or the problems are not the same.
    """
    names = [folder.name for folder in sorted(first.glob("*/")) if (folder / COMPLETIONS).is_file()]
    if (first / COMPLETIONS).is_file() or not names:
        pairs = {first.name: (first, second)}
    else:
        pairs = {name: (first / name, second / name) for name in names}
    sets = {}
    for name, folders in pairs.items():
        (_, a), (_, b) = (read_evaluation(folder) for folder in folders)
        samples = min(max(record["sample"] for record in records) + 1 for records in (a, b))
        sets[name] = {"samples": samples, **scoring.compare(a, b, samples)}
    return {"first": str(first), "second": str(second), "sets": sets}


def _run(
    options: argparse.Namespace, tasks: Sequence[Task], model: str, tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, Any]]:
    """Figures by name; a folder gets its eval.json as soon as its set is done."""
    results: dict[str, dict[str, Any]] = {}
    engine: Engine | None = None  # one for all sets
    engine_options = json_option(options.engine_options, "engine-options")
    common = {
        "model": options.model,
        "weights": weights_of(model),
        "engine": options.engine,
        "engine_options": engine_options,
        "system": system_text(options),
        "template_kwargs": json_option(options.template_kwargs, "template-kwargs"),
    }
    file = options.output is not None and options.output.suffix == ".json"
    with Grader() as grader:
        for task in tasks:
            folder = _folder(options.output, task.name if len(tasks) > 1 else None)
            # Last, so that a setting which shows what differs is named first.
            content = key_of([[request.prompt, request.row] for request in task.requests])
            settings = {**common, **task.settings, **vars(task.decoding), "stop": task.stop, "asked": content}
            path = folder / COMPLETIONS if folder else None
            with CompletionRun(len(task.requests), task.decoding, settings, path) as run:
                if run.missing:
                    if engine is None and options.engine == "vllm":
                        engine = VLLMEngine(model, tokenizer, engine_options)
                    engine = engine or TransformersEngine(load_for_sampling(model), tokenizer)
                    bars = wants_bars(options.quiet)
                    run.run(task.requests, engine, grader, stop=task.stop, label=task.name, bars=bars)
                figures = {**run.figures(), "skipped": task.skipped, "settings": run.settings}
                if folder:
                    rundir.write_json(folder / rundir.EVAL, figures)
            results[task.name] = figures
    if file:
        rundir.write_json(options.output, results if len(tasks) > 1 else results[tasks[0].name])
    return results


def _folder(output: Path | None, name: str | None) -> Path | None:
    """Where completions are kept; None = nowhere. Raises InputError for a run directory, whose eval.json is its own."""
    if output is None:
        return None
    if output.suffix == ".json":
        output.parent.mkdir(parents=True, exist_ok=True)
        return None
    if (output / rundir.CONFIG).exists():
        raise InputError("is a run directory", field="output", value=str(output), fix="name a folder inside it")
    return output / name if name else output


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="guided-grpo eval",
        description="Unguided accuracy on benchmarks or held-out problems.",
        epilog="What is not said of decoding is --decoding's, else the benchmark's, else "
        + ", ".join(f"{name} {value}" for name, value in vars(Decoding()).items()),
    )
    add = parser.add_argument
    add("--model", help=MODEL_HELP)
    add("--benchmark", nargs="+", metavar="NAME[=SOURCE]", help=f"{', '.join(BENCHMARKS)}; =FILE stands in")
    add("--data", help="hub id, .jsonl, .parquet, or chains:steps=10-14,count=200,seed=9")
    add("--compare", nargs=2, type=Path, metavar="FOLDER", help="paired difference of two kept evaluations")
    add("--output", type=Path, help="a folder: keeps completions, can be resumed; FILE.json: the figures alone")
    add_data_options(parser, split="test")
    add("--decoding", choices=sorted(DECODINGS), help="a paper's settings; single options override them")
    unset: dict[str, Any] = dict.fromkeys(vars(Decoding()))
    add_options(parser, Decoding, **unset)
    add("--system", help=f"system text of chats, or {', '.join(SYSTEMS)} for a paper's")
    add("--template-kwargs", metavar="JSON", help="""for the chat template, such as '{"enable_thinking": true}'""")
    add("--prompt-style", choices=STYLES, default="auto", help="auto: chat where the model has a template")
    add("--template", help="plain prompts: text with {problem}")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends a response, repeatable")
    add("--engine", choices=("transformers", "vllm"), default="transformers")
    add("--engine-options", metavar="JSON", help="""for vllm.LLM, such as '{"tensor_parallel_size": 2}'""")
    add("--quiet", action="store_true")
    return parser
