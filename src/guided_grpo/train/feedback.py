"""What follows the rewards of a training batch: its counts, and what the controllers and the curriculum learn of it.

Everything here is equal on all ranks; evaluation never comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from guided_grpo.guidance.strength import Controller
from guided_grpo.train.metrics import count_batch, count_first_sampling, count_rescue, count_transition
from guided_grpo.train.rescue import difficult_groups, most_attempts, successes_P
from guided_grpo.train.rollout import FACTS, got_guidance, problem_feedback
from guided_grpo.train.state import Batch, RunState
from guided_grpo.types import StepFeedback

if TYPE_CHECKING:
    from guided_grpo.train.config import GuidedGRPOConfig


@dataclass(frozen=True)
class GradedBatch:
    """A batch of all ranks once its advantages are known.

    Args:
        batch: the part of this rank; what its ladder came to is of all ranks.
        facts_BK: `rollout.FACTS` of each rollout.
        accuracy_B: the accuracy reward; NaN = not graded.
        advantages_B: what goes into the loss.
        shares_G: share of the strength by place in a group, in the first sampling.
    """

    batch: Batch
    facts_BK: torch.Tensor
    accuracy_B: torch.Tensor
    advantages_B: torch.Tensor
    shares_G: Sequence[float]

    @property
    def group_size(self) -> int:
        """G."""
        return len(self.shares_G)

    @property
    def guided_B(self) -> torch.Tensor:
        """Which rollouts got guidance."""
        return got_guidance(self.facts_BK)

    @property
    def first_accuracy_B(self) -> torch.Tensor:
        """The accuracy reward before any rescue."""
        first = self.batch.first_accuracy_B
        return self.accuracy_B if first is None else first


def learn(
    run: RunState,
    controller: Controller,
    graded: GradedBatch,
    config: GuidedGRPOConfig,
    *,
    optimizer_step: int,
    most_steps: int,
    form_B: torch.Tensor | None,
) -> None:
    """Count a batch, and let everything that follows the rewards know of it.

    Args:
        run: gets it.
        controller: of the method's strength.
        graded: the batch.
        config: the method and the budgets.
        optimizer_step: t at the next generation.
        most_steps: T in steps; 0 or less = unknown.
        form_B: the format reward, where it ends the cold start of the ladder.
    """
    length = controller.strength(run.controller, {}).amount if config.guided else 0.0
    count(run, graded, length=length, guidance_trained=config.guidance_in_loss)
    progress = share_done(run, config, optimizer_step, most_steps)
    update_controller(run, controller, graded, optimizer_step=optimizer_step, progress=progress)
    if form_B is not None and config.rescue_cold_format is not None:
        run.cold_start_over |= bool(form_B.nanmean() >= config.rescue_cold_format)


def count(run: RunState, graded: GradedBatch, *, length: float, guidance_trained: bool) -> None:
    """Add a batch to the metrics and the problem history.

    Args:
        run: gets it.
        graded: the batch.
        length: of guidance, that the controller asked for.
        guidance_trained: whether guidance tokens have weight in the loss.
    """
    run.tokens_generated += count_batch(
        run.metric_sums,
        graded.facts_BK,
        graded.accuracy_B,
        graded.advantages_B,
        group_size=graded.group_size,
        length=length,
        guidance_trained=guidance_trained,
    )
    run.metric_sums.latest("tokens/generated_total", run.tokens_generated)
    first_B, size, rescued = graded.first_accuracy_B, graded.group_size, graded.batch.rescued
    unguided_G = [share == 0 for share in graded.shares_G]
    groups = count_first_sampling(run.metric_sums, first_B, difficult_groups(first_B, size), unguided_G)
    if rescued is not None:
        count_rescue(run.metric_sums, rescued, groups=groups, attempts=most_attempts(run.history.settings))
    climbs = {} if rescued is None else rescued.climbs
    keys_P = graded.facts_BK[::size, FACTS.index("problem")].tolist()
    rates_P = graded.accuracy_B.view(-1, size).gt(0).float().mean(dim=1).tolist()
    for group, (key, rate, first) in enumerate(zip(keys_P, rates_P, successes_P(first_B, size), strict=True)):
        if first is not None:
            count_transition(run.metric_sums, *run.history.observe(key, rate, climbs.get(group)))


def share_done(run: RunState, config: GuidedGRPOConfig, optimizer_step: int, most_steps: int) -> float:
    """t/T: the share of the token budget where there is one, else of FLOPs, of seconds, of the optimizer steps.

    Args:
        run: what is spent.
        config: the budgets.
        optimizer_step: t at the next generation.
        most_steps: T in steps; 0 or less = unknown.
    """
    if config.max_generated_tokens:
        return min(1.0, run.tokens_generated / config.max_generated_tokens)
    if config.max_flops:
        before = run.stage_flops  # a first stage has none of the schedule
        return min(1.0, (run.flops - before) / max(1.0, config.max_flops - before))
    if config.max_train_seconds:
        return min(1.0, run.train_seconds / config.max_train_seconds)
    return min(1.0, optimizer_step / most_steps) if most_steps > 0 else 0.0


def update_controller(
    run: RunState, controller: Controller, graded: GradedBatch, *, optimizer_step: int, progress: float
) -> None:
    """Feed the controller, and the curriculum where it follows the policy.

    Args:
        run: holds their state.
        controller: of the method's strength.
        graded: the batch.
        optimizer_step: t at the next generation.
        progress: t/T at the next generation.
    """
    accuracy_B, graded_B = graded.accuracy_B, ~graded.accuracy_B.isnan()
    both_B = graded_B & graded.guided_B
    run.controller = controller.update(
        run.controller,
        StepFeedback(
            optimizer_step=optimizer_step,
            progress=progress,
            reward_sum=float(accuracy_B[graded_B].sum()),
            reward_count=int(graded_B.sum()),
            guided_sum=float(accuracy_B[both_B].sum()),
            guided_count=int(both_B.sum()),
            problems=problem_feedback(accuracy_B, graded.facts_BK, graded.shares_G),
        ),
    )
    if run.order is not None:
        run.order.observe(float(graded.first_accuracy_B.nanmean()))
        run.metric_sums.latest("curriculum/level", run.order.level)
