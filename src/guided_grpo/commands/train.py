"""`guided-grpo train`: rows → trainer → run directory, resumable at any point by the same command."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback

from guided_grpo.commands import rounds
from guided_grpo.commands.parsing import RunArguments, TrainSettings, parse, tell
from guided_grpo.commands.policies import (
    check_prompts,
    context_of,
    load_tokenizer,
    policy_source,
    tell_precision,
)
from guided_grpo.commands.ranks import leaving
from guided_grpo.commands.results import Results, run_once
from guided_grpo.commands.runs import claim, go_on, load_rows_of, only_load, prepare_resume, progress, save_model
from guided_grpo.commands.stages import fine_tune, policy_of, stages, total, training_behind, undo_a_loss
from guided_grpo.data.preparing.selection import filter_hard
from guided_grpo.errors import InputError
from guided_grpo.grading import Grader, reward_functions
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.callbacks import EvaluationCallback
from guided_grpo.train.card import name_policies
from guided_grpo.train.checks import check_columns, check_fit
from guided_grpo.train.presets import METHODS
from guided_grpo.train.sharding import has_engine, use_engine_of
from guided_grpo.train.trainer import GuidedGRPOTrainer


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Parse and run; prints where the results are."""
    with leaving("train"):
        summary = run(parse(arguments))
        if as_json and PartialState().is_main_process:
            print(json.dumps(summary, indent=2))
    return 0


def run(settings: TrainSettings) -> dict[str, Any]:
    """Train as `settings` say, or go on where a killed run of the same settings stopped.

    Returns the run's summary, as in summary.json. Raises `InputError` before anything is written.
    """
    return run_once(settings, lambda grader: _run(settings, grader))


def _run(settings: TrainSettings, grader: Grader) -> dict[str, Any]:
    state, output = PartialState(), settings.output
    most = int(settings.training.max_completion_length or 0)
    rewards = reward_functions(settings.run.rewards, grader, max_tokens=most)
    rows = load_data(settings)
    held_out = load_held_out(settings)
    check_columns(rows, settings.training)
    if "accuracy" in settings.run.rewards:
        grader.start(sorted(set(rows["task"])))  # a sandbox that cannot be had is said before anything is written
    policy = policy_source(str(settings.model.model_name_or_path), field="model_name_or_path")
    tokenizer = load_tokenizer(policy, field="model_name_or_path")
    check_prompts(rows, tokenizer, str(settings.model.model_name_or_path), field="model_name_or_path")
    if settings.training.guided:
        check_fit(rows, tokenizer, settings.training, context_of(policy))

    taught = (
        fine_tune(settings, policy, tokenizer, grader, lambda: claim(settings, state)) if settings.stage.first else []
    )
    claim(settings, state)
    started = time.perf_counter()
    training = training_behind(settings, taught)
    training.disable_tqdm = True  # our bar instead
    if len(taught) > 1:
        rows = load_data(settings, rounds.run_on(settings, len(taught)))
    use_engine_of(training)
    model, adapters = policy_of(settings, policy, len(taught))
    trainer = GuidedGRPOTrainer(
        model=model,
        reward_funcs=list(rewards),
        args=training,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapters,
        callbacks=[progress(f"{settings.method} seed {training.seed}", quiet=settings.run.quiet)],
    )
    for theirs in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(theirs)
    tell_precision(trainer)
    results = Results(
        output, settings.run, held_out, trainer, grader,
        max_tokens=most, template_kwargs=trainer.chat_template_kwargs, observe=trainer.observe_evaluation,
    )  # fmt: skip
    if taught:  # one budget for all stages; a checkpoint has them already
        trainer.run_state.begin_with(total(taught, "flops"), total(taught, "trace_tokens"))
    results.begin("between" if taught else "before")
    resume = prepare_resume(output, state)
    if settings.run.eval_every:
        during = EvaluationCallback(settings.run.eval_every, lambda step: results.evaluate_during(step, _cost(trainer)))
        trainer.add_callback(during)
    budget = training.max_flops
    if not (settings.stage.alone or 0 < budget <= total(taught, "flops")):
        go_on(trainer, resume)
    else:
        if has_engine(trainer):  # which holds what is asked and saved
            only_load(trainer, None)
        if state.is_main_process:
            (output / rundir.METRICS).touch()  # a run directory has one
    guarded = trainer.state.global_step and taught and taught[-1].get("kept")
    guarded = guarded and METHODS[str(settings.training.method)].taught_first
    undone = bool(guarded) and undo_a_loss(settings, len(taught), trainer, grader)
    save_model(trainer, output, state)
    results.evaluate("after")
    _write_card(trainer, settings)
    figures = _figures(settings, trainer, time.perf_counter() - started)
    return results.finish(
        {**figures, "stages": stages(settings, taught, figures, undone=undone)} if taught else figures
    )


def load_data(settings: TrainSettings, run: RunArguments | None = None) -> Dataset:
    """The training rows; at least one with a trace where the method guides, or fine-tuning comes first.

    Args:
        settings: of the run.
        run: says which rows; None = as the settings do.
    """
    run = run or settings.run
    needs_traces = settings.training.needs_traces or settings.stage.first
    rows = load_rows_of(run, run.train_data, run.data_limit, require_guidance=needs_traces)
    if run.sample_filter == "keep":
        return rows
    if "difficulty" not in rows.column_names:
        raise InputError(
            "needs the column 'difficulty'", field="sample_filter", value=run.sample_filter, fix="map one, or use keep"
        )
    result = filter_hard(
        range(len(rows)),
        rows["difficulty"][:],
        run.sample_filter,
        hard=str(run.sample_hard),
        moderate=str(run.sample_moderate),
        seed=settings.training.seed,
    )
    tell(f"sample_filter {run.sample_filter}: {len(result.gone)} of {len(rows)} problems are hard")
    return rows.select(result.rows)


def load_held_out(settings: TrainSettings) -> Dataset | None:
    """The held-out rows, or None."""
    run = settings.run
    if run.eval_data is None:
        return None
    if "accuracy" not in run.rewards:
        raise InputError(
            "grade nothing that evaluation reports", field="rewards", value=run.rewards, fix="add accuracy to rewards"
        )
    return load_rows_of(run, run.eval_data, run.eval_limit)


def _write_card(trainer: GuidedGRPOTrainer, settings: TrainSettings) -> None:
    """The model card beside the policy: what it was trained by and on, and how well it does alone."""
    run, output = settings.run, settings.output
    trainer.card_facts = {"training data": f"`{run.train_data}`"}
    for when, figures in (rundir.read_json(output / rundir.EVAL) or {}).items():
        if figures:
            low, high = figures["interval"]
            trainer.card_facts[f"unguided accuracy {when}"] = (
                f"{figures['accuracy']:.1%} [{low:.1%}, {high:.1%}], {figures['problems']} problems of "
                f"`{run.eval_data}`, {figures['samples']} samples each at temperature {figures['temperature']:g}"
            )
    trainer.create_model_card(model_name=output.name)
    if trainer.is_world_process_zero():
        path, model = output / "README.md", output / rundir.MODEL
        card = name_policies(path.read_text(encoding="utf-8"), str(settings.model.model_name_or_path), str(model))
        rundir.write_text(path, card)
        shutil.copy(path, model / path.name)


def _cost(trainer: GuidedGRPOTrainer) -> dict[str, Any]:
    """Of training so far, for evals.jsonl."""
    run = trainer.run_state
    return {"tokens": run.tokens_generated, "flops": run.flops, "seconds": round(run.train_seconds, 3)}


def _figures(settings: TrainSettings, trainer: GuidedGRPOTrainer, seconds: float) -> dict[str, Any]:
    """What summary.json says besides the evaluations."""
    rows, run = list(jsonl.whole_rows(settings.output / rundir.METRICS)), trainer.run_state
    return {
        "method": settings.method,
        "seed": settings.training.seed,
        "steps": trainer.state.global_step,
        "flops": run.flops,
        "tokens_generated": run.tokens_generated,
        "trace_tokens": run.trace_tokens,
        "zero_groups": _mean_of(rows, "signal/zero_groups"),  # every batch has as many groups
        "difficult_groups": _mean_of(rows, "signal/difficult"),
        "rescue_tokens": int(sum(row.get("rescue/tokens") or 0 for row in rows)),
        "grad_norm_mean": run.gradient_norms.mean,
        "grad_norm_variance": run.gradient_norms.variance,
        "train_seconds": round(run.train_seconds, 1),
        "seconds": round(seconds, 1),
    }


def _mean_of(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return round(sum(values) / len(values), 4) if values else None
