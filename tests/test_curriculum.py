"""Order by difficulty, and the layout of batches beside TRL's own sampler."""

from __future__ import annotations

import pytest
from trl.trainer.utils import RepeatSampler

from guided_grpo.errors import InputError
from guided_grpo.problems.curriculum import MATHS_TIERS, OrderedRepeatSampler, difficulty_order


def test_numbers_from_easy_to_hard_and_ties_in_the_order_of_the_data() -> None:
    assert difficulty_order([3, 1.5, 3, 0, 1.5]) == [3, 1, 4, 0, 2]
    assert difficulty_order([10, 9, 2]) == [2, 1, 0]
    assert difficulty_order([]) == []


def test_tiers_are_ranked_by_their_list_not_by_the_alphabet() -> None:
    names = ["olympiads_ref", "aops_forum", "olympiads", "cn_contest", "amc_aime"]
    assert difficulty_order(names) == [3, 1, 4, 2, 0]
    assert difficulty_order(["hard", "easy", "hard"], tiers=("easy", "hard")) == [1, 0, 2]
    assert MATHS_TIERS[0] == "cn_contest"


@pytest.mark.parametrize(
    ("difficulties", "message"),
    [
        (["olympiads", "imo"], r"'imo' is no known tier \(row 1\); fix: use a number or one of cn_contest"),
        ([1, None, 2], r"field 'difficulty': has no value in row 1; fix: "),
        ([1, 2, float("nan")], r"has no value in row 2; fix: "),
        ([1, "olympiads"], r"mixes numbers and tiers; fix: "),
    ],
)
def test_what_cannot_be_ordered(difficulties: list[float | str | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        difficulty_order(difficulties)


def test_names_without_a_list_of_tiers() -> None:
    with pytest.raises(InputError, match="use numbers"):
        difficulty_order(["olympiads"], tiers=None)


def test_layout_by_hand() -> None:
    sampler = OrderedRepeatSampler(
        lambda epoch: [2, 0, 1, 4, 3], rows=5, mini_repeat_count=2, batch_size=2, repeat_count=2
    )
    assert list(sampler) == [2, 2, 0, 0, 2, 2, 0, 0, 1, 1, 4, 4, 1, 1, 4, 4]


@pytest.mark.parametrize(
    ("rows", "minis", "batch", "repeats"), [(7, 2, 3, 4), (6, 3, 2, 1), (5, 1, 5, 2), (4, 12, 1, 3)]
)
def test_layout_is_that_of_trl(rows: int, minis: int, batch: int, repeats: int) -> None:
    ours = OrderedRepeatSampler(
        lambda epoch: list(range(rows)), rows=rows, mini_repeat_count=minis, batch_size=batch, repeat_count=repeats
    )
    theirs = RepeatSampler(range(rows), minis, batch, repeats, shuffle=False)
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs) == len(list(ours))


def test_each_epoch_has_its_own_order_and_the_same_one_again() -> None:
    orders = {0: [0, 1, 2, 3], 1: [3, 2, 1, 0]}
    sampler = OrderedRepeatSampler(orders.__getitem__, rows=4, mini_repeat_count=1, batch_size=2)
    assert list(sampler) == [0, 1, 2, 3]
    sampler.set_epoch(1)
    assert list(sampler) == [3, 2, 1, 0]
    assert list(sampler) == [3, 2, 1, 0]
    sampler.set_epoch(0)
    assert list(sampler) == [0, 1, 2, 3]


def test_less_data_than_one_batch() -> None:
    with pytest.raises(InputError, match=r"the data has 3 problems, a generation batch needs 8; fix: add data"):
        OrderedRepeatSampler(lambda epoch: [0, 1, 2], rows=3, mini_repeat_count=2, batch_size=8)
    with pytest.raises(InputError, match=r"field 'repeat_count': 0 is below 1"):
        OrderedRepeatSampler(lambda epoch: [0], rows=1, mini_repeat_count=1, repeat_count=0)
