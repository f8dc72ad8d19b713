"""Stage 4 in the trainer: verdicts of a batch, before TRL asks for them or when it does.

Rewards see guidance + generated. Graders that can begin early do; a rollout without a verdict leaves its group.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from guided_grpo.train.advantage import mask_ungraded
from guided_grpo.train.batch import Batch
from guided_grpo.train.keeping import KeepingTrainer
from guided_grpo.train.rollout import Rollout
from guided_grpo.types import Row


class GradingTrainer(KeepingTrainer):
    """TRL's trainer with our log, checkpoints and grading; `GuidedGRPOTrainer` does the training."""

    _batch: Batch | None  # under way; None = TRL evaluates
    _accuracy_index: int  # of the accuracy reward among the reward functions

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        batch = self._batch
        if batch is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if batch.rewards_BF is None:
            started = time.perf_counter()
            batch.rewards_BF = self._rewards(inputs, prompts, completions, completion_ids_list, batch.rollouts)
            self.metric_sums.total("time/reward", time.perf_counter() - started)
        return batch.rewards_BF

    def _rewards(
        self, rows: Any, prompts: Any, completions: Any, completion_ids: Any, rollouts: list[Rollout]
    ) -> torch.Tensor:
        """TRL's rewards, shape (B, F), of all ranks; reward functions are told how many tokens are guidance."""
        given = [len(rollout.assignment.slice.ids) for rollout in rollouts]
        rows = [{**row, "guidance_tokens": tokens} for row, tokens in zip(rows, given, strict=True)]
        rewards_BF = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        if getattr(self.reward_funcs[self._accuracy_index], "masks_ungraded", False):
            rewards_BF = mask_ungraded(rewards_BF, self._accuracy_index, self.num_generations)
        return rewards_BF

    def _begin_grading(self, batch: Batch) -> None:
        """Let graders that can begin now, while old and reference log-probs are computed."""
        columns = {name: [row.get(name) for row in batch.rows] for name in batch.rows[0]}
        for function in self.reward_funcs:
            if callable(begin := getattr(function, "begin", None)):
                begin(completions=[rollout.completion for rollout in batch.rollouts], **columns)

    def _grade(self, rows: list[Row], rollouts: list[Rollout]) -> tuple[list[Rollout], torch.Tensor]:
        """Rewards of all ranks, before TRL asks for them; what reward functions log a row goes with its rollout."""
        rewards = self._rewards(
            rows,
            [row["prompt"] for row in rows],
            [rollout.completion for rollout in rollouts],
            [rollout.completion_ids for rollout in rollouts],
            rollouts,
        )
        columns = {name: list(values) for name, values in self._pending_extra_logs.items()}
        self._pending_extra_logs.clear()
        extras = [{name: values[place] for name, values in columns.items()} for place in range(len(rollouts))]
        return [replace(rollout, extras=extra) for rollout, extra in zip(rollouts, extras, strict=True)], rewards

    def _put_extras(self, rollouts: list[Rollout]) -> None:
        for name in sorted({name for rollout in rollouts for name in rollout.extras}):
            self._pending_extra_logs[name].extend(rollout.extras.get(name) for rollout in rollouts)
