"""`--method sft+METHOD`: fine-tuning on the traces, then METHOD from the policy that it ends with, as one run.

    OUTPUT/sft/   the first stage: an ordinary run directory of `guided-grpo sft`
    OUTPUT/       METHOD's, as always, with an optimizer of its own

Rates and batch are those of the paper that put fine-tuning right before comparing with it (arXiv 2604.23747): 5e-5
after 10 % warm-up, as a cosine to 10 %, 64 traces a step, 3 epochs, weight decay 0.01, the mean over all tokens of a
batch. Its fine-tuning ends with the epochs; here it ends where unguided accuracy falls (`stopping.py`).
"""

from __future__ import annotations

import copy
import dataclasses
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from trl import SFTConfig, get_peft_config

from guided_grpo.commands import sft
from guided_grpo.commands.parsing import TeachingArguments, TrainSettings, tell
from guided_grpo.commands.policies import context_of, load_model
from guided_grpo.commands.results import Results
from guided_grpo.commands.runs import load_rows_of
from guided_grpo.commands.stopping import best_of, is_below, restore, set_aside
from guided_grpo.errors import InputError
from guided_grpo.grading import Grader
from guided_grpo.settings import describe
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.presets import DEFAULTS, METHODS

FOLDER = "sft"

# Fields that say where and how precisely is computed, what is kept and who is told: the same in both stages.
_SHARED = (
    "use_cpu", "bf16", "fp16", "tf32", "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile",
    "seed", "data_seed", "full_determinism", "trust_remote_code", "deepspeed", "ddp_timeout", "ddp_backend",
    "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "logging_steps", "report_to", "run_name", "save_strategy", "save_steps", "dataloader_num_workers",
)  # fmt: skip


def folder_of(settings: TrainSettings) -> Path:
    """The run directory of the first stage."""
    return settings.output / FOLDER


def sft_settings(settings: TrainSettings, source: str) -> sft.SftSettings:
    """Those of the first stage, a whole run of `guided-grpo sft`.

    Args:
        settings: of the whole run.
        source: where its policy is.

    Raises `InputError` where a batch cannot be shared by the processes.
    """
    stage, training = settings.stage, settings.training
    share, rest = divmod(stage.sft_batch_size, PartialState().num_processes)
    if rest:
        fix = f"use a multiple of {PartialState().num_processes}"
        raise InputError("is not shared by all processes", field="sft_batch_size", value=stage.sft_batch_size, fix=fix)
    rows = max(n for n in range(1, share + 1) if share % n == 0 and n <= max(1, training.per_device_train_batch_size))
    lengths = [length for length in (stage.sft_max_length, context_of(source)) if length]
    config = SFTConfig(
        **{name: getattr(training, name) for name in _SHARED},
        output_dir=str(folder_of(settings)),
        loss_type=stage.sft_loss,
        learning_rate=stage.sft_learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=0.1,  # of all
        weight_decay=0.01,
        num_train_epochs=stage.sft_epochs,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=share // rows,
        max_length=min(lengths) if lengths else None,
    )
    taught = {item.name: getattr(stage, item.name) for item in describe(TeachingArguments)}
    return sft.SftSettings(
        run=dataclasses.replace(
            settings.run, eval_max_tokens=settings.run.eval_max_tokens or training.max_completion_length
        ),
        grading=settings.grading,
        training=config,
        model=settings.model,
        sft=sft.SftArguments(
            **taught,
            guidance_thinking=training.guidance_thinking,
            max_flops=training.max_flops,
            chat_template_kwargs=training.chat_template_kwargs,
        ),
    )


def fine_tune(settings: TrainSettings, source: str, grader: Grader, claim: Callable[[], None]) -> dict[str, Any]:
    """Run the first stage, or go on with it; its summary. What it measured becomes `before` and `between` of the run.

    Args:
        settings: of the whole run.
        source: where its policy is.
        grader: of the whole run.
        claim: called before anything is written.
    """
    state = PartialState()
    summary = sft.run(sft_settings(settings, source), grader, claim)
    gc.collect()  # its policy and optimizer
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    path = settings.output / rundir.EVAL
    measured = rundir.read_json(folder_of(settings) / rundir.EVAL)
    if measured and state.is_main_process and not path.exists():
        rundir.write_json(path, {"before": measured["before"], "between": measured["after"], "after": None})
    state.wait_for_everyone()
    return summary


def training_behind(settings: TrainSettings, first: Mapping[str, Any] | None) -> GuidedGRPOConfig:
    """What METHOD trains with, a copy.

    Plain GRPO where a method that fine-tunes by itself found no fine-tuning better than none: traces that could not be
    imitated misled guidance too (docs/studies/when.md).

    Args:
        settings: of the whole run.
        first: the summary of the first stage; None = there was none.
    """
    training: GuidedGRPOConfig = copy.copy(settings.training)
    preset = METHODS[str(training.method)]
    kept = (first or {}).get("kept")
    if preset.taught_first and kept and not kept["step"]:
        tell(f"{settings.output}: no fine-tuning was better than none, so these traces do not guide either")
        for name in preset.values:
            setattr(training, name, DEFAULTS[name])
    return training


def undo_a_loss(settings: TrainSettings, trainer: Any, grader: Grader) -> bool:
    """Give the policy back what fine-tuning ended with where METHOD made it clearly worse; whether it did.

    The problems that stopped fine-tuning are asked once more, which counts as a cost. METHOD trained on them too: this
    finds a collapse, not a small loss.

    Args:
        settings: of the whole run.
        trainer: METHOD's, as training ended.
        grader: of the whole run.
    """
    run, output = settings.run, settings.output
    rows = load_rows_of(run, run.train_data, run.data_limit, require_guidance=True)  # all, as the first stage had them
    _, asked = set_aside(rows, settings.stage, trainer.args.seed)
    most = int(settings.training.max_completion_length or 0)
    results = Results(
        output, run, asked, trainer, grader, max_tokens=most, template_kwargs=trainer.chat_template_kwargs
    )
    with trainer.counted():
        results.evaluate_during(trainer.state.global_step, {}, rundir.STOPPING)
    *_, last = jsonl.whole_rows(output / rundir.STOPPING)
    before = list(jsonl.whole_rows(folder_of(settings) / rundir.STOPPING))
    best = before[best_of(before)]
    if not is_below(last, best):
        return False
    tell(f"{output}: finishes {last['accuracy']:.1%} of the held-out training problems, {best['accuracy']:.1%} before "
         f"{settings.training.method}: what fine-tuning ended with is kept")  # fmt: skip
    restore(trainer.accelerator.unwrap_model(trainer.model), folder_of(settings) / rundir.MODEL)
    return True


def first_policy(settings: TrainSettings, source: str) -> tuple[Any, Any]:
    """What METHOD starts from, and the PEFT config of adapters that are to be made.

    Adapters of the first stage go on, and none are made.
    """
    adapters = get_peft_config(settings.model)
    if not settings.stage.first:
        return load_model(source, settings), adapters
    folder = str(folder_of(settings) / rundir.MODEL)
    if adapters is None:
        return load_model(folder, settings), None
    return PeftModel.from_pretrained(load_model(source, settings), folder, is_trainable=True), None


def stages(
    settings: TrainSettings, first: dict[str, Any], figures: dict[str, Any], *, undone: bool
) -> list[dict[str, Any]]:
    """What summary.json says of each stage: steps, FLOPs, tokens, seconds; and whether the second was undone.

    Args:
        settings: of the whole run.
        first: the summary of the first stage.
        figures: of the run, whose FLOPs and trace tokens are of both stages.
        undone: see `undo_a_loss`.
    """
    names = ("method", "steps", "tokens_generated", "train_seconds", "seconds")
    second = {**{name: figures[name] for name in names}, "method": settings.training.method}
    second |= {name: figures[name] - first[name] for name in ("flops", "trace_tokens")}
    second |= {"undone": True} if undone else {}
    return [{name: value for name, value in first.items() if name != "seed"}, second]
