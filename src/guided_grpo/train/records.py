"""What a run writes while it trains: rows of the log, warnings, and sampled rollouts.

rollouts.jsonl has one row a group, guidance apart from what was generated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from guided_grpo.store import rundir
from guided_grpo.store.jsonl import append_rows
from guided_grpo.train.metrics import plain_number
from guided_grpo.train.rollout import Rollout
from guided_grpo.train.signals import Sign
from guided_grpo.train.state import Batch

if TYPE_CHECKING:
    import torch

    from guided_grpo.train.config import GuidedGRPOConfig

_PROBLEM = ("prompt", "answer", "difficulty")
_LOG = logging.getLogger("guided_grpo")


@dataclass(frozen=True)
class Records:
    """The files of a run that grow with it.

    Args:
        config: which folder, and which steps are sampled.
        reward_names: of the reward functions.
        decode: ids → text.
        ends: ids that end a response.
        main: whether this process writes.
    """

    config: GuidedGRPOConfig
    reward_names: Sequence[str]
    decode: Callable[[Sequence[int]], str]
    ends: set[int]
    main: bool

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of one of the files."""
        if rows and self.main:
            append_rows(Path(self.config.output_dir) / name, rows)

    def log(self, step: int, logs: Mapping[str, Any]) -> dict[str, Any]:
        """A row of metrics.jsonl, and that row."""
        row = {"step": step, **{name: plain_number(value) for name, value in logs.items()}}
        self.append(rundir.METRICS, [row])
        return row

    def warn(self, step: int, signs: Sequence[Sign]) -> None:
        """Say what goes wrong, and keep it."""
        if self.main:
            for sign in signs:
                _LOG.warning("step %d: %s: %s", step, sign.warning, sign.message)
        self.append(rundir.WARNINGS, [{"step": step, **asdict(sign)} for sign in signs])

    def sample(self, step: int, batch: Batch, advantages_b: torch.Tensor, rewards_bF: torch.Tensor) -> None:
        """The groups of a graded batch, where this step, counted from 0, is to be sampled; all ranks call it."""
        every = self.config.rollouts_every
        if every <= 0 or step % every:
            return
        records_b = rollout_records(
            batch.rows,
            batch.rollouts,
            decode=self.decode,
            rewards_bF=rewards_bF.tolist(),
            reward_names=self.reward_names,
            advantages_b=advantages_b.tolist(),
            ends=self.ends,
        )
        size = int(self.config.num_generations or 0)
        self.append(rundir.ROLLOUTS, group_records(gather_object(records_b), size, step + 1))


def rollout_records(
    rows_b: Sequence[Mapping[str, Any]],
    rollouts_b: Sequence[Rollout],
    *,
    decode: Callable[[Sequence[int]], str],
    rewards_bF: Sequence[Sequence[float]],
    reward_names: Sequence[str],
    advantages_b: Sequence[float],
    ends: set[int],
) -> list[dict[str, Any]]:
    """One record a rollout of this rank; `ends` are the ids that end a response."""
    records = []
    for row, rollout, rewards, advantage in zip(rows_b, rollouts_b, rewards_bF, advantages_b, strict=True):
        assignment, ids = rollout.assignment, rollout.completion_ids
        prefix = len(assignment.slice.ids)
        records.append(
            {
                **{key: row.get(key) for key in _PROBLEM},
                "arm": assignment.arm.value,
                "placement": "hint" if assignment.slice.hint else "prefix",
                "stage": assignment.stage,
                "omega": assignment.omega,
                "guidance": assignment.slice.hint or decode(ids[:prefix]),
                "generated": decode(ids[prefix:]),
                "guidance_tokens": assignment.slice.tokens,
                "generated_tokens": rollout.generated_tokens,
                "rewards": {name: plain_number(value) for name, value in zip(reward_names, rewards, strict=True)},
                "advantage": advantage,
                "truncated": ids[-1] not in ends,
            }
        )
    return records


def group_records(records_B: Sequence[Mapping[str, Any]], group_size: int, step: int) -> list[dict[str, Any]]:
    """The records of all ranks, in order, gathered into groups; `step` is the optimizer step that trains on them."""
    groups = []
    for number, start in enumerate(range(0, len(records_B), group_size)):
        members = records_B[start : start + group_size]
        problem = {key: members[0][key] for key in _PROBLEM}
        rollouts = [{key: value for key, value in member.items() if key not in _PROBLEM} for member in members]
        groups.append({"step": step, "group": number, **problem, "rollouts": rollouts})
    return groups
