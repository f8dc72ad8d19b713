"""`GuidedGRPOTrainer`: TRL's `GRPOTrainer` with guidance, and the only place that touches TRL's internals.

Its methods are the seams of TRL 1.16 that `seams.SEAMS` lists, with the stages of a training batch that stand in each.
With no guidance planned and `forward: plain` every stage hands TRL's own values through, which keeps loss and
gradients equal to the bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import get_config_model_id

from guided_grpo.data.curriculum import MATHS_TIERS, Hardness, OrderedRepeatSampler, hardness, row_order
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import GuidancePlan
from guided_grpo.guidance.strength import make_controller
from guided_grpo.store import rundir
from guided_grpo.train import feedback
from guided_grpo.train.callbacks import BudgetCallback
from guided_grpo.train.calls import climb, take_turns
from guided_grpo.train.card import guidance_section
from guided_grpo.train.checkpoint import load_buffer, load_state, save_state
from guided_grpo.train.checks import accuracy_index, check_columns, check_trainable, rows_by_column
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.dynamic import filled_batch, further_rows
from guided_grpo.train.failures import failed_traces, trace_batch
from guided_grpo.train.flops import Meter
from guided_grpo.train.forward import Forward, arrange, needed_tokens, why_plain
from guided_grpo.train.generation import Sampler, one_line, room_for, samples_here
from guided_grpo.train.imitation import imitation_loss
from guided_grpo.train.metrics import not_logged
from guided_grpo.train.plan import Planner
from guided_grpo.train.records import Records
from guided_grpo.train.resampling import Resampler
from guided_grpo.train.rollout import Rollout, columns_of, got_guidance, rollout_facts, rollouts_of
from guided_grpo.train.sampling import sample_rollouts, warpers
from guided_grpo.train.sharding import check_fsdp, take_fsdp_on_cpu
from guided_grpo.train.state import Batch, new_run
from guided_grpo.train.terms import LossTerms
from guided_grpo.train.verdict import Judge
from guided_grpo.types import Row

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
        names = self.reward_func_names
        self._accuracy = accuracy_index(names, self.args)
        check_trainable(self.args, names, plain=not (self.tools or self._is_vlm or self.rollout_func is not None))
        check_columns(self.train_dataset, self.args)
        self.card_facts: dict[str, str] = {}  # further rows of the model card
        controller = make_controller(self.args)
        hard = self._hardness(self.train_dataset) if self.args.curriculum == "adaptive" else None
        self.run_state = new_run(self.args, controller, hard, names)
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        self._records = Records(self.args, names, self._tokenizer.decode, ends, self.accelerator.is_main_process)
        self.add_callback(BudgetCallback(self.args, self.run_state))
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self._planner = Planner(
            self.args, controller, self.run_state, self._tokenizer, self.chat_template_kwargs, context
        )
        policies = [self.model] if self.ref_model is None else [self.model, self.ref_model]
        self._meter = Meter(*map(self.accelerator.unwrap_model, policies))
        self._trace_tokens = 0  # of this rank since the last micro-step
        engine = self.use_vllm or self.use_transformers_continuous_batching or self.rollout_func is not None
        self._sampler = Sampler(self.args, self._planner.room, ends, engine, self._meter)
        self._judge = Judge(
            self.reward_funcs,
            self._accuracy,
            group_size=self.num_generations,
            skips_traces=self.args.guidance_rows > 0 and self.args.guidance_loss == "likelihood",
            ask=super()._calculate_rewards,
            extras=self._pending_extra_logs,
        )
        self._resampler = Resampler(
            self.accelerator.num_processes, self.accelerator.process_index, gather_object, self._attempt
        )
        self._terms = LossTerms(self.args, self._accuracy, self.reward_weights, self.accelerator.gather)
        reason = self._why_plain() if self.args.forward == "shared" else None
        if reason:
            _LOG.warning("forward: plain instead of shared, because %s", reason)
        shared = self.args.forward == "shared" and not reason
        self._forward = Forward(shared=shared, checkpointing=self.args.gradient_checkpointing)
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        device = self.accelerator.device.type
        self._samples_here = samples_here(self.args, shared=shared, engine=engine, sharded=sharded, device=device)
        half = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else None
        if self.use_transformers_continuous_batching and half and self.model.dtype == torch.float32:
            _LOG.warning("%s: TRL's continuous batching casts the policy itself, for good; vLLM does not", half)

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

    def _get_train_sampler(self, dataset: Any = None) -> OrderedRepeatSampler:
        dataset = self.train_dataset if dataset is None else dataset
        seed = self.args.seed if self.shuffle_dataset or self.args.curriculum == "random" else None
        return OrderedRepeatSampler(
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
        self._terms.count(output)
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
        return further_rows(self.train_dataset, first, groups, self.num_generations, self.args.seed)

    def _score(self, inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], torch.Tensor]:
        """One generation batch through all stages: what TRL makes of it, and the accuracy of its rows."""
        text_only = not self._is_vlm and self.environment_factories is None
        if text_only and "thinking_open" not in inputs[0]:
            is_open = self._planner.tokenizer.thinking_is_open
            inputs = [{**row, "thinking_open": is_open(row["prompt"])} for row in inputs]
        rows: list[Row] = inputs  # type: ignore[assignment]  # rows of the data set are Rows
        first = self.accelerator.process_index * len(rows)
        batch = self._batch = Batch(rows, self._planner.plan(rows, first), first)
        try:
            output = super()._generate_and_score_completions(inputs)
            self._learn(batch, output)
            assert batch.rewards_BF is not None
            accuracy_b = batch.rewards_BF[batch.local, self._accuracy]
        finally:
            self._batch = None
        return output, accuracy_b

    def _learn(self, batch: Batch, output: dict[str, Any]) -> None:
        """Everything that follows the rewards of a training batch; equal on all ranks."""
        run, planner, rewards_BF = self.run_state, self._planner, batch.rewards_BF
        assert rewards_BF is not None
        accuracy_B = rewards_BF[:, self._accuracy]
        facts = rollout_facts(batch.rows, batch.rollouts, self._sampler.ends)
        facts_BK = self.accelerator.gather(torch.tensor(facts, dtype=torch.long, device=self.accelerator.device))
        self._terms.add(output, batch, got_guidance(facts_BK))
        if self.args.failure_buffer:
            prompt_ids, size = planner.tokenizer.prompt_ids, self.num_generations
            failed = failed_traces(batch.rows, batch.first, accuracy_B, size, prompt_ids, planner.whole_trace)
            run.failures = [*gather_object(failed), *run.failures]
        self._records.sample(self.state.global_step, batch, output["advantages"], rewards_BF[batch.local])
        advantages_B = self.accelerator.gather(output["advantages"])
        form_B = None
        if self.args.rescue_cold_format is not None:
            form_B = rewards_BF[:, self.reward_func_names.index(self.args.format_reward)]
        # This batch is used up by the time of the next one.
        done = self._step + self.args.steps_per_generation * self.num_iterations
        feedback.learn(
            run,
            planner.controller,
            feedback.GradedBatch(batch, facts_BK, accuracy_B, advantages_B, planner.first_shares_G),
            self.args,
            optimizer_step=done // self.args.gradient_accumulation_steps,
            most_steps=self.state.max_steps,
            form_B=form_B,
        )

    # ---- rollout ----------------------------------------------------------------------------------------------------

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        def ask(prompts: list[list[int]], number: int) -> tuple[list[list[int]], Any]:
            if self.use_transformers_continuous_batching and self.accelerator.device.type == "cpu":
                asked = dict(self.args.transformers_continuous_batching_config or {})
                room = room_for(prompts, self.max_completion_length, asked)
                self.continuous_batching_config = replace(self.continuous_batching_config, **room)
            return super(GuidedGRPOTrainer, self)._generate_single_turn(
                prompts, images, multimodal_fields, number, has_tool_images
            )

        batch = self._batch
        if batch is None:
            return self._sampler.sample(prompt_ids, (), guided=False, number=num_generations, here=None, ask=ask)
        first = not batch.attempt
        with self.run_state.metric_sums.timed("time/generate") if first else nullcontext():
            return self._sampler.sample(
                prompt_ids,
                batch.plan,
                guided=self.args.guides_first or not first,
                number=num_generations,
                here=self._sample_rollouts if self._samples_here else None,
                ask=ask,
            )

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
        rows_plan = zip(batch.rows, batch.plan, strict=True)
        prompts = [self._planner.tokenizer.prompt(row["prompt"], assignment.slice) for row, assignment in rows_plan]
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
            self._judge.begin(batch.rows, batch.rollouts)
            return output
        further = self._planner, self._judge, self._resampler, self.run_state.metric_sums
        is_open = self._planner.ladder_is_open(self.state.global_step)
        if is_open and self.args.guidance_trigger == "turns":
            take_turns(batch, self.args.turn_below or [], *further)
        else:
            batch.rollouts, batch.output = self._sample(batch)
            if is_open:
                climb(batch, *further)
            else:
                self._judge.begin(batch.rows, batch.rollouts)
        weight = 0.0 if self.args.imitates else self.args.guidance_weight
        weighed = self.args.guidance_credit != "signed" or (self.args.guidance_placement == "prefix" and weight != 1)
        mixed = batch.first_accuracy_B is not None  # of several calls
        return columns_of(batch.rollouts, batch.output, weight=weight if weighed else None, mixed=mixed)

    def _attempt(self, rows: list[Row], plan: GuidancePlan) -> tuple[list[Rollout], torch.Tensor]:
        """One more call, graded; TRL's own metrics keep describing the first sampling, or the first turn."""
        outer = self._batch
        assert outer is not None
        first = not (outer.rollouts or outer.attempt)
        self._batch = Batch(rows, plan, attempt=outer.attempt + 1)
        with nullcontext() if first else not_logged(self._metrics["train"], self._pending_metrics):
            try:
                rollouts, outer.output = self._sample(self._batch)
                result = self._judge.grade(rows, rollouts, whole_groups=False)
            finally:
                self._batch = outer
        outer.attempt += 1
        return result

    # ---- verdict ----------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        batch = self._batch
        if batch is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if batch.rewards_BF is None:
            with self.run_state.metric_sums.timed("time/reward"):
                batch.rewards_BF = self._judge.rewards(
                    inputs, prompts, completions, completion_ids_list, batch.rollouts
                )
        return batch.rewards_BF

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
                steps = self.current_gradient_accumulation_steps
                ranks = self.accelerator.num_processes
                imitation = imitation_loss(self.args, inputs, *self._forward.values, ranks=ranks, accumulated=steps)
                self._metrics["train"]["loss/imitation"].append(float(imitation.detach()) * steps)
                loss = loss + imitation
        if shares and rewarded:  # TRL counts the rows that were left out as 0
            self._metrics["train"]["entropy"][-1] = self._forward.mean_entropy(self.accelerator)
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
            more = (batch_size, compute_entropy, compute_aux_loss)
            values = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *more, **images
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
            logs.update(self.run_state.log_row(logs.get("grad_norm")))
        super().log(logs, start_time)  # adds TRL's own metrics to `logs`
        if trained:
            row = self._records.log(self.state.global_step, logs)
            self._records.warn(self.state.global_step, self.run_state.watch.step(row))

    def observe_evaluation(self, accuracy: float) -> None:
        """Tell the watch of an unguided evaluation of the policy as it is now; on every rank."""
        self._records.warn(self.state.global_step, self.run_state.watch.observe_evaluation(accuracy))

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
        main, trl_metrics = self.args.should_save, dict(self._metrics["train"])
        save_state(folder, self.run_state, buffer, main=main, micro_step=self._step, trl_metrics=trl_metrics)
        if main:
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
        buffer = load_buffer(folder, self.accelerator.device)
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
