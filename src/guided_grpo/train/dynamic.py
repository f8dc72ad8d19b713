"""Dynamic sampling (DAPO, arXiv 2503.14476): batches are generated until enough groups teach something.

A group is kept where the deviation of its **accuracy** is above 0, after guidance and rescue; surplus groups are thrown
away, and their tokens stay counted. Where the most batches do not fill the batch, groups without a signal fill it
(DAPO's code stops with an error there).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from guided_grpo.settings import AxisGroup, axis

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

_LEFT_PADDED = ("prompt_ids", "prompt_mask")


@dataclass
class DynamicSettings(AxisGroup):
    """Whether a batch is filled with groups that teach something."""

    dynamic_sampling: Annotated[int, Ge(0)] = axis(
        0, "most generation batches for one batch whose groups all have a signal; 0 = off"
    )


def filled_batch(
    first: tuple[dict[str, Any], torch.Tensor],
    score_more: Callable[[], tuple[dict[str, Any], torch.Tensor]],
    *,
    most: int,
    group_size: int,
    pad_id: int,
    gather: Callable[[list[int]], list[int]],
) -> tuple[dict[str, Any], int]:
    """A batch from groups of a first one and of as many more as it takes, and how many batches that took.

    Args:
        first: TRL's output for a generation batch of this rank, and the accuracy of its rows; the batch gets its size.
        score_more: one more of these; all ranks ask for it equally often.
        most: batches, the first included.
        group_size: G.
        pad_id: padding of ids.
        gather: the lists of all ranks.
    """
    output, accuracy_b = first
    size, outputs, rows = len(accuracy_b), [output], [teaching_rows(accuracy_b, group_size)]
    while True:
        missing = size - sum(map(len, rows))
        if len(outputs) >= most or max(gather([missing])) <= 0:
            break
        output, accuracy_b = score_more()
        outputs.append(output)
        rows.append(teaching_rows(accuracy_b, group_size)[: max(0, missing)])
    if missing > 0:  # the first batch's own groups without a signal
        idle = [row for row in range(size) if row not in set(rows[0])]
        rows[0] = sorted([*rows[0], *idle[:missing]])
    return joined(outputs, rows, pad_id), len(outputs)


def further_problem(rows: Dataset, place: int, seed: int) -> dict[str, Any]:
    """Problem number `place` of those that dynamic sampling draws, in a random order of every epoch."""
    epoch, offset = divmod(place, len(rows))
    return dict(rows[int(_order(len(rows), seed + 7919 * (epoch + 1))[offset])])


def further_rows(rows: Dataset, first: int, groups: int, group_size: int, seed: int) -> list[dict[str, Any]]:
    """A row for each rollout of the problems from number `first` on."""
    problems = [further_problem(rows, place, seed) for place in range(first, first + groups)]
    return [{**row} for row in problems for _ in range(group_size)]


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next; of 10⁷ rows an order takes a second and 80 MB
def _order(rows: int, seed: int) -> torch.Tensor:
    import torch  # here, so that what names the methods loads without it

    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def teaching_rows(accuracy_b: torch.Tensor, group_size: int) -> list[int]:
    """Rows of the groups whose accuracy varies.

    Args:
        accuracy_b: shape (b,), groups in rows of `group_size`; NaN = not graded.
        group_size: G.
    """
    rewards_PG = accuracy_b.view(-1, group_size)
    graded_PG = ~rewards_PG.isnan()
    high_P = rewards_PG.masked_fill(~graded_PG, -math.inf).amax(dim=1)
    low_P = rewards_PG.masked_fill(~graded_PG, math.inf).amin(dim=1)
    groups = (high_P > low_P).nonzero().flatten().tolist()
    return [group * group_size + place for group in groups for place in range(group_size)]


def joined(outputs: Sequence[dict[str, Any]], rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Any]:
    """Rows of several of TRL's outputs as one, padded to the longest.

    Args:
        outputs: of `_generate_and_score_completions`.
        rows: which rows of each.
        pad_id: padding of ids; everything else is padded with 0.
    """
    import torch

    whole: dict[str, Any] = {}
    for name, first in outputs[0].items():
        if isinstance(first, list):
            whole[name] = [output[name][row] for output, taken in zip(outputs, rows, strict=True) for row in taken]
        elif first.dim() == 0:
            whole[name] = first
        else:
            parts = [output[name][list(taken)] for output, taken in zip(outputs, rows, strict=True)]
            whole[name] = torch.cat(_padded(parts, name, pad_id) if first.dim() > 1 else parts)
    return whole


def _padded(parts: list[torch.Tensor], name: str, pad_id: int) -> list[torch.Tensor]:
    from torch.nn import functional

    width = max(part.size(1) for part in parts)
    value = pad_id if name.endswith("_ids") else 0
    sides = [(width - part.size(1), 0) if name in _LEFT_PADDED else (0, width - part.size(1)) for part in parts]
    return [functional.pad(part, side, value=value) for part, side in zip(parts, sides, strict=True)]
