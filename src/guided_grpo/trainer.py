"""`GuidedGRPOTrainer`: TRL's `GRPOTrainer` with guidance. The one file that touches TRL's internals.

The stages of a training generation batch, in order, and the seam of TRL 1.16 that each stands in:

    plan        `_generate_and_score_completions`   who gets how much (controller, allocation, slicing, placement)
    rollout     `_generate_single_turn`             guidance behind the prompt while sampling, in the completion after
    weights     `_generate`                         its `tool_mask` carries w_g
    verdict     `_calculate_rewards`                rewards see guidance + generated; the accuracy reward is kept
    advantage   `_generate_and_score_completions`   per-arm baseline where asked for
    loss        `_compute_loss`                     TRL's, untouched
    controller  `_generate_and_score_completions`   fed by training batches alone
    log         `log`

With no guidance planned every stage hands TRL's own values through, which keeps loss and gradients equal to the bit.
`SEAMS` lists what is relied on; tests/test_seams.py fails with a plain message when TRL moves.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOTrainer

from guided_grpo import rundir
from guided_grpo.advantage import arm_advantages
from guided_grpo.config import GuidedGRPOConfig
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import shares
from guided_grpo.guidance.strength import State, make_controller
from guided_grpo.metrics import MetricSums, count_batch, plain_number
from guided_grpo.problems.check import check_columns
from guided_grpo.problems.curriculum import OrderedRepeatSampler, difficulty_order
from guided_grpo.progress import BudgetCallback
from guided_grpo.records import group_records, rollout_records
from guided_grpo.rollout import (
    FACTS,
    GuidancePlan,
    GuidanceTokenizer,
    completions_for_training,
    logprobs_for_training,
    loss_weights,
    plan_batch,
    prompts_for_sampling,
    rollout_facts,
)
from guided_grpo.types import StepFeedback

# Method of GRPOTrainer → the parameters that we pass through or read.
SEAMS: dict[str, tuple[str, ...]] = {
    "_generate_and_score_completions": ("inputs",),
    "_generate": ("prompts",),
    "_generate_single_turn": ("prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_get_train_sampler": ("dataset",),
    "_set_signature_columns_if_needed": (),
    "_save_checkpoint": ("model", "trial"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "log": ("logs", "start_time"),
}
_STATE, _BUFFER = "guidance_state.json", "rollouts.rank{rank}.pt"


class GuidedGRPOTrainer(GRPOTrainer):
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
        self._accuracy_index = self._find_accuracy_reward()
        self._check_data()
        self._controller = make_controller(str(self.args.guidance_strength), self.args.strength_settings())
        self.guidance_state = self._controller.init()
        self._shares_G = shares(
            self.num_generations,
            float(self.args.guidance_ratio or 0) if self.args.guided else 0.0,
            str(self.args.guidance_allocation),
        )
        self._guidance_tokenizer = GuidanceTokenizer(
            self._tokenizer, self.chat_template_kwargs, self.args.guidance_thinking
        )
        self._plan: GuidancePlan | None = None
        self._rewards_BF: torch.Tensor | None = None  # rewards of the batch by function, all ranks
        self.metric_sums = MetricSums()
        self.tokens_generated = 0
        self.add_callback(BudgetCallback(self))

    # ---- plan -------------------------------------------------------------------------------------------------------

    def _find_accuracy_reward(self) -> int:
        names, wanted = self.reward_func_names, self.args.accuracy_reward
        if wanted is None:
            # Without guidance it feeds metrics alone, and a drop-in must not ask for more than TRL does.
            fallback = len(names) == 1 or (not self.args.guided and "accuracy" not in names)
            wanted = names[0] if fallback else "accuracy"
        if wanted not in names:
            raise InputError(
                f"is not among the reward functions ({', '.join(names)})",
                field="accuracy_reward",
                value=wanted,
                fix="name the reward function that says whether an answer is right",
            )
        return names.index(wanted)

    def _check_data(self) -> None:
        if self.args.guided and (self.tools or self._is_vlm or self.rollout_func is not None):
            raise InputError(
                "does not go with tools, environments, rollout_func or vision models",
                field="method",
                value=self.args.method,
                fix="use method grpo, or a text-only policy without tools",
            )
        if self.args.guided and not hasattr(self.train_dataset, "__len__"):
            raise InputError(
                "does not go with a streamed data set",
                field="method",
                value=self.args.method,
                fix="load the data set whole, or use method grpo",
            )
        if hasattr(self.train_dataset, "__len__"):
            check_columns(self.train_dataset, self.args)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        for column in ("guidance", "guidance_limit", "difficulty"):
            if column not in self._signature_columns:
                self._signature_columns.append(column)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        dataset = self.train_dataset if dataset is None else dataset
        if self.args.curriculum == "difficulty":
            fixed = difficulty_order(list(dataset["difficulty"]))

            def order(epoch: int) -> list[int]:
                return fixed
        elif self.shuffle_dataset:

            def order(epoch: int) -> list[int]:
                # TRL draws one permutation an epoch from one generator; drawing them again finds the order on resume.
                generator = torch.Generator().manual_seed(self.args.seed)
                draws = [torch.randperm(len(dataset), generator=generator) for _ in range(epoch + 1)]
                return list(draws[-1].tolist())
        else:

            def order(epoch: int) -> list[int]:
                return list(range(len(dataset)))

        return OrderedRepeatSampler(  # type: ignore[return-value]  # a Sampler by its interface, without torch
            order,
            rows=len(dataset),
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
        )

    def _plan_batch(self, rows: list[dict[str, Any]]) -> GuidancePlan:
        return plan_batch(
            rows,  # type: ignore[arg-type]  # rows of the data set are Rows
            self.accelerator.process_index * len(rows),
            self._shares_G,
            lambda row: self._controller.strength(self.guidance_state, row),
            self._guidance_tokenizer,
            leak=self.args.guidance_leak,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self._plan = self._plan_batch(inputs)
        text_only = not self._is_vlm and self.environment_factories is None
        if text_only and "thinking_open" not in inputs[0]:
            opened = [self._guidance_tokenizer.thinking_is_open(row["prompt"]) for row in inputs]
            inputs = [{**row, "thinking_open": is_open} for row, is_open in zip(inputs, opened, strict=True)]
        try:
            batch = super()._generate_and_score_completions(inputs)
            self._after_rewards(inputs, batch)
        finally:
            self._plan = None
        return batch

    # ---- rollout ----------------------------------------------------------------------------------------------------

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        started = time.perf_counter()
        plan = self._plan
        # By the method, not by this rank's plan: ranks must ask an engine, and weigh tokens, in one and the same way.
        if plan is None or not self.args.guided:
            result = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        else:
            prompts = prompts_for_sampling(prompt_ids, plan)
            self._check_context(prompts)
            # Rollouts of a group differ in guidance: an engine must not sample n times from the group's first prompt.
            generated, logprobs = super()._generate_single_turn(prompts, images, multimodal_fields, 1, has_tool_images)
            result = completions_for_training(generated, plan), logprobs_for_training(logprobs, plan)
        if plan is not None:
            self.metric_sums.total("time/generate", time.perf_counter() - started)
        return result

    def _check_context(self, prompts: list[list[int]]) -> None:
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        longest = max(len(ids) for ids in prompts)
        if context is not None and longest + self.max_completion_length > context:
            raise InputError(
                f"with guidance leaves no room: {longest} tokens of prompt and guidance + max_completion_length "
                f"{self.max_completion_length} > context {context}",
                field="guidance_max",
                value=self.args.guidance_max,
                fix=f"bound prompt and guidance to {context - self.max_completion_length} tokens, or generate fewer",
            )

    # ---- weights ----------------------------------------------------------------------------------------------------

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        prompt_ids, completion_ids, tool_mask, *rest = super()._generate(prompts)
        plan = self._plan
        if plan is not None and self.args.guided and self.args.guidance_weight != 1:
            tool_mask = loss_weights(completion_ids, plan, float(self.args.guidance_weight or 0.0))
        if plan is not None:
            self._completion_ids = completion_ids
        return (prompt_ids, completion_ids, tool_mask, *rest)

    # ---- verdict ----------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        started = time.perf_counter()
        rewards_BF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._plan is not None:
            self._rewards_BF = rewards_BF
            self.metric_sums.total("time/reward", time.perf_counter() - started)
        return rewards_BF

    # ---- advantage, controller, bookkeeping -------------------------------------------------------------------------

    def _after_rewards(self, inputs: list[dict[str, Any]], batch: dict[str, Any]) -> None:
        """Everything that follows the rewards of a training batch; equal on all ranks."""
        plan, rewards_BF = self._plan, self._rewards_BF
        assert plan is not None and rewards_BF is not None
        facts_BK = self._gather_facts(plan)
        guided_B = facts_BK[:, FACTS.index("guidance_tokens")] > 0
        local = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        if self.args.advantage_baseline == "arm" and bool(guided_B.any()):
            weighted_B = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(dim=1)
            weighted_B[rewards_BF.isnan().all(dim=1)] = torch.nan
            batch["advantages"] = arm_advantages(
                weighted_B, guided_B, self.num_generations, str(self.args.scale_rewards)
            )[local]
        advantages_B = self.accelerator.gather(batch["advantages"])
        accuracy_B = rewards_BF[:, self._accuracy_index]
        self.tokens_generated += count_batch(
            self.metric_sums,
            facts_BK,
            accuracy_B,
            advantages_B,
            group_size=self.num_generations,
            asked=self._controller.strength(self.guidance_state, {}).amount if self.args.guided else 0.0,
            guidance_trained=bool(self.args.guidance_weight),
        )
        self.metric_sums.latest("tokens/generated_total", self.tokens_generated)
        if self._samples_rollouts():
            self._record_rollouts(inputs, batch["advantages"], rewards_BF[local])
        self._feed_controller(accuracy_B, guided_B)

    def _gather_facts(self, plan: GuidancePlan) -> torch.Tensor:
        """`FACTS` of the rollouts of all ranks, shape (B, len(FACTS))."""
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        facts = rollout_facts(plan, self._completion_ids, ends)
        return self.accelerator.gather(torch.tensor(facts, dtype=torch.long, device=self.accelerator.device))

    def _feed_controller(self, accuracy_B: torch.Tensor, guided_B: torch.Tensor) -> None:
        graded_B = ~accuracy_B.isnan()
        both_B = graded_B & guided_B
        # This batch is used up by the time of the next one.
        generate_every = self.args.steps_per_generation * self.num_iterations
        done = (self._step + generate_every) // self.args.gradient_accumulation_steps
        self.guidance_state = self._controller.update(
            self.guidance_state,
            StepFeedback(
                optimizer_step=done,
                progress=self._progress(done),
                reward_sum=float(accuracy_B[graded_B].sum()),
                reward_count=int(graded_B.sum()),
                guided_sum=float(accuracy_B[both_B].sum()),
                guided_count=int(both_B.sum()),
            ),
        )

    def _progress(self, done: int) -> float:
        """t/T: the share of the token budget where there is one, else of the optimizer steps."""
        if self.args.max_generated_tokens:
            return min(1.0, self.tokens_generated / self.args.max_generated_tokens)
        return min(1.0, done / self.state.max_steps) if self.state.max_steps > 0 else 0.0

    # ---- log --------------------------------------------------------------------------------------------------------

    def _samples_rollouts(self) -> bool:
        every = self.args.rollouts_every
        return every > 0 and self.state.global_step % every == 0

    def _record_rollouts(
        self, inputs: list[dict[str, Any]], advantages_b: torch.Tensor, rewards_bF: torch.Tensor
    ) -> None:
        """Append the groups of this batch to rollouts.jsonl."""
        assert self._plan is not None
        records = rollout_records(
            inputs,
            self._plan,
            self._completion_ids,
            decode=self._tokenizer.decode,
            rewards_bF=rewards_bF.tolist(),
            reward_names=self.reward_func_names,
            advantages_b=advantages_b.tolist(),
            ends={*self.eos_token_ids, self._tokenizer.pad_token_id},
        )
        records = gather_object(records)
        if self.accelerator.is_main_process:
            groups = group_records(records, self.num_generations, step=self.state.global_step + 1)
            rundir.append_rows(Path(self.args.output_dir) / rundir.ROLLOUTS, groups)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log, with our metrics, and a row of metrics.jsonl for every logged training step."""
        trained = "loss" in logs
        if trained:
            logs.update(self.metric_sums.reduce())
        super().log(logs, start_time)
        if trained and self.accelerator.is_main_process:
            row = {"step": self.state.global_step, **{name: plain_number(value) for name, value in logs.items()}}
            rundir.append_rows(Path(self.args.output_dir) / rundir.METRICS, [row])

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:  # older checkpoints go once the new one is whole
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"{rundir.CHECKPOINT_PREFIX}{self.state.global_step}"
        cycle_open = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        buffered = self._buffered_inputs if cycle_open else None  # a finished cycle is never read again
        torch.save(buffered, folder / _BUFFER.format(rank=self.accelerator.process_index))
        if self.args.should_save:
            state = {
                "controller": self.guidance_state.to_json(),
                "micro_step": self._step,
                "tokens_generated": self.tokens_generated,
                "metric_sums": self.metric_sums.state_dict(),
                "trl_metrics": self._metrics["train"],
            }
            rundir.write_json(folder / _STATE, state)
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
        if not (folder / _STATE).exists():
            raise InputError(
                "has no guidance_state.json: it is not a checkpoint of this trainer",
                field="resume_from_checkpoint",
                value=checkpoint,
                fix="load its weights as the model of a new run",
            )
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        self.guidance_state = State.from_json(state["controller"])
        self._step = state["micro_step"]
        self.tokens_generated = state["tokens_generated"]
        self.metric_sums.load_state_dict(state["metric_sums"])
        self._metrics["train"].update(state["trl_metrics"])
        buffer = folder / _BUFFER.format(rank=self.accelerator.process_index)
        if buffer.exists():  # missing after a change of the number of ranks: TRL then samples anew
            self._buffered_inputs = torch.load(buffer, map_location=self.accelerator.device, weights_only=True)
