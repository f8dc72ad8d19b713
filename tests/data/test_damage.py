"""Damaged traces: what is wrong in them, and what stays right."""

from __future__ import annotations

import re
from typing import Any

import pytest

from guided_grpo.data.domains.chains import chains
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.guidance.placement import answer_text

STEP = re.compile(r"([-+*])(\d)=(\d);")
SPEC = "chains:steps=10-14,count=400,seed=1"


def follow(prompt: str, trace: str) -> list[tuple[int, bool]]:
    """Of each step the written value, and whether it follows from the value written before it."""
    value, steps = int(prompt[0]), []
    for op, operand, shown in STEP.findall(trace):
        right = eval(f"({value}{op}{operand}) % 10")
        steps.append((int(shown), right == int(shown)))
        value = int(shown)
    return steps


def test_wrong_traces_have_one_wrong_step_and_its_answer() -> None:
    clean, rows = list(chains(400, 10, 14, 1)), load_rows(f"{SPEC},wrong=40")
    damaged = 0
    for before, after in zip(clean, rows, strict=True):
        assert (after["prompt"], after["answer"]) == (before["prompt"], before["answer"])
        steps = follow(after["prompt"], after["guidance"])
        wrong = [place for place, (_, follows) in enumerate(steps) if not follows]
        assert after["trace_answer"] == "".join(str(value) for value, _ in steps[-3:])
        assert len(wrong) == (after["guidance"] != before["guidance"])
        damaged += len(wrong)
    assert 130 < damaged < 190  # 160 of 400


def test_slips_go_on_from_the_right_value() -> None:
    clean, rows = list(chains(400, 10, 14, 1)), load_rows(f"{SPEC},slip=100")
    for before, after in zip(clean, rows, strict=True):
        pairs = list(zip(STEP.findall(before["guidance"]), STEP.findall(after["guidance"]), strict=True))
        assert sum(a != b for a, b in pairs) == 1
        assert after["trace_answer"] == after["answer"]


def test_traces_are_cut_between_steps_and_some_problems_have_none() -> None:
    clean, rows = list(chains(400, 10, 14, 1)), load_rows(f"{SPEC},cut=30-60,traces=64")
    shares = []
    for number, (before, after) in enumerate(zip(clean, rows, strict=True)):
        if number >= 64:
            assert after["guidance"] is None
            continue
        assert before["guidance"].startswith(after["guidance"]) and after["guidance"].endswith(";")
        shares.append(after["guidance"].count(";") / before["guidance"].count(";"))
    assert min(shares) < 0.4 and 0.5 < max(shares) <= 0.65


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("chains:steps=12,count=4,style=odd", "field 'style': 'odd' is no style; fix: use own or renamed or ahead"),
        ("programs:steps=12,count=4,wrong=40", "has no such traces in programs"),
        ("chains:steps=12,count=4,cut=60-30", "field 'cut': '30' .* at least 60"),
        ("chains:steps=12,count=4,wrong=half", "field 'wrong': 'half' is no such whole number"),
    ],
)
def test_damage_that_makes_no_sense(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_rows(source)


def test_answer_text_takes_any_column() -> None:
    row: dict[str, Any] = {"answer": "7", "trace_answer": "8", "note": None}
    assert answer_text("#### {trace_answer} ({answer}){note}", row) == "#### 8 (7)"


def test_merged_steps_keep_their_operations_and_the_last_value() -> None:
    plain, merged, whole = (
        next(iter(load_rows(f"chains:steps=5,count=1,seed=3{how}"))) for how in ("", ",merge=2", ",merge=9")
    )
    steps = re.findall(r"([-+*]\d)=(\d);", plain["guidance"])
    (a, _), (b, second), (c, _), (d, fourth), (e, fifth) = steps
    assert merged["guidance"] == f"{a}{b}={second};{c}{d}={fourth};{e}={fifth};"
    assert whole["guidance"] == f"{a}{b}{c}{d}{e}={fifth};"
    assert merged["answer"] == plain["answer"]


def test_values_ahead_are_the_same_steps_the_other_way_round() -> None:
    plain, ahead = (next(iter(load_rows(f"chains:steps=5,count=1,seed=3{how}"))) for how in ("", ",style=ahead"))
    pairs = zip(plain["guidance"].split(";"), ahead["guidance"].split(";"), strict=True)
    assert all(one.split("=")[::-1] == other.split("=") for one, other in pairs)
    assert (ahead["prompt"], ahead["answer"]) == (plain["prompt"], plain["answer"])


def test_renamed_traces_are_another_alphabet_in_the_same_places() -> None:
    plain, renamed = (next(iter(load_rows(f"chains:steps=5,count=1,seed=3{how}"))) for how in ("", ",style=renamed"))
    table = dict(zip(plain["guidance"], renamed["guidance"], strict=True))
    assert "".join(table[character] for character in plain["guidance"]) == renamed["guidance"]
    assert all(new != old or old in "=;" for old, new in table.items())
    assert renamed["prompt"] == plain["prompt"]
