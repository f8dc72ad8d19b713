"""The forms of tests that data sets have, and where a response's program stands."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from guided_grpo.errors import InputError
from guided_grpo.grading.code import check_programs, declared_code, same_output
from guided_grpo.grading.code_forms import ByReference, parse_tests, read_tests
from guided_grpo.grading.code_tests import CallTest, CodeTests, Equal, EqualJson, Script, StdinTest
from guided_grpo.sandbox import SandboxPool
from guided_grpo.types import Status

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
    ("```python\ndef f(): 1\n```\nIt prints\n```\n1\n```", "def f(): 1\n"),  # a printout
    ("```py\nclass A: pass\n```\nUse it:\n```py\nprint(A())\n```", "class A: pass\n"),
    ("```py\nprint(1)\n```\n```py\nn = int(input())\n```", "n = int(input())\n"),
    ("```py\ndef f(): 1\n```\nNo:\n```\ndef f(): 2\n```", "def f(): 2\n"),
    ("1. so\n   ```python\n   def f():\n       1\n   ```", "def f():\n    1\n"),
    ("\t~~~python\n\ta = 1\n\t~~~", "a = 1\n"),
    ("```python\na = 1```", "a = 1\n"),
    ("```python\na = 1\n``` That is all.", "a = 1\n"),
    ("Here: ```python\na = 1\n```", "a = 1\n"),
    ("````python\na = '```'\n````", "a = '```'\n"),
    ("\ufeff```python\n\ufeffa = 1\n```", "a = 1\n"),
    ("<answer>```python\na = 1\n```</answer>", "a = 1\n"),
    ("<answer>a = 1</answer>", "a = 1"),
    ("```python\ndef f():\n    \'\'\'\n    ```\n    f()\n    ```\n    \'\'\'\n```", "def f():\n    \'\'\'\n    ```\n    f()\n    ```\n    \'\'\'\n"),
    ('"""What it does."""\nprint(1)', '"""What it does."""\nprint(1)'),
    ("limit: int = 5\nprint(limit)", "limit: int = 5\nprint(limit)"),
    ("a, *b = map(int, input().split())", "a, *b = map(int, input().split())"),
    ("```text\nno program\n```", None),
])  # fmt: skip
def test_where_the_program_stands(response: str, code: str | None) -> None:
    assert declared_code(response) == code


HELPER = "def twice(x): return 2 * x\n"


@pytest.mark.parametrize(("blocks", "code"), [
    ([HELPER, "def f(x): return twice(x)\n"], f"{HELPER}\ndef f(x): return twice(x)\n"),
    (["class Node: pass\n", "def f(x): return [Node() for _ in x]\n"], "class Node: pass\n\ndef f(x): return [Node() for _ in x]\n"),
    (["def one(): return 1\n", "def two(): return one() + one()\n", "def f(x): return two()\n"],
     "def one(): return 1\n\ndef two(): return one() + one()\n\ndef f(x): return two()\n"),
    ([HELPER, "def f(x): return map(twice, x)\n"], f"{HELPER}\ndef f(x): return map(twice, x)\n"),
    ([HELPER, "def f(x): return x + x\n"], "def f(x): return x + x\n"),  # what is not used stays out
    (["def f(x): return twice(x)\n" + HELPER, "def f(x): return twice(x) + 1\n"], "def f(x): return twice(x) + 1\n"),  # another try
    (["def sum(x): return 0\n", "def f(x): return sum(x)\n"], "def f(x): return sum(x)\n"),  # a builtin is meant
    ([HELPER, "def f(x): return x.twice()\n"], "def f(x): return x.twice()\n"),  # a method
    ([HELPER, HELPER + "def f(x): return twice(x)\n"], HELPER + "def f(x): return twice(x)\n"),
])  # fmt: skip
def test_a_block_that_needs_an_earlier_one(blocks: list[str], code: str) -> None:
    assert declared_code("\nThen:\n".join(f"```python\n{block}```" for block in blocks)) == code


@pytest.mark.parametrize(
    "text", ["```python\n" * 100_000, "```a\n```b\n" * 50_000, "#\n" * 200_000, " " * 10**6, "@\n \n" * 10**5]
)
def test_finding_it_takes_linear_time(text: str) -> None:
    start = time.process_time()
    declared_code(text)
    assert time.process_time() - start < 20  # a tenth of a second; quadratic time would be minutes


def graded(pool: SandboxPool, tests: Any, *programs: str) -> list[bool]:
    return [v.status is Status.CORRECT for v in check_programs(pool, programs, [parse_tests(tests)] * len(programs))]


def test_forms_of_sites(pool: SandboxPool) -> None:
    method = "class Solution:\n    def f(self, a: List[int]) -> Optional[int]:\n        return {}"
    calls = {"inputs": [[[1, 2]], [[3]]], "outputs": [3, 3], "fn_name": "f"}
    right, wrong = method.format("sum(a)"), method.format("max(a)")
    assert graded(pool, calls, right, wrong, "def f(a: List[int]): return sum(a)") == [True, False, True]
    for called in ("Solution().f", "f"):  # as LeetCode has it, and by name
        assert graded(pool, [f"assert {called}([1, 2]) == 3"], right, wrong) == [True, False]
    assert graded(pool, calls, method.format("Counter(a) and reduce(lambda x, y: x + y, a)")) == [True]
    wrapped = {"inputs": [[3], [4]], "outputs": [[9], [16]], "fn_name": "f"}
    assert graded(pool, wrapped, *(f"def f(x): return {each}" for each in ("x * x", "[x * x]", "x", "[[x * x]]"))) == [
        True,
        True,
        False,
        False,
    ]
    unwrapped = {"inputs": [[1], [2]], "outputs": [[1], [1, 2]], "fn_name": "f"}
    assert graded(
        pool, unwrapped, "def f(x): return list(range(1, x + 1))", "def f(x): return 1 if x == 1 else [1, 2]"
    ) == [True, False]
    text = {"inputs": [[5], [2]], "outputs": ["101", "10"], "fn_name": "f"}
    assert graded(pool, text, "def f(x): return f'{x:b}'", "def f(x): return int(f'{x:b}')") == [True, False]
    keys = {"inputs": [[{"3": 4}]], "outputs": [{"4": 3}], "fn_name": "f"}
    swap = "def f(d): return {v: k for k, v in d.items() if type(k) is int}"
    assert graded(pool, keys, swap, "def f(d): return {4: '3'}") == [True, False]


@pytest.mark.parametrize(("expected", "received", "same"), [
    ("1 2", "1   2", True), ("1.50", "1.5", True), ("0.3", "0.30000000000000004", True), ("1e3", "1000", True), ("YES 0.5\n2", "YES  .5\n2 ", True),
    ("1 2", "1\n2", False), ("12", "1 2", False), ("0.3", "0.31", False), ("3", "3.0", False), ("a  b", "a b", False), ("  *", "*", False),
    ("0.5", "nan", False), ("0.5", "0.5.", False), ("0.5", "1_0", False), ("1.0", "1.0 2", False), ("\n1", "1", False),
])  # fmt: skip
def test_output_word_by_word(expected: str, received: str, same: bool) -> None:
    assert same_output(expected, received.encode()) is same
    assert not same_output(expected, received.encode(), exact=True) or expected.split() == received.split()


def test_exact_output_where_the_tests_say_so(pool: SandboxPool) -> None:
    tests = [{"input": "", "output": "2.50", "compare": "exact"}]
    assert graded(pool, tests, "print('2.50')", "print('2.5')") == [True, False]


@pytest.mark.parametrize("read", [
    "open('/dev/stdin').readline()", "next(open('/dev/fd/0'))", "__import__('pathlib').Path('/dev/stdin').read_text()", "__file__ and input()",
    "(__import__('resource').setrlimit(3, (-1, -1)), input())[1]", "(__import__('threading').stack_size(2**29), input())[1]",
])  # fmt: skip
def test_ordinary_runtime(pool: SandboxPool, read: str) -> None:
    tests = [{"input": f"{n}\n", "output": f"{n * n}"} for n in (2, 3)]
    program = f"import inspect\ndef f(n):\n    return n * n\nassert 'n * n' in inspect.getsource(f)\nx = f(int({read}))\nopen('/dev/stdout', 'w').write(str(x))"
    threads = f"import sys, threading\nthreading.stack_size(2**28)\nsys.setrecursionlimit(10**6)\nt = threading.Thread(target=lambda: print(int({read}) ** 2))\nt.start()\nt.join()"
    assert graded(pool, tests, program, threads, program.replace("* n", "+ n")) == [True, True, False]


def test_output_as_long_as_the_expected(pool: SandboxPool) -> None:
    tests = [{"input": "", "output": "ab " * 700_000}]
    assert graded(pool, tests, "print('ab ' * 700_000)", "print('ab ' * 699_999)") == [True, False]


def test_named_packages_and_no_others() -> None:
    pytest.importorskip("numpy")
    tests = parse_tests([{"input": f"{n}\n", "output": f"{n * n}"} for n in (2, 3)])
    program = "import numpy\nn = int(input())\nprint(int(numpy.prod([n, n])))"
    beside = "import os, numpy\nn = int(input())\nplace = os.path.dirname(os.path.dirname(numpy.__file__))\nnames = os.listdir(place) if os.path.isdir(place) else []  # below /tmp a program sees its own\nprint(n * n if all(name.startswith('numpy') for name in names) else 0)"
    writes = "import os, numpy\nn = int(input())\nopen(os.path.join(os.path.dirname(numpy.__file__), 'x'), 'w')\nprint(n * n)"
    with SandboxPool(1, "A", packages=["numpy"]) as pool:
        verdicts = check_programs(pool, [program, beside, writes, "import torch"], [tests] * 4)
    assert [v.status is Status.CORRECT for v in verdicts] == [True, True, False, False]
    with SandboxPool(1, "A") as pool:
        assert check_programs(pool, [program], [tests])[0].status is Status.WRONG
    with pytest.raises(InputError, match="no package that is installed here"):
        SandboxPool(1, "A", packages=["no_such_package"])
