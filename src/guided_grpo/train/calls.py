"""Stage 3d, the further generation calls of a batch: up the ladder where groups failed, or in turn from the start."""

from __future__ import annotations

from collections.abc import Sequence

from guided_grpo.train.metrics import MetricSums
from guided_grpo.train.plan import Planner
from guided_grpo.train.resampling import Resampler, rescue_batch
from guided_grpo.train.state import Batch
from guided_grpo.train.turns import sample_in_turns
from guided_grpo.train.verdict import Judge


def climb(batch: Batch, planner: Planner, judge: Judge, resampler: Resampler, sums: MetricSums) -> None:
    """Grade the first sampling, and sample difficult groups again until they succeed or the ladder ends.

    Args:
        batch: sampled; gets what it is trained on, and its rewards.
        planner: what problems may climb.
        judge: grades.
        resampler: samples again.
        sums: get the seconds.
    """
    with sums.timed("time/reward"):
        batch.rollouts, rewards_BF = judge.grade(batch.rows, batch.rollouts, whole_groups=True)
    batch.first_accuracy_B = rewards_BF[:, judge.accuracy]
    with sums.timed("time/rescue"):
        batch.rescued = rescue_batch(batch.rows, batch.rollouts, rewards_BF, resampler, planner.ladder, judge.accuracy)
        batch.rollouts, batch.rewards_BF = batch.rescued.rollouts_b, judge.masked(batch.rescued.rewards_BF)
        judge.log(batch.rollouts)


def take_turns(
    batch: Batch,
    below: Sequence[float],
    planner: Planner,
    judge: Judge,
    resampler: Resampler,
    sums: MetricSums,
) -> None:
    """Sample and grade the rollouts of each group in turn; `below` is τ of each turn but the first."""
    with sums.timed("time/generate"):
        batch.rollouts, rewards_BF, batch.first_accuracy_B = sample_in_turns(
            batch.rows, below, planner.ladder, planner.whole_trace, resampler, judge.accuracy
        )
        batch.rewards_BF = judge.masked(rewards_BF)
        judge.log(batch.rollouts)
