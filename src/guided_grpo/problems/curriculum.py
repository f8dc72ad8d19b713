"""The order of problems over an epoch, and the sampler that keeps it.

Eq. 5 compares the rewards of neighbouring steps, so neighbouring batches must be about equally hard: problems go from
easy to hard and are not shuffled (G²RPO-A, Section on curriculum). Batches are laid out as by TRL's own sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from guided_grpo.errors import InputError

MATHS_TIERS = ("cn_contest", "aops_forum", "amc_aime", "olympiads", "olympiads_ref")  # easy → hard

Difficulty = float | int | str | None


def difficulty_order(difficulties: Sequence[Difficulty], tiers: Sequence[str] | None = MATHS_TIERS) -> list[int]:
    """Row numbers from easy to hard; equally hard rows keep the order of the data.

    Args:
        difficulties: one a row, all numbers (larger = harder) or all names of tiers.
        tiers: names from easy to hard; None = names are not allowed.

    Raises InputError for a missing or NaN difficulty, an unknown tier, and a mixture of numbers and tiers.
    """
    ranks = {name: rank for rank, name in enumerate(tiers or ())}
    if len({isinstance(value, str) for value in difficulties if value is not None}) > 1:
        raise InputError(
            "mixes numbers and tiers", field="difficulty", fix="give every row a number, or every row a tier"
        )
    keys = [_key(value, row, ranks) for row, value in enumerate(difficulties)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _key(value: Difficulty, row: int, ranks: dict[str, int]) -> float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise InputError(
            f"has no value in row {row}",
            field="difficulty",
            fix="fill it, drop the row, or set curriculum: none",
        )
    if not isinstance(value, str):
        return float(value)
    if value not in ranks:
        raise InputError(
            f"is no known tier (row {row})",
            field="difficulty",
            value=value,
            fix=f"use a number or one of {', '.join(ranks)}" if ranks else "use numbers",
        )
    return ranks[value]


def row_order(
    rows: int, difficulties: Sequence[Difficulty] | None, shuffle_seed: int | None
) -> Callable[[int], list[int]]:
    """Epoch → row numbers: easy to hard where difficulties are given, else TRL's permutations, else as they stand.

    TRL draws one permutation an epoch from one generator; drawing them again finds the order on resume.
    """
    if difficulties is not None:
        fixed = difficulty_order(difficulties)
        return lambda epoch: fixed
    if shuffle_seed is None:
        return lambda epoch: list(range(rows))

    def shuffled(epoch: int) -> list[int]:
        import torch

        generator = torch.Generator().manual_seed(shuffle_seed)
        draws = [torch.randperm(rows, generator=generator) for _ in range(epoch + 1)]
        return list(draws[-1].tolist())

    return shuffled


class OrderedRepeatSampler:
    """Row numbers of one epoch, laid out as TRL's `RepeatSampler` lays them out.

    The order is cut into chunks of `batch_size` different problems, a last chunk that is not full is dropped, each
    chunk comes `repeat_count` times, and in it each problem `mini_repeat_count` times in a row. With the order
    [2, 0, 1], chunks of 2 and both counts 2: 2 2 0 0 2 2 0 0.

    Args:
        order: the row numbers of an epoch, counted from 0; equal calls must give equal lists on every process.
        rows: length of each of these lists.
        mini_repeat_count: G, rollouts a problem.
        batch_size: different problems in a generation batch.
        repeat_count: times that a generation batch is used.
    """

    def __init__(
        self,
        order: Callable[[int], Sequence[int]],
        *,
        rows: int,
        mini_repeat_count: int,
        batch_size: int = 1,
        repeat_count: int = 1,
    ) -> None:
        counts = {"mini_repeat_count": mini_repeat_count, "batch_size": batch_size, "repeat_count": repeat_count}
        for name, count in counts.items():
            if count < 1:
                raise InputError("is below 1", field=name, value=count, fix="give at least 1")
        if rows < batch_size:
            raise InputError(
                f"the data has {rows} problems, a generation batch needs {batch_size}",
                fix="add data, or lower generation_batch_size (problems = generation_batch_size / num_generations)",
            )
        self.order, self.rows, self.epoch = order, rows, 0
        self.mini_repeat_count, self.batch_size, self.repeat_count = mini_repeat_count, batch_size, repeat_count

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration takes, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows // self.batch_size * self.batch_size * self.mini_repeat_count * self.repeat_count

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        if len(order) != self.rows:
            raise ValueError(f"order({self.epoch}) has {len(order)} rows, not {self.rows}")
        for start in range(0, self.rows - self.batch_size + 1, self.batch_size):
            chunk = order[start : start + self.batch_size]
            for _ in range(self.repeat_count):
                for index in chunk:
                    yield from [index] * self.mini_repeat_count
