"""Runs tests in a sandbox of their own, where the program is not: its names are stand-ins (`stand_ins.py`)."""

from __future__ import annotations

import ast
import builtins
import json
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from guided_grpo.sandbox.assertions import prepare_unittest, pytest_module
from guided_grpo.sandbox.collection import expects_error, fails_by_itself, is_collected, is_test
from guided_grpo.sandbox.stand_ins import (
    Absent,
    Asked,
    StandIn,
    Text,
    Unknown,
    Unportable,
    get_attribute,
    has_attribute,
    is_callable,
    is_same,
    type_of,
)


class _Rewrite(ast.NodeTransformer):
    """Functions without a name keep their source; a module that is not there is the program; a statement that needs an
    unknown answer is passed over, for the questions of the next."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        counted = _pass_over(self.generic_visit(node), "_pending()")
        counted.body.insert(0, ast.parse("_asserted()").body[0])  # type: ignore[attr-defined]
        return counted

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return node
        same = ast.Call(ast.Name("_is", ast.Load()), [node.left, node.comparators[0]], [])
        return same if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(ast.Not(), same)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr != "__class__" or not isinstance(node.ctx, ast.Load):
            return node
        return ast.Call(ast.Name("_type", ast.Load()), [node.value], [])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) == 1 and not node.keywords:
            node.func.id = "_type"
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return _pass_over(self.generic_visit(node), "_pending()")

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        node = self.generic_visit(node)  # type: ignore[assignment]
        target = node.targets[0]
        return _pass_over(node, f"{target.id} = _pending()") if isinstance(target, ast.Name) else node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        wanted = expects_error(node)
        self.generic_visit(node)
        for handler in node.handlers if wanted else []:  # then to get here is what the test asserts
            handler.body.insert(0, ast.parse("_asserted()").body[0])
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        text = ast.unparse(node)
        self.generic_visit(node)
        return ast.Call(ast.Name("_Text", ast.Load()), [node, ast.Constant(text)], [])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        names = [alias.asname or alias.name for alias in node.names]
        if node.module == "__future__":
            return None
        if "*" in names:
            return _guard(node, "pass")
        lines = [f"{name} = _name({alias.name!r})" for name, alias in zip(names, node.names, strict=True)]
        return _guard(node, "\n    ".join(lines))

    def visit_Import(self, node: ast.Import) -> Any:
        lines = [f"{alias.asname or alias.name.partition('.')[0]} = _program" for alias in node.names]
        return _guard(node, "\n    ".join(lines))


def _pass_over(node: Any, otherwise: str) -> ast.stmt:
    around = ast.parse(f"try:\n    pass\nexcept _Absent:\n    {otherwise}").body[0]
    around.body[0] = node  # type: ignore[attr-defined]
    return around


def _guard(node: ast.stmt, otherwise: str) -> ast.stmt:
    return ast.parse(f"try:\n    {ast.unparse(node)}\nexcept ImportError:\n    {otherwise}").body[0]


def run_tests(
    source: str, shared: str, names: Sequence[str], entry_point: str, known: Sequence[tuple[str, bool]], written: str
) -> str:
    """The result of each test of `source`, in order, and the questions, as JSON.

    Args:
        source: of the tests.
        shared: imports and functions that tests and program both have.
        names: which of the names are the program's.
        entry_point: what `check` is given; "" = it is not called here.
        known: questions that have answers.
        written: the answers, as JSON: [kind, content] of each.
    """
    asked = Asked(known, json.loads(written))
    body = ast.parse(source).body
    asked.sources = {
        node.name: ast.unparse(node) for node in body if isinstance(node, ast.FunctionDef) and _is_self_contained(node)
    }
    asked.candidate = entry_point.partition(".")[0].partition("(")[0]
    sys.modules["pytest"] = pytest_module(asked)
    if "unittest" in source:
        prepare_unittest(asked)
    program = type("Program", (), {"__getattr__": lambda _, name: StandIn(asked, name)})()
    space: dict[str, Any] = {"__name__": "__main__", "_name": lambda name: StandIn(asked, name), "_program": program}

    def pending() -> Unknown:
        if asked.valid and asked.exact:
            raise
        return Unknown(asked)

    def count() -> None:
        asked.asserted += 1

    space |= {"_asserted": count, "_is": is_same, "_type": type_of}
    space |= {"hasattr": has_attribute, "getattr": get_attribute, "callable": is_callable}
    space |= {"_Text": Text, "_Absent": Absent, "_pending": pending, **{name: StandIn(asked, name) for name in names}}
    results: list[list[Any]] = []

    def test(action: Callable[[], object], node: ast.AST, *, counts: bool) -> None:
        asked.fault, asked.forged, asked.stopped, asked.asserted = -1, False, False, 0
        try:
            action()
        except Absent:
            result = ["absent", asked.fault]
        except Unportable as error:
            result = ["unportable", str(error)]
        except BaseException as error:  # a failed assertion; whatever else the test raises
            result = ["failed", f"{type(error).__name__}: {str(error)[:200]}", asked.fault]
        else:
            idle = counts and not asked.asserted and not fails_by_itself(node, body)  # a loop over an empty answer
            result = ["forged" if asked.forged or asked.stopped or idle else "passed"]
        if counts or result[0] not in ("passed", "forged"):
            results.append(result)

    def execute(node: ast.stmt) -> Callable[[], object]:
        tree = ast.fix_missing_locations(_Rewrite().visit(ast.Module([node], [])))
        return lambda: exec(compile(tree, "tests.py", "exec"), space)

    for node in ast.parse(shared).body:
        if not isinstance(node, ast.ClassDef):  # its objects are the program's to make
            with suppress(Exception):
                execute(node)()
    for node in body:
        test(execute(node), node, counts=is_test(node, body))
    if entry_point:
        test(
            lambda: space["check"](space[entry_point] if entry_point in space else eval(entry_point, space)),
            next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"),
            counts=True,
        )
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and is_collected(node, body):
            for action in _tests_of(space.get(node.name)):
                test(action, node, counts=True)
    return json.dumps([results, asked.questions, asked.valid and asked.exact])


def _tests_of(definition: Any) -> list[Callable[[], object]]:
    if not isinstance(definition, type):
        return [partial(_run_function, definition, case) for case in getattr(definition, "cases", [{}])]
    return [
        partial(_run_method, definition, name, case)
        for name in dir(definition)
        if name.startswith("test")
        for case in getattr(getattr(definition, name), "cases", [{}])
    ]


def _run_function(function: Any, case: dict[str, Any]) -> None:
    """With its case, and with the fixtures that it names."""
    code, space = function.__code__, function.__globals__
    fixtures = {}
    for name in code.co_varnames[: code.co_argcount]:
        if name not in case and name in space:
            value = space[name]()
            fixtures[name] = next(value) if isinstance(value, types.GeneratorType) else value
    function(**fixtures, **case)


def _run_method(definition: Any, name: str, case: dict[str, Any]) -> None:
    instance = (
        definition(name)
        if "unittest" in sys.modules and issubclass(definition, sys.modules["unittest"].TestCase)
        else definition()
    )
    for before in ("setUpClass", "setup_class", "setUp"):
        getattr(instance, before, lambda: None)()
    getattr(instance, "setup_method", lambda *_: None)(*[None][: _arguments(getattr(instance, "setup_method", None))])
    getattr(instance, name)(**case)
    getattr(instance, "tearDown", lambda: None)()


def _arguments(function: Any) -> int:
    return function.__code__.co_argcount - 1 if function is not None else 0


def _is_self_contained(node: ast.FunctionDef) -> bool:
    """Whether it is a function that needs nothing but its arguments and builtins: its source can be given away."""
    bound = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)} | {node.name}
    bound |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)}
    loaded = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - bound
    outer = any(isinstance(part, (ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom)) for part in ast.walk(node))
    return not outer and not node.decorator_list and loaded <= set(dir(builtins))
