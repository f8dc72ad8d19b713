"""The order of problems over an epoch, and the sampler that keeps it.

Eq. 5 compares the rewards of neighbouring steps, so neighbouring batches must be about equally hard: problems go from
easy to hard and are not shuffled (G²RPO-A, Section on curriculum). Batches are laid out as by TRL's own sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from guided_grpo.errors import InputError
from guided_grpo.settings import AxisGroup, OneOf, axis, setting

MATHS_TIERS = ("cn_contest", "aops_forum", "amc_aime", "olympiads", "olympiads_ref")  # easy → hard

Difficulty = float | int | str | None
Hardness = NDArray[np.float64]  # one number a row, larger = harder
PIECE = 100_000  # rows of a column that are read at a time


@dataclass
class CurriculumSettings(AxisGroup):
    """The order of problems over an epoch."""

    curriculum: Annotated[str, OneOf(CURRICULA)] = axis(
        "none", "none: TRL's order; random; difficulty, tiers, success: easy first; adaptive: follows rewards"
    )
    curriculum_tiers: list[str] | None = setting(
        None, "names of tiers, easy to hard; unset = the five maths sources of G²RPO-A"
    )
    curriculum_target: Annotated[float, Interval(ge=0, le=1)] = setting(0.5, "mean reward that adaptive holds")
    curriculum_gain: Annotated[float, Ge(0)] = setting(0.1, "step of adaptive a batch, as a share of the range")


def difficulty_order(difficulties: Sequence[Difficulty], tiers: Sequence[str] | None = MATHS_TIERS) -> list[int]:
    """Row numbers from easy to hard; equally hard rows keep the order of the data.

    Args:
        difficulties: one a row, all numbers (larger = harder) or all names of tiers.
        tiers: names from easy to hard; None = names are not allowed.

    Raises InputError for a missing or NaN difficulty, an unknown tier, and a mixture of numbers and tiers.
    """
    keys = _keys(difficulties, {name: rank for rank, name in enumerate(tiers or ())}, "difficulty")
    return list(_sorted_rows(keys))


def _sorted_rows(keys: Hardness) -> memoryview[int]:
    """Row numbers by key, those of equal keys as they stand: 8 bytes a row, and plain ints when it is read."""
    return np.argsort(keys, kind="stable").data


def _keys(values: Sequence[Difficulty], ranks: dict[str, int], field: str) -> Hardness:
    keys, are_names = np.empty(len(values)), set()
    for first in range(0, len(values), PIECE):
        piece = values[first : first + PIECE]  # a column of a data set makes Python values of what is read
        are_names |= {isinstance(value, str) for value in piece if value is not None}
        if len(are_names) > 1:
            raise InputError("mixes numbers and tiers", field=field, fix="give every row a number, or every row a tier")
        keys[first : first + PIECE] = [_key(value, row, ranks, field) for row, value in enumerate(piece, first)]
    return keys


def _key(value: Difficulty, row: int, ranks: dict[str, int], field: str) -> float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise InputError(
            f"has no value in row {row}", field=field, fix="fill it, drop the row, or set curriculum: none"
        )
    if not isinstance(value, str):
        return float(value)
    if value not in ranks:
        raise InputError(
            f"is no known tier (row {row})",
            field=field,
            value=value,
            fix=f"use a number or one of {', '.join(ranks)}" if ranks else "use numbers",
        )
    return ranks[value]


# Value of `curriculum` → the columns that it orders by, the first one that the data has.
CURRICULA: dict[str, tuple[str, ...]] = {
    "none": (),
    "random": (),
    "difficulty": ("difficulty",),
    "tiers": ("tier", "source"),
    "success": ("success_rate",),
    "adaptive": ("difficulty", "success_rate", "tier"),
}


def hardness(
    curriculum: str, columns: Mapping[str, Sequence[Any]], tiers: Sequence[str] = MATHS_TIERS
) -> Hardness | None:
    """One number a row by which `curriculum` orders, larger = harder; None = it does not.

    Args:
        curriculum: of CURRICULA.
        columns: name → values; of `success_rate` a high one is easy.
        tiers: names of tiers from easy to hard.

    Raises InputError where the data has none of the columns, or a value that cannot be ordered.
    """
    candidates = CURRICULA[curriculum]
    if not candidates:
        return None
    name = next((column for column in candidates if column in columns), None)
    if name is None:
        raise InputError(
            f"orders by {' or '.join(candidates)}, but the data has no such column (it has {', '.join(columns)})",
            field="curriculum",
            value=curriculum,
            fix=f"map one (data_mapping: {{{candidates[0]}: COLUMN}}) or set curriculum: none",
        )
    keys = _keys(columns[name], {tier: rank for rank, tier in enumerate(tiers)}, name)
    return 1.0 - keys if name == "success_rate" else keys


def row_order(rows: int, keys: Hardness | None, shuffle_seed: int | None) -> Callable[[int], Sequence[int]]:
    """Epoch → row numbers: easy to hard where `keys` are given, else TRL's permutations, else as they stand.

    TRL draws one permutation an epoch from one generator; drawing them again finds the order on resume. An order takes
    8 bytes a row, in whichever epoch.
    """
    if keys is not None:
        fixed = _sorted_rows(keys)
        return lambda epoch: fixed
    if shuffle_seed is None:
        return lambda epoch: range(rows)

    def shuffled(epoch: int) -> Sequence[int]:
        import torch

        generator = torch.Generator().manual_seed(shuffle_seed)
        for _ in range(epoch):
            torch.randperm(rows, generator=generator)
        return torch.randperm(rows, generator=generator).numpy().data

    return shuffled


class OrderedRepeatSampler:
    """Row numbers of one epoch, laid out as TRL's `RepeatSampler` lays them out.

    The order is cut into chunks of `batch_size` different problems, a last chunk that is not full is dropped, each
    chunk comes `repeat_count` times, and in it each problem `mini_repeat_count` times in a row. With the order
    [2, 0, 1], chunks of 2 and both counts 2: 2 2 0 0 2 2 0 0.

    Args:
        order: the row numbers of an epoch, counted from 0, the same on every process; taken as they are needed.
        rows: length of each of these lists.
        mini_repeat_count: G, rollouts a problem.
        batch_size: different problems in a generation batch.
        repeat_count: times that a generation batch is used.
    """

    def __init__(
        self,
        order: Callable[[int], Iterable[int]],
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
        order = iter(self.order(self.epoch))
        for _ in range(self.rows // self.batch_size):
            chunk = list(islice(order, self.batch_size))
            if len(chunk) < self.batch_size:
                raise ValueError(f"order({self.epoch}) has fewer than {self.rows} rows")
            for _ in range(self.repeat_count):
                for index in chunk:
                    yield from [index] * self.mini_repeat_count
