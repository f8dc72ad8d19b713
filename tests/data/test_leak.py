"""How much of a trace is safe: hand-cut traces, and what must not be cut."""

from __future__ import annotations

import pytest

from guided_grpo.data.domains.chains import chains
from guided_grpo.data.leak import safe_length


@pytest.mark.parametrize(
    ("trace", "answer", "kept"),
    [
        ("48/2 = 24.\n48+24 = 72 clips in all.", "72", "48/2 = 24.\n48+24 ="),
        ("She makes 9 * 2 = $18 a day.", "18", "She makes 9 * 2 ="),
        ("Sum: 1,200+34 = 1,234 dollars", "1234", "Sum: 1,200+34 ="),
        ("Sum: 1200+34 = 1234 dollars", "1,234", "Sum: 1200+34 ="),
        (r"so $10,\!000$ it is", "10000", "so"),
        ("so 20 - 30 = \u221210 degrees", "-10", "so 20 - 30 ="),
        ("so 36/2 = 18.00 it is", "18", "so 36/2 ="),
        ("a can is .50-.25 = $0.25 dearer", "25", "a can is .50-"),
        (
            "so 180 and 118 and 18.5 and 1,180 and 18,000 stay",
            "18",
            "so 180 and 118 and 18.5 and 1,180 and 18,000 stay",
        ),
        ("First 9.\nThe answer is 9.", "9", "First"),
        ("First 9.\nThen 4.\nThe answer is 9.", "9", "First 9.\nThen 4."),
        ("First 9.\nThen 5+4.\n#### 9", "9", "First 9.\nThen 5+4."),
        ("Try \\boxed{4}: no.\nThen 5+4.\nSo $\\boxed{9}$.", "9", "Try \\boxed{4}: no.\nThen 5+4.\nSo"),
        ("Then x.\n**Final Answer**\n\n\\boxed{9}", "9", "Then x."),
        ("Then **x**: \\boxed{9}", "9", "Then **x**:"),
        ("Then x.\n### Answer\nSo 9.", "9", "Then x."),
        ("Then x.\n**Answer:** 9", "9", "Then x."),
        ("Half.\n\\boxed{0.5}", r"\frac{1}{2}", "Half."),
        (r"so it is \dfrac{1}{2} of it", r"\frac{1}{2}", "so it is"),
        ("so it is 1/2 of it", r"\frac{1}{2}", "so it is"),
        ("then (x + 1)^2 follows", "(x+1)^2", "then"),
        ("hence it is even", "even", "hence it is"),
        ("an eventful sum", "even", "an eventful sum"),
        ("<think>Then 5+4.</think>\nFirst 5.\nThen 9.\nGood.", "9", "<think>Then 5+4."),
        ("He ate 3 + 32 = 35 snails in\nall those days.", "35", "He ate 3 + 32 ="),
        ("9 is it", "9", ""),
        ("\\boxed{9}", "9", ""),
        ("nothing here \n", "9", "nothing here"),
        ("   \n", "9", ""),
        ("", "9", ""),
        ("no answer known </think> x", "", "no answer known"),
    ],
)
def test_cut(trace: str, answer: str, kept: str) -> None:
    assert trace[: safe_length(trace, answer)] == kept


def test_the_answer_as_an_intermediate_value_stays() -> None:
    trace = "He has 18 apples.\n18 + 2 = 20 with his sister's.\n20 - 2 = 18 remain."
    assert trace[: safe_length(trace, "18")] == "He has 18 apples.\n18 + 2 = 20 with his sister's.\n20 - 2 ="


def test_chains_are_never_cut() -> None:
    rows = list(chains(2_000, 3, 12, seed=5))
    assert any(row["answer"].startswith("0") for row in rows)  # leading zeros are where a number could be misread
    for row in rows:
        assert safe_length(str(row["guidance"]), row["answer"]) == len(str(row["guidance"])), row
