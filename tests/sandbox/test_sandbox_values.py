"""Comparison of values that came out of the sandbox, and whatever else may come out of it."""

from __future__ import annotations

import json
import random
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import Any

import pytest

from guided_grpo.grading.code_tests import Close, Equal
from guided_grpo.sandbox import plain, same
from guided_grpo.sandbox.values import encode


def received(value: object) -> Any:
    return json.loads(json.dumps(encode(value)))


class Yes(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Shout(str):
    def __str__(self) -> str:
        return "other"

    def __iter__(self) -> Any:
        return iter("other")


SAME = [
    (1, True), (1, 1.0), (0.0, -0.0), (1, 1 + 0j), (2**70, 2**70), (2**53, float(2**53)), ("a", Shout("a")), (7, Yes(7)),
    ((1, 2), namedtuple("P", "x y")(1, 2)), ({"a": 2}, Counter("aa")), ({1: [2]}, defaultdict(list, {1: [2]})),
    ({1: 2, 3: 4}, OrderedDict([(3, 4), (1, 2)])), ({1, 2}, frozenset([2, 1])), (b"a", bytearray(b"a")), ({None: None}, {None: None}),
    ({(1, "a"): {frozenset([1])}}, {(1, "a"): {frozenset([1])}}), ({True: 1}, {1: True}), ([], []), ({}, {}), (set(), set()),
]  # fmt: skip
DIFFERENT = [
    (1, "1"), (1, 2), (2**53 + 1, float(2**53)), ([1, 2], (1, 2)), ((1,), [1]), (None, 0), (None, False), ([], None), ("", None),
    ([1], [1, 1]), ({1}, {1, 2}), ({1, 2}, {1}), ({1}, [1]), ({}, set()), ({1: 2}, {1: 3}), ({1: None}, {2: None}), ({1: 2}, {1: 2, 3: 4}),
    (7, Yes(8)), ("other", Shout("a")), (float("nan"), float("nan")), (b"a", "a"), (1, object()), ([1], [object()]), ({"dict": []}, {}),
    ("abc", ["a", "b", "c"]), (0, []), (1.5, 1), ({"int": "a"}, 10), (10, {"int": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "value"), SAME)
def test_same(expected: object, value: object) -> None:
    assert same(expected, received(value))


@pytest.mark.parametrize(("expected", "value"), DIFFERENT)
def test_different(expected: object, value: object) -> None:
    assert not same(expected, received(value))


def test_a_value_too_deep_is_not_the_same() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert "opaque" in json.dumps(encode(deep))
    assert not plain(object()) and plain([{"a": (1, 2.0, b"", None)}])


def test_colliding_keys_cost_nothing() -> None:
    """Keys chosen to collide (2**61 − 1 is the modulus of Python's hash) never enter a table of the parent's."""
    keys = [{"int": f"{k * (2**61 - 1):x}"} for k in range(1, 50_001)]
    assert not same(set(range(50_000)), {"set": keys})


def test_no_data_raises() -> None:
    """100,000 random structures of the right and the wrong form, against all kinds of expectations."""
    draw = random.Random(5)
    tags = [
        "int",
        "float",
        "complex",
        "tuple",
        "set",
        "dict",
        "bytes",
        "opaque",
        "str",
        "bool",
        "list",
        "NoneType",
        "?",
    ]
    leaves: list[Any] = [
        None,
        True,
        0,
        1,
        -1,
        1.5,
        float("nan"),
        "",
        "a",
        "0x1p+0",
        "ff",
        "g",
        [],
        {},
        [[]],
        [1, 2],
        10**400,
    ]

    def anything(depth: int) -> Any:
        if depth == 0 or draw.random() < 0.3:
            return draw.choice(leaves)
        if draw.random() < 0.5:
            return [anything(depth - 1) for _ in range(draw.randrange(4))]
        return {draw.choice(tags): anything(depth - 1) for _ in range(draw.choice([1, 1, 1, 2, 0]))}

    expectations = [
        *(Equal(value) for value in (None, True, 1, 1.5, 1j, "a", b"a", [1], (1, 2), {1}, {1: 2}, {(1, 2): {3}}, [])),
        Close(1.0, 0.1), Close(1e300, 0.1, 0.5),
    ]  # fmt: skip
    for _ in range(100_000):
        assert draw.choice(expectations).accepts(anything(4)) in (True, False)


@pytest.mark.parametrize("data", [
    {"set": [{}]}, {"set": [{"int": "1", "float": "0x1p0"}]}, {"set": [{"set": [{}]}]}, {"set": [{"tuple": [{}]}]}, {"set": [[]]}, {"set": [{"int": {}}]},
    {"dict": [[{}, 2]]}, {"dict": [[1]]}, {"dict": [1]}, {"dict": [[{"bytes": 5}, 2]]}, {"dict": [[{"bytes": "g"}, 2]]}, {"dict": [[{"tuple": None}, 2]]},
])  # fmt: skip
def test_keys_that_are_none(data: Any) -> None:
    """As many as expected, so that each is looked at: they differ, and raise nothing in the grader."""
    assert not any(same(expected, data) for expected in ({1}, {1: 2}, {(1,)}, {frozenset([1])}, {b"a"}))


def test_right_data_with_one_part_replaced() -> None:
    """20,000 times: what a program would write, but for one part, at any depth."""
    draw = random.Random(6)
    junk: list[Any] = [
        None,
        {},
        [],
        [{}],
        {"set": [{}]},
        {"dict": [[{}, {}]]},
        {"tuple": {}},
        {"int": []},
        {"x": 1, "y": 2},
        "",
        -1,
    ]

    def spoilt(data: Any) -> Any:
        if draw.random() < 0.2 or not isinstance(data, (list, dict)) or not data:
            return draw.choice(junk)
        at = draw.choice(range(len(data)) if isinstance(data, list) else list(data))
        copy = data.copy()
        copy[at] = spoilt(data[at])
        return copy

    cases = [(expected, received(value)) for expected, value in SAME]
    for _ in range(20_000):
        expected, data = draw.choice(cases)
        assert same(expected, spoilt(data)) in (True, False)
