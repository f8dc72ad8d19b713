"""Readers on small records of the published schemas, with the traps that the sets hold. Written for the purpose."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from guided_grpo.data.preparing.curate import REASONS, Curator
from guided_grpo.data.preparing.recipe import make_recipe
from guided_grpo.data.reading.drafts import Draft, RejectedError, asks_for_proof
from guided_grpo.data.reading.readers import READERS, find_reader
from guided_grpo.data.reading.streams import ExactNumber, Item, items
from guided_grpo.errors import InputError
from guided_grpo.grading.code_forms import parse_tests
from schemas import CODING, MATH220K, S1K, samples


def read(record: dict[str, Any]) -> Draft:
    return READERS[find_reader(None, record)].read(record)


def rejected(record: dict[str, Any]) -> str:
    with pytest.raises(RejectedError) as caught:
        read(record)
    return caught.value.reason


def test_every_schema_is_known_by_its_columns() -> None:
    for name, record in {
        "math220k": MATH220K,
        "s1k": S1K,
        "coding": CODING,
        "numina15": {"problem": "", "solution": "", "answer": "", "problem_is_valid": "Yes", "source": "x"},
        "numina-cot": {"source": "math", "problem": "", "solution": "", "messages": []},
        "math": {"problem": "", "level": "Level 5", "type": "Algebra", "solution": ""},
        "math3to5": {"problem": "", "solution": "", "answer": ""},
        "limo": {"question": "", "solution": "", "answer": "7"},
        "gsm8k": {"question": "", "answer": "#### 5"},
        "reasoning-gym": {"question": "", "answer": "", "metadata": {}},
        "humaneval": {"task_id": "", "prompt": "", "canonical_solution": "", "test": "", "entry_point": ""},
        "mbpp": {"text": "", "code": "", "task_id": 1, "test_list": []},
        "mbpp-plus": {"prompt": "", "entry_point": "", "canonical_solution": "", "assertion": ""},
        "plain": {"prompt": "", "answer": ""},
    }.items():
        assert find_reader(None, record) == name
    with pytest.raises(InputError, match="fits no reader: the columns are frage, antwort; fix: name a reader, or map"):
        find_reader(None, {"frage": "", "antwort": ""})
    with pytest.raises(InputError, match="field 'reader': 'gsm9k' is no reader"):
        find_reader("gsm9k", {})
    assert find_reader(None, {"frage": ""}, {"prompt": "frage"}) == "plain"
    assert find_reader(None, {"prompt": "", "answer": "", "verification_info": {}}) == "plain"  # our columns come first


def test_math220k_keeps_every_generation_with_what_the_data_says_of_it() -> None:
    draft = read(MATH220K)
    assert (draft.answer, draft.tier, draft.columns["uuid"]) == ("2", "olympiads", "abc")
    assert [(trace.name, trace.complete, trace.correct) for trace in draft.traces] == [
        ("generations[0]", True, False),
        ("generations[1]", False, False),
        ("generations[2]", True, True),
        ("solution", None, None),
    ]
    assert draft.traces[2].text == "One, two.\n</think>\n\n\\boxed{2}"


def test_math220k_flags_may_be_missing_shorter_or_wrong() -> None:
    draft = read({**MATH220K, "is_reasoning_complete": [True], "correctness_math_verify": None})
    assert [trace.complete for trace in draft.traces[:3]] == [
        True,
        False,
        None,
    ]  # never closed: cut off, whatever is said
    assert draft.traces[0].correct is None
    told = read({**MATH220K, "is_reasoning_complete": [True, True, True]})
    assert told.traces[1].complete is False


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "proof"}, "proof"),
        ({"answer": "notfound"}, "no-answer"),
        ({"answer": None}, "no-answer"),
        ({"answer": "", "problem": "Prove that two is even."}, "proof"),
        ({"question_type": "proof"}, "proof"),
        ({"problem_is_valid": "Incomplete"}, "flagged"),
        ({"problem": " "}, "missing-field"),
        ({"generations": "text"}, "missing-field"),
    ],
)
def test_math220k_rejects(change: dict[str, Any], reason: str) -> None:
    assert rejected({**MATH220K, **change}) == reason


def test_numina_15() -> None:
    record = {**MATH220K, "problem_is_valid": "Yes", "solution_is_valid": "Yes", "synthetic": False}
    del record["generations"]
    draft = read(record)
    assert [trace.name for trace in draft.traces] == ["solution"]
    assert not draft.traces[0].gold  # the answer has a column of its own: the solution is graded against it
    assert rejected({**record, "solution_is_valid": "No"}) == "flagged"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"First \boxed{3}, so in all \boxed{\frac56}.", r"\frac56"),
        (r"a \fbox{1} b \boxed{\text{(A)}} then \boxed{\{1,2\}}", r"\{1,2\}"),
        (r"The angle is $\boxed{135^\circ}$ or so", r"135^\circ"),
    ],
)
def test_math_takes_the_last_box_as_the_verifier_does(solution: str, answer: str) -> None:
    draft = read({"problem": "p", "level": "Level 5", "type": "Algebra", "solution": solution})
    assert (draft.answer, draft.difficulty, draft.traces[0].gold) == (answer, 5, True)


def test_math_without_a_level_or_a_box() -> None:
    assert read({"problem": "p", "level": "Level ?", "type": "G", "solution": r"\boxed{1}"}).difficulty is None
    assert rejected({"problem": "p", "level": "Level 1", "type": "G", "solution": r"cut off \boxed{12"}) == "no-answer"


def test_answers_keep_their_digits() -> None:
    amc = {"problem": "p", "solution": "long", "answer": ExactNumber("27.0")}
    assert read(amc).answer == "27.0"
    assert read({**amc, "answer": "073"}).answer == "073"
    assert read({**amc, "answer": 5}).answer == "5"


def test_an_empty_solution_is_no_trace() -> None:
    assert read({"problem": "p", "solution": "", "answer": "5"}).traces == []  # as often in DeepScaleR


def test_s1k_two_teachers_and_line_ends() -> None:
    draft = read(S1K)
    assert (draft.problem, draft.answer) == ("How many?\nCount them.", "128")
    assert [(trace.name, trace.correct) for trace in draft.traces] == [
        ("deepseek_thinking_trajectory", False),
        ("gemini_thinking_trajectory", True),
    ]
    assert draft.traces[0].text == "Let me count.\nIt is 127.\n</think>\n\n\\boxed{127}"


def test_s1k_long_solutions_and_proofs() -> None:
    long = "We count each of them by hand, from the first to the last. The answer is \\boxed{9}."
    draft = read({**S1K, "solution": long})
    assert (draft.answer, draft.traces[-1].name, draft.traces[-1].gold) == ("9", "solution", True)
    proof = {**S1K, "solution": "Assume the contrary. Then there is a smaller one, and so on, which is absurd. QED"}
    assert rejected({**proof, "question": "Show that there are none."}) == "proof"
    assert rejected(proof) == "no-answer"
    cut = read({**S1K, "deepseek_attempt": None})
    assert cut.traces[0].complete is False


@pytest.mark.parametrize(
    ("problem", "proof"),
    [
        ("Prove that $x>1$.", True),
        ("(a) Show that n is even.", True),
        ("Let n be odd. Prove that n+1 is even.", True),
        ("2. Demonstrate the identity", True),
        ("Find x. Show your work.", False),
        ("Show all your steps and find x.", False),
        ("How many proofs are there?", False),
        ("Prove that the sum is constant and find its value.", False),
        ("Show that n exists. What is the least n?", False),
        ("Improve the bound: what is the least n?", False),
    ],
)
def test_the_wording_of_a_proof(problem: str, proof: bool) -> None:
    assert asks_for_proof(problem) is proof


def test_coding_with_input_and_output() -> None:
    draft = read(CODING)
    tests = parse_tests(draft.tests)
    assert [(test.stdin, test.expected) for test in tests.stdin] == [("3\n", "9\n"), ("-2\n", "4\n")]
    assert draft.traces[0].text == "```python\nprint(int(input())**2)\n```"
    assert (draft.task, draft.tier, draft.columns["rated"]) == ("code", "apps", "EASY")
    assert "standard input" in draft.instruction


def test_coding_as_text_with_a_teacher_and_function_calls() -> None:
    case = {"type": "function_call", "fn_name": "twice", "input": "[[1, 2]]", "output": "[[2, 4]]"}
    info = {"language": "python", "test_cases": [case]}
    draft = read(
        {**CODING, "verification_info": json.dumps(info), "generations": ["<think>\nHm.\n</think>\n```python\n1\n```"]}
    )
    assert draft.tests == ["assert twice([1, 2]) == [2, 4]"]
    assert [trace.name for trace in draft.traces] == ["generations[0]", "gold_standard_solution"]
    assert parse_tests(draft.tests).calls[0].call == "twice([1, 2])"
    for change in ({"fn_name": None}, {"input": "3 4"}, {"output": "no literal"}):
        info = {"language": "python", "test_cases": [{**case, **change}]}
        assert rejected({**CODING, "verification_info": info}) == "bad-tests"
    assert rejected({**CODING, "verification_info": {"language": "cpp", "test_cases": [case]}}) == "bad-tests"
    assert rejected({**CODING, "verification_info": {"language": "python", "test_cases": "[]"}}) == "bad-tests"
    assert rejected({**CODING, "verification_info": "{"}) == "missing-field"


def test_mbpp_line_ends_and_the_test_that_is_shown() -> None:
    draft = read(
        {
            "text": "Add.",
            "code": "def add(a, b):\r\n  return a+b",
            "task_id": 3,
            "test_setup_code": "",
            "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
            "challenge_test_list": ["assert add(0, 0) == 0"],
        }
    )
    assert len(draft.tests) == 3
    assert draft.traces[0].text == "```python\ndef add(a, b):\n  return a+b\n```"
    assert "add(1, 2) == 3" in draft.text and "add(2, 2)" not in draft.text


def test_humaneval_reference_is_the_whole_function() -> None:
    draft = read(
        {
            "task_id": "HumanEval/0",
            "prompt": "def f(x):\n    ",
            "canonical_solution": "return x\n",
            "test": "def check(candidate):\n    assert candidate(1) == 1\n",
            "entry_point": "f",
        }
    )
    assert draft.traces[0].text == "```python\ndef f(x):\n    return x\n```"
    assert parse_tests(draft.tests, entry_point="f").calls


def test_plain_rows_keep_their_columns_and_their_own_limit() -> None:
    draft = read({"prompt": "p", "answer": 5, "guidance": "abc 5", "guidance_limit": 3, "topic": "x", "source": "mine"})
    assert (draft.answer, draft.columns, draft.tier) == ("5", {"topic": "x", "guidance_limit": 3}, "mine")
    thought = read({"prompt": "p", "answer": 5, "guidance": "<think>\nabc", "guidance_limit": 3})
    assert "guidance_limit" not in thought.columns  # it counted the opening tag
    assert thought.traces[0].complete is False
    assert rejected({"prompt": "p", "guidance": 5}) == "bad-value"


def test_faulty_lines_are_handed_on_with_their_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(b'\xef\xbb\xbf{"prompt": "a"}\n\n{"prompt": "b\xff"}\r\n[1]\n{"prompt"\n{"prompt": "c"}')
    found = list(items(str(path)))
    assert [(item.line, item.record is None) for item in found] == [
        (1, False),
        (3, True),
        (4, True),
        (5, True),
        (6, False),
    ]
    assert found[1].original() == '{"prompt": "b\\xff"}'
    assert found[2].original() == "[1]" and "is list" in found[2].fault


def test_reasoning_gym_without_the_package_or_with_bad_settings() -> None:
    with pytest.raises(InputError, match="fix: write reasoning-gym:chain_sum,count=100,seed=1"):
        items("reasoning-gym:chain_sum")
    try:
        import reasoning_gym  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"is not installed; fix: pip install 'guided-grpo\[gym\]'"):
            items("reasoning-gym:chain_sum,count=3")
        pytest.skip("reasoning-gym is not installed")
    drawn = [item.record for item in items("reasoning-gym:chain_sum,count=3,seed=1")]
    assert drawn == [item.record for item in items("reasoning-gym:chain_sum,count=3,seed=1")]
    assert read(dict(drawn[0] or {})).tier == "chain_sum"
    with pytest.raises(InputError, match="is refused"):
        items("reasoning-gym:no_such_task,count=3")


ODD: list[Any] = [
    None,
    5,
    2.5,
    True,
    "",
    " ",
    "\x00",
    "{",
    [],
    [None],
    ["x"],
    [[1]],
    [{}],
    {},
    {"a": {"b": 1}},
    "\ud800",
    "9" * 5000,
]


@pytest.mark.parametrize("name", sorted(samples()))
def test_no_value_of_any_column_stops_a_run(name: str) -> None:
    """Every column in turn missing, or holding something odd: each record becomes a row or a reject with a reason."""
    good = samples()[name]
    records = [good] + [{**good, column: value} for column in good for value in ODD]
    records += [{key: value for key, value in good.items() if key != column} for column in good]
    recipe = make_recipe({"source": "x", "reader": name, "verify": "off", "require_trace": False, "deduplicate": False})
    curator = Curator(recipe)
    outcomes = list(curator.run([Item("x", number, record) for number, record in enumerate(records, 1)]))
    assert len(outcomes) == len(records)
    assert outcomes[0].row is not None
    for outcome in outcomes:
        assert (outcome.row is None) == (outcome.reason in REASONS), outcome
        json.dumps(outcome.row)
