"""Stages 5 and 7 in the trainer: per-arm advantages, credit of guidance, counts, and what the controllers learn.

Everything here follows the rewards of a training batch and is equal on all ranks; evaluation never comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from guided_grpo.guidance.strength import Controller
from guided_grpo.train.advantage import arm_advantages, credited
from guided_grpo.train.batch import Batch
from guided_grpo.train.grading import GradingTrainer
from guided_grpo.train.metrics import count_batch
from guided_grpo.train.rescue import LadderSettings
from guided_grpo.train.rollout import FACTS, problem_feedback, rollout_facts
from guided_grpo.types import Arm, Row, StepFeedback, Strength


class FeedbackTrainer(GradingTrainer):
    """TRL's trainer with our log, checkpoints, grading and feedback; `GuidedGRPOTrainer` does the training."""

    _controller: Controller
    _first_shares_G: Sequence[float]  # share of the strength by place in a group, in the first sampling
    _ends: set[int]  # ids that end a response
    _ladder_settings: LadderSettings

    def _strength_of(self, row: Row) -> Strength:
        return self._controller.strength(self.guidance_state, row)

    def _after_rewards(self, batch: Batch, output: dict[str, Any]) -> None:
        """Everything that follows the rewards of a training batch; equal on all ranks."""
        rewards_BF = batch.rewards_BF
        assert rewards_BF is not None
        facts_BK = self._gather_facts(batch)
        guided_B = facts_BK[:, FACTS.index("guidance_tokens")] > 0
        here = len(batch.rows)
        local = slice(self.accelerator.process_index * here, (self.accelerator.process_index + 1) * here)
        if self.args.advantage_baseline == "arm" and bool(guided_B.any()):
            weighted_B = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(dim=1)
            weighted_B[rewards_BF.isnan().all(dim=1)] = torch.nan
            output["advantages"] = arm_advantages(
                weighted_B, guided_B, self.num_generations, str(self.args.scale_rewards)
            )[local]
        if self.args.guided and self.args.guidance_credit != "signed":
            self._give_credit(batch, output)
        advantages_B = self.accelerator.gather(output["advantages"])
        accuracy_B = rewards_BF[:, self._accuracy_index]
        self.tokens_generated += count_batch(
            self.metric_sums,
            facts_BK,
            accuracy_B,
            advantages_B,
            group_size=self.num_generations,
            asked=self._strength_of({}).amount if self.args.guided else 0.0,
            guidance_trained=self.args.guidance_in_loss,
        )
        self.metric_sums.latest("tokens/generated_total", self.tokens_generated)
        self.count_problems(batch, facts_BK, accuracy_B, self._first_shares_G)
        self.record_rollouts(batch, output["advantages"], rewards_BF[local], self._ends)
        self._feed_controller(accuracy_B, guided_B, facts_BK)
        if self.adaptive_order is not None:
            first_B = accuracy_B if batch.first_accuracy_B is None else batch.first_accuracy_B
            self.adaptive_order.observe(float(first_B.nanmean()))
            self.metric_sums.latest("curriculum/level", self.adaptive_order.level)
        if self._ladder_settings.cold_format is not None:
            format_B = rewards_BF[:, self.reward_func_names.index(self.args.format_reward)]
            self.cold_start_over |= bool(format_B.nanmean() >= self._ladder_settings.cold_format)

    def _give_credit(self, batch: Batch, output: dict[str, Any]) -> None:
        given = [rollout.assignment for rollout in batch.rollouts]
        output["tool_mask"] = credited(
            output["tool_mask"],
            output["advantages"],
            [len(assignment.slice.ids) for assignment in given],
            [assignment.arm is Arm.GUIDED for assignment in given],
            str(self.args.guidance_credit),
        )
        weights = (output["completion_mask"] * output["tool_mask"]).sum()
        output["num_items_in_batch"] = self.accelerator.gather(weights).sum()

    def _gather_facts(self, batch: Batch) -> torch.Tensor:
        """`FACTS` of the rollouts of all ranks, shape (B, len(FACTS))."""
        facts = rollout_facts(batch.rows, batch.rollouts, self._ends)
        gathered: torch.Tensor = self.accelerator.gather(
            torch.tensor(facts, dtype=torch.long, device=self.accelerator.device)
        )
        return gathered

    def _feed_controller(self, accuracy_B: torch.Tensor, guided_B: torch.Tensor, facts_BK: torch.Tensor) -> None:
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
                problems=problem_feedback(accuracy_B, facts_BK, self._first_shares_G),
            ),
        )

    def _progress(self, done: int) -> float:
        """t/T: the share of the token budget where there is one, else of the seconds, else of the optimizer steps."""
        if self.args.max_generated_tokens:
            return min(1.0, self.tokens_generated / self.args.max_generated_tokens)
        if self.args.max_train_seconds:
            return min(1.0, self.train_seconds / self.args.max_train_seconds)
        return min(1.0, done / self.state.max_steps) if self.state.max_steps > 0 else 0.0
