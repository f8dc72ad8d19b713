"""The forms of tests that data sets have, and where a response's program stands."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from guided_grpo.grading.code import declared_code
from guided_grpo.grading.code_forms import ByReference, parse_tests, read_tests
from guided_grpo.grading.code_tests import CallTest, CodeTests, Equal, EqualJson, Script, StdinTest

NINE = (CallTest("f(3)", Equal(9)),)


@pytest.mark.parametrize(("form", "tests"), [
    (["assert f(3) == 9"], CodeTests(calls=NINE)),
    ('["assert f(3) == 9"]', CodeTests(calls=NINE)),
    (["import math", "assert f(3) == 9"], CodeTests(calls=NINE, setup="import math")),
    ("import math\nassert f(3) == 9\n", CodeTests(calls=NINE, setup="import math")),
    ("[f(1)]\nassert f(3) == 9", CodeTests(script=Script("[f(1)]\nassert f(3) == 9", ("f",), 1))),  # Python that begins with a bracket
    ("def check(c):\n    assert c(3) == 9\ncheck(f)", CodeTests(calls=(CallTest("c(3)", Equal(9)),), setup="\nc = f")),
    ([{"input": "1\n", "output": "2", "type": "stdin_stdout", "fn_name": None}], CodeTests(stdin=(StdinTest("1\n", "2"),))),
    ({"inputs": ["1", ["1", "2"]], "outputs": ["2", "3"]}, CodeTests(stdin=(StdinTest("1", "2"), StdinTest("1\n2", "3")))),
    ({"language": "python", "test_cases": [{"input": "1", "output": "2"}]}, CodeTests(stdin=(StdinTest("1", "2"),))),
    (
        {"inputs": [[3, "a"]], "outputs": [[1, None]], "fn_name": "Solution().f"},
        None,
    ),
    ({"inputs": [[3]], "outputs": [9], "fn_name": "f"}, CodeTests(calls=(CallTest("f(3)", EqualJson(9)),))),
    ([{"input": "[1, 2]\n\"x\"", "output": "[3]", "fn_name": "f"}], CodeTests(calls=(CallTest("f([1, 2], 'x')", EqualJson([3])),))),
    ({"inputs": [[3], [4]], "reference": "def f(x): return x", "entry_point": "f"}, ByReference("def f(x): return x", "f", ((3,), (4,)))),
])  # fmt: skip
def test_forms(form: Any, tests: Any) -> None:
    for written in (form, json.dumps(form) if not isinstance(form, str) else form):
        if tests is None:
            with pytest.raises(ValueError, match="name no function"):
                read_tests(written)
        else:
            assert read_tests(written) == tests


@pytest.mark.parametrize(("form", "message"), [
    ([], "are no tests"), (["x = 1"], "hold no test"), (["import math", "print(f(1))"], "hold no test"), (None, "are no tests"), ("x = 1", "hold neither"), ("{", "are no Python"),
    ({"language": "cpp", "test_cases": [{"input": "1", "output": "2"}]}, "only Python"),
    ({"inputs": ["1"], "outputs": []}, "not equally many"),
    ([{"input": "1", "output": " "}], "no output at all"),
    ([{"input": "1"}], "without input and output"),
    ({"inputs": [], "reference": "def f(): 1", "entry_point": "f"}, "without inputs"),
    ({"inputs": [[1]], "reference": "def f(x): 1", "entry_point": "f"}, "need a reference"),
    ([{"input": 5, "output": 5, "fn_name": "f"}], "without a list of arguments"),
])  # fmt: skip
def test_tests_that_can_grade_nothing(form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_tests(form)


def test_json_equality_takes_tuples_for_lists_and_nothing_else() -> None:
    pairs = EqualJson([[1, 2], {"a": [3]}])
    assert pairs.accepts([{"tuple": [1, 2]}, {"dict": [["a", {"tuple": [3]}]]}])
    assert pairs.accepts({"tuple": [[1, 2], {"dict": [["a", [3]]]}]})
    assert not pairs.accepts([{"set": [1, 2]}, {"dict": [["a", [3]]]}])
    assert not pairs.accepts([[1, 2], {"dict": [["a"]]}])
    assert not EqualJson([]).accepts({"tuple": "ab"})


@pytest.mark.parametrize(("response", "code"), [
    ("```python\na = 1\n```\nor\n```py\nb = 2\n```", "b = 2\n"),
    ("```python\na = 1\n```\n```sh\nls\n```", "a = 1\n"),
    ("```\na = 1\r\n``` \n", "a = 1\r\n"),
    ("```python\nnever closed", None),
    ("<think>```python\na = 1\n```</think>No.", None),
    ("def f(x):\n    return x\n", "def f(x):\n    return x\n"),
    ("\n# a comment\n@cache\ndef f(x): return x", "\n# a comment\n@cache\ndef f(x): return x"),
    ("x == 3 is what I think", None),
    ("The function is def f(x): return x", None),
    ("for instance this", None),
    ("", None),
])  # fmt: skip
def test_where_the_program_stands(response: str, code: str | None) -> None:
    assert declared_code(response) == code


@pytest.mark.parametrize(
    "text", ["```python\n" * 100_000, "```a\n```b\n" * 50_000, "#\n" * 200_000, " " * 10**6, "@\n \n" * 10**5]
)
def test_finding_it_takes_linear_time(text: str) -> None:
    start = time.process_time()
    declared_code(text)
    assert time.process_time() - start < 20  # a tenth of a second; quadratic time would be minutes
