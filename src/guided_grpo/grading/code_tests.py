"""Tests of a code problem, taken apart: what enters the sandbox, and the expected values, which never do.

`assert f(x) == y` becomes the call `f(x)`, evaluated in the sandbox, and the value y, compared outside. What cannot be
taken apart (a loop, a helper of the test's own) runs in the sandbox as it stands, beside a program that could change
it: such a test is weak. `code_forms.py` reads the forms in which data sets write tests.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guided_grpo.sandbox import number_of, plain, same
from guided_grpo.sandbox.values import MAX_DEPTH

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
class EqualJson(Equal):
    """Passes where what came back is `value` once it is written as JSON: a tuple is a list."""

    def accepts(self, received: Any) -> bool:
        return super().accepts(_as_json(received))


def _as_json(received: Any, depth: int = 0) -> Any:
    """What came back, its tuples as lists. Whatever is not of the sandbox's form stays: it equals nothing."""
    if depth > MAX_DEPTH:
        return received
    if type(received) is list:
        return [_as_json(element, depth + 1) for element in received]
    if type(received) is not dict or len(received) != 1:
        return received
    [(kind, content)] = received.items()
    if kind == "tuple" and type(content) is list:
        return _as_json(content, depth)
    if kind == "dict" and type(content) is list and all(type(pair) is list and len(pair) == 2 for pair in content):
        return {kind: [[key, _as_json(value, depth + 1)] for key, value in content]}
    return received


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
        value = _evaluate(node)
    except (ValueError, TypeError, ArithmeticError, MemoryError, RecursionError, KeyError):  # not that plain
        return _UNKNOWN
    return value if plain(value) else _UNKNOWN


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _BUILDERS[node.func.id](*(_evaluate(argument) for argument in node.args))
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left), _evaluate(node.right)
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
        builder = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return builder(_evaluate(element) for element in node.elts)
    return ast.literal_eval(node)


def split_all(statements: Sequence[ast.stmt]) -> tuple[tuple[CallTest, ...], tuple[str, ...]]:
    """The statements that can be taken apart, and the source of those that cannot; what tests nothing is left out."""
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


def module_of(source: str) -> ast.Module:
    """Raises ValueError where the source is no Python. For tests only: what a policy wrote is never parsed here."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"are no Python ({type(error).__name__}: {error})") from None
