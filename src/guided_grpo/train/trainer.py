"""`GuidedGRPOTrainer`: TRL's `GRPOTrainer` with guidance. With its bases (feedback.py, grading.py, keeping.py) the only
place that touches TRL's internals.

The stages of a training generation batch, in order, and the seam of TRL 1.16 that each stands in:

    plan        `_generate_and_score_completions`   who gets how much (controller, allocation, slicing, placement)
    rollout     `_generate_single_turn`             guidance behind the prompt while sampling, in the completion after
    rescue      `_generate`                         groups that failed are sampled again; rows keep their own prompts
    weights     `_generate`                         its `tool_mask` carries w_g
    verdict     `_calculate_rewards`                grading.py: rewards see guidance + generated
    advantage   `_generate_and_score_completions`   feedback.py: per-arm baseline, credit of guidance
    loss        `_compute_loss`                     TRL's, untouched
    controller  `_generate_and_score_completions`   feedback.py: fed by training batches alone
    log         keeping.py                          metrics, warnings, checkpoints

With no guidance planned every stage hands TRL's own values through, which keeps loss and gradients equal to the bit.
`SEAMS` lists what is relied on; tests/test_seams.py fails with a plain message when TRL moves.
"""

from __future__ import annotations

import math
import time
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler

from guided_grpo.data.adaptive import AdaptiveOrder
from guided_grpo.data.curriculum import MATHS_TIERS, OrderedRepeatSampler, hardness, row_order
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import shares
from guided_grpo.guidance.slicing import SHARES
from guided_grpo.guidance.strength import make_controller
from guided_grpo.train.batch import Batch, rollouts_of
from guided_grpo.train.callbacks import BudgetCallback
from guided_grpo.train.checks import accuracy_index, check_columns, check_trainable, rows_by_column
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.feedback import FeedbackTrainer
from guided_grpo.train.resampling import Ladder, rescue_batch
from guided_grpo.train.rescue import ProblemHistory
from guided_grpo.train.rollout import (
    GuidancePlan,
    GuidanceTokenizer,
    Rollout,
    completions_for_training,
    logprobs_for_training,
    loss_weights,
    plan_batch,
    prompts_for_sampling,
)
from guided_grpo.train.signals import Watch
from guided_grpo.types import Row

# Method of GRPOTrainer → the parameters that we pass through or read.
SEAMS: dict[str, tuple[str, ...]] = {
    "_generate_and_score_completions": ("inputs",),
    "_generate": ("prompts",),
    "_generate_single_turn": ("prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_get_train_sampler": ("dataset",),
    "_set_signature_columns_if_needed": (),
    "training_step": ("model", "inputs", "num_items_in_batch"),
    "_save_checkpoint": ("model", "trial"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "log": ("logs", "start_time"),
}


class GuidedGRPOTrainer(FeedbackTrainer):
    """Drop-in for TRL's `GRPOTrainer`: same arguments, `args` a `GuidedGRPOConfig`, a `guidance` column in the data.

    The data set needs `guidance` (trace text or null) where the method guides, and `difficulty` where it orders by it.
    Evaluation during training is unguided, and never feeds the controller.

    Raises:
        InputError: a missing column, no trace at all, an accuracy reward that cannot be found, vision inputs or tools
            with a guided method, a sequence that outgrows the model's context.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "guided-grpo"]
    args: GuidedGRPOConfig

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        if not isinstance(self.args, GuidedGRPOConfig):
            raise InputError(
                "is not a GuidedGRPOConfig",
                field="args",
                value=type(self.args).__name__,
                fix="pass args=GuidedGRPOConfig(...), which takes every GRPOConfig field",
            )
        names = self.reward_func_names
        self._accuracy_index = accuracy_index(names, self.args)
        check_trainable(self.args, names, plain=not (self.tools or self._is_vlm or self.rollout_func is not None))
        check_columns(self.train_dataset, self.args)
        self._controller = make_controller(str(self.args.guidance_strength), self.args.strength_settings())
        self.guidance_state = self._controller.init()
        self._ladder_settings, form = self.args.ladder_settings(), self.args.format_reward
        self.adaptive_order: AdaptiveOrder | None = None
        if self.args.curriculum == "adaptive":
            hard = self._hardness(self.train_dataset)
            assert hard is not None
            self.adaptive_order = AdaptiveOrder(hard, self.args.curriculum_target, self.args.curriculum_gain)
        self.keep(ProblemHistory(self._ladder_settings), Watch(f"rewards/{form}/mean" if form in names else None))
        self._shares_G = shares(
            self.num_generations, float(self.args.guidance_ratio or 0), str(self.args.guidance_allocation)
        )
        self._first_shares_G = self._shares_G if self.args.guides_first else [0.0] * self.num_generations
        self._guidance_tokenizer = GuidanceTokenizer(
            self._tokenizer,
            self.chat_template_kwargs,
            self.args.guidance_thinking,
            placement=str(self.args.guidance_placement),
            template=self.args.hint_template,
            leak=self.args.guidance_leak,
        )
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self._room = math.inf if context is None else context - self.max_completion_length  # for prompt and guidance
        self._ladder = Ladder(
            self._ladder_settings,
            self._shares_G,
            self._guidance_tokenizer,
            self.history,
            share=SHARES[str(self.args.rescue_slice)],
            full=self._strength_of,
            room=self._room,
        )
        self._ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        self._batch: Batch | None = None
        self.add_callback(BudgetCallback(self))

    # ---- plan -------------------------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        for column in ("guidance", "guidance_limit", "difficulty", "tier", "source", "success_rate"):
            if column not in self._signature_columns:
                self._signature_columns.append(column)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        dataset = self.train_dataset if dataset is None else dataset
        return OrderedRepeatSampler(  # type: ignore[return-value]  # a Sampler by its interface, without torch
            self.adaptive_order or row_order(len(dataset), self._hardness(dataset), self._shuffle_seed()),
            rows=len(dataset),
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
        )

    def _hardness(self, dataset: Any) -> list[float] | None:
        tiers = self.args.curriculum_tiers or MATHS_TIERS
        return hardness(str(self.args.curriculum), rows_by_column(dataset), tiers)

    def _shuffle_seed(self) -> int | None:
        return self.args.seed if self.shuffle_dataset or self.args.curriculum == "random" else None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        text_only = not self._is_vlm and self.environment_factories is None
        if text_only and "thinking_open" not in inputs[0]:
            opened = [self._guidance_tokenizer.thinking_is_open(row["prompt"]) for row in inputs]
            inputs = [{**row, "thinking_open": is_open} for row, is_open in zip(inputs, opened, strict=True)]
        plan = plan_batch(
            inputs,  # type: ignore[arg-type]  # rows of the data set are Rows
            self.accelerator.process_index * len(inputs),
            self._first_shares_G,
            self._strength_of,
            self._guidance_tokenizer,
        )
        self._batch = Batch(inputs, plan)  # type: ignore[arg-type]  # rows of the data set are Rows
        try:
            output = super()._generate_and_score_completions(inputs)
            self._after_rewards(self._batch, output)
        finally:
            self._batch = None
        return output

    # ---- rollout ----------------------------------------------------------------------------------------------------

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        started, batch = time.perf_counter(), self._batch
        # By the method, not by this rank's plan: ranks must ask an engine in one and the same way.
        if batch is None or not (self.args.guides_first or batch.attempt):
            result = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        else:
            prompts = prompts_for_sampling(prompt_ids, batch.plan)
            self._check_context(prompts)
            # Rollouts of a group differ in guidance: an engine must not sample n times from the group's first prompt.
            generated, logprobs = super()._generate_single_turn(prompts, images, multimodal_fields, 1, has_tool_images)
            result = completions_for_training(generated, batch.plan), logprobs_for_training(logprobs, batch.plan)
        if batch is not None and not batch.attempt:
            self.metric_sums.total("time/generate", time.perf_counter() - started)
        return result

    def _check_context(self, prompts: list[list[int]]) -> None:
        longest = max(len(ids) for ids in prompts)
        if longest > self._room:
            raise InputError(
                f"with guidance leaves no room: {longest} tokens of prompt and guidance + max_completion_length "
                f"{self.max_completion_length} > context {self._room + self.max_completion_length:.0f}",
                field="guidance_max",
                value=self.args.guidance_max,
                fix=f"bound prompt and guidance to {self._room:.0f} tokens, or generate fewer",
            )

    def _sample(self, batch: Batch) -> tuple[list[Rollout], tuple[Any, ...]]:
        """Rollouts of the batch's current plan, and TRL's own output."""
        guide = self._guidance_tokenizer
        prompts = [guide.prompt(row["prompt"], given.slice) for row, given in zip(batch.rows, batch.plan, strict=True)]
        output = tuple(super()._generate(prompts))
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
        batch.rollouts, output = self._sample(batch)
        if self._ladder_is_open():
            self._climb(batch)
        else:
            self._begin_grading(batch)
        prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest = output
        weight = float(self.args.guidance_weight or 0.0)
        if self.args.guidance_credit != "signed" or (self.args.guidance_placement == "prefix" and weight != 1):
            tool_mask = loss_weights(batch.rollouts, weight)
        if batch.rescued is not None:
            prompt_ids = [rollout.prompt_ids for rollout in batch.rollouts]
            completion_ids = [rollout.completion_ids for rollout in batch.rollouts]
            completions = [rollout.completion for rollout in batch.rollouts]
            logprobs = None if logprobs is None else [rollout.logprobs for rollout in batch.rollouts]
        return (prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest)

    def _ladder_is_open(self) -> bool:
        if self._ladder_settings.cold_format is not None:
            return self.args.rescues and self.cold_start_over
        return self.args.rescues and self.state.global_step >= self._ladder_settings.cold_start

    def _climb(self, batch: Batch) -> None:
        """Grade the batch, and sample its difficult groups again until they succeed or the ladder ends."""
        started = time.perf_counter()
        batch.rollouts, batch.rewards_BF = self._grade(batch.rows, batch.rollouts)
        self.metric_sums.total("time/reward", time.perf_counter() - started)
        batch.first_accuracy_B = batch.rewards_BF[:, self._accuracy_index]
        started = time.perf_counter()
        batch.rescued = rescue_batch(
            batch.rows, batch.rollouts, batch.rewards_BF, _Resampler(self), self._ladder, self._accuracy_index
        )
        batch.rollouts, batch.rewards_BF = batch.rescued.rollouts_b, batch.rescued.rewards_BF
        self._put_extras(batch.rollouts)
        self.metric_sums.total("time/rescue", time.perf_counter() - started)

    def _attempt(self, rows: list[Row], plan: GuidancePlan) -> tuple[list[Rollout], torch.Tensor]:
        """One more call, graded; TRL's own metrics keep describing the first sampling."""
        outer = self._batch
        assert outer is not None
        lengths = {name: len(values) for name, values in self._metrics["train"].items()}
        shares = {name: list(values) for name, values in self._pending_metrics.items()}
        self._batch = Batch(rows, plan, attempt=outer.attempt + 1)
        try:
            rollouts, _ = self._sample(self._batch)
            result = self._grade(rows, rollouts)
        finally:
            self._batch = outer
        outer.attempt += 1
        for name, values in self._metrics["train"].items():
            del values[lengths.get(name, 0) :]
        self._pending_metrics.clear()
        self._pending_metrics.update(shares)
        return result


class _Resampler:
    """The trainer as `resampling.rescue_batch` sees it."""

    def __init__(self, trainer: GuidedGRPOTrainer) -> None:
        self.ranks, self.rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        self.attempt = trainer._attempt

    def gather(self, values: list[Any]) -> list[Any]:
        return list(gather_object(values))
