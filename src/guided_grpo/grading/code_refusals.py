"""Tests that would let every program pass, by their form: their rows are refused when they are loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from guided_grpo.sandbox.collection import asserts

_CAUGHT = ("AssertionError", "Exception", "BaseException")


def refuse_idle(body: Sequence[ast.stmt]) -> None:
    """Raises ValueError that says in one line what in tests can never fail."""
    for node in (part for each in body for part in ast.walk(each)):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and node.test.elts:
            raise ValueError("assert a tuple, which is always true: the brackets hold the message too")
        asserted = _asserted(node)
        if asserted is not None and _is_always_true(asserted):
            raise ValueError(f"assert what is always true: {_short(ast.unparse(asserted))}")
        if _catches_all(node):
            raise ValueError("catch the failure of their own assert, so that every program would pass")
        if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test") and asserts(node):
            raise ValueError(f"hold {node.name}, which is asynchronous: nothing here runs it")
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and asserts(node) and _yields(node):
            raise ValueError(f"hold {node.name}, which is a generator: to call it runs nothing")


def _asserted(node: ast.AST) -> ast.expr | None:
    """What a statement or a call says to be true; None = nothing, or no more than `assert True`."""
    called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    claim = node.test if isinstance(node, ast.Assert) else None
    if isinstance(node, ast.Call) and called == "assertTrue" and node.args:
        claim = node.args[0]
    return None if isinstance(claim, ast.Constant) and claim.value is True else claim


def _is_always_true(claim: ast.expr) -> bool:
    """Whether no program makes it false: a text, a list with elements, a function, `… or True`."""
    if isinstance(claim, ast.Constant):
        return bool(claim.value)
    if isinstance(claim, (ast.Tuple, ast.List, ast.Set)):
        return bool(claim.elts)
    if isinstance(claim, ast.BoolOp):
        return (any if isinstance(claim.op, ast.Or) else all)(map(_is_always_true, claim.values))
    return isinstance(claim, (ast.Lambda, ast.GeneratorExp))


def _catches_all(node: ast.AST) -> bool:
    """Whether it holds asserts whose failure goes no further."""
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        return any(map(asserts, node.body)) and any(
            ast.unparse(call.func).rpartition(".")[2] == "suppress" and _names_failure(call.args) for call in calls
        )
    if not isinstance(node, ast.Try) or not any(map(asserts, node.body)):
        return False
    if any(isinstance(part, (ast.Return, ast.Break, ast.Continue)) for part in _within(node.finalbody)):
        return True
    return any(
        (handler.type is None or _names_failure([handler.type]))
        and not any(isinstance(part, (ast.Raise, ast.Assert)) for each in handler.body for part in ast.walk(each))
        for handler in node.handlers
    )


def _names_failure(kinds: Sequence[ast.expr]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in _CAUGHT for kind in kinds for part in ast.walk(kind))


def _yields(function: ast.FunctionDef) -> bool:
    return any(isinstance(part, (ast.Yield, ast.YieldFrom)) for part in _within(function.body))


def _within(statements: Iterable[ast.AST]) -> Iterable[ast.AST]:
    """The nodes below, but for those of functions inside."""
    for node in statements:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from _within(ast.iter_child_nodes(node))


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
