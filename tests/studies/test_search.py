"""The search of a comparison, without a run: grids, shares of budgets, the choice, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guided_grpo.errors import InputError
from guided_grpo.studies.comparison.search import Search, choose, chosen, label, points, read_search, shared_budget

PLAN: dict[str, Any] = {
    "variants": {"a": {"method": "grpo"}, "b": {"method": "fixed", "search": {"beta": [0, 0.1]}}, "c": {"search": {}}},
    "search": {"learning_rate": ["5e-5", 1e-4]},
    "search_data": "other.jsonl",
}


def read(changes: dict[str, Any], seeds: tuple[int, ...] = (0, 1)) -> Search:
    plan = {**PLAN, **changes}
    return read_search(plan, Path("plan.yaml"), list(plan["variants"]), seeds)


def test_a_variants_own_grid_stands_in_the_place_of_the_plans() -> None:
    search = read({"search_share": 0.5})
    assert search.grids == {"a": {"learning_rate": ["5e-5", 1e-4]}, "b": {"beta": [0, 0.1]}}  # c: none
    assert (search.data, search.seed, search.share) == ("other.jsonl", 100, 0.5)
    assert read({"search": None, "search_data": None, "variants": {"a": None}}).grids == {}


def test_points_and_their_names() -> None:
    grid = {"learning_rate": ["5e-5", 1e-4], "rescue_stages": [[0.25, 0.5], [1.0]]}
    assert points(grid)[:2] == [
        {"learning_rate": "5e-5", "rescue_stages": [0.25, 0.5]},
        {"learning_rate": "5e-5", "rescue_stages": [1.0]},
    ]
    names = [label(values) for values in points(grid)]
    assert names[0] == "learning_rate=5e-5,rescue_stages=0.25+0.5"
    assert names[3] == "learning_rate=0.0001,rescue_stages=1.0"
    assert label({"hint_template": "{problem}/{hint}"}) == "hint_template=-problem---hint-"


def test_a_share_of_each_budget_that_is_set() -> None:
    unset = {"max_generated_tokens": 0, "max_train_seconds": 0.0, "max_steps": -1, "num_train_epochs": 3.0}
    assert shared_budget(SimpleNamespace(**unset, max_flops=2e12), 0.25) == {
        "max_flops": 5e11,
        "num_train_epochs": 0.75,
    }
    given = {**unset, "max_generated_tokens": 1001, "max_train_seconds": 60.0, "max_steps": 10}
    assert shared_budget(SimpleNamespace(**given, max_flops=0.0), 0.3) == {
        "max_generated_tokens": 301, "max_train_seconds": 18.0, "max_steps": 3,
    }  # fmt: skip


def test_the_highest_accuracy_wins_of_equal_ones_the_first() -> None:
    found = [
        {"values": {"x": 1}, "accuracy": 0.25},
        {"values": {"x": 2}, "accuracy": 0.5},
        {"values": {"x": 3}, "accuracy": 0.5},
        {"values": {"x": 4}, "accuracy": None, "error": "out of memory"},
    ]
    assert choose(found) == {"x": 2}
    assert choose(found[3:]) is None


def test_a_choice_stays_until_the_search_is_another_one() -> None:
    search = read({})
    stored = {"a": {**search.to_json("a"), "candidates": [], "best": {"learning_rate": 1e-4}}}
    assert chosen(stored, search, "a") == {"learning_rate": 1e-4}
    assert chosen(stored, search, "b") is None
    assert chosen(None, search, "a") is None
    for other in ({"search_share": 0.5}, {"search_seed": 7}, {"search_data": "x"}, {"search": {"learning_rate": [1]}}):
        assert chosen(stored, read(other), "a") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": [1e-4]}, "plan.yaml: field 'search': .0.0001. is no grid; fix: write learning_rate: "),
        ({"search": {"beta": 0.1}}, "field 'search.beta': 0.1 is no list of values"),
        ({"search": {"beta": []}}, "is no list of values"),
        ({"variants": {"a": {"search": {"seed": [1, 2]}}}}, "field 'variants.a.search.seed': cannot be searched; fix: leave"),
        ({"search": {"max_flops": [1e12]}}, "field 'search.max_flops': cannot be searched"),
        ({"search": {"beta": [0.1, 0.1]}}, "'beta=0.1' is there twice"),
        ({"search": {"beta": list(range(6)), "x": list(range(6))}}, "field 'search': has 36 points; fix: search at most 32"),
        ({"search_data": None}, "plan.yaml: field 'search_data': is missing; fix: name held-out problems"),
        ({"search_seed": 1}, "field 'search_seed': 1 is a seed of the figure; fix: use another one"),
        ({"search_seed": "x"}, "field 'search_seed': 'x' is no seed"),
        ({"search_share": 0}, "field 'search_share': 0 is no share; fix: write a number in"),
        ({"search_share": 1.5}, "is no share"),
        ({"common": {"search": {"beta": [1]}}}, "field 'common.search': is no field of a run; fix: write search at the top"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(changes)
    assert "\n" not in str(caught.value)
