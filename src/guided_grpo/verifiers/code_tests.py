"""Tests of a code problem, taken apart: what enters the sandbox, and the expected values, which never do.

Three forms are read: `[{"input": …, "output": …}, …]` (standard input and output), `["assert f(1) == 2", …]` (MBPP),
and the source of a `check(candidate)` (HumanEval). `assert f(x) == y` becomes the call `f(x)`, evaluated in the
sandbox, and the value y, compared outside. What cannot be taken apart (a loop, a helper of the test's own) runs in the
sandbox as it stands, beside a program that could change it: such a test is weak.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guided_grpo.sandbox import number_of, plain, same

MAX_FACTOR, MAX_EXPONENT = 10_000, 1_000  # in the arithmetic of an expected value

_BUILDERS: dict[str, Callable[..., Any]] = {
    "set": set, "frozenset": frozenset, "tuple": tuple, "list": list, "dict": dict, "sorted": sorted,
    "float": float, "int": int, "str": str, "round": round, "abs": abs,
}  # fmt: skip


@dataclass(frozen=True)
class Equal:
    """Passes where the value that came back is `value`."""

    value: Any

    def accepts(self, received: Any) -> bool:
        return same(self.value, received)


@dataclass(frozen=True)
class Close:
    """Passes where a number came back that is at most `absolute` + `relative`·max(|both|) from `value`."""

    value: float
    absolute: float
    relative: float = 0.0

    def accepts(self, received: Any) -> bool:
        number = number_of(received)
        if not isinstance(number, (int, float)):
            return False
        try:
            number = float(number)
        except OverflowError:  # an integer beyond all floats is close to none
            return False
        slack = self.absolute + self.relative * max(abs(number), abs(self.value))
        return number == self.value or (math.isfinite(number) and abs(number - self.value) <= slack)


@dataclass(frozen=True)
class CallTest:
    """One call, and what must come back."""

    call: str
    expected: Equal | Close


@dataclass(frozen=True)
class StdinTest:
    """One run of the program."""

    stdin: str
    expected: str


@dataclass(frozen=True)
class CodeTests:
    """The tests of one problem; each is passed by itself."""

    stdin: tuple[StdinTest, ...] = ()
    calls: tuple[CallTest, ...] = ()
    weak: tuple[str, ...] = ()  # statements that raise where the test fails
    setup: str = ""  # runs after the program, before calls and weak tests

    def __len__(self) -> int:
        return len(self.stdin) + len(self.calls) + len(self.weak)


def parse_tests(tests: Any, *, entry_point: str = "", setup: str = "") -> CodeTests:
    """Read the tests of a problem.

    Args:
        tests: in one of the three forms above.
        entry_point: name of the function that `check(candidate)` is given.
        setup: source that runs after the program and before the tests.

    Raises ValueError that says in one line why these tests can grade nothing.
    """
    if isinstance(tests, str):
        found = _check_function(tests, entry_point, setup)
    elif not isinstance(tests, Sequence) or not tests:
        raise ValueError("are no tests: give a list or the source of a check function")
    elif all(isinstance(test, str) for test in tests):
        bodies = [_module(test).body for test in tests]
        calls, weak = _split_all([body[0] for body in bodies if len(body) == 1])
        together = tuple(test for test, body in zip(tests, bodies, strict=True) if len(body) > 1)
        found = CodeTests(calls=calls, weak=weak + together, setup=setup)
    elif all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in tests):
        found = CodeTests(
            stdin=tuple(StdinTest(str(test["input"]), str(test["output"])) for test in tests), setup=setup
        )
        if not any(test.expected.strip() for test in found.stdin):
            raise ValueError("expect no output at all: a program that does nothing would pass")
    else:
        raise ValueError("are neither assert statements nor pairs of input and output")
    if not len(found):
        raise ValueError("hold no test")
    return found


def split_assert(statement: ast.stmt) -> CallTest | None:
    """The call and the expected value of an assert statement; None = it cannot be taken apart."""
    if not isinstance(statement, ast.Assert):
        return None
    test = statement.test
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Call):
        return _call_test(test, Equal(True))
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _split_comparison(test.left, test.ops[0], test.comparators[0])
    if isinstance(test, ast.Call) and ast.unparse(test.func) in ("math.isclose", "isclose") and len(test.args) == 2:
        tolerances = {word.arg: _value(word.value) for word in test.keywords}
        relative, absolute = tolerances.pop("rel_tol", 1e-9), tolerances.pop("abs_tol", 0.0)
        target = _value(test.args[1])
        if not tolerances and all(isinstance(number, (int, float)) for number in (relative, absolute, target)):
            return _call_test(test.args[0], Close(target, absolute, relative))
        return None
    negated = ast.UnaryOp(ast.Not(), test)  # what is true, an object too, becomes plain data inside
    return _call_test(negated, Equal(False)) if isinstance(test, (ast.Call, ast.Subscript)) else None


def _split_comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> CallTest | None:
    if isinstance(operator, (ast.Eq, ast.Is)):
        for call, expected in ((left, right), (right, left)):
            value = _value(expected)
            if value is not _UNKNOWN and _value(call) is _UNKNOWN:
                if isinstance(operator, ast.Is) and value not in (None, True, False):
                    return None
                return _call_test(call, Equal(value))
    if isinstance(operator, (ast.Lt, ast.LtE)) and isinstance(left, ast.Call) and ast.unparse(left.func) == "abs":
        bound, inside = _value(right), left.args[0] if len(left.args) == 1 else None
        if isinstance(inside, ast.BinOp) and isinstance(inside.op, ast.Sub) and isinstance(bound, (int, float)):
            for call, expected in ((inside.left, inside.right), (inside.right, inside.left)):
                target = _value(expected)
                if isinstance(target, (int, float)) and _value(call) is _UNKNOWN:
                    return _call_test(call, Close(target, bound))
    return None


def _call_test(call: ast.expr, expected: Equal | Close) -> CallTest | None:
    return CallTest(ast.unparse(call), expected) if any(isinstance(part, ast.Call) for part in ast.walk(call)) else None


_UNKNOWN = object()


def _value(node: ast.expr) -> Any:
    """The plain value of an expression, or _UNKNOWN. Tests are trusted, their arithmetic is kept small."""
    try:
        value = _evaluated(node)
    except (ValueError, TypeError, ArithmeticError, MemoryError, RecursionError, KeyError):  # not that plain
        return _UNKNOWN
    return value if plain(value) else _UNKNOWN


def _evaluated(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _BUILDERS[node.func.id](*(_evaluated(argument) for argument in node.args))
    if isinstance(node, ast.BinOp):
        left, right = _evaluated(node.left), _evaluated(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Div):
            return left / right
        numbers = not isinstance(left, Sequence) and not isinstance(right, Sequence)
        small = all(not isinstance(side, int) or abs(side) < MAX_FACTOR for side in (left, right))
        if isinstance(node.op, ast.Mult) and (numbers or small):
            return left * right
        if isinstance(node.op, ast.Pow) and numbers and small and abs(right) < MAX_EXPONENT:
            return left**right
        raise ValueError
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        content = [_evaluated(element) for element in node.elts]
        return (
            content if isinstance(node, ast.List) else tuple(content) if isinstance(node, ast.Tuple) else set(content)
        )
    return ast.literal_eval(node)


def _check_function(source: str, entry_point: str, setup: str) -> CodeTests:
    """HumanEval: the asserts that open `check(candidate)` one by one; where more than asserts follows, all of it."""
    module = _module(source)
    check = next((part for part in module.body if isinstance(part, ast.FunctionDef) and part.name == "check"), None)
    if check is None or len(check.args.args) != 1 or not entry_point:
        raise ValueError("hold no check(candidate), or no entry point is given")
    before = [n for n, part in enumerate(check.body) if not isinstance(part, (ast.Assert, ast.Expr, ast.Pass))]
    calls, weak = _split_all(check.body[: before[0] if before else None])
    if before or weak:
        weak = (f"{source}\ncheck({entry_point})",)
    named = f"{setup}\n{check.args.args[0].arg} = {entry_point}"
    return CodeTests(calls=calls, weak=weak, setup=named)


def _split_all(statements: Sequence[ast.stmt]) -> tuple[tuple[CallTest, ...], tuple[str, ...]]:
    calls, weak = [], []
    for statement in statements:
        split = split_assert(statement)
        if split is not None:
            calls.append(split)
        elif not (isinstance(statement, ast.Assert) and _value(statement.test) is not _UNKNOWN) and not isinstance(
            statement, (ast.Expr, ast.Pass)
        ):  # `assert True` and docstrings test nothing
            weak.append(ast.unparse(statement))
    return tuple(calls), tuple(weak)


def _module(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"are no Python ({type(error).__name__}: {error})") from None
