"""`GuidedGRPOTrainer`: TRL's `GRPOTrainer` with guidance, and the only place that touches TRL's internals.

Its methods are the seams of TRL 1.16 that `seams.SEAMS` lists, with the stages of a training batch that stand in each.
With no guidance planned and `forward: plain` every stage hands TRL's own values through, which keeps loss and
gradients equal to the bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import get_config_model_id

from guided_grpo.data.adaptive import AdaptiveOrder
from guided_grpo.data.curriculum import MATHS_TIERS, Hardness, OrderedRepeatSampler, hardness, row_order
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import GuidancePlan, plan_batch, shares, with_whole_traces
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.guidance.slicing import NO_SLICE, SHARES, Slice
from guided_grpo.guidance.strength import make_controller
from guided_grpo.store import rundir
from guided_grpo.store.jsonl import append_rows
from guided_grpo.train import feedback
from guided_grpo.train.advantage import arm_advantages, credited, mask_ungraded
from guided_grpo.train.callbacks import BudgetCallback
from guided_grpo.train.card import guidance_section
from guided_grpo.train.checkpoint import load_buffer, load_state, save_buffer, save_state
from guided_grpo.train.checks import accuracy_index, check_columns, check_room, check_trainable, rows_by_column
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.dynamic import filled_batch, further_problem
from guided_grpo.train.failures import failed_traces, trace_batch
from guided_grpo.train.flops import Meter
from guided_grpo.train.forward import Forward, arrange, needed_tokens, why_plain
from guided_grpo.train.generation import check_whole, one_line, room_for
from guided_grpo.train.imitation import factors_bT, gates_of, imitation_loss
from guided_grpo.train.metrics import plain_number
from guided_grpo.train.records import group_records, rollout_records
from guided_grpo.train.resampling import Ladder, rescue_batch
from guided_grpo.train.rescue import ProblemHistory
from guided_grpo.train.rollout import (
    FACTS,
    Rollout,
    completions_for_training,
    logprobs_for_training,
    loss_weights,
    prompts_for_sampling,
    rollout_facts,
    rollouts_of,
)
from guided_grpo.train.sampling import sample_rollouts, warpers
from guided_grpo.train.sharding import check_fsdp, take_fsdp_on_cpu
from guided_grpo.train.signals import Sign, Watch
from guided_grpo.train.state import Batch, RunState
from guided_grpo.train.turns import sample_in_turns
from guided_grpo.types import Arm, Row, Strength

_LOG = logging.getLogger("guided_grpo")


class GuidedGRPOTrainer(GRPOTrainer):
    """Drop-in for TRL's `GRPOTrainer`: same arguments, `args` a `GuidedGRPOConfig`, a `guidance` column in the data.

    Without `args` it is a default config, named after the model as TRL does. The data set, which may be streamed where
    the method needs no order, has `guidance` (trace text or null) where the method guides, and `difficulty` where it
    orders by it.
    Evaluation during training is unguided, and never feeds the controller.

    Raises:
        InputError: a missing column, no trace at all, an accuracy reward that cannot be found, vision inputs or tools
            with a guided method, a sequence that outgrows the model's context.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "guided-grpo"]
    args: GuidedGRPOConfig
    _batch: Batch | None = None  # under way; None = TRL evaluates
    _buffered_inputs: list[dict[str, Any]] | None  # TRL's: micro-batches of the generation batch
    _preparing = 0.0  # seconds of the last `_prepare_inputs`
    continuous_batching_config: Any  # TRL's, as the user set it; on a CPU sized to each batch

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: GRPOConfig | None = None, *positional: Any, **named: Any
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = GuidedGRPOConfig(f"{name.split('/')[-1]}-GRPO")
        if not isinstance(args, GuidedGRPOConfig):
            raise InputError(
                "is not a GuidedGRPOConfig",
                field="args",
                value=type(args).__name__,
                fix="pass args=GuidedGRPOConfig(...), which takes every GRPOConfig field",
            )
        with one_line(args):
            super().__init__(model, reward_funcs, args, *positional, **named)
        names, form = self.reward_func_names, self.args.format_reward
        self._accuracy_index = accuracy_index(names, self.args)
        check_trainable(self.args, names, plain=not (self.tools or self._is_vlm or self.rollout_func is not None))
        check_columns(self.train_dataset, self.args)
        self._controller = make_controller(self.args)
        order = None
        if self.args.curriculum == "adaptive":
            hard = self._hardness(self.train_dataset)
            assert hard is not None
            order = AdaptiveOrder(hard, self.args.curriculum_target, self.args.curriculum_gain)
        watch = Watch(f"rewards/{form}/mean" if form in names else None)
        self.card_facts: dict[str, str] = {}  # further rows of the model card
        self.run_state = RunState(self._controller.init(), ProblemHistory(self.args), watch, order)
        self._shares_G = shares(self.num_generations, self.args.guidance_ratio, self.args.guidance_allocation)
        self._first_shares_G = self._shares_G if self.args.guides_first else [0.0] * self.num_generations
        self._guidance_tokenizer = GuidanceTokenizer(
            self._tokenizer,
            self.chat_template_kwargs,
            self.args.guidance_thinking,
            placement=self.args.guidance_placement,
            template=self.args.hint_template,
            leak=self.args.guidance_leak,
        )
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self._room = math.inf if context is None else context - self.max_completion_length  # for prompt and guidance
        self._ladder = Ladder(
            self.args,
            self._shares_G,
            self._guidance_tokenizer,
            self.run_state.history,
            share=SHARES[self.args.rescue_slice],
            full=self._strength_of,
            room=self._room,
        )
        self._ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        self.add_callback(BudgetCallback(self.args, self.run_state))
        policies = [self.model] if self.ref_model is None else [self.model, self.ref_model]
        self._meter = Meter(*map(self.accelerator.unwrap_model, policies))
        self._trace_tokens = 0  # of this rank since the last micro-step
        reason = self._why_plain() if self.args.forward == "shared" else None
        if reason:
            _LOG.warning("forward: plain instead of shared, because %s", reason)
        half = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else None
        if self.use_transformers_continuous_batching and half and self.model.dtype == torch.float32:
            _LOG.warning("%s: TRL's continuous batching casts the policy itself, for good; vLLM does not", half)
        shared = self.args.forward == "shared" and not reason
        self._forward = Forward(shared=shared, checkpointing=self.args.gradient_checkpointing)

    def create_accelerator_and_postprocess(self) -> None:
        """Transformers', which then also shards on a CPU."""
        check_fsdp()
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled |= take_fsdp_on_cpu(self.accelerator, self.args.fsdp_plugin_args)

    # ---- order ------------------------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        for column in ("guidance", "guidance_limit", "difficulty", "tier", "source", "success_rate"):
            if column not in self._signature_columns:
                self._signature_columns.append(column)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        dataset = self.train_dataset if dataset is None else dataset
        seed = self.args.seed if self.shuffle_dataset or self.args.curriculum == "random" else None
        return OrderedRepeatSampler(  # type: ignore[return-value]  # a Sampler by its interface, without torch
            self.run_state.order or row_order(len(dataset), self._hardness(dataset), seed),
            rows=len(dataset),
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
        )

    def _hardness(self, dataset: Any) -> Hardness | None:
        tiers = self.args.curriculum_tiers or MATHS_TIERS
        return hardness(self.args.curriculum, rows_by_column(dataset), tiers)

    # ---- plan, advantage, feedback ----------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        if 0 < self.args.failure_buffer <= len(self.run_state.failures):
            return self._trace_batch()
        first = self._score(inputs)
        if not self.args.dynamic_sampling:
            return first[0]
        output, batches = filled_batch(
            first,
            lambda: self._score(self._further_rows(len(inputs))),
            most=self.args.dynamic_sampling,
            group_size=self.num_generations,
            pad_id=self._tokenizer.pad_token_id,
            gather=gather_object,
        )
        self.run_state.metric_sums.total("sampling/batches", batches)
        self._count_weights(output)
        if self.args.imitates:
            self._count_imitated(output)
        return output

    def _trace_batch(self) -> dict[str, Any]:
        """The newest failures in place of a batch."""
        run, size = self.run_state, self.args.failure_buffer
        traces, run.failures = run.failures[:size], run.failures[size:]
        output = trace_batch(
            traces,
            chunks=self.args.steps_per_generation,
            ranks=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
            pad_id=self._tokenizer.pad_token_id,
            weight=self.args.imitation_weight,
        )
        self._trace_tokens += int(output["imitation_factors"].count_nonzero())
        run.metric_sums.total("imitation/traces", size)
        return {name: values.to(self.accelerator.device) for name, values in output.items()}

    def _further_rows(self, size: int) -> list[dict[str, Any]]:
        """Rows of this rank for one more batch of dynamic sampling."""
        run, groups = self.run_state, size // self.num_generations
        first = run.problems_drawn + self.accelerator.process_index * groups
        run.problems_drawn += self.accelerator.num_processes * groups
        problems = [further_problem(self.train_dataset, n, self.args.seed) for n in range(first, first + groups)]
        return [{**row} for row in problems for _ in range(self.num_generations)]

    def _score(self, inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], torch.Tensor]:
        """One generation batch through all stages: what TRL makes of it, and the accuracy of its rows."""
        text_only = not self._is_vlm and self.environment_factories is None
        if text_only and "thinking_open" not in inputs[0]:
            flags = [self._guidance_tokenizer.thinking_is_open(row["prompt"]) for row in inputs]
            inputs = [{**row, "thinking_open": is_open} for row, is_open in zip(inputs, flags, strict=True)]
        rows: list[Row] = inputs  # type: ignore[assignment]  # rows of the data set are Rows
        first = self.accelerator.process_index * len(rows)
        plan = plan_batch(rows, first, self._first_shares_G, self._strength_of, self._guidance_tokenizer)
        if self.args.guidance_rows:
            plan = with_whole_traces(
                plan, rows, first, self.num_generations, self.args.guidance_rows, self._whole_trace
            )
        self._batch = Batch(rows, plan)
        try:
            output = super()._generate_and_score_completions(inputs)
            self._learn(self._batch, output)
            assert self._batch.rewards_BF is not None
            accuracy_b = self._batch.rewards_BF[first : first + len(rows), self._accuracy_index]
        finally:
            self._batch = None
        return output, accuracy_b

    def _whole_trace(self, row: Row) -> Slice:
        """The trace with its answer and its end, where there is one that fits."""
        piece = self._guidance_tokenizer.whole(row, self.args.trace_answer, self._tokenizer.eos_token_id)
        length = self._guidance_tokenizer.length(row["prompt"], piece)
        return piece if length <= self._room + self.max_completion_length else NO_SLICE

    def _strength_of(self, row: Row) -> Strength:
        return self._controller.strength(self.run_state.controller, row)

    def _learn(self, batch: Batch, output: dict[str, Any]) -> None:
        """Everything that follows the rewards of a training batch; equal on all ranks."""
        run, rewards_BF = self.run_state, batch.rewards_BF
        assert rewards_BF is not None
        facts = rollout_facts(batch.rows, batch.rollouts, self._ends)
        facts_BK = self.accelerator.gather(torch.tensor(facts, dtype=torch.long, device=self.accelerator.device))
        guided_B = facts_BK[:, FACTS.index("guidance_tokens")] > 0
        here = len(batch.rows)
        local = slice(self.accelerator.process_index * here, (self.accelerator.process_index + 1) * here)
        if self.args.advantage_baseline == "arm" and bool(guided_B.any()):
            weighted_B = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(dim=1)
            weighted_B[rewards_BF.isnan().all(dim=1)] = torch.nan
            arms_B = arm_advantages(weighted_B, guided_B, self.num_generations, str(self.args.scale_rewards))
            output["advantages"] = arms_B[local]
        if self.args.guided and self.args.guidance_credit != "signed":
            self._credit(batch, output)
        if self.args.imitates:
            self._imitate(batch, output, local)
        if self.args.failure_buffer:
            failed = failed_traces(
                batch.rows,
                local.start,
                rewards_BF[:, self._accuracy_index],
                self.num_generations,
                self._guidance_tokenizer.prompt_ids,
                self._whole_trace,
            )
            run.failures = [*gather_object(failed), *run.failures]
        graded = feedback.GradedBatch(
            batch,
            facts_BK,
            rewards_BF[:, self._accuracy_index],
            self.accelerator.gather(output["advantages"]),
            self._first_shares_G,
        )
        length = self._strength_of({}).amount if self.args.guided else 0.0
        feedback.count(run, graded, length=length, guidance_trained=self.args.guidance_in_loss)
        self._record_rollouts(batch, output["advantages"], rewards_BF[local])
        # This batch is used up by the time of the next one.
        done = self._step + self.args.steps_per_generation * self.num_iterations
        done //= self.args.gradient_accumulation_steps
        progress = feedback.share_done(run, self.args, done, self.state.max_steps)
        feedback.update_controller(run, self._controller, graded, optimizer_step=done, progress=progress)
        if self.args.rescue_cold_format is not None:
            format_B = rewards_BF[:, self.reward_func_names.index(self.args.format_reward)]
            run.cold_start_over |= bool(format_B.nanmean() >= self.args.rescue_cold_format)

    def _credit(self, batch: Batch, output: dict[str, Any]) -> None:
        assignments = [rollout.assignment for rollout in batch.rollouts]
        output["tool_mask"] = credited(
            output["tool_mask"],
            output["advantages"],
            [len(assignment.slice.ids) for assignment in assignments],
            [assignment.arm is Arm.GUIDED for assignment in assignments],
            self.args.guidance_credit,
        )
        self._count_weights(output)

    def _count_weights(self, output: dict[str, Any]) -> None:
        weights = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.accelerator.gather(weights.sum()).sum()

    def _imitate(self, batch: Batch, output: dict[str, Any], local: slice) -> None:
        """What `_compute_loss` needs for its term on guidance tokens: a factor of each, and the normaliser."""
        assert batch.rewards_BF is not None
        whole_B = torch.tensor(self._whole_B(batch.rollouts), device=self.accelerator.device)
        accuracy_B = batch.rewards_BF[:, self._accuracy_index].masked_fill(whole_B, torch.nan)
        gates_B = gates_of(self.args.imitation_gate, accuracy_B, self.num_generations)
        guidance_b = [len(rollout.assignment.slice.ids) for rollout in batch.rollouts]
        mask, advantages_b = output["completion_mask"], output["advantages"]
        output["imitation_factors"] = factors_bT(self.args, mask, guidance_b, gates_B[local], advantages_b)
        self._count_imitated(output)

    def _count_imitated(self, output: dict[str, Any]) -> None:
        items = self.accelerator.gather((output["imitation_factors"] != 0).sum()).sum()
        if self.args.imitation_is_joint:
            items = items + output["num_items_in_batch"]
            output["num_items_in_batch"] = items
        output["imitation_items"] = items

    def _whole_B(self, rollouts: list[Rollout]) -> list[bool]:
        """Which rollouts of all ranks are a whole trace."""
        return list(gather_object([rollout.assignment.slice.whole for rollout in rollouts]))

    # ---- rollout ----------------------------------------------------------------------------------------------------

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        started, batch = time.perf_counter(), self._batch
        # By the method, not by this rank's plan: ranks must ask an engine in one and the same way.
        guided = batch is not None and (self.args.guides_first or batch.attempt > 0)
        prompts = prompt_ids
        if batch is not None and guided:
            prompts = prompts_for_sampling(prompt_ids, batch.plan)
            check_room(prompts, batch.plan, self.args, self._room)
        generated: list[list[int]]
        logprobs: Any = None
        whole = [] if batch is None else [assignment.slice.whole for assignment in batch.plan]
        if batch is not None and self._samples_here:
            sampled = iter(
                self._sample_rollouts([ids for ids, all_there in zip(prompts, whole, strict=True) if not all_there])
            )
            generated = [[] if all_there else next(sampled) for all_there in whole]
        else:  # rollouts of a group differ in guidance: an engine must not sample n times from the group's first prompt
            number = 1 if guided else num_generations
            with one_line(self.args), self._engine(prompts):
                generated, logprobs = super()._generate_single_turn(
                    prompts, images, multimodal_fields, number, has_tool_images
                )
            if self.use_transformers_continuous_batching:
                check_whole(generated, len(prompts), self._ends, self.max_completion_length)
            if any(whole):  # engines are asked for equally many on all ranks
                generated = [[] if all_there else ids for ids, all_there in zip(generated, whole, strict=True)]
                if logprobs is not None:
                    logprobs = [[] if all_there else ps for ps, all_there in zip(logprobs, whole, strict=True)]
        if self._has_engine:
            self._meter.add_sampled(prompts, generated)
        if batch is not None and guided:
            generated, logprobs = (
                completions_for_training(generated, batch.plan),
                logprobs_for_training(logprobs, batch.plan),
            )
        if batch is not None and not batch.attempt:
            self.run_state.metric_sums.total("time/generate", time.perf_counter() - started)
        return generated, logprobs

    @property
    def _has_engine(self) -> bool:
        return self.use_vllm or self.use_transformers_continuous_batching or self.rollout_func is not None

    @contextmanager
    def _engine(self, prompts: list[list[int]]) -> Iterator[None]:
        """Continuous batching sized to these prompts on a CPU; what it reads is counted as another engine's."""
        if not self.use_transformers_continuous_batching:
            yield
            return
        if self.accelerator.device.type == "cpu":
            asked = dict(self.args.transformers_continuous_batching_config or {})
            room = room_for(prompts, self.max_completion_length, asked)
            self.continuous_batching_config = replace(self.continuous_batching_config, **room)
        with self._meter.paused():
            yield

    @property
    def _samples_here(self) -> bool:
        """Whether `sample_rollouts` samples: on a CPU, where each rank holds the whole policy."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        settings = self.args.generation_kwargs or self.args.cache_implementation or self.repetition_penalty != 1
        elsewhere = self._has_engine or self.accelerator.device.type != "cpu"
        return self._forward.shared and not (elsewhere or sharded or settings or self.args.bf16 or self.args.fp16)

    def _sample_rollouts(self, prompts: list[list[int]]) -> list[list[int]]:
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            warp = warpers(self.temperature, self.top_k, self.top_p, self.min_p)
            return sample_rollouts(model, prompts, warp, self.eos_token_ids, self.max_completion_length)

    def _sample(self, batch: Batch) -> tuple[list[Rollout], tuple[Any, ...]]:
        """Rollouts of the batch's current plan, and TRL's own output."""
        guide = self._guidance_tokenizer
        rows_plan = zip(batch.rows, batch.plan, strict=True)
        prompts = [guide.prompt(row["prompt"], assignment.slice) for row, assignment in rows_plan]
        output = tuple(super()._generate(prompts))
        self._trace_tokens += sum(assignment.slice.tokens for assignment in batch.plan)
        return rollouts_of(batch.plan, output), output

    # ---- rescue, weights --------------------------------------------------------------------------------------------

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        batch = self._batch
        if batch is None:
            return tuple(super()._generate(prompts))
        if not self.args.guided:  # with tools or images TRL's prompts are not the rows'
            output = tuple(super()._generate(prompts))
            batch.rollouts = rollouts_of(batch.plan, output)
            self._begin_grading(batch)
            return output
        if self._ladder_is_open() and self.args.guidance_trigger == "turns":
            self._take_turns(batch)
        else:
            batch.rollouts, batch.output = self._sample(batch)
            if self._ladder_is_open():
                self._climb(batch)
            else:
                self._begin_grading(batch)
        prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest = batch.output
        weight = 0.0 if self.args.imitates else self.args.guidance_weight
        if self.args.guidance_credit != "signed" or (self.args.guidance_placement == "prefix" and weight != 1):
            tool_mask = loss_weights(batch.rollouts, weight)
        if batch.first_accuracy_B is not None:  # not all of them are of the last call
            prompt_ids = [rollout.prompt_ids for rollout in batch.rollouts]
            completion_ids = [rollout.completion_ids for rollout in batch.rollouts]
            completions = [rollout.completion for rollout in batch.rollouts]
            logprobs = None if logprobs is None else [rollout.logprobs for rollout in batch.rollouts]
        return (prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest)

    def _ladder_is_open(self) -> bool:
        if self.args.rescue_cold_format is not None:
            return self.args.rescues and self.run_state.cold_start_over
        return self.args.rescues and self.state.global_step >= self.args.rescue_cold_start

    def _climb(self, batch: Batch) -> None:
        """Grade the batch, and sample its difficult groups again until they succeed or the ladder ends."""
        sums, started = self.run_state.metric_sums, time.perf_counter()
        batch.rollouts, batch.rewards_BF = self._grade(batch.rows, batch.rollouts)
        sums.total("time/reward", time.perf_counter() - started)
        batch.first_accuracy_B = batch.rewards_BF[:, self._accuracy_index]
        started = time.perf_counter()
        batch.rescued = rescue_batch(
            batch.rows, batch.rollouts, batch.rewards_BF, _Resampler(self), self._ladder, self._accuracy_index
        )
        batch.rollouts, batch.rewards_BF = batch.rescued.rollouts_b, self._masked(batch.rescued.rewards_BF)
        self._log_extras(batch)
        sums.total("time/rescue", time.perf_counter() - started)

    def _take_turns(self, batch: Batch) -> None:
        """Sample and grade the rollouts of each group in turn."""
        started = time.perf_counter()
        batch.rollouts, rewards_BF, batch.first_accuracy_B = sample_in_turns(
            batch.rows,
            self.args.turn_below or [],
            self._ladder,
            self._whole_trace,
            self._attempt,
            accuracy=self._accuracy_index,
            ranks=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
        )
        batch.rewards_BF = self._masked(rewards_BF)
        self._log_extras(batch)
        self.run_state.metric_sums.total("time/generate", time.perf_counter() - started)

    def _log_extras(self, batch: Batch) -> None:
        """What reward functions log of the rollouts that are kept."""
        for name in sorted({name for rollout in batch.rollouts for name in rollout.extras}):
            self._pending_extra_logs[name].extend(rollout.extras.get(name) for rollout in batch.rollouts)

    def _attempt(self, rows: list[Row], plan: GuidancePlan) -> tuple[list[Rollout], torch.Tensor]:
        """One more call, graded; TRL's own metrics keep describing the first sampling, or the first turn."""
        outer = self._batch
        assert outer is not None
        first = not (outer.rollouts or outer.attempt)
        lengths = {name: len(values) for name, values in self._metrics["train"].items()}
        pending = {name: list(values) for name, values in self._pending_metrics.items()}
        self._batch = Batch(rows, plan, attempt=outer.attempt + 1)
        try:
            rollouts, outer.output = self._sample(self._batch)
            result = self._grade(rows, rollouts)
        finally:
            self._batch = outer
        outer.attempt += 1
        if not first:
            for name, values in self._metrics["train"].items():
                del values[lengths.get(name, 0) :]
            self._pending_metrics.clear()
            self._pending_metrics.update(pending)
        return result

    # ---- verdict ----------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        batch = self._batch
        if batch is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if batch.rewards_BF is None:
            started = time.perf_counter()
            batch.rewards_BF = self._rewards(inputs, prompts, completions, completion_ids_list, batch.rollouts)
            self.run_state.metric_sums.total("time/reward", time.perf_counter() - started)
        return batch.rewards_BF

    def _rewards(
        self, rows: Any, prompts: Any, completions: Any, completion_ids: Any, rollouts: list[Rollout]
    ) -> torch.Tensor:
        """TRL's rewards, shape (B, F), of all ranks; reward functions are told how many tokens are guidance."""
        tokens = [len(rollout.assignment.slice.ids) for rollout in rollouts]
        rows = [{**row, "guidance_tokens": number} for row, number in zip(rows, tokens, strict=True)]
        rewards_BF = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        if self._batch is None or not self._batch.attempt:
            rewards_BF = self._masked(rewards_BF)
        if self.args.guidance_rows and self.args.guidance_loss == "likelihood":  # then a whole trace is no rollout
            whole_B = torch.tensor(self._whole_B(rollouts), device=rewards_BF.device)
            rewards_BF[: len(whole_B)][whole_B] = torch.nan
        return rewards_BF

    def _masked(self, rewards_BF: torch.Tensor) -> torch.Tensor:
        """Rewards of whole groups without those of rollouts that have no verdict."""
        if getattr(self.reward_funcs[self._accuracy_index], "masks_ungraded", False):
            return mask_ungraded(rewards_BF, self._accuracy_index, self.num_generations)
        return rewards_BF

    def _begin_grading(self, batch: Batch) -> None:
        """Let graders that can begin now, while old and reference log-probs are computed."""
        columns = {name: [row.get(name) for row in batch.rows] for name in batch.rows[0]}
        for function in self.reward_funcs:
            if callable(begin := getattr(function, "begin", None)):
                begin(completions=[rollout.completion for rollout in batch.rollouts], **columns)

    def _grade(self, rows: list[Row], rollouts: list[Rollout]) -> tuple[list[Rollout], torch.Tensor]:
        """Rewards of all ranks, before TRL asks for them; what reward functions log of a row goes with its rollout."""
        rewards_BF = self._rewards(
            rows,
            [row["prompt"] for row in rows],
            [rollout.completion for rollout in rollouts],
            [rollout.completion_ids for rollout in rollouts],
            rollouts,
        )
        columns = {name: list(values) for name, values in self._pending_extra_logs.items()}
        self._pending_extra_logs.clear()
        extras = [{name: values[place] for name, values in columns.items()} for place in range(len(rollouts))]
        return [replace(rollout, extras=extra) for rollout, extra in zip(rollouts, extras, strict=True)], rewards_BF

    # ---- forward ----------------------------------------------------------------------------------------------------

    def _why_plain(self) -> str | None:
        if self._is_vlm or self.tools or self.environment_factories is not None:
            return "images and tools are TRL's own"
        if self.aux_loss_enabled:
            return "the load-balancing loss of experts counts every row"
        return why_plain(self.accelerator.unwrap_model(self.model))

    @property
    def _reads_every_row(self) -> bool:
        """Whether a term of the loss reads rows whose advantage is 0."""
        return bool(self.beta or self.top_entropy_quantile < 1 or self._entropy_bonus_enabled)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before, started = self._buffered_inputs, time.perf_counter()
        inputs = super()._prepare_inputs(generation_batch)
        chunks = self._buffered_inputs
        if self._forward.shared and self.model.training and chunks and chunks is not before and len(chunks) > 1:
            self._buffered_inputs = arrange(chunks, every_row=self._reads_every_row)
            inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]
        self._preparing = time.perf_counter() - started
        return inputs

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        shares = self._forward.shared and self.model.training
        with self._forward.reading(needed_tokens(inputs, every_row=self._reads_every_row) if shares else None):
            rewarded = "advantages" in inputs
            if rewarded:
                loss: torch.Tensor = super()._compute_loss(model, inputs)
            else:  # traces alone
                parts = ((inputs[f"prompt_{part}"], inputs[f"completion_{part}"]) for part in ("ids", "mask"))
                ids, mask = (torch.cat(pair, dim=1) for pair in parts)
                width = inputs["completion_ids"].size(1)
                self._get_per_token_logps_and_entropies(model, ids, mask, width, compute_entropy=True)
                loss = torch.zeros((), device=ids.device)
            if "imitation_factors" in inputs:
                loss = loss + self._imitation_loss(inputs)
        if shares and rewarded:  # TRL counts the rows that were left out as 0
            self._metrics["train"]["entropy"][-1] = self._forward.mean_entropy(self.accelerator)
        return loss

    def _imitation_loss(self, inputs: Any) -> torch.Tensor:
        accumulated = self.current_gradient_accumulation_steps
        loss = imitation_loss(
            self.args,
            inputs,
            *self._forward.values,
            ranks=self.accelerator.num_processes,
            accumulated=accumulated,
            longest=self.max_completion_length,
        )
        self._metrics["train"]["loss/imitation"].append(float(loss.detach()) * accumulated)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        values: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
        if self._forward.shared:
            config, autocast = self.accelerator.unwrap_model(model).config, self.accelerator.autocast
            tokens, logps_bT, entropies_bT = self._forward.read(
                model, config, input_ids, attention_mask, logits_to_keep, batch_size, autocast
            )
            values = (logps_bT, entropies_bT if compute_entropy else None, None)
        else:
            tokens = input_ids.numel()
            values = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **images,
            )
            self._forward.values = values[:2]
        if self.model.training:
            self.run_state.metric_sums.total("tokens/forward", tokens)
        return values

    # ---- log --------------------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> torch.Tensor:
        """TRL's, and its time is added up: a budget of seconds needs the sum at the end of every step."""
        metrics, started = self._metrics["train"], time.perf_counter()
        before = len(metrics.get("step_time", ()))
        try:
            with self._meter:
                loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._forward.close()
        self.run_state.metric_sums.total("time/update", time.perf_counter() - started - self._preparing)
        seconds = sum(metrics.get("step_time", ())[before:])  # of an optimizer step; nothing in the middle of one
        self.run_state.add_costs(gather_object([(seconds, self._meter.take(), self._trace_tokens)]))
        self._trace_tokens = 0
        return loss

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what the policy reads meanwhile: evaluations that decide something are a cost of the method."""
        with self._meter:
            yield
        self.run_state.add_costs(gather_object([(0.0, self._meter.take(), 0)]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log, with our metrics; a row of metrics.jsonl for every logged training step, and its warnings."""
        trained = "loss" in logs
        if trained:
            logs.update(self.run_state.metric_sums.reduce())
            if logs.get("grad_norm") is not None:
                norms = self.run_state.gradient_norms
                norms.add(float(logs["grad_norm"]))
                logs.update({"grad_norm/mean": norms.mean, "grad_norm/variance": norms.variance})
        super().log(logs, start_time)  # adds TRL's own metrics to `logs`
        if trained:
            row = {"step": self.state.global_step, **{name: plain_number(value) for name, value in logs.items()}}
            self._append(rundir.METRICS, [row])
            self._warn(self.run_state.watch.step(row))

    def observe_evaluation(self, accuracy: float) -> None:
        """Tell the watch of an unguided evaluation of the policy as it is now; on every rank."""
        self._warn(self.run_state.watch.observe_evaluation(accuracy))

    def _warn(self, signs: list[Sign]) -> None:
        if self.accelerator.is_main_process:
            for sign in signs:
                _LOG.warning("step %d: %s: %s", self.state.global_step, sign.warning, sign.message)
        self._append(rundir.WARNINGS, [{"step": self.state.global_step, **asdict(sign)} for sign in signs])

    def _record_rollouts(self, batch: Batch, advantages_b: torch.Tensor, rewards_bF: torch.Tensor) -> None:
        """Append the groups of this batch to rollouts.jsonl, where this step is to be sampled."""
        every = self.args.rollouts_every
        if every <= 0 or self.state.global_step % every:
            return
        records = rollout_records(
            batch.rows,
            batch.rollouts,
            decode=self._tokenizer.decode,
            rewards_bF=rewards_bF.tolist(),
            reward_names=self.reward_func_names,
            advantages_b=advantages_b.tolist(),
            ends=self._ends,
        )
        records = gather_object(records)
        self._append(rundir.ROLLOUTS, group_records(records, self.num_generations, step=self.state.global_step + 1))

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        if rows and self.accelerator.is_main_process:
            append_rows(Path(self.args.output_dir) / name, rows)

    # ---- checkpoint -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:  # older checkpoints go once the new one is whole
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"{rundir.CHECKPOINT_PREFIX}{self.state.global_step}"
        cycle_open = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        buffer = self._buffered_inputs if cycle_open else None  # a finished cycle is never read again
        save_buffer(folder, self.accelerator.process_index, buffer)
        if self.args.should_save:
            save_state(folder, self.run_state, micro_step=self._step, trl_metrics=dict(self._metrics["train"]))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            rundir.mark_complete(folder)
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        self._step, trl_metrics = load_state(folder, self.run_state)
        self._metrics["train"].update(trl_metrics)
        buffer = load_buffer(folder, self.accelerator.process_index, self.accelerator.device)
        if buffer is not None:
            self._buffered_inputs = buffer

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: Any = None
    ) -> None:
        """TRL's, with a section on guidance."""
        super().create_model_card(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            path = Path(self.args.output_dir) / "README.md"
            text = path.read_text(encoding="utf-8")
            path.write_text(text + guidance_section(self.args, self.run_state, self.card_facts), encoding="utf-8")


class _Resampler:
    """The trainer as `resampling.rescue_batch` sees it."""

    def __init__(self, trainer: GuidedGRPOTrainer) -> None:
        self.ranks, self.rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        self.attempt = trainer._attempt

    def gather(self, values: list[Any]) -> list[Any]:
        return list(gather_object(values))
