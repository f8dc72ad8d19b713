"""From completions to figures, by hand: pass@k, the vote and its ties, tiers, ungraded samples, paired differences."""

from __future__ import annotations

from typing import Any

import pytest

from guided_grpo.errors import InputError
from guided_grpo.evaluation.scoring import compare, counts_of, figures, tallies
from guided_grpo.evaluation.stats import difference_interval, mean_interval


def completions(*problems: list[tuple[str, str | None]], kind: str | None = "math", tier: str = "all") -> list[Any]:
    """Records of problems whose samples are (verdict, answer)."""
    return [
        {
            "problem": place,
            "key": f"key{place}",
            "tier": tier,
            "kind": kind,
            "sample": number,
            "verdict": verdict,
            "score": {"correct": 1.0, "infra_error": None, "timeout": None}.get(verdict, 0.0),
            "extracted": answer,
            "tokens": 10,
            "ended": verdict != "no_answer",
            "seconds": 0.5,
        }
        for place, samples in enumerate(problems)
        for number, (verdict, answer) in enumerate(samples)
    ]


RIGHT, WRONG = ("correct", "2"), ("wrong", "3")


def test_figures_by_hand() -> None:
    records = completions(
        [RIGHT, RIGHT, WRONG, ("no_answer", None)],  # c = 2 of 4
        [WRONG, WRONG, WRONG, RIGHT],  # c = 1
        [("wrong", "5")] * 4,  # c = 0
    )
    found = figures(records, 4)
    assert found["accuracy"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert found["scores"] == [0.5, 0.25, 0.0]
    # pass@2 = 1 − C(4−c, 2)/6: 5/6, 3/6, 0; pass@4 is whether any is right.
    assert found["pass"]["2"]["mean"] == pytest.approx((5 / 6 + 3 / 6 + 0) / 3)
    assert found["pass"]["4"]["mean"] == pytest.approx(2 / 3)
    assert found["pass"]["1"]["mean"] == found["accuracy"]
    assert found["majority"]["mean"] == pytest.approx(1 / 3)  # right, outvoted, wrong
    assert found["majority"]["problems"] == 3
    expected = mean_interval([0.5, 0.25, 0.0])
    assert found["interval"] == (expected.low, expected.high)
    assert found["verdicts"] == {"correct": 3, "no_answer": 1, "wrong": 8}
    assert (found["tokens"], found["seconds"], found["truncated"]) == (120, 6.0, 1 / 12)


@pytest.mark.parametrize(
    ("samples", "share"),
    [
        ([RIGHT, WRONG], 0.5),  # a tie of two
        ([RIGHT, WRONG, ("wrong", "4")], 1 / 3),  # of three
        ([("wrong", "1/2"), ("wrong", "0.5"), ("correct", "2"), ("correct", "4/2"), ("correct", "2.0")], 1.0),
        ([("wrong", "1/2"), ("wrong", "0.50"), ("wrong", "\\frac12"), RIGHT, RIGHT], 0.0),  # one answer, three ways
        ([("wrong", "3"), ("wrong", "4"), ("no_answer", None), ("no_answer", None), RIGHT, RIGHT], 1.0),
        ([("no_answer", None)] * 3, 0.0),
        ([("no_answer", None), ("no_answer", None), RIGHT], 1.0),  # who says nothing does not vote
        ([("timeout", None), ("timeout", "9"), ("timeout", "9"), RIGHT], 1.0),  # nor does what was not graded
    ],
)
def test_the_vote(samples: list[tuple[str, str | None]], share: float) -> None:
    assert next(iter(tallies(completions(samples)).values())).majority() == pytest.approx(share)


def test_the_vote_compares_letters_and_whole_numbers_as_such() -> None:
    letters = [("wrong", "C"), ("wrong", "(C)"), ("wrong", "\\text{C}"), ("correct", "B"), ("correct", "B) five")]
    assert next(iter(tallies(completions(letters, kind="choice")).values())).majority() == 0.0
    numbers = [("wrong", "033"), ("wrong", "33"), RIGHT]
    assert next(iter(tallies(completions(numbers, kind="integer")).values())).majority() == 0.0


def test_programs_do_not_vote() -> None:
    found = figures(completions([("correct", "def f(): 1"), ("wrong", "def f(): 2")], kind=None), 2)
    assert found["majority"] is None and found["pass"]["2"]["mean"] == 1.0


def test_what_was_not_graded_is_left_out() -> None:
    records = completions([RIGHT, ("infra_error", None)], [WRONG, WRONG], [("infra_error", None)] * 2)
    found = figures(records, 2)
    assert found["scores"] == [1.0, 0.0, None] and found["problems"] == 2 and found["ungraded"] == 3
    assert found["pass"]["2"]["problems"] == 1  # only the second has two graded samples
    with pytest.raises(InputError, match="could not be graded"):
        figures(completions([("infra_error", None)]), 1)


def test_tiers_are_in_order() -> None:
    records = [
        *completions([RIGHT], tier="10"),
        *({**each, "problem": 1, "key": "b"} for each in completions([WRONG], tier="9")),
        *({**each, "problem": 2, "key": "c"} for each in completions([WRONG], tier="geometry")),
    ]
    tiers = figures(records, 1)["tiers"]
    assert list(tiers) == ["9", "10", "geometry"] and tiers["10"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("samples", "counts"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_reported_k(samples: int, counts: list[int]) -> None:
    assert counts_of(samples) == counts


def test_paired_difference_by_hand() -> None:
    first = completions([RIGHT, WRONG], [WRONG, WRONG], [RIGHT, RIGHT], [WRONG, WRONG])
    second = completions([RIGHT, RIGHT], [RIGHT, WRONG], [RIGHT, WRONG], [RIGHT, RIGHT])
    second.reverse()  # the order of the lines says nothing
    found = compare(first, second, 2)
    assert (found["accuracy"]["first"], found["accuracy"]["second"]) == (0.375, 0.75)
    expected = difference_interval([0.5, 0.0, 1.0, 0.0], [1.0, 0.5, 0.5, 1.0])
    assert found["accuracy"]["mean"] == 0.375
    assert found["accuracy"]["interval"] == (expected.low, expected.high)
    assert found["accuracy"]["p_value"] == expected.p_value
    assert found["pass"]["2"]["mean"] == pytest.approx(0.5)  # two problems more have a right sample
    assert found["majority"]["mean"] == pytest.approx((0.5 + 0.5 - 0.5 + 1) / 4)


def test_problems_that_one_could_not_be_graded_on_leave_the_pair() -> None:
    found = compare(completions([RIGHT], [WRONG], [RIGHT]), completions([RIGHT], [("infra_error", None)], [WRONG]), 1)
    assert found["left_out"] == 1 and found["accuracy"]["problems"] == 2
    assert found["accuracy"]["mean"] == -0.5


def test_other_problems_are_refused() -> None:
    with pytest.raises(InputError, match="has 1 problems that the first has not, and lacks 0 of its"):
        compare(completions([RIGHT]), completions([RIGHT], [WRONG]), 1)


def test_equal_problems_are_told_apart() -> None:
    twice = [{**each, "key": "same"} for each in completions([RIGHT], [WRONG])]
    assert len(tallies(twice)) == 2 and compare(twice, twice, 1)["accuracy"]["problems"] == 2
