"""Benchmarks by name: the published files that are here, and small records of the other schemas, graded."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guided_grpo.data.preparing.overlap import load_benchmarks
from guided_grpo.data.reading.benchmarks import BENCHMARKS, load_benchmark
from guided_grpo.errors import InputError
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.types import Status
from sandbox_places import place

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PUBLISHED = {"gsm8k": "gsm8k/test.jsonl", "humaneval": "humaneval/HumanEval.jsonl.gz", "mbpp": "mbpp/mbpp.jsonl"}


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


def written(folder: Path, *records: dict[str, Any]) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def statuses(grader: Grader, row: dict[str, Any], *responses: str) -> list[Status]:
    return [verdict.status for verdict in grader.grade([Submission(text, row) for text in responses]) if verdict]


def published(name: str) -> list[dict[str, Any]]:
    path = SHARED / PUBLISHED[name]
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_stand_in_for_the_hub(name: str) -> None:
    published(name)
    loaded = load_benchmark(name, str(SHARED / PUBLISHED[name]))
    assert len(loaded.rows) == BENCHMARKS[name].problems and loaded.skipped == {}
    assert all("guidance" not in row for row in loaded.rows)
    assert len({row["prompt"] for row in loaded.rows}) == len(loaded.rows)


def test_gsm8k_golds_are_right_and_solutions_are_not_shown(grader: Grader) -> None:
    records = published("gsm8k")[:100]
    rows = load_benchmark("gsm8k", str(SHARED / PUBLISHED["gsm8k"]), limit=100).rows
    for record, row in zip(records, rows, strict=True):
        assert statuses(grader, row, record["answer"], "#### 123456789") == [Status.CORRECT, Status.WRONG]
        assert row["prompt"].startswith(record["question"]) and "<<" not in row["prompt"]


def test_code_references_pass_and_empty_answers_fail(grader: Grader) -> None:
    with place("A"):  # skips with its reason where there is none
        pass
    humaneval, mbpp = published("humaneval")[:15], [r for r in published("mbpp") if 11 <= r["task_id"] <= 25]
    programs = [f"```python\n{r['prompt']}{r['canonical_solution']}\n```" for r in humaneval]
    programs += [f"```python\n{r['code']}\n```" for r in mbpp]
    rows = [
        row
        for name in ("humaneval", "mbpp")
        for row in load_benchmark(name, str(SHARED / PUBLISHED[name]), limit=15).rows
    ]
    verdicts = grader.grade([Submission(text, row) for text, row in zip(programs, rows, strict=True)])
    assert [verdict.status for verdict in verdicts if verdict] == [Status.CORRECT] * 30
    verdicts = grader.grade([Submission("```python\npass\n```", row) for row in rows])
    assert [verdict.status for verdict in verdicts if verdict] == [Status.WRONG] * 30


def test_mbpp_is_its_test_split_with_all_its_tests_shown() -> None:
    records = {record["task_id"]: record for record in published("mbpp")}
    rows = load_benchmark("mbpp", str(SHARED / PUBLISHED["mbpp"])).rows
    assert rows[0]["prompt"].startswith(records[11]["text"]) and rows[-1]["prompt"].startswith(records[510]["text"])
    assert all(test in rows[0]["prompt"] for test in records[11]["test_list"])
    assert rows[0]["tests"] == records[11]["test_list"]


MATHS: dict[str, tuple[dict[str, Any], str, str]] = {  # benchmark → record, a right answer, a wrong one
    "math500": (
        {"problem": "Convert $(0,3)$ to polar coordinates.", "solution": "… \\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.",
         "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "subject": "Precalculus", "level": 2, "unique_id": "test/x/8.json"},
        "(3, \\pi/2)", "(\\pi/2, 3)",
    ),
    "minerva": ({"question": "Luminosity in erg/s?", "answer": "4.5e33"}, "4.5 \\times 10^{33}", "4.5 \\times 10^{32}"),
    "olympiadbench": (
        {"id": 1709, "question": "Find all values.", "context": None, "final_answer": ["$\\frac{1}{2}$", "$2$"],
         "solution": ["…"], "is_multiple_answer": True, "answer_type": "Numerical", "unit": None, "error": None, "subfield": "Algebra"},
        "2, 0.5", "2",
    ),
    "amc23": ({"id": 0, "question": "How many hours?", "answer": 27.0, "url": "…"}, "27", "2.7"),
    "aime24": ({"id": 60, "problem": "Find the time.", "solution": "\\boxed{033}", "url": "…"}, "33", "330"),
    "aime25": ({"problem": "Find the sum.", "answer": "336^\\circ", "id": "1"}, "336", "36"),
}  # fmt: skip


@pytest.mark.parametrize("name", MATHS)
def test_maths_schemas(name: str, tmp_path: Path, grader: Grader) -> None:
    record, right, wrong = MATHS[name]
    loaded = load_benchmark(name, written(tmp_path, record))
    [row] = loaded.rows
    assert row["prompt"].startswith(record.get("problem") or record["question"])
    assert "\\boxed" in row["prompt"] and "\\boxed{0" not in row["prompt"]
    assert statuses(grader, row, f"\\boxed{{{right}}}", f"\\boxed{{{wrong}}}") == [Status.CORRECT, Status.WRONG]


def test_tiers() -> None:
    math500, olympiad = MATHS["math500"][0], MATHS["olympiadbench"][0]
    assert BENCHMARKS["math500"].read(math500, 0)["difficulty"] == 2  # type: ignore[index]
    assert BENCHMARKS["olympiadbench"].read(olympiad, 0)["difficulty"] == "Algebra"  # type: ignore[index]


def test_aime_takes_whole_numbers_alone(tmp_path: Path, grader: Grader) -> None:
    [row] = load_benchmark("aime24", written(tmp_path, {"problem": "?", "answer": "073"})).rows
    found = statuses(grader, row, "\\boxed{73}", "\\boxed{146/2}", "\\boxed{73 \\text{ or } 74}", "73")
    assert found == [Status.CORRECT, Status.UNPARSEABLE, Status.UNPARSEABLE, Status.NO_ANSWER]


def test_eaten_escapes_are_put_back(tmp_path: Path) -> None:
    eaten = (
        "Let \frac{a}{b} \times 2 and \\sqrt{3}; \theta = 5^\\circ.\nThe next line."  # \f and \t as a parser left them
    )
    [row] = load_benchmark("aime25", written(tmp_path, {"problem": eaten, "answer": "70", "id": "0"})).rows
    assert row["prompt"].startswith("Let \\frac{a}{b} \\times 2 and \\sqrt{3}; \\theta = 5^\\circ.\nThe next line.")


GPQA = {
    "Question": "Which particle?", "Correct Answer": "muon", "Incorrect Answer 1": "pion", "Incorrect Answer 2": "kaon",
    "Incorrect Answer 3": "gluon", "Explanation": "…", "High-level domain": "Physics",
}  # fmt: skip


def test_gpqa_options_are_shuffled_the_same_way_every_time(tmp_path: Path, grader: Grader) -> None:
    records = [{**GPQA, "Question": f"Which particle, {number}?"} for number in range(40)]
    source = written(tmp_path, *records)
    rows = load_benchmark("gpqa", source).rows
    assert load_benchmark("gpqa", source, limit=3).rows == rows[:3]
    assert {row["answer"] for row in rows} == set("ABCD")
    for row in rows:
        assert f"{row['answer']}) muon" in row["prompt"] and row["difficulty"] == "Physics"
        other = next(letter for letter in "ABCD" if letter != row["answer"])
        right, wrong = f"\\boxed{{{row['answer']}}}", f"\\boxed{{\\text{{({other})}}}}"
        assert statuses(grader, row, right, wrong) == [Status.CORRECT, Status.WRONG]
    assert load_benchmark("gpqa", source, seed=1).rows != rows


def packed(cases: list[dict[str, str]]) -> str:
    """Hidden tests as LiveCodeBench publishes them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def lcb(public: list[dict[str, str]], hidden: str, name: str | None, starter: str = "") -> dict[str, Any]:
    return {
        "question_title": "Double", "question_content": "Double it.", "platform": "leetcode", "question_id": "1",
        "contest_id": "c", "contest_date": "2025-01-18T18:35:00", "starter_code": starter, "difficulty": "easy",
        "public_test_cases": json.dumps(public), "private_test_cases": hidden, "metadata": json.dumps({"func_name": name} if name else {}),
    }  # fmt: skip


def test_livecodebench_hidden_tests_count(tmp_path: Path, grader: Grader) -> None:
    with place("A"):
        pass
    starter = "class Solution:\n    def double(self, x: List[int], times: int) -> List[int]:\n        "
    calls = [{"input": "[1, 2]\n2", "output": "[2, 4]", "testtype": "functional"}]
    more = [{"input": "[5]\n3", "output": "[15]", "testtype": "functional"}]
    stdin = (
        [{"input": "3\n", "output": "6\n", "testtype": "stdin"}],
        [{"input": "10\n", "output": "20\n", "testtype": "stdin"}],
    )
    source = written(
        tmp_path,
        lcb(calls, packed(more), "double", starter),
        lcb(stdin[0], packed(stdin[1]), None),
        lcb(stdin[0], json.dumps(stdin[1]), None),
    )
    method, reader, plain = load_benchmark("livecodebench", source).rows
    assert (
        starter.strip() in method["prompt"] and "standard input" in reader["prompt"] and method["difficulty"] == "easy"
    )
    assert "[15]" not in method["prompt"]
    right = "class Solution:\n    def double(self, x, times):\n        return [each * times for each in x]"
    shown_only = "class Solution:\n    def double(self, x, times):\n        return [2, 4]"
    bare = "def double(x, times):\n    return [each * times for each in x]"
    found = statuses(grader, method, *(f"```python\n{code}\n```" for code in (right, shown_only, bare)))
    assert found == [Status.CORRECT, Status.WRONG, Status.CORRECT]
    for row in (reader, plain):
        found = statuses(grader, row, "```python\nprint(2 * int(input()))\n```", "```python\nprint(6)\n```")
        assert found == [Status.CORRECT, Status.WRONG]


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "attacked",))

    bomb = base64.b64encode(zlib.compress(pickle.dumps(Attack()))).decode()
    with pytest.raises(InputError, match="private_test_cases cannot be unpacked"):
        load_benchmark("livecodebench", written(tmp_path, lcb([{"input": "1", "output": "2"}], bomb, None)))
    assert not (tmp_path / "attacked").exists()


def test_records_that_cannot_be_graded_are_counted(tmp_path: Path) -> None:
    good = {"problem": "1+1?", "answer": "2"}
    source = written(
        tmp_path, good, {"problem": "?", "answer": "N/A"}, {"problem": "Prove it.", "solution": "By induction."}
    )
    loaded = load_benchmark("math500", source)
    assert len(loaded.rows) == 1 and loaded.skipped == {"bad-answer": 1, "no-answer": 1}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_data_of_another_schema_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"holds no problem of {name}") as caught:
        load_benchmark(name, written(tmp_path, {"text_of_it": "1+1?", "gold": "2"}))
    assert "\n" not in str(caught.value)


def test_bad_names_and_limits() -> None:
    with pytest.raises(InputError, match="'math50' is no benchmark; fix: choose from math500"):
        load_benchmark("math50")
    with pytest.raises(InputError, match="field 'limit': 0 is below 1"):
        load_benchmark("math500", "x.jsonl", limit=0)


def test_the_overlap_check_knows_the_same_names(tmp_path: Path) -> None:
    found = load_benchmarks(list(BENCHMARKS), skip_missing=True)  # the hub is off in tests
    assert set(found.skipped) == set(BENCHMARKS)
    assert all(BENCHMARKS[name].source in reason for name, reason in found.skipped.items())


def test_the_documented_table_is_the_registry() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()
    for name, entry in BENCHMARKS.items():
        [line] = [line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
        hub, _, subset = entry.source.partition(":")
        assert all(part in line for part in (hub, subset, entry.split, f"{entry.problems:,}", f"{entry.max_tokens:,}"))
        assert f"| {entry.samples} |" in line and entry.licence.split(",")[0].split(" (")[0] in line
