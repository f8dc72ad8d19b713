"""Which statements and definitions of a module are tests. Pure: the grader reads the sources of tests by it too."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence


def is_collected(node: ast.FunctionDef | ast.ClassDef, body: Sequence[ast.stmt]) -> bool:
    """Whether a definition holds tests that a runner would find, and that the module does not run itself."""
    if isinstance(node, ast.ClassDef):
        return any(isinstance(part, ast.FunctionDef) and part.name.startswith("test") for part in node.body)
    calls = {ast.unparse(part.func) for each in body if not isinstance(each, (ast.FunctionDef, ast.ClassDef))
             for part in ast.walk(each) if isinstance(part, ast.Call)}  # fmt: skip
    return node.name.startswith("test") and node.name not in calls


def is_test(node: ast.stmt, body: Sequence[ast.stmt]) -> bool:
    """Whether a statement of the module tests something when it runs: it asserts, or calls a function that does."""
    return not isinstance(node, (ast.FunctionDef, ast.ClassDef)) and reaches(node, body)


def asserts(node: ast.AST) -> bool:
    """Whether it holds what can fail a test."""
    return any(isinstance(part, ast.Assert) or _fails(part, ("assert", "raises", "exit")) for part in ast.walk(node))


def fails_by_itself(node: ast.AST, body: Sequence[ast.stmt]) -> bool:
    """Whether a test may fail by other means than an assertion that runs whenever it passes: it raises, or exits."""
    return reaches(node, body, lambda each: any(_fails(part, ("exit",)) for part in ast.walk(each)))


def expects_error(node: ast.Try) -> bool:
    """Whether it is `pytest.raises` by hand: only a handler, and of an error that fails no test, leads past it."""
    last = (node.orelse or node.body)[-1]
    fails = isinstance(last, ast.Raise) or (
        isinstance(last, ast.Assert) and isinstance(last.test, ast.Constant) and not last.test.value
    )
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        fails = ast.unparse(last.value.func) in ("self.fail", "pytest.fail", "exit", "sys.exit")
    kinds = [part.id for each in node.handlers for part in (ast.walk(each.type) if each.type else [])
             if isinstance(part, ast.Name)]  # fmt: skip
    caught = {"AssertionError", "Exception", "BaseException", "SystemExit"} & set(kinds)
    return fails and bool(node.handlers) and all(each.type for each in node.handlers) and not caught


def _fails(node: ast.AST, names: tuple[str, ...]) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).rpartition(".")[2].startswith(names)
    return isinstance(node, ast.Raise)


def reaches(node: ast.AST, body: Sequence[ast.stmt], holds: Callable[[ast.AST], bool] = asserts) -> bool:
    """Whether it asserts (or `holds`), or names a function of the module that does."""
    functions = {part.name: part for part in body if isinstance(part, ast.FunctionDef)}
    names: list[ast.AST] = [node]
    seen = set[str]()
    while names:
        part = names.pop()
        if holds(part):
            return True
        calls = {each.id for each in ast.walk(part) if isinstance(each, ast.Name)} & functions.keys() - seen
        seen |= calls
        names += [functions[name] for name in calls]
    return False
