"""`guided-grpo sft`: supervised fine-tuning on the traces, the baseline of G²RPO-A's Tables 3–5, by TRL's trainer.

The run directory is that of `train`, without rollouts; the same command goes on after a kill.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from annotated_types import Ge
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer, get_peft_config

from guided_grpo.commands.parsing import Settings, TeachingArguments, parse_run, read_mapping, tell
from guided_grpo.commands.policies import check_prompts, load_model, load_tokenizer, policy_source, tell_precision
from guided_grpo.commands.ranks import leaving
from guided_grpo.commands.results import Results, run_once
from guided_grpo.commands.runs import claim, go_on, load_rows_of, prepare_resume, progress, save_model
from guided_grpo.commands.stopping import EarlyStopping, set_aside
from guided_grpo.data.demonstrations import IGNORED, demonstrations, grade_traces
from guided_grpo.errors import InputError
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.likelihood import FOREIGN
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import GuidanceTokenizer, PlacementSettings
from guided_grpo.settings import again, setting
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.flops import Meter
from guided_grpo.train.metrics import plain_number
from guided_grpo.train.sharding import check_fsdp, engine_is_asked, take_fsdp_on_cpu


@dataclass
class SftArguments(TeachingArguments):
    """What of the traces is taught, and when that is enough."""

    guidance_thinking: str = again(PlacementSettings, "guidance_thinking")
    max_flops: Annotated[float, Ge(0)] = again(GuidedGRPOConfig, "max_flops")
    chat_template_kwargs: dict | str | None = setting(  # type: ignore[type-arg]  # the parser wants a bare dict
        None, 'further arguments of the chat template: {"enable_thinking": false}'
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chat_template_kwargs = read_mapping("chat_template_kwargs", self.chat_template_kwargs)


_COSTS = "costs.json"  # in a checkpoint
_STOPPING = ("sft_patience", "sft_every", "sft_held_out")


@dataclass(frozen=True)
class SftSettings(Settings):
    """A whole fine-tuning run."""

    training: SFTConfig
    sft: SftArguments

    def to_json(self) -> dict[str, Any]:
        """What config.yaml holds: what stops it only where something does."""
        own = asdict(self.sft)
        unused = {*([] if self.sft.sft_patience else _STOPPING), *([] if self.sft.max_flops else ["max_flops"])}
        own = {name: value for name, value in own.items() if name not in unused}
        return {**super().to_json(), **own, "command": "sft"}


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Parse and run; prints where the results are."""
    with leaving("sft"):
        summary = run(parse(arguments))
        if as_json and PartialState().is_main_process:
            print(json.dumps(summary, indent=2))
    return 0


def parse(arguments: list[str]) -> SftSettings:
    """Settings from a command line with an optional `--config FILE`. Raises `InputError` with one line."""
    return parse_run(SftSettings, arguments, "guided-grpo sft")


def run(
    settings: SftSettings,
    grader: Grader | None = None,
    claim_first: Callable[[], None] = lambda: None,
    policy: Callable[[], tuple[Any, Any]] | None = None,
) -> dict[str, Any]:
    """Fine-tune as `settings` say, or go on where a killed run of the same settings stopped. Returns the summary.

    As a stage of another run it has that one's `grader`, and calls `claim_first` before it writes anything. Behind
    another stage it begins with `policy()`, a model and the PEFT config of adapters to be made, and is not asked
    before training once more.
    """
    return run_once(settings, lambda its_own: _run(settings, its_own, claim_first, policy), grader)


def _run(
    settings: SftSettings,
    grader: Grader,
    claim_first: Callable[[], None],
    policy: Callable[[], tuple[Any, Any]] | None,
) -> dict[str, Any]:
    state, output, training = PartialState(), settings.output, settings.training
    rows = load_rows_of(settings.run, settings.run.train_data, settings.run.data_limit, require_guidance=True)
    held_out = (
        load_rows_of(settings.run, settings.run.eval_data, settings.run.eval_limit) if settings.run.eval_data else None
    )
    patience = settings.sft.sft_patience
    if patience and settings.model.use_peft and engine_is_asked():
        fix = "use 0 with adapters on FSDP and DeepSpeed"
        raise InputError("puts back no adapters that are sharded", field="sft_patience", value=patience, fix=fix)
    taught, asked = set_aside(rows, settings.sft, training.seed) if patience else (rows, None)
    tasks = {task for problems in (held_out, asked) if problems is not None for task in problems["task"]}
    if settings.sft.sft_check:
        tasks |= set(taught["task"])
    if tasks:
        grader.start(sorted(tasks))
    source = policy_source(str(settings.model.model_name_or_path), field="model_name_or_path")
    tokenizer = load_tokenizer(source, field="model_name_or_path")
    check_prompts(rows, tokenizer, str(settings.model.model_name_or_path), field="model_name_or_path")
    template: Any = settings.sft.chat_template_kwargs or {}
    demonstrate = partial(
        demonstrations,
        guide=GuidanceTokenizer(tokenizer, template, settings.sft.guidance_thinking, leak=True),
        shares=settings.sft.sft_shares,
        answer=settings.sft.sft_answer,
        end_id=tokenizer.eos_token_id,
        max_tokens=training.max_length,
    )
    worth = grade_traces(list(taught), settings.sft.sft_answer, grader) if settings.sft.sft_check else None
    examples, omissions = demonstrate(taught, worth=worth)
    if not examples:
        raise InputError(f"leaves nothing to teach ({omissions})", file=settings.run.train_data, fix="raise max_length")
    tell(f"{len(examples)} demonstrations; left out: {', '.join(f'{n} {why}' for why, n in omissions.items())}")
    claim_first()
    claim(settings, state)
    started = time.perf_counter()
    training.disable_tqdm = True  # our bar instead
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    training.include_num_input_tokens_seen = "non_padding"  # counted in every step, logged or not, and over a kill
    keeper = _Keeper(output)
    bar = progress(f"sft seed {training.seed}", quiet=settings.run.quiet)
    model, adapters = policy() if policy else (load_model(source, settings), get_peft_config(settings.model))
    trainer = MeteredTrainer(
        model=model,
        args=training,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        peft_config=adapters,
        callbacks=[bar, keeper],
        max_flops=settings.sft.max_flops,
        floor=settings.sft.sft_floor,
    )
    for theirs in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(theirs)
    tell_precision(trainer)
    answers: dict[str, Any] = {"max_tokens": Decoding().max_tokens, "template_kwargs": template}
    results = Results(output, settings.run, held_out, trainer, grader, **answers)
    if policy is None:
        results.begin("before")
    resume = prepare_resume(output, state)
    trainer.count_from(resume)
    stopped: dict[str, Any] = {}
    if asked is None:
        go_on(trainer, resume)
    else:
        training.save_total_limit = None  # the best checkpoint and the newest stay
        ask = Results(output, settings.run, asked, trainer, grader, **answers)
        stopping = EarlyStopping(ask, settings.sft, demonstrate(asked)[0], of_round=policy is not None)
        trainer.add_callback(stopping)
        stopping.train(resume)
        stopped = {"kept": stopping.summary()}
    save_model(trainer, output, state)
    results.evaluate("after")
    return results.finish(
        {
            "method": "sft",
            "seed": training.seed,
            "steps": trainer.state.global_step,
            "demonstrations": len(examples),
            "left_out": omissions,
            **stopped,
            "flops": trainer.flops,
            "tokens_trained": trainer.state.num_input_tokens_seen,
            "trace_tokens": trainer.trace_tokens,
            "seconds": round(time.perf_counter() - started, 1),
        }
    )


class MeteredTrainer(SFTTrainer):
    """TRL's, with what it costs: FLOPs (train/flops.py) and trace tokens, of all ranks and over a kill.

    It ends after the step in which `max_flops` are spent, 0 = never, and its rate falls with them where they end it
    before its epochs do: a rate that is still high leaves a policy that swings from step to step.

    With `loss_type: dft` and a floor a token weighs λ + (1 − λ)·π, π its probability: λ of log-likelihood, the rest of
    DFT (arXiv 2508.05629). λ falls from the floor to 0 over the run: what is new is learned first, slips go last. A
    floor of None is found in the first traces that are read (`floor_of`).
    """

    def __init__(self, *arguments: Any, max_flops: float = 0, floor: float | None = 0, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.floor = floor
        if floor != 0 and self.args.loss_type == "dft":
            self.args.loss_type = "nll"  # TRL's sum of log-probs, which come weighed
            self.accelerator.unwrap_model(self.model).register_forward_hook(self._weigh)
        self.flops = self.trace_tokens = self._taught = 0
        self.max_flops = max_flops
        self._meter = Meter(self.accelerator.unwrap_model(self.model))
        self.add_callback(_Budget(self))

    def create_accelerator_and_postprocess(self) -> None:
        """Transformers', which then also shards on a CPU."""
        check_fsdp()
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled |= take_fsdp_on_cpu(self.accelerator, self.args.fsdp_plugin_args)

    @property
    def spent(self) -> float:
        """Share of the FLOPs, at most 1; 0 without a limit."""
        return float(min(1, self.flops / self.max_flops)) if self.max_flops else 0.0

    @property
    def share(self) -> float:
        """Of the steps or of the FLOPs that is done, the larger."""
        return float(min(1.0, max(self.state.global_step / max(1, self.state.max_steps), self.spent)))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Transformers', read at the share of the steps or of the FLOPs that is done, the larger."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.max_flops and isinstance(scheduler, LambdaLR):

            def at_share(factor: Callable[[int], float]) -> Callable[[int], float]:
                return lambda step: factor(max(step, int(num_training_steps * self.spent)))

            scheduler.lr_lambdas = [at_share(factor) for factor in scheduler.lr_lambdas]
        return scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """TRL's, counted."""
        taught = self._taught = int((inputs["labels"] != IGNORED).sum())
        with self._meter:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        costs = gather_object([(self._meter.take(), taught)])
        self.flops += sum(flops for flops, _ in costs)
        self.trace_tokens += sum(tokens for _, tokens in costs)
        return loss

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what the policy reads meanwhile: the evaluations that say when to stop are a cost of the method."""
        with self._meter:
            yield
        self.flops += sum(gather_object([self._meter.take()]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with what was spent so far."""
        if "loss" in logs:
            logs["flops/total"] = self.flops
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"{rundir.CHECKPOINT_PREFIX}{self.state.global_step}"
            kept = {"flops": self.flops, "trace_tokens": self.trace_tokens, "floor": self.floor}
            rundir.write_json(folder / _COSTS, kept)

    def count_from(self, checkpoint: Path | None) -> None:
        """Count on from what a checkpoint has spent; None = from nothing."""
        costs = (rundir.read_json(checkpoint / _COSTS) if checkpoint else None) or {}
        self.flops, self.trace_tokens = costs.get("flops", 0), costs.get("trace_tokens", 0)
        self.floor = costs.get("floor", self.floor)

    def _weigh(self, model: Any, arguments: Any, output: Any) -> None:
        """Weigh the log-probs that the model gives to its loss."""
        logps = getattr(output, "log_probs", None)
        if logps is None or not torch.is_grad_enabled():
            return
        if self.floor is None:
            read = gather_object([(float(logps.detach().sum()), self._taught)])
            log_prob = sum(total for total, _ in read) / max(1, sum(count for _, count in read))
            self.floor = floor_of(log_prob)
            found = f"a token of the first traces has {log_prob:.2f} nats; λ begins at {self.floor:g}"
            tell(f"{self.args.output_dir}: {found}")
        floor = self.floor * (1 - self.share)
        output.log_probs = logps * (floor + (1 - floor) * logps.exp()).detach()


def floor_of(log_prob: float) -> float:
    """Where λ begins, by the log-probability of a trace token before fine-tuning, in nats.

    Traces that the policy does not write weigh nothing by its own probability: they begin as log-likelihood. Others are
    DFT's, without a floor.
    """
    return float(log_prob < FOREIGN)


class _Budget(TrainerCallback):
    """The end after the step in which the FLOPs are spent."""

    def __init__(self, trainer: MeteredTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if 0 < self.trainer.max_flops <= self.trainer.flops:
            control.should_training_stop = control.should_log = True


class _Keeper(TrainerCallback):
    """Rows of metrics.jsonl, the last step's among them, and the mark of a whole checkpoint."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        # A run shorter than logging_steps, ten by TRL's default, would leave no row.
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **named: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            row = {"step": state.global_step, **{name: plain_number(value) for name, value in logs.items()}}
            jsonl.append_rows(self.output / rundir.METRICS, [row])

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.is_world_process_zero:
            rundir.mark_complete(self.output / f"{rundir.CHECKPOINT_PREFIX}{state.global_step}")
