"""Tests of a code problem, taken apart: what enters the sandbox, and the expected values, which never do.

`assert f(x) == y` becomes the call `f(x)`, evaluated in the sandbox, and the value y, compared outside. Where one of
the tests is more than that (a loop, a helper, an order that counts), all of them are a `Script`, which `code_judge.py`
runs apart from the program. `code_forms.py` reads the forms in which data sets write tests.
"""

from __future__ import annotations

import ast
import builtins
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guided_grpo.grading.code_refusals import refuse_idle
from guided_grpo.sandbox import number_of, plain, same
from guided_grpo.sandbox.collection import asserts, is_collected, is_test, reaches
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
class Near(Equal):
    """As a reference returned it: floats in it to an absolute tolerance, a NaN equal to itself."""

    tolerance: float = 0.0

    def accepts(self, received: Any) -> bool:
        return same(self.value, received, tolerance=self.tolerance)


@dataclass(frozen=True)
class Same(Equal):
    """Passes where None, True or False came back, itself."""

    def accepts(self, received: Any) -> bool:
        return received is self.value


@dataclass(frozen=True)
class EqualJson(Equal):
    """Passes where what came back is `value` once it is written as JSON: a tuple is a list, a key is a string."""

    wrapped: bool = False  # `value` may also be a list around what must come back

    def accepts(self, received: Any) -> bool:
        written = _as_json(received)
        return super().accepts(written) or (self.wrapped and same(self.value[0], written))


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
        return {kind: [[_json_key(key), _as_json(value, depth + 1)] for key, value in content]}
    return received


def _json_key(key: Any) -> Any:
    if type(key) is bool or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    number = number_of(key)
    return key if number is None or isinstance(number, complex) else repr(number)


@dataclass(frozen=True)
class Close:
    """Passes where a number came back that is at most `absolute` + `relative`·max(|both|) from `value`."""

    value: float
    absolute: float
    relative: float = 0.0

    def accepts(self, received: Any) -> bool:
        number = number_of(received)
        if number is None or isinstance(number, complex):
            return False
        try:
            number = float(number)
        except (OverflowError, ValueError):  # an integer beyond all floats is close to none
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
    exact: bool = False  # blanks and the form of numbers count


@dataclass(frozen=True)
class Script:
    """Tests that run as they stand, where the program is not."""

    source: str
    names: tuple[str, ...]  # those in it that are the program's
    count: int  # of its tests, as far as the source says
    shared: str = ""  # source that the tests and the program both have
    entry_point: str = ""  # what `check` is called with; "" = the source runs by itself

    @property
    def whole(self) -> str:
        """For a process that has the program too: the source, with calls of what it only defines."""
        body = module_of(self.source).body
        calls = [f"check({self.entry_point})"] if self.entry_point else []
        calls += [f"{part.name}()" for part in body if isinstance(part, ast.FunctionDef) and is_collected(part, body)]
        return "\n".join([self.source, *calls])


@dataclass(frozen=True)
class CodeTests:
    """The tests of one problem; each is passed by itself."""

    stdin: tuple[StdinTest, ...] = ()
    calls: tuple[CallTest, ...] = ()
    script: Script | None = None
    setup: str = ""  # runs after the program, before calls

    def __len__(self) -> int:
        return len(self.stdin) + len(self.calls) + (self.script.count if self.script else 0)


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
    return _call_test(negated, Equal(False))


def _split_comparison(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> CallTest | None:
    if isinstance(operator, (ast.Eq, ast.Is)):
        for call, expected in ((left, right), (right, left)):
            value = _value(expected)
            if value is not _UNKNOWN and _value(call) is _UNKNOWN:
                if isinstance(operator, ast.Is):
                    if value is not None and not isinstance(value, bool):
                        return None
                    return _call_test(call, Equal(None) if value is None else Same(value))
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
    return CallTest(ast.unparse(call), expected) if _is_call(call) else None


def _is_call(node: ast.expr) -> bool:
    """Whether it is a call of the program and no more, but for a conversion: a function, one of a class or its object.

    No sign, no comparison and no method of what came back: an object of the program could answer those in its own way.
    """
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) and _is_call(node.operand)
    if not isinstance(node, ast.Call):
        return False
    if ast.unparse(node.func) in _CONVERSIONS and not node.keywords and len(node.args) == 1 and _is_call(node.args[0]):
        return True
    made = node.func.value if isinstance(node.func, ast.Attribute) else None
    arguments = [*_arguments(node), *(_arguments(made) if isinstance(made, ast.Call) else [])]
    if any(isinstance(part, (ast.Compare, ast.Lambda, ast.NamedExpr)) for each in arguments for part in ast.walk(each)):
        return False
    if not isinstance(node.func, ast.Attribute):
        return isinstance(node.func, ast.Name)
    if node.func.attr.startswith("__"):  # a comparison by its own name
        return False
    name = made.func if isinstance(made, ast.Call) else made
    return isinstance(name, ast.Name) and (name is made or name.id[:1].isupper())  # Solution().f(x), and not f(x).g()


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(word.value for word in call.keywords)]


_CONVERSIONS = ("set", "frozenset", "list", "tuple", "dict", "sorted", "asyncio.run")

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


def module_of(source: str) -> ast.Module:
    """Raises ValueError where the source is no Python. For tests only: what a policy wrote is never parsed here."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"are no Python ({type(error).__name__}: {error})") from None


def read_module(source: str, *, entry_point: str = "", setup: str = "") -> CodeTests:
    """The tests of a module: call by call where they are no more than that, else a script.

    Raises ValueError for tests that nothing runs, and where there are none.
    """
    body = module_of(source).body
    refuse_idle(body)
    check = next((part for part in body if isinstance(part, ast.FunctionDef) and part.name == "check"), None)
    asserted = [part for part in body if isinstance(part, ast.Assert) and _value(part.test) is _UNKNOWN]
    calls = [split_assert(part) for part in asserted]
    others = [part for part in body if not isinstance(part, (ast.Assert, ast.Pass)) and not _says_nothing(part)]
    if check is not None and not asserted:
        split = _split_check(body, check, entry_point, setup)
        if split is not None:
            return split
    elif calls and all(call is not None and _free(call.call, body) for call in calls) and _are_imports(others):
        imports = "\n".join(filter(None, [setup, *map(ast.unparse, others)]))
        return CodeTests(calls=tuple(call for call in calls if call is not None), setup=imports)
    return CodeTests(script=_script(source, body, check, entry_point, setup), setup=setup)


def _says_nothing(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)


def _are_imports(statements: Sequence[ast.stmt]) -> bool:
    """Whether they only import what an interpreter has."""
    modules: list[str] = []
    for statement in statements:
        if isinstance(statement, ast.Import):
            modules += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            modules.append(statement.module or "")
        else:
            return False
    return all(module.partition(".")[0] in sys.stdlib_module_names - {"unittest"} for module in modules)


def _free(call: str, body: Sequence[ast.stmt]) -> bool:
    """Whether a call is the program's: of a name that no builtin and no import has, or whose arguments are plain."""
    node: ast.AST = ast.parse(call, mode="eval").body
    while isinstance(node, ast.UnaryOp):
        node = node.operand
    while isinstance(node, ast.Call) and ast.unparse(node.func) in _CONVERSIONS and isinstance(node.args[0], ast.Call):
        node = node.args[0]
    arguments = [part for each in ast.walk(node) if isinstance(each, ast.Call) for part in each.args]
    while isinstance(node, (ast.Call, ast.Attribute, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    name = node.id if isinstance(node, ast.Name) else ""
    imported = {alias.asname or alias.name.partition(".")[0] for part in body
                if isinstance(part, (ast.Import, ast.ImportFrom)) for alias in part.names}  # fmt: skip
    return name not in {*dir(builtins), *imported} or all(_value(part) is not _UNKNOWN for part in arguments)


def _split_check(body: Sequence[ast.stmt], check: ast.FunctionDef, entry_point: str, setup: str) -> CodeTests | None:
    """The asserts of a `check(candidate)` that holds nothing else, in a module that holds nothing else that runs."""
    name = entry_point or _called(body)
    if not name and any(isinstance(part, ast.Name) and part.id == "check" for each in body for part in ast.walk(each)):
        return None  # another function calls it
    if len(check.args.args) != 1 or not name:
        raise ValueError("hold a check of other than one argument, or no entry point is given")
    inside = [part for part in check.body if not isinstance(part, ast.Pass) and not _says_nothing(part)]
    tests = [part for part in inside if not (isinstance(part, ast.Assert) and _value(part.test) is not _UNKNOWN)]
    calls = [split_assert(part) for part in tests]
    around = [part for part in body if part is not check and not _says_nothing(part)]
    around = [part for part in around if not (isinstance(part, ast.Expr) and ast.unparse(part) == f"check({name})")]
    around = [part for part in around if not (isinstance(part, ast.Assign) and _value(part.value) is not _UNKNOWN)]
    if (
        not calls
        or not all(call and _free(call.call, [*around, *inside]) for call in calls)
        or not _are_imports(around)
    ):
        return None
    lines = [setup, *map(ast.unparse, around), f"{check.args.args[0].arg} = {name}"]
    return CodeTests(calls=tuple(call for call in calls if call is not None), setup="\n".join(lines))


def _called(body: Sequence[ast.stmt]) -> str:
    """The function that a line `check(f)` names; "" = there is none."""
    for part in body:
        call = part.value if isinstance(part, ast.Expr) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "check" and len(call.args) == 1:
            return ast.unparse(call.args[0])
    return ""


def _script(
    source: str, body: Sequence[ast.stmt], check: ast.FunctionDef | None, entry_point: str, setup: str
) -> Script:
    runs = [part for part in body if is_test(part, body)]
    definitions = [part for part in body if isinstance(part, (ast.FunctionDef, ast.ClassDef)) and asserts(part)]
    runners = [part for part in body if isinstance(part, (ast.FunctionDef, ast.ClassDef)) and is_collected(part, body)]
    collected = [part for part in runners if reaches(part, body)]
    names = {part.id for each in body for part in ast.walk(each) if isinstance(part, ast.Name)}
    checks = check is not None and "check" not in names
    if checks and not entry_point:
        raise ValueError("hold a check, and no entry point is given")
    idle = [part.name for part in definitions if part not in collected and part.name not in names]
    idle = [name for name in idle if not (checks and name == "check")]
    if idle:
        raise ValueError(f"hold {idle[0]}, which asserts and which nothing calls")
    counts = len(runs) + len(collected) + checks
    shared, program = _names(body, setup, entry_point if checks else "")
    if not counts or not program:
        raise ValueError("hold no test" if program else "hold no test of the program")
    return Script(source, program, counts, shared, entry_point if checks else "")


def _names(body: Sequence[ast.stmt], setup: str, entry_point: str) -> tuple[str, tuple[str, ...]]:
    """Source that tests need of the set-up and of the standard library, and the names that are the program's."""
    nodes = [part for each in [*body, *module_of(setup).body] for part in ast.walk(each)]
    own = {part.name for part in body if isinstance(part, (ast.FunctionDef, ast.ClassDef))}
    for part in nodes:
        if isinstance(part, ast.alias):
            own.add(part.asname or part.name.partition(".")[0])
        elif isinstance(part, ast.arg):
            own.add(part.arg)
        elif isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            own.add(part.id)
    used = {part.id for part in nodes if isinstance(part, ast.Name)} - own
    modules = {part.value.id for part in nodes if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name)}
    modules &= used & (sys.stdlib_module_names | {"pytest"})
    program = used - set(dir(builtins)) - modules
    if not program and not entry_point:  # a task may name its function as a builtin is named
        program = {ast.unparse(part.func) for part in nodes if isinstance(part, ast.Call)} & used
    imported = [part for part in nodes if isinstance(part, (ast.Import, ast.ImportFrom)) and not _are_imports([part])]
    program |= {alias.name for part in imported for alias in part.names if alias.name not in ("pytest", "unittest")}
    program |= {entry_point} if entry_point else set()
    shared = "\n".join([*(f"import {name}" for name in sorted(modules)), setup])
    return shared, tuple(sorted(name for name in program if name.isidentifier()))
