"""Order by difficulty, and the layout of batches beside TRL's own sampler."""

from __future__ import annotations

import json
import math
import random
from itertools import islice
from typing import Any

import pytest
from datasets import Dataset
from trl.trainer.utils import RepeatSampler

from guided_grpo.data import curriculum
from guided_grpo.data.adaptive import AdaptiveOrder
from guided_grpo.data.curriculum import MATHS_TIERS, OrderedRepeatSampler, difficulty_order, hardness, row_order
from guided_grpo.errors import InputError


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


def test_what_a_curriculum_orders_by() -> None:
    def listed(keys: Any) -> list[float]:
        return list(keys)

    columns: dict[str, Any] = {
        "source": ["olympiads", "cn_contest"],
        "success_rate": [0.25, 1.0],
        "difficulty": [7, 3],
        "x": None,
    }
    assert listed(hardness("difficulty", columns)) == [7.0, 3.0]
    assert listed(hardness("tiers", columns)) == [3.0, 0.0]
    assert listed(hardness("tiers", {**columns, "tier": ["b", "a"]}, ("b", "a"))) == [0.0, 1.0]
    assert listed(hardness("success", columns)) == [0.75, 0.0]
    assert listed(hardness("adaptive", {"success_rate": [0.25]})) == [0.75]
    assert hardness("none", columns) is None and hardness("random", columns) is None
    with pytest.raises(InputError, match=r"'success' orders by success_rate, .* \(it has x\); fix: map one"):
        hardness("success", {"x": None})
    with pytest.raises(InputError, match="field 'source': 'imo' is no known tier"):
        hardness("tiers", {"source": ["imo"]})


def test_success_order_is_stable_and_shuffling_is_by_epoch() -> None:
    assert list(row_order(4, hardness("success", {"success_rate": [0.0, 1.0, 0.5, 1.0]}), 1)(0)) == [1, 3, 2, 0]
    shuffled = row_order(50, None, 7)
    assert list(shuffled(0)) == list(shuffled(0)) != list(shuffled(1))
    assert sorted(shuffled(3)) == list(range(50))


def test_shuffling_is_that_of_trl_in_every_epoch() -> None:
    theirs = RepeatSampler(range(97), 1, 1, 1, shuffle=True, seed=5)
    order = row_order(97, None, 5)
    for epoch in range(4):
        rows = list(order(epoch))
        assert rows == list(theirs)
        assert {type(row) for row in rows} == {int}  # what a data set is asked with


def test_a_column_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of a data set is lazy; of pieces of three rows the last is not full, and rows are counted through."""
    monkeypatch.setattr(curriculum, "PIECE", 3)
    values = [5, 3.5, -0.0, 5, 0, 1, 3.5, 2]
    rows = Dataset.from_dict({"difficulty": [float(value) for value in values]})
    keys = hardness("difficulty", {"difficulty": rows["difficulty"]})
    assert list(row_order(8, keys, None)(0)) == sorted(range(8), key=values.__getitem__) == [2, 4, 5, 7, 1, 6, 0, 3]
    with pytest.raises(InputError, match="has no value in row 4"):
        hardness("difficulty", {"difficulty": Dataset.from_dict({"d": [1.0, 2, 3, 4, None]})["d"]})
    with pytest.raises(InputError, match="mixes numbers and tiers"):
        hardness("tiers", {"tier": [1, 2, 3, "cn_contest"]})


def test_adaptive_order_by_hand() -> None:
    """Hardness 0 … 8, β = ½, η = ¼: each batch of reward 1 raises T by 8/4·tanh(1) = 1.523."""
    order = AdaptiveOrder([8, 0, 4, 2, 4, 6], target=0.5, gain=0.25)
    rows = order(0)
    assert list(islice(rows, 2)) == [1, 3]  # 0, then 2
    order.observe(1.0)
    order.observe(1.0)
    assert math.isclose(order.level, 2 * 2 * math.tanh(1.0))  # 3.05: 4 is nearest, its first row first
    assert next(rows) == 2
    order.observe(0.5)
    order.observe(float("nan"))
    assert next(rows) == 4
    for _ in range(9):
        order.observe(1.0)
    assert order.level == 8
    assert next(rows) == 0
    for _ in range(99):
        order.observe(0.0)
    assert order.level == 0
    assert list(rows) == [5]
    assert list(order(1)) == [1, 3, 2, 4, 5, 0]  # a new epoch, all of them again, from where the level is


@pytest.mark.parametrize("values", [3, 1000], ids=["ties", "mostly different"])
def test_adaptive_order_is_that_of_a_sorted_list(values: int) -> None:
    """The rule in its plainest form: of a sorted list the nearest is taken out, at levels that go up and down."""
    draw = random.Random(values)
    hard = [draw.randrange(values) / 3 for _ in range(400)]
    order = AdaptiveOrder(hard)
    for epoch in range(2):
        left = sorted((d, row) for row, d in enumerate(hard))
        for place, row in enumerate(order(epoch)):
            nearest = min(left, key=lambda one: (abs(one[0] - order.level), one))
            assert row == nearest[1], place
            left.remove(nearest)
            # On a value, in the middle of two, and beyond both ends.
            order.level = draw.choice([draw.choice(hard), draw.randrange(-2, 2 * values) / 6])
        assert not left


def test_adaptive_order_ties_go_to_the_easier() -> None:
    order = AdaptiveOrder([1, 3, 3, 1])
    order.level = 2.0
    assert list(order(0)) == [0, 3, 1, 2]


def test_adaptive_order_goes_on_where_it_was() -> None:
    """As in a checkpoint: what was laid out stays, also what was asked for ahead of the training step."""
    whole, cut = (AdaptiveOrder([n % 7 for n in range(40)], gain=0.3) for _ in range(2))
    rewards = [((n * 37) % 11) / 10 for n in range(40)]
    expected, rows = [], whole(0)
    for n, row in enumerate(rows):
        expected.append(row)
        if n >= 1:
            whole.observe(rewards[n - 1])
        if n == 20:
            state = json.loads(json.dumps(whole.state_dict()))
    cut.load_state_dict(state)
    again = cut(0)
    assert list(islice(again, 21)) == expected[:21]
    for n in range(21, 40):
        assert next(again) == expected[n]
        cut.observe(rewards[n - 1])
    assert sorted(expected) == list(range(40))
