"""The GSM8K reader: the traps of the format by hand, and both files whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from guided_grpo.data.reading.readers import GSM8K_INSTRUCTION as INSTRUCTION
from guided_grpo.data.sources import load_rows, read_row
from guided_grpo.errors import InputError

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
needs_gsm8k = pytest.mark.skipif(not GSM8K.is_dir(), reason=f"the GSM8K fixtures are not at {GSM8K}")


def read(answer: str, **more: object) -> dict[str, object]:
    return read_row("gsm8k", {"question": "How many?", "answer": answer, **more}, file="g.jsonl", line=4)


def test_a_record() -> None:
    row = read("Half of 48 is 48/2 = <<48/2=24>>24.\n\nIn all 48+24 = <<48+24=72>>72 clips.\n#### 72", id=9)
    assert row == {
        "prompt": [{"role": "user", "content": f"How many?\n{INSTRUCTION}"}],
        "answer": "72",
        "guidance": "Half of 48 is 48/2 = 24.\n\nIn all 48+24 = 72 clips.",
        "difficulty": 2,
        "task": "math",
        "id": 9,
    }
    assert "####" in INSTRUCTION


@pytest.mark.parametrize(
    ("written", "answer"),
    [("1,450,000", "1450000"), ("-10", "-10"), ("\u221210", "-10"), ("\u00a05\u200b", "5"), ("2.50", "2.50")],
)
def test_answers_are_normalised_and_signs_kept(written: str, answer: str) -> None:
    assert read(f"One step.\n#### {written}")["answer"] == answer


def test_a_line_separator_inside_a_step_is_no_new_step() -> None:
    assert read("One\u2028step.\nTwo.\n#### 1")["difficulty"] == 2


def test_an_answer_without_steps_has_no_trace() -> None:
    row = read("#### 5")
    assert row["guidance"] is None
    assert row["difficulty"] == 0


@pytest.mark.parametrize("answer", ["72", "#### 7\n#### 8"])
def test_exactly_one_mark(answer: str) -> None:
    with pytest.raises(InputError, match=r"^g.jsonl:4: field 'answer'.*times; fix: "):
        read(answer)


def test_a_question_that_is_no_text() -> None:
    with pytest.raises(InputError, match=r"^g.jsonl:4: field 'question': 7 is not a text; fix: "):
        read_row("gsm8k", {"question": 7, "answer": "#### 5"}, file="g.jsonl", line=4)


@needs_gsm8k
@pytest.mark.parametrize(
    ("name", "count", "negative", "steps"),
    [
        ("train", 7473, 3, {2: 1961, 3: 2149, 4: 1659, 5: 955, 6: 419, 7: 227, 8: 90, 9: 13}),
        ("test", 1319, 2, {2: 326, 3: 371, 4: 297, 5: 175, 6: 87, 7: 40, 8: 20, 9: 2, 11: 1}),
    ],
)
def test_both_files_load_whole(name: str, count: int, negative: int, steps: dict[int, int]) -> None:
    rows = load_rows(str(GSM8K / f"{name}.jsonl"), require_guidance=True)
    assert rows.num_rows == count
    assert set(rows.column_names) == {"prompt", "answer", "guidance", "guidance_limit", "difficulty", "task"}
    assert all(str(int(answer)) == answer for answer in rows["answer"])
    assert sum(answer.startswith("-") for answer in rows["answer"]) == negative
    assert Counter(rows["difficulty"]) == steps
    assert not any("<<" in trace or ">>" in trace or "####" in trace for trace in rows["guidance"])
    assert all(0 < limit <= len(trace) for limit, trace in zip(rows["guidance_limit"], rows["guidance"], strict=True))


@needs_gsm8k
def test_the_last_step_that_is_handed_over_does_not_state_the_answer() -> None:
    """By plain splitting of the last line, independent of the patterns that made the cut."""
    rows = load_rows(str(GSM8K / "test.jsonl"))
    stated = []
    for row in rows:
        given = row["guidance"][: row["guidance_limit"]]
        last = given.split("\n")[-1].replace(",", "")
        numbers = [word.strip(".") for word in "".join(c if c.isdigit() or c == "." else " " for c in last).split()]
        if row["guidance_limit"] < len(row["guidance"]) and row["answer"].lstrip("-") in numbers:
            stated.append(row["answer"])
    # Negative answers: "10 - 20" before "= -10" holds the digits, not the answer.
    assert all(answer.startswith("-") for answer in stated)
