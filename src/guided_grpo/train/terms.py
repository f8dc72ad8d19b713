"""Stage 5, what a graded batch takes along to its loss, beside what TRL computes.

advantages           against the mean of each arm                    advantage.py
tool_mask            weights of tokens, by the credit of guidance    advantage.py
imitation_factors    s of the term that guidance tokens have         imitation.py
num_items_in_batch, imitation_items    what the two sums are divided by, over all ranks
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from guided_grpo.train.advantage import arm_advantages, credited
from guided_grpo.train.imitation import factors_bT, gates_of
from guided_grpo.train.state import Batch
from guided_grpo.train.verdict import whole_traces_B
from guided_grpo.types import Arm

if TYPE_CHECKING:
    from guided_grpo.train.config import GuidedGRPOConfig


@dataclass(frozen=True)
class LossTerms:
    """Completes TRL's output of generation batches.

    Args:
        config: the method.
        accuracy: column of the accuracy reward.
        weights_F: of the reward functions.
        gather: a tensor of each rank → that of all.
    """

    config: GuidedGRPOConfig
    accuracy: int
    weights_F: torch.Tensor
    gather: Callable[[torch.Tensor], torch.Tensor]

    def add(self, output: dict[str, Any], batch: Batch, guided_B: torch.Tensor) -> None:
        """Complete the output of a graded batch; `guided_B` are the rollouts that got guidance."""
        config, rewards_BF = self.config, batch.rewards_BF
        assert rewards_BF is not None
        size = int(config.num_generations or 0)
        if config.advantage_baseline == "arm" and bool(guided_B.any()):
            sums_B = (rewards_BF * self.weights_F.to(rewards_BF.device)).nansum(dim=1)
            sums_B[rewards_BF.isnan().all(dim=1)] = torch.nan
            output["advantages"] = arm_advantages(sums_B, guided_B, size, str(config.scale_rewards))[batch.local]
        assignments_b = [rollout.assignment for rollout in batch.rollouts]
        guidance_b = [len(assignment.slice.ids) for assignment in assignments_b]
        if config.guided and config.guidance_credit != "signed":
            guided_b = [assignment.arm is Arm.GUIDED for assignment in assignments_b]
            output["tool_mask"] = credited(
                output["tool_mask"], output["advantages"], guidance_b, guided_b, config.guidance_credit
            )
            self._count_weights(output)
        if config.imitates:
            whole_B = torch.tensor(whole_traces_B(batch.rollouts), device=rewards_BF.device)
            sampled_B = rewards_BF[:, self.accuracy].masked_fill(whole_B, torch.nan)
            gates_b = gates_of(config.imitation_gate, sampled_B, size)[batch.local]
            mask, advantages_b = output["completion_mask"], output["advantages"]
            output["imitation_factors"] = factors_bT(config, mask, guidance_b, gates_b, advantages_b)
            self._count_imitated(output)

    def count(self, output: dict[str, Any]) -> None:
        """Count again, once rows have come or gone."""
        self._count_weights(output)
        if self.config.imitates:
            self._count_imitated(output)

    def _count_weights(self, output: dict[str, Any]) -> None:
        weights = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.gather(weights.sum()).sum()

    def _count_imitated(self, output: dict[str, Any]) -> None:
        items = self.gather((output["imitation_factors"] != 0).sum()).sum()
        if self.config.imitation_is_joint:
            items = items + output["num_items_in_batch"]
            output["num_items_in_batch"] = items
        output["imitation_items"] = items
