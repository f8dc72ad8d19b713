"""Curation: each reason by a record that has it, verdicts by the real verifiers, selection by hand-counted sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from guided_grpo.data.preparing.curate import BATCH, REASONS, Curator, RecordOutcome
from guided_grpo.data.preparing.overlap import Contamination
from guided_grpo.data.preparing.recipe import Recipe, make_recipe
from guided_grpo.data.preparing.traces import Graders, is_bare
from guided_grpo.data.reading.streams import Item
from guided_grpo.errors import InputError

SUM = {"problem": "What is 2+2?", "answer": "4", "solution": "Two and two are 2+2 = 4. The answer is \\boxed{4}."}


@contextmanager
def graders() -> Iterator[Graders]:
    made = Graders()
    try:
        yield made
    finally:
        made.close()


def curate(*records: Any, contamination: Contamination | None = None, **settings: Any) -> list[RecordOutcome]:
    recipe = make_recipe({"source": "x.jsonl", **settings})
    with graders() as made:
        curator = Curator(recipe, contamination, None, made)
        stream = [
            record if isinstance(record, Item) else Item("x.jsonl", number, record)
            for number, record in enumerate(records, 1)
        ]
        outcomes = list(curator.run(stream))
    rows = sum(outcome.row is not None for outcome in outcomes)
    assert curator.read == len(records) == rows + sum(curator.counts.values())
    assert all((outcome.row is None) == (outcome.reason in REASONS) for outcome in outcomes)
    return outcomes


def reasons(*records: Any, **settings: Any) -> list[str]:
    return [outcome.reason for outcome in curate(*records, **settings)]


def test_a_row() -> None:
    [outcome] = curate({**SUM, "source": "olympiads"}, keep=["source"])
    assert outcome.row == {
        "prompt": [
            {"role": "user", "content": "What is 2+2?\nReason step by step, and put the final answer in \\boxed{}."}
        ],
        "answer": "4",
        "guidance": SUM["solution"],
        "guidance_limit": len(
            "Two and two are 2+2 = 4. The answer is \\boxed{4}.".partition(" The answer")[0][:-3].rstrip()
        ),
        "guidance_share": round(outcome.row["guidance_limit"] / len(SUM["solution"]), 4),
        "difficulty": "olympiads",
        "task": "math",
        "source": "olympiads",
        "trace": "solution",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"solution": "So it is \\boxed{5}, since 2+2 = 5 in this case."}, "wrong-trace"),
        ({"solution": "Two and two are what they are, and so we get the sum."}, "unanswered-trace"),
        ({"solution": "$\\boxed{4}$"}, "bare-answer"),
        ({"solution": "The answer is 4."}, "bare-answer"),
        ({"solution": ""}, "no-trace"),
        ({"solution": "<think>\nTwo and two, hm"}, "incomplete-trace"),
        ({"answer": "\x0crac{1}{2}"}, "unparseable-gold"),
        ({"answer": "it depends on what you would like to have"}, "unparseable-gold"),
        ({"answer": " "}, "no-answer"),
        ({"problem": "Prove that 2+2=4."}, "proof"),
        ({"problem": 4}, "missing-field"),
    ],
)
def test_reasons(change: dict[str, Any], reason: str) -> None:
    assert reasons({**SUM, **change}, reader="math3to5") == [reason]


def test_symbolic_answers_are_graded_by_workers() -> None:
    record = {
        "problem": "Differentiate.",
        "answer": "2x+2",
        "solution": "By the rule we get the result \\boxed{2(x+1)} = f'.",
    }
    assert reasons(record) == [""]
    assert reasons({**record, "solution": "By the rule we get the result \\boxed{2(x+2)} = f'."}) == ["wrong-trace"]


def test_what_cannot_be_graded_is_never_called_wrong() -> None:
    record = {
        "problem": "Large?",
        "answer": "2",
        "solution": "By a long computation we see that it is \\boxed{9^{9^{9^9}}}.",
    }
    assert reasons(record) == ["ungraded-trace"]


def test_lenient_off_and_unguided() -> None:
    undeclared = {**SUM, "solution": "Two and two are what they are, and so we get the sum."}
    wrong = {**SUM, "problem": "And 1+3?", "solution": "It is clear that 1+3 = 5, so \\boxed{5}."}
    assert reasons(undeclared, wrong, verify="lenient") == ["", "wrong-trace"]
    assert reasons(undeclared, wrong, verify="off") == ["", ""]
    kept = curate(undeclared, wrong, require_trace=False)
    assert [outcome.row["guidance"] for outcome in kept if outcome.row] == [None, None]


def test_the_first_correct_the_shortest_correct_or_a_column() -> None:
    record = {
        "problem": "What is 2+2?",
        "answer": "4",
        "solution": "Adding two to two gives 4 by counting: \\boxed{4}",
        "source": "olympiads",
        "generations": [
            "<think>\nI do not know, say 5.\n</think>\n\\boxed{5}",
            "<think>\nLet me count slowly: one, two, three, four. It is four.\n</think>\n\\boxed{4}",
            "<think>\n2+2 is 4.\n</think>\n\\boxed{4}",
            "<think>\n4",
        ],
        "is_reasoning_complete": [True, True, True, False],
        "correctness_math_verify": [True, True, True, False],
    }

    def chosen(rule: str) -> str:
        [outcome] = curate(record, trace=rule)
        return str((outcome.row or {}).get("trace", outcome.reason))

    assert chosen("first-correct") == "generations[1]"
    assert chosen("shortest-correct") == "generations[2]"
    assert chosen("solution") == "solution"
    assert chosen("generations[3]") == "incomplete-trace"
    assert chosen("nothing") == "no-trace"
    recipe = make_recipe({"source": "x"})
    with graders() as made:
        curator = Curator(recipe, graders=made)
        list(curator.run([Item("x", 1, record)]))
    assert curator.agreement == {
        "data says correct, verifier says not correct": 1,
        "data says correct, verifier says correct": 1,
    }


def test_the_reason_of_a_row_is_that_of_the_trace_that_came_furthest() -> None:
    record = {
        "problem": "What is 2+2?", "answer": "4", "solution": "", "is_reasoning_complete": [False, True],
        "generations": ["<think>\ncut", "<think>\nhm\n</think>\nIt must be \\boxed{5}, I think."],
    }  # fmt: skip
    [outcome] = curate(record)
    assert outcome.reason == "wrong-trace"
    assert "generations[0]: cut off" in outcome.detail and "generations[1]: wrong" in outcome.detail


def test_programs_are_graded_in_the_sandbox() -> None:
    record = {
        "text": "Double.",
        "task_id": 1,
        "test_list": ["assert double(2) == 4"],
        "code": "def double(x):\r\n    return 2*x",
    }
    [good] = curate(record)
    assert good.row is not None
    # A slice never reaches the program's last line.
    assert good.row["guidance"][: good.row["guidance_limit"]] == "```python\ndef double(x):"
    assert reasons({**record, "code": "import sys; sys.exit(0)"}) == ["wrong-trace"]
    assert reasons({**record, "test_list": ["assert True"]}) == ["bad-tests"]


def test_tests_from_a_run_of_the_reference() -> None:
    record = {
        "task_id": "Mbpp/9", "prompt": "'Halve, at least 0.'", "entry_point": "halve", "atol": 1e-6,
        "canonical_solution": "def halve(x):\n    return max(0, x / 2)", "assertion": "assert halve(2) == 1",
        "base_input": [[2], [-1]], "plus_input": [[3], [float("inf")], [float("nan")]],
    }  # fmt: skip
    [own] = curate(record)
    [made] = curate(record, reference_tests=True)
    assert own.row and made.row and own.row["tests"] == ["assert halve(2) == 1"]
    assert made.row["tests"][:3] == [
        "assert abs(halve(2) - 1.0) <= 1e-06", "assert halve(-1) == 0", "assert abs(halve(3) - 1.5) <= 1e-06",
    ]  # fmt: skip
    assert reasons({**record, "plus_input": [["no number"]]}, reference_tests=True) == ["bad-tests"]


def test_duplicates_ignore_spacing_and_dollars_but_not_operators() -> None:
    records = [SUM, {**SUM, "problem": "what is\r\n $2 + 2$?"}, {**SUM, "problem": "What is 2-2?"}]
    outcomes = curate(*records)
    assert [outcome.reason for outcome in outcomes] == ["", "duplicate", ""]
    assert outcomes[1].detail == "the problem of line 1"
    assert reasons(*records, deduplicate=False) == ["", "", ""]


def test_a_rejected_problem_does_not_shadow_its_good_copy() -> None:
    wrong = {**SUM, "solution": "It is clear that we get \\boxed{5} = 5."}
    assert reasons(wrong, SUM, SUM) == ["wrong-trace", "", "duplicate"]
    far = [{**SUM, "problem": f"What is {n}+2?"} for n in range(3, BATCH + 3)]
    assert reasons(SUM, *far, SUM)[-1] == "duplicate"  # in a later batch


def test_contamination_names_benchmark_and_words() -> None:
    overlap = Contamination(n=5)
    overlap.add("small", ["How many clips did Natalia sell altogether in May?", "2+2=?"])
    records = [
        {**SUM, "problem": "In May: how many clips did Natalia sell? "},
        {**SUM, "problem": "How many clips did Natalie sell altogether in May?"},  # one letter: runs of 4 are left
        {**SUM, "problem": "2 + 2 = ?"},
        {**SUM, "problem": "2 - 2 = ?"},
    ]
    outcomes = curate(*records, contamination=overlap)
    assert [outcome.reason for outcome in outcomes] == ["contaminated", "", "contaminated", ""]
    assert outcomes[0].detail == "small: how many clips did natalia"
    assert overlap.to_json() == {"ngram": 5, "problems": {"small": 2}, "hits": {"small": 2}, "skipped": {}}


def test_lengths_tiers_and_prompts() -> None:
    assert reasons(SUM, max_prompt=20) == ["prompt-long"]
    assert reasons(SUM, max_trace=20) == ["trace-long"]
    assert reasons(SUM, min_trace=500) == ["trace-short"]
    tiered = [
        {**SUM, "source": "olympiads"},
        {**SUM, "problem": "1+3=?", "source": "cn_k12"},
        {**SUM, "problem": "5-1=?"},
    ]
    assert reasons(*tiered, tiers=["olympiads", "unknown"]) == ["", "tier", ""]
    [row] = [outcome.row for outcome in curate(SUM, system="Be brief.", instruction="")]
    assert row and row["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+2?"},
    ]
    [row] = [outcome.row for outcome in curate(SUM, prompt_form="text", difficulty="steps")]
    assert row and row["prompt"].startswith("What is 2+2?\n") and row["difficulty"] == 2


def test_half_a_character_is_rejected_before_training_meets_it() -> None:
    assert reasons({**SUM, "problem": "What is \ud83d 2+2?"}, {**SUM, "problem": "What is \U0001f600 2+2?"}) == [
        "bad-value",
        "",
    ]


def test_rows_that_cannot_be_ordered_are_found_before_the_end() -> None:
    rows = [
        {"prompt": f"{n}+1=", "answer": "1", "difficulty": value} for n, value in enumerate([3, None, "olympiads", 2.5])
    ]
    settings = {"require_trace": False}
    assert reasons(*rows, order="difficulty", **settings) == ["", "no-difficulty", "no-difficulty", ""]
    assert reasons(*rows[2:], rows[0], sample_filter="remove", **settings) == ["", "no-difficulty", "no-difficulty"]
    assert reasons(*rows[:2], **settings) == ["", ""]


def test_faulty_lines_and_mixed_prompts_are_rejected_not_fatal() -> None:
    broken = Item("x.jsonl", 2, None, "{", 2, "is not JSON (…)")
    plain = [
        {"prompt": "4+3=", "answer": "7"},
        broken,
        {"prompt": [{"role": "user", "content": "1+1="}], "answer": "2"},
    ]
    more = [{"prompt": 7, "answer": "7"}, {"answer": "7"}, {"prompt": "x", "answer": "7", "difficulty": [1]}]
    assert reasons(*plain, *more, require_trace=False) == [
        "", "not-json", "bad-value", "bad-value", "missing-field", "bad-value",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "answer", "bare"),
    [
        ("204", "204", True),
        ("\\boxed{204}", "204", True),
        ("**204**", "204", True),
        ("The final answer is $204$.", "204", True),
        ("$\\frac{1}{2}$", "\\frac{1}{2}", True),
        ("6*34 = 204", "204", False),
        ("6*34", "204", False),
        ("Add: x + y", "x+y", False),
        ("Each of the six has thirty-four, so in all there are 204.", "204", False),
    ],
)
def test_bare_answers(text: str, answer: str, bare: bool) -> None:
    assert is_bare(text, answer) is bare


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "field 'source': is missing"),
        ({"source": "a", "sauce": 1}, "field 'sauce': is no field of a recipe"),
        ({"source": "a", "limit": "ten"}, "field 'limit': 'ten' has the wrong type; fix: give int | None"),
        ({"source": "a", "limit": True}, "field 'limit': True has the wrong type"),
        ({"source": "a", "limit": 0}, "field 'limit': 0 is out of range; fix: .*1 or more"),
        ({"source": "a", "verify": "maybe"}, "'maybe' is not known; fix: choose one of strict, lenient, off"),
        ({"source": "a", "sample_filter": "drop"}, "'drop' is no sample filter"),
        ({"source": "a", "sample_filter": {"hard": "very"}}, "field 'sample_filter.hard': 'very' is no bound"),
        ({"source": "a", "sample_filter": {"mode": "keep", "easy": 1}}, "fix: give mode, hard, moderate"),
    ],
)
def test_recipe_mistakes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        make_recipe(values, file="r.yaml")
    assert isinstance(make_recipe({"source": "a"}), Recipe)
