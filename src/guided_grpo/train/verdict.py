"""Stage 4, the verdict: rewards of rollouts, as TRL computes them, for all ranks.

Reward functions see guidance and what was generated as one response, and are told how many of its tokens are guidance
(`guidance_tokens`). A rollout that cannot be graded is left out of its group (`advantage.mask_ungraded`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object

from guided_grpo.train.advantage import mask_ungraded
from guided_grpo.train.rollout import Rollout
from guided_grpo.types import Row


@dataclass(frozen=True)
class Judge:
    """Grades rollouts of a run.

    Args:
        functions: the reward functions.
        accuracy: column of the accuracy reward.
        group_size: G.
        skips_traces: whether a rollout that is a whole trace has no reward.
        ask: TRL's `_calculate_rewards`.
        extras: what reward functions log of each rollout, by column, until TRL takes it.
    """

    functions: Sequence[Any]
    accuracy: int
    group_size: int
    skips_traces: bool
    ask: Callable[..., torch.Tensor]
    extras: dict[str, list[Any]]

    def begin(self, rows_b: Sequence[Row], rollouts_b: Sequence[Rollout]) -> None:
        """Let graders that can begin now, while old and reference log-probs are computed."""
        columns = {name: [row.get(name) for row in rows_b] for name in rows_b[0]}
        for function in self.functions:
            if callable(begin := getattr(function, "begin", None)):
                begin(completions=[rollout.completion for rollout in rollouts_b], **columns)

    def rewards(
        self,
        rows_b: Any,
        prompts_b: Any,
        completions_b: Any,
        completion_ids_b: Any,
        rollouts_b: Sequence[Rollout],
        *,
        whole_groups: bool = True,
    ) -> torch.Tensor:
        """Shape (B, F).

        Args:
            rows_b: the problems.
            prompts_b: as TRL has them, and so on.
            completions_b: guidance and what was generated.
            completion_ids_b: their tokens.
            rollouts_b: the same, with their guidance.
            whole_groups: whether the rows of all ranks are groups; else the caller masks once they are.
        """
        tokens = [len(rollout.assignment.slice.ids) for rollout in rollouts_b]
        rows_b = [{**row, "guidance_tokens": number} for row, number in zip(rows_b, tokens, strict=True)]
        rewards_BF = self.ask(rows_b, prompts_b, completions_b, completion_ids_b)
        if whole_groups:
            rewards_BF = self.masked(rewards_BF)
        if self.skips_traces:
            whole_B = torch.tensor(whole_traces_B(rollouts_b), device=rewards_BF.device)
            rewards_BF[: len(whole_B)][whole_B] = torch.nan
        return rewards_BF

    def grade(
        self, rows_b: Sequence[Row], rollouts_b: Sequence[Rollout], *, whole_groups: bool
    ) -> tuple[list[Rollout], torch.Tensor]:
        """As `rewards`, before TRL asks for them; what reward functions log of a row goes with its rollout."""
        rewards_BF = self.rewards(
            rows_b,
            [row["prompt"] for row in rows_b],
            [rollout.completion for rollout in rollouts_b],
            [rollout.completion_ids for rollout in rollouts_b],
            rollouts_b,
            whole_groups=whole_groups,
        )
        columns = {name: list(values) for name, values in self.extras.items()}
        self.extras.clear()
        extras_b = [{name: values[place] for name, values in columns.items()} for place in range(len(rollouts_b))]
        graded = [replace(rollout, extras=extras) for rollout, extras in zip(rollouts_b, extras_b, strict=True)]
        return graded, rewards_BF

    def masked(self, rewards_BF: torch.Tensor) -> torch.Tensor:
        """Rewards of whole groups without those of rollouts that have no verdict."""
        if getattr(self.functions[self.accuracy], "masks_ungraded", False):
            return mask_ungraded(rewards_BF, self.accuracy, self.group_size)
        return rewards_BF

    def log(self, rollouts_b: Sequence[Rollout]) -> None:
        """Hand TRL what reward functions log of the rollouts that are kept."""
        for name in sorted({name for rollout in rollouts_b for name in rollout.extras}):
            self.extras[name].extend(rollout.extras.get(name) for rollout in rollouts_b)


def whole_traces_B(rollouts_b: Sequence[Rollout]) -> list[bool]:
    """Which rollouts of all ranks are a whole trace."""
    return list(gather_object([rollout.assignment.slice.whole for rollout in rollouts_b]))
