"""From every kind of source to rows, and one line of complaint for everything a user can get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from guided_grpo.data.preparing.curate import Curator
from guided_grpo.data.preparing.recipe import make_recipe
from guided_grpo.data.reading.readers import READERS
from guided_grpo.data.reading.streams import items
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from schemas import MATH220K, samples

GOOD = {"prompt": "4+3=", "answer": "7", "guidance": "Add them: 4+3 = 7.", "difficulty": 1}


def write(path: Path, *lines: Any) -> str:
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines))
    return str(path)


def test_generator() -> None:
    rows = load_rows("chains:steps=10-14,count=64,seed=1")
    assert rows.num_rows == 64
    assert set(rows["difficulty"]) == {10, 11, 12, 13, 14}
    assert rows["guidance_limit"] == [len(trace) for trace in rows["guidance"]]
    assert rows[:5] == load_rows("chains: steps=10-14, seed=1, count=64", limit=5)[:]
    assert rows["prompt"][:64] != load_rows("chains:steps=10-14,count=64,seed=2")["prompt"][:64]
    assert set(load_rows("chains:steps=12,count=8")["difficulty"]) == {12}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("chains:steps=12,count=8,noise=1", r"'noise=1' is no setting of chains"),
        ("chains:steps=12,count=8,count=9", r"'count=9' is no setting of chains, or stands twice"),
        ("chains:steps=12", r"lacks count; fix: write chains:steps=10-14,count=640,seed=1"),
        ("chains:", r"is no setting"),
        ("chains", r"is no setting"),
        ("chains:steps=12,count=many", r"field 'count': 'many' is no such whole number"),
        ("chains:steps=12,count=0", r"field 'count': '0' .* at least 1"),
        ("chains:steps=12,count=8.0", r"field 'count'"),
        ("chains:steps=2-5,count=8", r"field 'steps': '2' .* at least 3"),
        ("chains:steps=9-5,count=8", r"field 'steps': '5' .* at least 9"),
        ("chains:steps=5-,count=8", r"field 'steps': ''"),
        ("programs:steps=5", r"lacks count; fix: write programs:steps=10-14,count=640,seed=1"),
        ("programs:steps=0-5,count=8", r"field 'steps': '0' .* at least 1"),
        ("programs:steps=5,count=8,noise=1", r"'noise=1' is no setting of programs"),
    ],
)
def test_generator_mistakes(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_rows(source)


def test_json_lines_keep_every_column_and_rows_without_a_trace(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl",
        {**GOOD, "source": "mine"},
        b"",
        {"prompt": "1+1=", "answer": 2, "guidance": None, "difficulty": None},
        {"prompt": "1+2=", "answer": "3", "guidance": "  ", "weight": 0.5},
    )
    rows = load_rows(source)
    assert rows["answer"] == ["7", "2", "3"]
    assert rows["guidance"] == [GOOD["guidance"], None, None]
    assert rows["guidance_limit"] == [len("Add them: 4+3 ="), 0, 0]
    assert rows["difficulty"] == [1, None, None]
    assert rows["source"] == ["mine", None, None]
    assert rows["weight"] == [None, None, 0.5]
    assert rows["task"] == ["math"] * 3
    assert load_rows(source, limit=2).num_rows == 2


def test_numbers_in_answers_keep_their_digits(tmp_path: Path) -> None:
    lines = [b'{"prompt": "a", "answer": 123456789012345678901234567890}',
             b'{"prompt": "b", "answer": 12345678901234567890.125}', b'{"prompt": "c", "answer": 27.0}']  # fmt: skip
    rows = load_rows(write(tmp_path / "a.jsonl", *lines))
    assert rows["answer"] == ["123456789012345678901234567890", "12345678901234567890.125", "27.0"]
    assert "difficulty" not in rows.column_names


def test_chat_prompts_and_tiers_pass_through(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "4+3="}]
    rows = load_rows(write(tmp_path / "a.json", {**GOOD, "prompt": chat, "difficulty": "olympiads"}))
    assert rows[0]["prompt"] == chat
    assert rows[0]["difficulty"] == "olympiads"


def test_mapping_renames_and_keeps_what_it_displaces(tmp_path: Path) -> None:
    record = {"problem": "4+3=", "solution": "4+3 = 7.", "final": "7", "answer": "long text, see the solution above"}
    source = write(tmp_path / "a.jsonl", record)
    rows = load_rows(source, mapping={"prompt": "problem", "guidance": "solution", "answer": "final"})
    assert rows[0] == {
        "prompt": "4+3=",
        "answer": "7",
        "guidance": "4+3 = 7.",
        "guidance_limit": 5,
        "task": "math",
        "original_answer": "long text, see the solution above",
    }
    with pytest.raises(InputError, match=r"a.jsonl:1: field 'prompt': 'question' is not a column .* problem, solution"):
        load_rows(source, mapping={"prompt": "question"})


def test_gsm8k_is_detected_by_its_form_alone(tmp_path: Path) -> None:
    record = {"question": "How many?", "answer": "4+3 = <<4+3=7>>7\n#### 7"}
    source = write(tmp_path / "a.jsonl", record)
    assert load_rows(source)["answer"] == ["7"]
    assert load_rows(source, reader="gsm8k")["guidance"] == ["4+3 = 7"]
    with pytest.raises(InputError, match=r"field 'prompt': is missing; the columns are question, answer"):
        load_rows(source, reader="plain")
    with pytest.raises(InputError, match=r"field 'prompt': is missing"):
        load_rows(write(tmp_path / "b.jsonl", {**record, "id": 1}))
    with pytest.raises(InputError, match=rf"'gsm9k' is no reader; fix: choose from {', '.join(READERS)}"):
        load_rows(source, reader="gsm9k")


def test_commands_without_a_mapping_read_gsm8k_as_it_is(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"question": "How many?", "answer": "4+3 = <<4+3=7>>7\n#### 7"})
    assert load_rows(source, mapping={})[:] == load_rows(source)[:]  # what eval and audit pass where --map is not used


@pytest.mark.parametrize("name", sorted(samples()))
def test_a_file_of_any_schema_loads_as_data_prepare_reads_it(name: str, tmp_path: Path) -> None:
    """One table of readers: the same problem, gold, tests and trace as a recipe that grades nothing."""
    source = write(tmp_path / "a.jsonl", samples()[name])
    recipe = make_recipe({"source": source, "verify": "off", "require_trace": False, "drop_bare": False})
    [outcome] = Curator(recipe).run(items(source))
    assert outcome.row is not None
    [row] = load_rows(source)
    assert row == load_rows(source, reader=name)[0]
    for column in ("prompt", "answer", "tests", "guidance", "guidance_limit", "task", "entry_point", "source"):
        assert row.get(column) == outcome.row.get(column), column
    assert row.get("difficulty") == outcome.row["difficulty"]
    own = write(tmp_path / "own.jsonl", {**samples()[name], "success_rate": 0.25})
    assert load_rows(own, reader=name)["success_rate"] == [0.25]  # a column that the schema does not have


def test_of_several_traces_the_first_complete_one_is_taken_ungraded(tmp_path: Path) -> None:
    record = {**MATH220K, "is_reasoning_complete": [False, True, True]}
    [row] = load_rows(write(tmp_path / "a.jsonl", record))
    assert row["guidance"] == "One, two.\n</think>\n\n\\boxed{2}"  # the second never closes its thought
    [row] = load_rows(write(tmp_path / "b.jsonl", MATH220K))
    assert row["guidance"] == "I add.\n</think>\n\n\\boxed{3}"  # wrong: loading grades nothing
    assert "generations" not in row and row["difficulty"] == "olympiads"


def test_a_record_that_its_reader_rejects_stops_the_load_in_one_line(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", MATH220K, {**MATH220K, "answer": "proof"})
    with pytest.raises(InputError, match=r"a.jsonl:2: the answer is 'proof'; fix: .*math220k.*data prepare") as caught:
        load_rows(source)
    assert "\n" not in str(caught.value)


def test_line_separators_and_carriage_returns_do_not_count_as_lines(tmp_path: Path) -> None:
    good = json.dumps({**GOOD, "guidance": "one\u2028two"}, ensure_ascii=False).encode() + b"\r"
    source = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + good, good, {"prompt": "x"})
    with pytest.raises(InputError, match=r"a.jsonl:3: field 'answer'"):
        load_rows(source)
    assert load_rows(source, limit=2).num_rows == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "4+3="}, r"a.jsonl:2: field 'answer': is missing; the columns are prompt; fix: "),
        (b'{"prompt": "4+', r"a.jsonl:2: is not JSON"),
        (b"[" * 100_000, r"a.jsonl:2: is not JSON"),
        (b'{"prompt": "\xff"}', r"a.jsonl:2: is not UTF-8"),
        ([1, 2], r"a.jsonl:2: is list, not an object"),
        (
            {**GOOD, "answer": "We leave this to the reader, it is easy"},
            r"a.jsonl:2: field 'answer': 'We leave.* graded",
        ),
        ({**GOOD, "answer": "\x0crac{1}{2}"}, r"a.jsonl:2: field 'answer': .* control character"),
        ({**GOOD, "answer": None}, r"a.jsonl:2: field 'answer': is no answer"),
        ({**GOOD, "answer": True}, r"a.jsonl:2: field 'answer': True is no answer"),
        ({**GOOD, "prompt": 7}, r"a.jsonl:2: field 'prompt': 7 is no prompt"),
        ({**GOOD, "prompt": " "}, r"a.jsonl:2: field 'prompt'"),
        ({**GOOD, "prompt": ["4+3="]}, r"a.jsonl:2: field 'prompt': '4\+3=' is no chat message"),
        ({**GOOD, "prompt": [{"role": "assistant", "content": "7"}]}, r"'assistant' is the role of the last message"),
        ({**GOOD, "prompt": [{"role": "user", "content": "4+3="}]}, r"a.jsonl:2: .* is a list, the first was a str"),
        ({**GOOD, "guidance": 7}, r"a.jsonl:2: field 'guidance': 7 is no trace"),
        ({**GOOD, "difficulty": [1]}, r"a.jsonl:2: field 'difficulty'"),
        ({**GOOD, "difficulty": "hard"}, r"a.jsonl: field 'difficulty': holds values of different types"),
        ({**GOOD, "task": "poetry"}, r"a.jsonl:2: field 'task': 'poetry' is no task"),
        ({**GOOD, "guidance_limit": -1}, r"a.jsonl:2: field 'guidance_limit': -1"),
    ],
)
def test_mistakes_in_a_record(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_rows(write(tmp_path / "a.jsonl", GOOD, line))
    assert "\n" not in str(caught.value)
    assert "; fix: " in str(caught.value)


def test_mistakes_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.jsonl: is not there; fix: "):
        load_rows(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(InputError, match=r"empty.jsonl: is empty"):
        load_rows(write(tmp_path / "empty.jsonl", b"", b"  "))
    with pytest.raises(InputError, match=r"notes.txt: is no format"):
        load_rows(write(tmp_path / "notes.txt", GOOD))
    with pytest.raises(InputError, match=r"bad.parquet: is no Parquet file"):
        load_rows(write(tmp_path / "bad.parquet", GOOD))
    source = write(tmp_path / "a.jsonl", {**GOOD, "guidance": None})
    assert load_rows(source).num_rows == 1
    with pytest.raises(InputError, match=r"field 'guidance': has no trace in any row.*fix: "):
        load_rows(source, require_guidance=True)
    with pytest.raises(InputError, match=r"field 'limit': 0 is below 1"):
        load_rows(source, limit=0)


def test_parquet_folders_and_saved_data_sets_give_the_same_rows(tmp_path: Path) -> None:
    records = [GOOD, {**GOOD, "prompt": "1+1=", "answer": "2", "guidance": None}]
    expected = load_rows(write(tmp_path / "a.jsonl", *records))[:]
    data = datasets.Dataset.from_list(records)
    data.to_parquet(tmp_path / "a.parquet")
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "dict")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "train.jsonl", *records)
    assert load_rows(str(tmp_path / "a.parquet"))[:] == expected
    assert load_rows(str(tmp_path / "saved"))[:] == expected
    assert load_rows(str(tmp_path / "dict"), split="test")[:] == expected
    assert load_rows(str(tmp_path / "folder"))[:] == expected
    with pytest.raises(InputError, match=r"field 'split': 'train' is no split; fix: use one of test"):
        load_rows(str(tmp_path / "dict"))


def test_a_data_set_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/no-such-data: cannot be loaded \(.*fix: check the id") as caught:
        load_rows(str(tmp_path / "nowhere/no-such-data"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^no-such-owner/no-such-data: cannot be loaded \(.*fix: check the id"):
        load_rows("no-such-owner/no-such-data")


def test_code_rows_need_tests_instead_of_an_answer(tmp_path: Path) -> None:
    rows = load_rows(write(tmp_path / "a.jsonl", {"prompt": "Write f.", "tests": ["assert f(1) == 2"]}))
    assert rows[0]["task"] == "code"
    assert rows[0]["answer"] is None
    with pytest.raises(InputError, match=r"field 'tests': is missing"):
        load_rows(write(tmp_path / "b.jsonl", {**GOOD, "task": "code"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": ["x = 1"]}, r":2: field 'tests': hold no test|:2: field 'tests': "),
        ({"tests": "def check(c):\n    assert c(1) == 2"}, "or no entry point is given"),
        ({"tests": ["assert f(1) == 2"], "setup": 5}, "field 'setup': 5 is no text"),
        ({"answer": "B or C", "answer_kind": "choice"}, "is no single letter of a choice, such as B; fix: correct it"),
        (
            {"answer": "5", "answer_kind": "essay"},
            "field 'answer_kind': 'essay' is no kind of answer; fix: use one of math",
        ),
    ],
)
def test_what_cannot_grade_is_said_when_data_is_loaded(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    good = {"prompt": "?", "answer": "5"} if "answer" in change else {"prompt": "?", "tests": ["assert f(1) == 2"]}
    data.write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, **change})))
    with pytest.raises(InputError, match=message) as caught:
        load_rows(str(data))
    assert f"{data}:2: " in str(caught.value)
