"""`guided-grpo train`: rows → trainer → run directory, resumable at any point by the same command."""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
)
from transformers.utils.logging import disable_progress_bar
from trl import get_peft_config

from guided_grpo import rundir
from guided_grpo.callbacks import BarCallback, EvaluationCallback
from guided_grpo.commands.policies import embedded_source
from guided_grpo.commands.settings import VOLATILE, RunArguments, Settings, parse, say
from guided_grpo.embedded import BaseRecipe, base_folder, embedded_recipe
from guided_grpo.errors import InputError
from guided_grpo.evaluate import Evaluation, evaluate, questions
from guided_grpo.problems.check import check_columns, check_fit
from guided_grpo.problems.preparing.selection import filter_hard
from guided_grpo.problems.sources import load_rows
from guided_grpo.progress import wants_bars
from guided_grpo.trainer import GuidedGRPOTrainer
from guided_grpo.verifiers import Grader, reward_functions

disable_progress_bar()  # of loading and saving weights: ours are enough


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Parse and run; prints where the results are."""
    summary = run(parse(arguments))
    state = PartialState()
    if as_json and state.is_main_process:
        print(json.dumps(summary, indent=2))
    if state.num_processes > 1:
        state.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # gloo leaves threads that abort an ordinary exit now and then, after everything is written
    return 0


def run(settings: Settings, *, recipe: BaseRecipe | None = None) -> dict[str, Any]:
    """Train as `settings` say, or go on where a killed run of the same settings stopped.

    Returns the run's summary, as in summary.json. Raises `InputError` before anything is written.
    """
    output = settings.output
    rundir.check(output, settings.to_json(), VOLATILE)
    finished = rundir.read_json(output / rundir.SUMMARY)
    if finished is not None:
        say(f"{output} is finished: {_headline(finished)}")
        return dict(finished)
    with Grader(settings.grading.grader_settings()) as grader:
        return _run(settings, recipe, grader)


def _run(settings: Settings, recipe: BaseRecipe | None, grader: Grader) -> dict[str, Any]:
    state, output = PartialState(), settings.output
    most = int(settings.training.max_completion_length or 0)
    rewards = reward_functions(settings.run.rewards, grader, settings.grading.reward_settings(most))
    rows = load_data(settings)
    held_out = load_held_out(settings)
    check_columns(rows, settings.training)
    if "accuracy" in settings.run.rewards:
        grader.start(sorted(set(rows["task"])))  # a sandbox that cannot be had is said before anything is written
    policy = policy_source(settings, recipe)
    tokenizer = load_tokenizer(policy)
    if settings.training.guided:
        check_fit(rows, tokenizer, settings.training, _context(policy))
    if state.is_main_process:
        rundir.claim(output, settings.to_json())
    state.wait_for_everyone()

    started = time.perf_counter()
    training = copy.copy(settings.training)
    training.disable_tqdm = True  # our bar instead
    trainer = GuidedGRPOTrainer(
        model=load_model(policy, settings),
        reward_funcs=list(rewards),
        args=training,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=get_peft_config(settings.model),
        callbacks=[BarCallback(f"{training.method} seed {training.seed}", wants_bars(settings.run.quiet))],
    )
    for theirs in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(theirs)
    results = _Results(settings, trainer, rewards[settings.run.rewards.index("accuracy")] if held_out else None)
    results.evaluate("before", held_out)
    resume = prepare_resume(output, state)
    if settings.run.eval_every and held_out is not None:
        during = EvaluationCallback(settings.run.eval_every, lambda step: results.evaluate_during(step, held_out))
        trainer.add_callback(during)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    _save_model(trainer, output, state)
    results.evaluate("after", held_out)
    return results.finish(time.perf_counter() - started)


def load_data(settings: Settings) -> Dataset:
    """The training rows; at least one with a trace where the method guides."""
    run = settings.run
    rows = load_rows_of(run, run.train_data, run.data_limit, require_guidance=settings.training.guided)
    if run.sample_filter == "keep":
        return rows
    if "difficulty" not in rows.column_names:
        raise InputError(
            "needs the column 'difficulty'", field="sample_filter", value=run.sample_filter, fix="map one, or use keep"
        )
    kept = filter_hard(
        range(len(rows)),
        rows["difficulty"][:],
        run.sample_filter,
        hard=str(run.sample_hard),
        moderate=str(run.sample_moderate),
        seed=settings.training.seed,
    )
    say(f"sample_filter {run.sample_filter}: {len(kept.gone)} of {len(rows)} problems are hard")
    return rows.select(kept.rows)


def load_rows_of(run: RunArguments, source: str, limit: int | None, *, require_guidance: bool = False) -> Dataset:
    """Rows of `source` as this run reads its data."""
    return load_rows(
        source,
        mapping=run.data_mapping,  # type: ignore[arg-type]  # parsed in RunArguments
        split=run.data_split,
        limit=limit,
        reader=run.data_reader,
        require_guidance=require_guidance,
    )


def load_held_out(settings: Settings) -> Dataset | None:
    """The held-out rows, or None."""
    run = settings.run
    if run.eval_data is None:
        return None
    if "accuracy" not in run.rewards:
        raise InputError(
            "grade nothing that evaluation reports", field="rewards", value=run.rewards, fix="add accuracy to rewards"
        )
    return load_rows_of(run, run.eval_data, run.eval_limit)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, padding on the left. Raises `InputError` where it cannot end or pad a sequence."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", truncation_side="left")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"has no tokenizer that loads ({reason})",
            field="model_name_or_path",
            value=source,
            fix="check the path or id",
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(
            "has a tokenizer without an eos token: no response would ever end",
            field="model_name_or_path",
            value=source,
            fix="set eos_token in its tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        # Masks come from lengths, never from comparing ids with the pad id, so sharing the id is harmless.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: str, settings: Any) -> PreTrainedModel:
    """The policy of a run's settings, in float32 unless `dtype` says otherwise (as TRL loads it)."""
    dtype = settings.model.dtype or "float32"
    attention = (
        {}
        if settings.model.attn_implementation is None
        else {"attn_implementation": settings.model.attn_implementation}
    )
    try:
        return AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            revision=settings.model.model_revision,
            trust_remote_code=bool(getattr(settings.training, "trust_remote_code", False)),
            **attention,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"does not load ({reason})", field="model_name_or_path", value=source, fix="check the path or id"
        ) from error


def policy_source(settings: Any, recipe: BaseRecipe | None) -> str:
    """Where the policy of a run's settings is; an embedded one is made on first use."""
    model, folder = str(settings.model.model_name_or_path), settings.run.embedded_base
    if embedded_recipe(model, field="model_name_or_path") is None:
        return model
    state = PartialState()
    if state.is_main_process:
        embedded_source(model, folder, quiet=settings.run.quiet, recipe=recipe)
    state.wait_for_everyone()
    return str(base_folder(model, folder))


def _context(source: str) -> int | None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def prepare_resume(output: Path, state: PartialState) -> Path | None:
    """The checkpoint to go on from, with everything after it gone; None = from the start."""
    checkpoint = rundir.last_checkpoint(output)
    step = 0 if checkpoint is None else int(checkpoint.name.removeprefix(rundir.CHECKPOINT_PREFIX))
    if state.is_main_process:
        rundir.drop_partial_checkpoints(output)
        for name in rundir.APPENDED:
            rundir.cut_back(output / name, step)
    state.wait_for_everyone()
    if checkpoint is not None:
        say(f"{output}: going on from step {step}")
    return checkpoint


def _save_model(trainer: GuidedGRPOTrainer, output: Path, state: PartialState) -> None:
    scratch = output / f"{rundir.MODEL}.partial"
    trainer.save_model(str(scratch))
    if state.is_main_process and not (output / rundir.MODEL).exists():
        scratch.rename(output / rundir.MODEL)
    state.wait_for_everyone()


_EVALUATED = ("accuracy", "interval", "problems", "samples")


class _Results:
    """Evaluations and the summary of one run."""

    def __init__(self, settings: Settings, trainer: GuidedGRPOTrainer, grader: Any) -> None:
        self.settings, self.trainer, self.grader = settings, trainer, grader
        self.output, self.state = settings.output, PartialState()

    def evaluate(self, when: str, held_out: Dataset | None) -> None:
        """Fill `when` of eval.json unless it is there, and tell the trainer's watch."""
        if held_out is None or self._sharded():
            return
        path = self.output / rundir.EVAL
        if self.state.is_main_process:
            data = rundir.read_json(path) or {"before": None, "after": None}
            if data[when] is None:
                rundir.write_json(path, {**data, when: self._measure(held_out, f"{when} training").to_json()})
        self.state.wait_for_everyone()
        self.trainer.evaluated(rundir.read_json(path)[when]["accuracy"])

    def evaluate_during(self, step: int, held_out: Dataset) -> None:
        """Append a row to evals.jsonl with what training has cost so far, and tell the trainer's watch."""
        if self._sharded():
            return
        path = self.output / rundir.EVALS
        if self.state.is_main_process:
            found = self._measure(held_out, f"step {step}").to_json()
            cost = {"tokens": self.trainer.tokens_generated, "seconds": round(self.trainer.train_seconds, 3)}
            row = {"step": step, **cost, **{key: found[key] for key in (*_EVALUATED, "scores")}}
            rundir.append_rows(path, [row])
        self.state.wait_for_everyone()
        self.trainer.evaluated(list(rundir.whole_rows(path))[-1]["accuracy"])

    def _sharded(self) -> bool:
        sharded = bool(self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled)
        if sharded and self.state.is_main_process:
            say("evaluation skipped: the policy is sharded; run 'guided-grpo eval' on the model folder")
        return sharded

    def _measure(self, held_out: Dataset, label: str) -> Evaluation:
        """On the main process, while the others wait."""
        return evaluate(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            self.trainer.processing_class,
            questions(held_out),
            self.grader,
            self.settings.run.decoding(int(self.trainer.max_completion_length or 0)),
            template_kwargs=self.trainer.chat_template_kwargs,
            label=label,
            bars=wants_bars(self.settings.run.quiet),
        )

    def finish(self, seconds: float) -> dict[str, Any]:
        """Write and return summary.json: its presence says that the run is over."""
        rows = list(rundir.whole_rows(self.output / rundir.METRICS))
        evaluation = rundir.read_json(self.output / rundir.EVAL) or {}
        summary: dict[str, Any] = {
            "method": self.settings.training.method,
            "seed": self.settings.training.seed,
            "steps": self.trainer.state.global_step,
            "tokens_generated": self.trainer.tokens_generated,
            "zero_groups": _mean_of(rows, "signal/zero_groups"),  # every batch has as many groups
            "difficult_groups": _mean_of(rows, "signal/difficult"),
            "rescue_tokens": int(sum(row.get("rescue/tokens") or 0 for row in rows)),
            "grad_norm_mean": self.trainer.gradient_norms.mean,
            "grad_norm_variance": self.trainer.gradient_norms.variance,
            "train_seconds": round(self.trainer.train_seconds, 1),
            "seconds": round(seconds, 1),
        }
        for when, result in evaluation.items():
            if result is not None:
                summary[when] = {key: result[key] for key in _EVALUATED}
        warnings = [row["warning"] for row in rundir.whole_rows(self.output / rundir.WARNINGS)]
        if warnings:
            summary["warnings"] = warnings
        if self.state.is_main_process:
            rundir.write_json(self.output / rundir.SUMMARY, summary)
        self.state.wait_for_everyone()
        say(f"{self.output}: {_headline(summary)}")
        return summary


def _mean_of(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return round(sum(values) / len(values), 4) if values else None


def _headline(summary: dict[str, Any]) -> str:
    parts = [f"{summary['steps']} steps, {summary['tokens_generated']:,} tokens generated"]
    for when in ("before", "after"):
        if when in summary:
            low, high = summary[when]["interval"]
            parts.append(f"{when} {summary[when]['accuracy']:.1%} [{low:.1%}, {high:.1%}]")
    return ", ".join(parts)
