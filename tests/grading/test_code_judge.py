"""Tests that are more than calls: apart from the program, in order, and nothing silently left out."""

from __future__ import annotations

import time

import pytest

from guided_grpo.grading.code import check_programs, reference_tests
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.sandbox import SandboxPool
from guided_grpo.types import Status

SQUARE = "def f(x): return x * x"
YES = """
class Yes:
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
    __sub__ = __add__ = __xor__ = __abs__ = __bool__ = __len__ = __int__ = __float__ = lambda self, *other: 0
    __hash__ = lambda self: 9
def f(x): return Yes()
all = any = isinstance = len = sorted = lambda *a: True
"""
STACK = """
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x)
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
"""
PAIRS = {  # tests, a right program, a wrong one
    "a test function": ("def test_square():\n    assert f(4) == 16", SQUARE, YES),
    "a test function that is called": ("def test_it():\n    assert f(5) == 25\ntest_it()", SQUARE, YES),
    "a class with a set-up": ("class TestF:\n    def setup_method(self): self.x = 6\n    def test_a(self): assert f(self.x) == 36", SQUARE, YES),
    "unittest": ("import unittest\nclass Squares(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(2), 4)\n        self.assertTrue(f(1))\nif __name__ == '__main__':\n    unittest.main()", SQUARE, YES),
    "a main part": ("def main():\n    for n in (1, 7): assert f(n) == n ** 2\nif __name__ == '__main__':\n    main()", SQUARE, YES),
    "cases": ("import pytest\n@pytest.mark.parametrize('x, y', [(2, 4), (3, 9), (4, 16)])\ndef test_f(x, y): assert f(x) == y", SQUARE, "def f(x): return 4"),
    "a helper of check": ("def same(a, b):\n    assert a == b\ndef check(g):\n    same(g(3), 9)\n    same(g(4), 16)\ncheck(f)", SQUARE, YES),
    "a helper that gets the candidate": ("def many(g):\n    for n in range(4):\n        assert g(n) == n * n\ndef check(c):\n    assert c(1) == 1\n    many(c)\ncheck(f)", SQUARE, "def f(x): return x"),
    "builtins of the program": ("assert all(f(n) == n * n for n in range(3))", SQUARE, YES),
    "any": ("assert any([f(2) == 4])", SQUARE, YES),
    "a comparison of a comparison": ("assert (f(3) == 9) is True\nassert bool(f(3) == 9)", SQUARE, YES),
    "a difference": ("assert f(3) ^ 9 == 0", SQUARE, YES),
    "a comparison by its own name": ("assert f(3).__eq__(9)", SQUARE, YES),
    "a distance": ("import math\nassert math.dist([f(3)], [9]) < 1e-6", SQUARE, YES),
    "a reference": ("def ref(x): return sum(x for _ in range(x))\nfor n in range(1, 6): assert f(n) == ref(n)", SQUARE, "def f(x): return ref(x)"),
    "a reference that is replaced": ("def ref(x): return x * x\nassert [f(n) for n in (2, 3)] == [ref(n) for n in (2, 3)]", SQUARE, "class R:\n    def __eq__(s, o): return True\ndef f(x): return R()\nref = f"),
    "is False for 0": ("assert f(0) is False", "def f(x): return x != 0", SQUARE),
    "is not None": ("assert f(3) is not None", SQUARE, "def f(x): pass"),
    "an order": ("n = 4\nassert f(n) == 16\nn += 1\nassert f(n) == 25", SQUARE, "def f(x): return 25"),
    "a name for a result": ("r = f(2)\ns = f(r)\nassert (r, s) == (4, 16)", SQUARE, "def f(x): return 4"),
    "an object": ("s = Stack()\ns.push(5)\ns.push(6)\nassert s.pop() == 6\nassert len(s) == 1\ns.push(7)\nassert s.items == [5, 7]", STACK, STACK.replace("pop()\n", "pop(0)\n")),
    "an argument that changes": ("d = {'a': 1}\nf(d, 'b')\nassert d == {'a': 1, 'b': 0}", "def f(d, k): d[k] = 0", "def f(d, k): return {**d, k: 0}"),
    "own imports": ("import math, string\ndef check(c):\n    assert c(2) == math.factorial(3) - len(string.digits) + 8\ncheck(f)", SQUARE, "def f(x): return 5"),
    "a module that is the program": ("from my_solution import f as g\nassert g(3) == 9", SQUARE, YES),
    "raises": ("import pytest\nwith pytest.raises((KeyError, ValueError), match='neg'):\n    f(-1)", "class E(ValueError): pass\ndef f(x): raise E('negative')", "def f(x): raise TypeError('negative')"),
    "raises nothing": ("import pytest\ndef test_it():\n    with pytest.raises(ZeroDivisionError): f(0)", "def f(x): return 1 / x", SQUARE),
    "approx in a list": ("from pytest import approx\nassert f(1) == approx([0.1, 0.3])", "def f(x): return [0.1, 0.1 + 0.2]", "def f(x): return [0.1, 0.31]"),
    "there and back": ("for w in ('ab', 'xyz'):\n    assert back(there(w)) == w\n    assert there(w) != w", "def there(w): return w[::-1]\nback = there", "def there(w): return w\nback = there"),
    "a generator": ("assert len(list(f(3))) == 3\nassert sum(f(3)) == 3", "def f(n):\n    for i in range(n): yield i", "def f(n): yield 3"),
    "a function of the test": ("assert f(lambda v: v + 1, [1, 2]) == [2, 3]\nassert not f(lambda v: v, [])", "def f(g, a): return [g(x) for x in a]", "def f(g, a): return a"),
    "chains": ("assert 8 < f(3) < 10\nassert f(2) != 5 and f(2) in (3, 4)", SQUARE, YES),
    "a fixture": ("import pytest\n@pytest.fixture\ndef n(): return 3\n@pytest.mark.parametrize('k', [1, 2])\ndef test_a(n, k): assert f(n * k) == 9 * k * k", SQUARE, YES),
    "an exit": ("if f(3) != 9:\n    print('no')\n    exit(1)", SQUARE, YES),
    "a class of the program": ("assert isinstance(Stack(), Stack)\ns = Stack()\nassert s.items == []\ns.push(1)\nassert s.items == [1]", STACK, STACK.replace("append(x)", "clear()")),
    "dates and queues": ("from datetime import date\nfrom collections import deque\nassert f(3) == (date(2020, 1, 3), deque([3]))", "import datetime, collections\ndef f(d): return datetime.date(2020, 1, d), collections.deque([d])", "import datetime\ndef f(d): return datetime.date(2020, 1, d), [d]"),
    "a check within a test": ("def check(c):\n    assert c(3) == 9\ndef test_it():\n    check(f)", SQUARE, YES),
    "views": ("assert f(2).keys() == {0, 1}\nassert f(2).items() >= {(0, 0)}", "def f(n): return {i: i for i in range(n)}", "def f(n): return {}"),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_a_right_and_a_wrong_program(pool: SandboxPool, name: str) -> None:
    source, right, wrong = PAIRS[name]
    tests = parse_tests(source)
    verdicts = check_programs(pool, [right, wrong, "import os; os._exit(0)", ""], [tests] * 4)
    assert [(v.status is Status.CORRECT, v.weak) for v in verdicts] == [(True, 0)] + [(False, 0)] * 3, verdicts[
        0
    ].reason


@pytest.mark.parametrize(("source", "message"), [
    ("def verify():\n    assert f(3) == 9\nx = f(3)", "verify, which asserts and which nothing calls"),
    ("def check(candidate):\n    assert candidate(3) == 9", "no entry point"),
    ("try:\n    assert f(3) == 9\nexcept AssertionError:\n    print('failed')", "catch the failure"),
    ("try:\n    assert f(3) == 9\nexcept:\n    pass", "catch the failure"),
    ("def test_a():\n    assert 1 + 1 == 2", "hold no test"),
    ("class Case:\n    def run(self):\n        assert f(3) == 9", "Case, which asserts"),
])  # fmt: skip
def test_tests_that_would_let_every_program_pass(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_tests(source)


def test_what_only_the_program_can_compare_is_weak(pool: SandboxPool) -> None:
    point = "class P:\n    def __init__(self, *a): self.a = a\n    def __eq__(self, o): return self.a == o.a\n    def __add__(self, o): return P(*self.a, *o.a)"
    tests = parse_tests("assert P(1) + P(2) == P(1, 2)\nassert (P(1) + P(2)).a == (1, 2)")
    [verdict] = check_programs(pool, [point], [tests])
    assert (verdict.status, verdict.weak, verdict.total) == (Status.CORRECT, 1, 2)
    helped = parse_tests(
        "def check(c):\n    for n in range(3):\n        assert twice(c(n)) == 2 * n * n", entry_point="f"
    )
    [verdict] = check_programs(pool, [f"{SQUARE}\ndef twice(x): return 2 * x"], [helped])
    assert (verdict.status, verdict.weak) == (Status.CORRECT, 1)  # a helper that a response may write anew


def test_a_program_that_answers_differently_each_time_has_one_chance(pool: SandboxPool) -> None:
    tests = parse_tests("for n in range(2):\n    assert f(n) == 1")
    coins = [f"import os\ndef f(x): return os.urandom(1)[0] % 2# {n}" for n in range(80)]
    assert 5 < sum(v.status is Status.CORRECT for v in check_programs(pool, coins, [tests] * 80)) < 36  # a quarter: 20


def test_numbers_of_other_classes_and_references_with_nan(pool: SandboxPool) -> None:
    programs = ["from fractions import Fraction as F", "from decimal import Decimal as F"]
    tests = parse_tests(["assert f(4) == 0.25", "assert f(2) == 0.5"])
    right = [f"{each}\ndef f(x): return F(1) / F(x)" for each in programs]
    verdicts = check_programs(
        pool, [*right, "def f(x): return str(1 / x)", right[0].replace("(1)", "(2)")], [tests] * 4
    )
    assert [v.status is Status.CORRECT for v in verdicts] == [True, True, False, False]
    nested = reference_tests(pool, "def f(x): return {'a': [x / 3, float('nan')]}", "f", [[1], [2]], tolerance=1e-6)
    close, far, none = (
        f"def f(x): return {{'a': [{value}]}}"
        for value in ("round(x / 3, 8), float('nan')", "x / 3 + 0.01, float('nan')", "x / 3, 0.0")
    )
    assert [v.status is Status.CORRECT for v in check_programs(pool, [close, far, none], [nested] * 3)] == [
        True,
        False,
        False,
    ]


@pytest.mark.slow
def test_a_job_has_a_budget_and_its_first_failure_ends_it(pool: SandboxPool) -> None:
    tests = parse_tests([{"input": f"{n}\n", "output": "1"} for n in range(60)])
    cpu = time.process_time()
    [verdict] = check_programs(pool, ["while True: pass"], [tests], partial=False)
    assert (verdict.status, verdict.passed) == (Status.TIMEOUT, 0)
    assert time.process_time() - cpu < 5
    jobs: list[int] = []
    real = pool.run
    try:
        pool.run = lambda batch: jobs.extend(len(job.inputs) for job in batch) or real(batch)  # type: ignore[method-assign]
        leaver = "import os\nprint(0, flush=True)\nos._exit(0)"
        [verdict] = check_programs(pool, [leaver], [tests], partial=False)
    finally:
        del pool.run
    assert verdict.status is Status.WRONG and jobs == [32, 28, 0]  # the last one is a process of its own
    right = leaver.replace("print(0", "print(1")
    assert check_programs(pool, [right], [tests], partial=False)[0].status is Status.CORRECT
