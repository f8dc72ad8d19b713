"""Traces of problems that the policy fails are kept, and learned in steps of their own (ReLIFT, arXiv 2506.07527).

A group without a success puts its problem, with its whole trace, to the front of a buffer. Once N traces are in it, the
next batch is not sampled: it is the first N of them, which leave the buffer, and its loss is their likelihood alone,

    L = −c Σ_t φ_t log π_t / n        n the tokens of these traces, φ and c as in imitation.py

Its rows are dealt evenly over the micro-batches of all ranks; fewer than one filler row a micro-batch has weight 0.

Read: the code, eb95454 (N = 128, as many as a batch has problems). Deviations: one optimizer where the code has two; no
entropy bonus; a step of traces takes the place of a batch, whose problems come again in the next epoch, where the code
takes it behind a batch; where a batch is split into several optimizer steps, or learned several times, so are traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from guided_grpo.guidance.slicing import Slice
from guided_grpo.settings import AxisGroup, axis
from guided_grpo.train.rescue import deal, difficult_groups
from guided_grpo.types import Row

if TYPE_CHECKING:
    import torch

Trace = list[list[int]]  # ids of the prompt, and of the whole trace with its end


@dataclass
class FailureSettings(AxisGroup):
    """Whether the traces of failed problems are learned later."""

    failure_buffer: Annotated[int, Ge(0)] = axis(
        0, "traces of failed groups that are kept until a step of their likelihood alone; 0 = off"
    )


def failed_traces(
    rows_b: Sequence[Row],
    first: int,
    accuracy_B: torch.Tensor,
    group_size: int,
    prompt_ids_of: Callable[[Any], list[int]],
    trace_of: Callable[[Row], Slice],
) -> list[Trace]:
    """The traces of this rank's groups without a success, where there is one that fits.

    Args:
        rows_b: the problems of this rank, each repeated for its group.
        first: global index of `rows_b[0]`; a group is of the rank that has its first rollout.
        accuracy_B: of all ranks, at the end of sampling; NaN = not graded.
        group_size: G.
        prompt_ids_of: prompt → ids.
        trace_of: the whole trace with its end.
    """
    leaders = [group * group_size - first for group in difficult_groups(accuracy_B, group_size)]
    rows = [rows_b[place] for place in leaders if 0 <= place < len(rows_b)]
    return [[prompt_ids_of(row["prompt"]), list(piece.ids)] for row in rows if (piece := trace_of(row)).ids]


def trace_batch(
    traces: Sequence[Trace], *, chunks: int, ranks: int, rank: int, pad_id: int, weight: float
) -> dict[str, Any]:
    """What stands for TRL's output of a generation batch: traces with factors of their likelihood, and no advantages.

    Args:
        traces: of all ranks; at least one.
        chunks: micro-batches of a rank.
        ranks: processes.
        rank: this one.
        pad_id: padding of ids.
        weight: c.

    Returns:
        Tensors of this rank's part, rows of one micro-batch behind those of another; "imitation_items" is of all ranks.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows: list[tuple[Trace, float]] = []
    for chunk in range(rank * chunks, (rank + 1) * chunks):
        mine, filler = deal(traces, ranks * chunks, chunk)
        rows += [(trace, weight if place < len(mine) - filler else 0.0) for place, trace in enumerate(mine)]

    def padded(part: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = [torch.tensor(trace[part]) for trace, _ in rows]
        masks = [torch.ones_like(one) for one in ids]
        return tuple(  # type: ignore[return-value]
            pad_sequence(parts, batch_first=True, padding_value=value, padding_side=side)
            for parts, value in ((ids, pad_id), (masks, 0))
        )

    (prompt_ids, prompt_mask), (completion_ids, completion_mask) = padded(0, "left"), padded(1, "right")
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "imitation_factors": torch.tensor([factor for _, factor in rows]).unsqueeze(1) * completion_mask,
        "imitation_items": torch.tensor(float(sum(len(ids) for _, ids in traces))),
    }
