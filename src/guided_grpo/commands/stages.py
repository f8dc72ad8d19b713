"""`--method sft+METHOD`: fine-tuning on the traces, then METHOD from the policy that it ends with, as one run.

    OUTPUT/sft/     the first stage: an ordinary run directory of `guided-grpo sft`
    OUTPUT/sft-2/   further rounds, where there are any (`rounds.py`)
    OUTPUT/         METHOD's, as always, with an optimizer of its own

Rates and batch are those of the paper that put fine-tuning right before comparing with it (arXiv 2604.23747): 5e-5
after 10 % warm-up, as a cosine to 10 %, 64 traces a step, 3 epochs, weight decay 0.01, the mean over all tokens of a
batch. Its fine-tuning ends with the epochs; here it ends where unguided accuracy falls (`stopping.py`).
"""

from __future__ import annotations

import copy
import dataclasses
import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from trl import SFTConfig, get_peft_config

from guided_grpo.commands import rounds, sft
from guided_grpo.commands.parsing import TeachingArguments, TrainSettings, tell
from guided_grpo.commands.policies import context_of, load_model
from guided_grpo.commands.results import Results
from guided_grpo.commands.runs import load_rows_of
from guided_grpo.commands.stopping import is_below, kept_of, restore, set_aside
from guided_grpo.errors import InputError
from guided_grpo.grading import Grader
from guided_grpo.settings import describe
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.presets import DEFAULTS, METHODS
from guided_grpo.train.sharding import whole_policies

FOLDER = "sft"
RATE_BEHIND = 1 / 2  # of the first round's rate: it starts from what that one has learned
ENOUGH = 1 / 2  # of the held-out problems solved, and one round asks all there is to ask

# Fields that say where and how precisely is computed, what is kept and who is told: the same in both stages.
_SHARED = (
    "use_cpu", "bf16", "fp16", "tf32", "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile",
    "seed", "data_seed", "full_determinism", "trust_remote_code", "deepspeed", "ddp_timeout", "ddp_backend",
    "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "logging_steps", "report_to", "run_name", "save_strategy", "save_steps", "dataloader_num_workers",
)  # fmt: skip


def folder_of(settings: TrainSettings, number: int = 1) -> Path:
    """The run directory of a round of fine-tuning."""
    return settings.output / (FOLDER if number == 1 else f"{FOLDER}-{number}")


def sft_settings(settings: TrainSettings, source: str, number: int = 1, flops: float | None = None) -> sft.SftSettings:
    """Those of a round of fine-tuning, a whole run of `guided-grpo sft`.

    Args:
        settings: of the whole run.
        source: where its policy is.
        number: of the round; those behind the first teach the rows that they made, for one epoch.
        flops: of the round; None = those of the whole run.

    Raises `InputError` where a batch cannot be shared by the processes.
    """
    stage, training, later = settings.stage, settings.training, number > 1
    share, rest = divmod(stage.sft_batch_size, PartialState().num_processes)
    if rest:
        fix = f"use a multiple of {PartialState().num_processes}"
        raise InputError("is not shared by all processes", field="sft_batch_size", value=stage.sft_batch_size, fix=fix)
    rows = max(n for n in range(1, share + 1) if share % n == 0 and n <= max(1, training.per_device_train_batch_size))
    lengths = [length for length in (stage.sft_max_length, context_of(source)) if length]
    config = SFTConfig(
        **{name: getattr(training, name) for name in _SHARED},
        output_dir=str(folder_of(settings, number)),
        loss_type=stage.sft_loss,
        learning_rate=stage.sft_learning_rate * (RATE_BEHIND if later else 1),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=0.1,  # of all
        weight_decay=0.01,
        num_train_epochs=1 if later else stage.sft_epochs,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=share // rows,
        max_length=min(lengths) if lengths else None,
    )
    taught = {item.name: getattr(stage, item.name) for item in describe(TeachingArguments)}
    taught |= {"sft_answer": "", "sft_shares": [1.0]} if later else {}  # its traces have their answer
    run = rounds.run_on(settings, number) if later else settings.run
    return sft.SftSettings(
        run=dataclasses.replace(run, eval_max_tokens=run.eval_max_tokens or training.max_completion_length),
        grading=settings.grading,
        training=config,
        model=settings.model,
        sft=sft.SftArguments(
            **taught,
            guidance_thinking=training.guidance_thinking,
            max_flops=training.max_flops if flops is None else flops,
            chat_template_kwargs=training.chat_template_kwargs,
        ),
    )


def fine_tune(
    settings: TrainSettings, source: str, tokenizer: Any, grader: Grader, claim: Callable[[], None]
) -> list[dict[str, Any]]:
    """Run the first stage and its rounds, or go on with them; their summaries.

    What they measured becomes `before` and `between` of the run. Half of a budget is for the traces of the data, where
    something is open. The round of a policy that solves half of the held-out problems is the last, and has the rest;
    one that solves fewer leaves an equal part to each further round, which asks a better policy. They end early where
    one was no better than what it began with, or solved nothing.

    Args:
        settings: of the whole run.
        source: where its policy is.
        tokenizer: of the policy.
        grader: of the whole run.
        claim: called before anything is written.
    """
    state, budget = PartialState(), settings.training.max_flops
    count = settings.stage.sft_rounds or 0
    problems = rounds.problems_of(settings, grader) if count else None
    if problems is None or not problems.open:
        count = 0
    share = budget / 2 if count else budget
    summaries = [sft.run(sft_settings(settings, source, flops=share), grader, claim)]
    for number in range(2, 2 + count):
        assert problems is not None
        _free()
        kept, spent = summaries[-1].get("kept"), sum(summary["flops"] for summary in summaries)
        last = number == 1 + count or bool(kept and kept["accuracy"] >= ENOUGH)
        left = (budget - spent) / (1 if last else 2 + count - number)
        if (kept and not kept["step"]) or (budget and left <= 0):
            break
        begin = partial(policy_of, settings, source, number - 1)
        made = rounds.made_traces(settings, number)
        if made is None:
            with whole_policies():  # no trainer has it
                made = rounds.make_traces(settings, number, problems, grader, begin()[0], tokenizer, max(left, 0))
        problems = rounds.problems_behind(settings, number, problems)
        if not made["solved"] or (budget and left <= made["flops"]):
            break
        flops = left - made["flops"] if budget else 0
        summary = sft.run(sft_settings(settings, source, number, flops), grader, policy=begin)
        costs = {name: summary[name] + made[name] for name in ("flops", "seconds")}
        summaries.append({**summary, **costs, "asked": made["asked"], "solved": made["solved"]})
        if last:
            break
    _free()
    path = settings.output / rundir.EVAL
    first, newest = (rundir.read_json(folder_of(settings, n) / rundir.EVAL) for n in (1, len(summaries)))
    if first and newest and state.is_main_process and not path.exists():
        rundir.write_json(path, {"before": first["before"], "between": newest["after"], "after": None})
    state.wait_for_everyone()
    return summaries


def _free() -> None:
    """Give back the memory of a policy and its optimizer."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def training_behind(settings: TrainSettings, taught: Sequence[Mapping[str, Any]]) -> GuidedGRPOConfig:
    """What METHOD trains with, a copy.

    Plain GRPO where a method that fine-tunes by itself found no fine-tuning better than none: traces that could not be
    imitated misled guidance too (docs/studies/when.md).

    Args:
        settings: of the whole run.
        taught: the summaries of fine-tuning; none = there was none.
    """
    training: GuidedGRPOConfig = copy.copy(settings.training)
    preset = METHODS[str(training.method)]
    kept = taught[0].get("kept") if taught else None
    if preset.taught_first and kept and not kept["step"]:
        tell(f"{settings.output}: no fine-tuning was better than none, so these traces do not guide either")
        for name in preset.values:
            setattr(training, name, DEFAULTS[name])
    return training


def undo_a_loss(settings: TrainSettings, count: int, trainer: Any, grader: Grader) -> bool:
    """Give the policy back what fine-tuning ended with where METHOD made it clearly worse; whether it did.

    The problems that stopped fine-tuning are asked once more, which counts as a cost. METHOD trained on them too: this
    finds a collapse, not a small loss.

    Args:
        settings: of the whole run.
        count: rounds of fine-tuning that there were.
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
    before = list(jsonl.whole_rows(folder_of(settings, count) / rundir.STOPPING))
    kept = before[kept_of(before, of_round=count > 1)]
    if not is_below(last, kept):
        return False
    tell(f"{output}: finishes {last['accuracy']:.1%} of the held-out training problems, {kept['accuracy']:.1%} before "
         f"{settings.training.method}: what fine-tuning ended with is kept")  # fmt: skip
    restore(trainer.accelerator.unwrap_model(trainer.model), folder_of(settings, count) / rundir.MODEL)
    return True


def policy_of(settings: TrainSettings, source: str, count: int) -> tuple[Any, Any]:
    """What comes behind so many rounds of fine-tuning starts from, and the PEFT config of adapters to be made.

    Adapters of fine-tuning go on, and none are made.
    """
    adapters = get_peft_config(settings.model)
    if not count:
        return load_model(source, settings), adapters
    folder = str(folder_of(settings, count) / rundir.MODEL)
    if adapters is None:
        return load_model(folder, settings), None
    return PeftModel.from_pretrained(load_model(source, settings), folder, is_trainable=True), None


def stages(
    settings: TrainSettings, taught: Sequence[Mapping[str, Any]], figures: dict[str, Any], *, undone: bool
) -> list[dict[str, Any]]:
    """What summary.json says of each stage: steps, FLOPs, tokens, seconds; and whether the last one was undone.

    Args:
        settings: of the whole run.
        taught: the summaries of fine-tuning.
        figures: of the run, whose FLOPs and trace tokens are of all stages.
        undone: see `undo_a_loss`.
    """
    names = ("method", "steps", "tokens_generated", "train_seconds", "seconds")
    last = {**{name: figures[name] for name in names}, "method": settings.training.method}
    last |= {name: figures[name] - total(taught, name) for name in ("flops", "trace_tokens")}
    last |= {"undone": True} if undone else {}
    return [*({name: value for name, value in one.items() if name != "seed"} for one in taught), last]


def total(taught: Sequence[Mapping[str, Any]], name: str) -> int:
    """A figure of all rounds of fine-tuning together."""
    return sum(summary[name] for summary in taught)
