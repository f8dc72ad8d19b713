"""What training has come to, beside TRL's own state, and the batch that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guided_grpo.data.adaptive import AdaptiveOrder
from guided_grpo.data.curriculum import Hardness
from guided_grpo.guidance.allocation import GuidancePlan
from guided_grpo.guidance.lengths import State
from guided_grpo.guidance.strength import Controller
from guided_grpo.train.failures import Trace
from guided_grpo.train.metrics import MetricSums, RunningVariance
from guided_grpo.train.resampling import Rescued
from guided_grpo.train.rescue import ProblemHistory
from guided_grpo.train.rollout import Rollout
from guided_grpo.train.signals import Watch
from guided_grpo.types import Row

if TYPE_CHECKING:
    import torch

    from guided_grpo.train.config import GuidedGRPOConfig


@dataclass
class RunState:
    """Equal on all ranks, JSON-able, and part of every checkpoint."""

    controller: State
    history: ProblemHistory
    watch: Watch
    order: AdaptiveOrder | None  # None = the curriculum does not follow the policy
    metric_sums: MetricSums = field(default_factory=MetricSums)
    gradient_norms: RunningVariance = field(default_factory=RunningVariance)
    tokens_generated: int = 0
    problems_drawn: int = 0  # by dynamic sampling, beside the batches
    failures: list[Trace] = field(default_factory=list)  # of failed groups, newest first
    flops: int = 0  # as in flops.py, of all ranks
    stage_flops: int = 0  # those of them that a first stage spent
    trace_tokens: int = 0  # given as guidance or to be imitated, thrown-away rollouts too
    train_seconds: float = 0.0  # of steps, as in step_time: no evaluation, no saving
    cold_start_over: bool = False  # by format; by steps it is read off the step

    def begin_with(self, flops: int, trace_tokens: int) -> None:
        """Count on from what a first stage has spent."""
        self.flops = self.stage_flops = flops
        self.trace_tokens = trace_tokens

    def add_costs(self, costs: Sequence[tuple[float, int, int]]) -> None:
        """Seconds, FLOPs and trace tokens of a step, by rank.

        Ranks must stop after the same step: they count the seconds of the first, and the sum of the rest.
        """
        self.train_seconds += costs[0][0]
        self.flops += sum(flops for _, flops, _ in costs)
        self.trace_tokens += sum(tokens for _, _, tokens in costs)
        self.metric_sums.latest("flops/total", self.flops)
        self.metric_sums.latest("tokens/traces_total", self.trace_tokens)

    def log_row(self, gradient_norm: float | None) -> dict[str, float]:
        """Our metrics since the last row of the log."""
        row = self.metric_sums.reduce()
        if gradient_norm is not None:
            norms = self.gradient_norms
            norms.add(float(gradient_norm))
            row.update({"grad_norm/mean": norms.mean, "grad_norm/variance": norms.variance})
        return row

    def state_dict(self) -> dict[str, Any]:
        """Of every field that is there."""
        return {name: _plain(part) for name, part in vars(self).items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, part in vars(self).items():
            if part is None:
                continue
            if isinstance(part, State):
                self.controller = State.from_json(state[name])
            elif hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])


def _plain(part: Any) -> Any:
    if isinstance(part, State):
        return part.to_json()
    return part.state_dict() if hasattr(part, "state_dict") else part


def new_run(
    config: GuidedGRPOConfig, controller: Controller, hardness: Hardness | None, reward_names: Sequence[str]
) -> RunState:
    """The state before the first step; `hardness` of the problems where the curriculum follows the policy."""
    form, order = config.format_reward, None
    if hardness is not None:
        order = AdaptiveOrder(hardness, config.curriculum_target, config.curriculum_gain)
    watch = Watch(f"rewards/{form}/mean" if form in reward_names else None)
    return RunState(controller.init(), ProblemHistory(config), watch, order)


@dataclass
class Batch:
    """A training batch of this rank on its way through the stages; b = its rollouts, B = those of all ranks."""

    rows: list[Row]  # _b
    plan: GuidancePlan  # _b, of the generation call under way
    first: int = 0  # global index of rows[0]
    attempt: int = 0  # of that call on the rescue ladder, or its turn from 1 on; 0 = first sampling
    output: tuple[Any, ...] = ()  # TRL's own, of the last call
    rollouts: list[Rollout] = field(default_factory=list)  # _b
    rewards_BF: torch.Tensor | None = None  # None = not graded yet
    first_accuracy_B: torch.Tensor | None = None  # before the ladder; None = there was none
    rescued: Rescued | None = None  # None = no ladder, or its cold start

    @property
    def local(self) -> slice:
        """Its rows among those of all ranks."""
        return slice(self.first, self.first + len(self.rows))
