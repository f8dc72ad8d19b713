"""`guided-grpo eval`: unguided accuracy of a model on benchmarks or held-out problems, and two evaluations compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from guided_grpo.commands.eval_tables import compared, figures_table
from guided_grpo.commands.eval_tasks import STYLES, Task, benchmark_task, data_task, json_option, system_text
from guided_grpo.commands.options import OneLineParser, add_map, mapping_of, wants_bars
from guided_grpo.commands.policies import load_tokenizer
from guided_grpo.data.reading.benchmarks import BENCHMARKS
from guided_grpo.errors import InputError
from guided_grpo.evaluation import evalrun, scoring
from guided_grpo.evaluation.engines import Engine, TransformersEngine, VLLMEngine, weights_of
from guided_grpo.evaluation.evaluate import Decoding
from guided_grpo.evaluation.protocols import DECODINGS, SYSTEMS
from guided_grpo.grading import Grader
from guided_grpo.store import rundir


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Evaluate, or compare two evaluations; prints tables, or JSON."""
    options = _parser().parse_args(arguments)
    if options.compare:
        found = compare(*options.compare)
        if options.output:
            rundir.write_json(options.output, found)
        print(json.dumps(found, indent=2) if as_json else compared(found))
        return 0
    if options.model is None or bool(options.data) == bool(options.benchmark):
        raise InputError(
            "needs --model, and either --data or --benchmark", fix="see guided-grpo eval --help, or --compare RUN RUN"
        )
    model = rundir.model_of(options.model)
    tokenizer = load_tokenizer(model)
    if options.data:
        tasks = [data_task(options, mapping_of(options.map), tokenizer)]
    else:
        tasks = [benchmark_task(word, options, tokenizer, model) for word in options.benchmark]
    several = len({task.name for task in tasks})
    if several < len(tasks):
        raise InputError("names a benchmark twice", field="benchmark", fix="name each once")
    results = _run(options, tasks, model, tokenizer)
    if as_json:
        print(json.dumps(results if several > 1 else results[tasks[0].name], indent=2))
    else:
        print("\n\n".join(figures_table(found, name if several > 1 else "") for name, found in results.items()))
    return 0


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Paired differences second − first, by benchmark where the folders hold several.

    Raises InputError where a folder holds no finished evaluation, or the problems are not the same.
    """
    names = [folder.name for folder in sorted(first.glob("*/")) if (folder / evalrun.COMPLETIONS).is_file()]
    if (first / evalrun.COMPLETIONS).is_file() or not names:
        pairs = {first.name: (first, second)}
    else:
        pairs = {name: (first / name, second / name) for name in names}
    found: dict[str, Any] = {"first": str(first), "second": str(second), "sets": {}}
    for name, folders in pairs.items():
        (_, a), (_, b) = (evalrun.kept(folder) for folder in folders)
        samples = min(max(record["sample"] for record in records) + 1 for records in (a, b))
        found["sets"][name] = {"samples": samples, **scoring.compare(a, b, samples)}
    return found


def _run(
    options: argparse.Namespace, tasks: Sequence[Task], model: str, tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, Any]]:
    """Figures by name; a folder gets its eval.json as soon as its set is done."""
    results, loaded = {}, list[Engine]()
    kwargs = json_option(options.template_kwargs, "template-kwargs")
    engine_options = json_option(options.engine_options, "engine-options")

    def engine() -> Engine:
        if not loaded:  # one for all sets
            vllm = options.engine == "vllm"
            loaded.append(
                VLLMEngine(model, tokenizer, engine_options) if vllm else TransformersEngine(model, tokenizer)
            )
        return loaded[0]

    common = {
        "model": options.model,
        "weights": weights_of(model),
        "engine": options.engine,
        "engine_options": engine_options,
        "system": system_text(options),
        "template_kwargs": kwargs,
    }
    file = options.output is not None and options.output.suffix == ".json"
    with Grader() as grader:
        for task in tasks:
            folder = _folder(options.output, task.name if len(tasks) > 1 else None)
            run = evalrun.EvalRun(
                task.problems, task.identities, tokenizer, task.decoding, {**common, **task.settings}, folder,
                template_kwargs=kwargs, stop=task.stop,
            )  # fmt: skip
            try:
                run.run(engine, grader, label=task.name, bars=wants_bars(options.quiet))
                found = {**run.figures(), "skipped": task.skipped, "settings": run.settings}
                if folder:
                    rundir.write_json(folder / rundir.EVAL, found)
            finally:
                run.close()
            results[task.name] = found
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
    usual = Decoding()
    parser = OneLineParser(prog="guided-grpo eval", description="Unguided accuracy on benchmarks or held-out problems.")
    add = parser.add_argument
    add("--model", help="hub id, checkpoint folder, or a run directory (its model)")
    add("--benchmark", nargs="+", metavar="NAME[=SOURCE]", help=f"{', '.join(BENCHMARKS)}; =FILE stands in")
    add("--data", help="hub id, .jsonl, .parquet, or chains:steps=10-14,count=200,seed=9")
    add("--compare", nargs=2, type=Path, metavar="FOLDER", help="paired difference of two kept evaluations")
    add("--output", type=Path, help="a folder: keeps completions, can be resumed; FILE.json: the figures alone")
    add_map(parser)
    add("--split", default="test", help="split of a hub data set given with --data")
    add("--reader", help="of --data: plain or gsm8k; default: detect")
    add("--limit", type=int, help="the first so many problems")
    add("--decoding", choices=sorted(DECODINGS), help="a paper's settings; single options override them")
    add("--samples", type=int, help=f"responses a problem; default: the benchmark's, else {usual.samples}")
    add("--temperature", type=float, help=f"0 = greedy; default {usual.temperature}")
    add("--top-p", type=float, help=f"default {usual.top_p}")
    add("--top-k", type=int, help=f"0 = off; default {usual.top_k}")
    add("--max-tokens", type=int, help=f"of a response; default: the benchmark's, else {usual.max_tokens}")
    add("--batch-size", type=int, help=f"responses at a time; default {usual.batch_size}")
    add("--seed", type=int, help=f"default {usual.seed}")
    add("--system", help=f"system text of chats, or {', '.join(SYSTEMS)} for a paper's")
    add("--template-kwargs", metavar="JSON", help="""for the chat template, such as '{"enable_thinking": true}'""")
    add("--prompt-style", choices=STYLES, default="auto", help="auto: chat where the model has a template")
    add("--template", help="plain prompts: text with {problem}")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends a response, repeatable")
    add("--engine", choices=("transformers", "vllm"), default="transformers")
    add("--engine-options", metavar="JSON", help="""for vllm.LLM, such as '{"tensor_parallel_size": 2}'""")
    add("--quiet", action="store_true")
    return parser
