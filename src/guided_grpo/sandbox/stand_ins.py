"""Runs in a sandbox of its own, where the tests are and the program is not: stand-ins for the program's names.

A call of a stand-in is a *question*, an expression that another process, the program's, has answered or has yet to
answer. Answers are plain data, so that every comparison, builtin and helper here is the test's own. A question without
an answer is noted, and the tests go on with an `Unknown`, to find the other questions. An object that is no plain data
stays with the program; here it is the name under which the program's process holds it.
"""

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

from guided_grpo.sandbox.values import decode

MOST = 5_000  # questions; tests that ask more are cut off there
_COLLECTIONS = (list, dict, set, bytearray)


class Absent(BaseException):
    """A question was not answered, and nothing can go on without the answer."""


class Unportable(BaseException):
    """A value of the test that the program's process cannot be given."""


class Asked:
    """Questions so far, and the answers to the first of them."""

    def __init__(self, questions: Sequence[tuple[str, bool]], answers: Sequence[Any]) -> None:
        """`questions` with answers; True beside one that was put before its arguments were known."""
        self.known, self.answers = questions, answers
        self.questions: list[tuple[str, bool]] = []
        self.valid = True  # the answers are those to the questions so far
        self.exact = True  # with the arguments that the tests have
        self.fault = -1  # number of the question whose answer was an exception, or nothing
        self.forged = False  # the program itself has compared
        self.candidate = ""  # the only function that is tested; "" = any
        self.objects = {  # which of them answered with what is no plain data
            _name_in(question)
            for (question, _), (_, content) in zip(questions, answers, strict=False)
            if isinstance(content, dict) and "opaque" in content
        }

    def ask(self, question: str) -> Any:
        """The answer to an expression without arguments."""
        return self._ask(question, f"(_{len(self.questions)} := {question})", [])

    def call(self, function: str, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """The answer of a function; lists, dicts and sets that it is given are as it leaves them."""
        number = len(self.questions)
        parts: list[str] = []
        changed: list[Any] = []
        for value in (*arguments, *named.values()):
            text = value._path if isinstance(value, Unknown) and value._path else source_of(value)
            if isinstance(value, _COLLECTIONS):
                text = f"(_{number}_{len(changed)} := {text})"
                changed.append(value)
            parts.append(text)
        parts[len(arguments) :] = [f"{name}={text}" for name, text in zip(named, parts[len(arguments) :], strict=True)]
        question = f"(_{number} := {function}({', '.join(parts)}))"
        if changed:
            question = f"({question}, [{', '.join(f'_{number}_{n}' for n in range(len(changed)))}])"
        root = function.partition(".")[0]
        if self.candidate and not root.startswith("_") and root != self.candidate:
            self.forged = True  # a helper that the tests rely on
        loose = any(isinstance(value, Unknown) for value in (*arguments, *named.values()))
        return self._ask(function, question, changed, loose=loose)

    def _ask(self, name: str, question: str, arguments: Sequence[Any], *, loose: bool = False) -> Any:
        number = len(self.questions)
        if number >= MOST:
            raise Absent
        self.questions.append((question, loose))
        self.valid = self.valid and number < len(self.answers)
        if self.valid and self.known[number][0] != question:
            self.valid, self.exact = self.known[number][1] and _name_in(self.known[number][0]) == name, False
        if not self.valid:
            found = StandIn if name in self.objects or name[:1].isupper() else Unknown
            return found(self, f"_{number}")
        kind, content = self.answers[number]
        if kind == "value":
            if arguments:
                content, changes = content["tuple"]
                for argument, change in zip(arguments, changes, strict=True):
                    _update(argument, change)
            return self._value(content, f"_{number}")
        self.fault = number
        if kind == "raised":
            raise _exception(*content)
        raise Absent

    def _value(self, content: Any, path: str) -> Any:
        """Plain data; objects in lists, tuples and dicts under their path in the program's process."""
        kind = next(iter(content)) if type(content) is dict else ""
        if kind == "opaque":
            return StandIn(self, path)
        if type(content) is list:
            return [self._value(each, f"{path}[{n}]") for n, each in enumerate(content)]
        if kind == "tuple":
            return tuple(self._value(each, f"{path}[{n}]") for n, each in enumerate(content["tuple"]))
        if kind == "dict":
            pairs = [(decode(key), value) for key, value in content["dict"]]
            return {key: self._value(value, f"{path}[{source_of(key)}]") for key, value in pairs}
        return decode(content)


def _name_in(question: str) -> str:
    """The function that a question is about."""
    return question.split(" := ", 1)[1].split("(")[0]


def _update(argument: Any, change: Any) -> None:
    """What the program did to a list, dict or set that it was given."""
    if not isinstance(argument, _COLLECTIONS):
        return
    try:
        value = decode(change)
    except ValueError:  # it holds what is no plain data
        return
    if type(value) is type(argument) and value != argument:
        argument.clear()
        argument.extend(value) if isinstance(argument, (list, bytearray)) else argument.update(value)  # type: ignore[arg-type]


def _exception(text: str, names: Sequence[str]) -> BaseException:
    """An exception of the program: of the class of that name, or of one like it."""
    base = next((known for name in names if isinstance(known := getattr(builtins, name, None), type)), Exception)
    if not issubclass(base, BaseException):
        base = Exception
    kind = base
    with suppress(TypeError):
        kind = type(names[0], (base,), {"names": tuple(names), "__init__": lambda self, *a: None}) if names else base
    if names and getattr(builtins, names[0], None) is base:
        kind = base
    try:
        error = kind(text.partition(": ")[2])
    except TypeError:  # such as UnicodeDecodeError, which wants more
        error = Exception(text)
    return error


def source_of(value: Any) -> str:
    """An expression for a value; Absent where it is not known yet, TypeError where there is none."""
    if isinstance(value, StandIn):
        return str(object.__getattribute__(value, "path"))
    if isinstance(value, Unknown):
        raise Absent
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f"float('{value!r}')"
    kind = type(value)
    if kind in (list, tuple, set):
        inside = ", ".join(map(source_of, value))
        if kind is set:
            return f"{{{inside}}}" if value else "set()"
        return f"[{inside}]" if kind is list else f"({inside}{',' * (len(value) == 1)})"
    if kind is dict:
        return f"{{{', '.join(f'{source_of(key)}: {source_of(content)}' for key, content in value.items())}}}"
    if value is None or kind in (bool, int, float, complex, str, bytes, bytearray, range, frozenset):
        return repr(value)
    if isinstance(value, Text):
        return f"({value.text})"
    if kind.__module__ in ("fractions", "decimal", "datetime", "collections"):
        return f"__import__({kind.__module__!r}).{repr(value).removeprefix(kind.__module__ + '.')}"
    if isinstance(value, (type, types.BuiltinFunctionType)) and value.__module__ == "builtins":
        return value.__name__
    raise Unportable(f"the program cannot be given a {kind.__name__} of the test")


class Text:
    """A function of the test, with its source for the program's process."""

    def __init__(self, function: Callable[..., Any], text: str) -> None:
        self.function, self.text = function, text

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)


class StandIn:
    """A name of the program, or an object that its process holds."""

    def __init__(self, asked: Asked, path: str) -> None:
        object.__setattr__(self, "asked", asked)
        object.__setattr__(self, "path", path)

    def __getattr__(self, name: str) -> StandIn:
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        return StandIn(_asked(self), f"{source_of(self)}.{name}")

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _asked(self).call(source_of(self), arguments, named)

    def __setattr__(self, name: str, value: Any) -> None:
        _asked(self).ask(f"setattr({source_of(self)}, {name!r}, {source_of(value)})")

    def __setitem__(self, key: Any, value: Any) -> None:
        _asked(self).ask(f"{source_of(self)}.__setitem__({source_of(key)}, {source_of(value)})")

    def __getitem__(self, key: Any) -> Any:
        text = ":".join("" if e is None else source_of(e) for e in (key.start, key.stop, key.step)) if isinstance(
            key, slice
        ) else source_of(key)  # fmt: skip
        return _asked(self).ask(f"{source_of(self)}[{text}]")

    def __eq__(self, other: object) -> Any:
        return _equal(self, other)

    def __ne__(self, other: object) -> Any:
        same = _equal(self, other)
        return same if isinstance(same, Unknown) else not same

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return bool(_asked(self).ask(f"not not {source_of(self)}"))

    def __len__(self) -> int:
        try:
            return int(_certain(_asked(self).ask(f"{source_of(self)}.__len__()")))
        except AttributeError:  # a generator: `list` does without
            _asked(self).fault = -1
            raise TypeError("an object of the program has no length") from None

    def __iter__(self) -> Any:
        if "." in source_of(self):
            return iter(_value(self))
        return iter(_certain(_asked(self).ask(f"[*{source_of(self)}]")))

    def __next__(self) -> Any:
        return _asked(self).ask(f"{source_of(self)}.__next__()")

    def __str__(self) -> str:
        return str(_certain(_asked(self).ask(f"str({source_of(self)})")))

    def __repr__(self) -> str:
        return str(_certain(_asked(self).ask(f"repr({source_of(self)})")))

    def __enter__(self) -> Any:
        return _asked(self).ask(f"{source_of(self)}.__enter__()")

    def __exit__(self, *_: object) -> None:
        _asked(self).ask(f"{source_of(self)}.__exit__(None, None, None)")

    def __instancecheck__(self, value: Any) -> bool:  # of a class of the program
        return isinstance(value, StandIn) and bool(
            _asked(self).ask(f"isinstance({source_of(value)}, {source_of(self)})")
        )

    def __contains__(self, value: Any) -> bool:
        return value in _value(self) if "." in source_of(self) else value in list(self)


def _binary(name: str, sign: str) -> Callable[[StandIn, Any], Any]:
    def between(self: StandIn, other: Any) -> Any:
        plain = _value(self)
        if not isinstance(plain, StandIn):
            found = getattr(plain, name)(other)
            return found if found is not NotImplemented else NotImplemented
        if isinstance(other, StandIn):  # never with a value of the test: it could be the expected one
            return _asked(self).ask(f"({source_of(self)} {sign} {source_of(other)})")
        return NotImplemented

    return between


for _name, _sign in {
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "add": "+", "sub": "-", "mul": "*", "truediv": "/", "or": "|",
    "and": "&", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
}.items():  # fmt: skip
    setattr(StandIn, f"__{_name}__", _binary(f"__{_name}__", _sign))
for _name in ("radd", "rsub", "rmul", "rtruediv", "abs", "neg", "round", "int", "float", "index"):
    setattr(
        StandIn,
        f"__{_name}__",
        lambda self, *others, _method=f"__{_name}__": getattr(_plain(self), _method)(*others),
    )


def _asked(stand_in: StandIn) -> Asked:
    return object.__getattribute__(stand_in, "asked")  # type: ignore[no-any-return]


def _value(stand_in: StandIn) -> Any:
    """The value of an attribute; an object itself."""
    path = source_of(stand_in)
    return _asked(stand_in).ask(path) if "." in path or not path.startswith("_") else stand_in


def _plain(stand_in: StandIn) -> Any:
    value = _value(stand_in)
    if isinstance(value, StandIn):
        raise TypeError("an object of the program where the test needs a value")
    return value


def _certain(value: Any) -> Any:
    if isinstance(value, Unknown):
        raise Absent
    return value


def _equal(stand_in: StandIn, other: Any) -> Any:
    one = _value(stand_in)
    another = _value(other) if isinstance(other, StandIn) else other
    if isinstance(one, StandIn) and isinstance(another, StandIn):
        _asked(stand_in).forged = True
        return _asked(stand_in).ask(f"{source_of(one)} == {source_of(another)}")
    if isinstance(one, StandIn) or isinstance(another, StandIn):
        return False  # the program's own == would decide: it could hold for everything
    return one == another


class Unknown:
    """The answer to a question that was not put yet: everything holds for it, and what needs its content stops."""

    def __init__(self, asked: Asked, path: str = "") -> None:
        self._asked, self._path = asked, path  # "" = it is computed from another

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unknown(self._asked)

    def __call__(self, *_: Any, **__: Any) -> Unknown:
        return Unknown(self._asked)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Any:
        raise Absent

    def __contains__(self, _: Any) -> bool:
        return True

    def __len__(self) -> int:
        raise Absent

    __hash__ = None  # type: ignore[assignment]


_ANY = """
eq ne lt le gt ge add radd sub rsub mul rmul truediv rtruediv floordiv mod pow and or xor abs neg round getitem
"""
for _name in _ANY.split():
    setattr(Unknown, f"__{_name}__", lambda self, *_: Unknown(self._asked))
for _name in ("int", "float", "index", "str", "repr", "format"):
    setattr(Unknown, f"__{_name}__", lambda self, *_: next(iter(self)))


class Raises:
    """`pytest.raises`, and that of unittest."""

    def __init__(self, *kinds: Any, match: str | None = None) -> None:
        self.kinds = [one for kind in kinds for one in (kind if isinstance(kind, tuple) else (kind,))]
        self.match, self.value = match, None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: Any, error: Any, _: object) -> bool:
        import re

        self.value = self.exception = error
        if isinstance(error, Absent):
            return False
        if error is None:
            asked = next((each for each in _ASKED), None)
            if asked is not None and not asked.valid:  # the answer that would raise is not there yet
                return True
            raise AssertionError("nothing was raised")
        names = getattr(error, "names", ()) or tuple(each.__name__ for each in kind.__mro__)
        fits = any(source_of(k) in names if isinstance(k, StandIn) else isinstance(error, k) for k in self.kinds)
        return fits and (self.match is None or re.search(self.match, str(error)) is not None)


_ASKED: list[Asked] = []


def raises(*kinds: Any, match: str | None = None) -> Any:
    if len(kinds) > 1 and callable(kinds[1]) and not isinstance(kinds[1], type):  # pytest.raises(E, f, argument)
        with Raises(kinds[0]) as context:
            kinds[1](*kinds[2:])
        return context
    return Raises(*kinds, match=match)


class Approx:
    """`pytest.approx`: numbers, and lists or dicts of them."""

    def __init__(self, value: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self.value, self.rel, self.abs, self.nan_ok = value, rel, abs, nan_ok

    def __eq__(self, other: object) -> Any:
        return other if isinstance(other, Unknown) else self._near(self.value, other)

    def _near(self, one: Any, other: Any) -> bool:
        if isinstance(one, (list, tuple)):
            return type(one) is type(other) and len(one) == len(other) and all(map(self._near, one, other))
        if isinstance(one, dict):
            return isinstance(other, dict) and one.keys() == other.keys() and all(
                self._near(value, other[key]) for key, value in one.items()
            )  # fmt: skip
        if not isinstance(one, (int, float, complex)) or not isinstance(other, (int, float, complex)):
            return bool(one == other)
        if one != one:
            return self.nan_ok and other != other
        absolute = 1e-12 if self.abs is None else self.abs
        relative = (1e-6 if self.abs is None else 0.0) if self.rel is None else self.rel
        return one == other or (one not in (_INF, -_INF) and abs(one - other) <= max(absolute, relative * abs(one)))


_INF = float("inf")


def _pytest() -> types.ModuleType:
    """What tests commonly use of pytest."""

    def parametrize(_names: Any, cases: Any, **__: Any) -> Callable[[Any], Any]:
        names = [name.strip() for name in _names.split(",")] if isinstance(_names, str) else list(_names)

        def mark(function: Any) -> Any:
            rows = [dict(zip(names, case if len(names) > 1 else (case,), strict=True)) for case in cases]
            function.cases = [{**a, **b} for a in getattr(function, "cases", [{}]) for b in rows]
            return function

        return mark

    def fixture(function: Any = None, **_: Any) -> Any:
        return function or fixture

    module = types.ModuleType("pytest")
    names = {"raises": raises, "approx": Approx, "main": lambda *_, **__: 0, "param": lambda *values, **__: values}
    vars(module).update(names, mark=types.SimpleNamespace(parametrize=parametrize), fixture=fixture)
    return module


class _Rewrite(ast.NodeTransformer):
    """Functions without a name keep their source; a module that is not there is the program; a statement that needs an
    unknown answer is passed over, for the questions of the next."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return _pass_over(self.generic_visit(node), "_pending()")

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return _pass_over(self.generic_visit(node), "_pending()")

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        node = self.generic_visit(node)  # type: ignore[assignment]
        target = node.targets[0]
        return _pass_over(node, f"{target.id} = _pending()") if isinstance(target, ast.Name) else node

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
    asked.candidate = entry_point.partition(".")[0].partition("(")[0]
    _ASKED[:] = [asked]
    sys.modules["pytest"] = _pytest()
    if "unittest" in source:
        import unittest

        unittest.main = lambda *_, **__: None  # type: ignore[assignment]  # its tests are run below
        unittest.TestCase.assertRaises = lambda self, *kinds: raises(*kinds)  # type: ignore[assignment]
    program = type("Program", (), {"__getattr__": lambda _, name: StandIn(asked, name)})()
    space: dict[str, Any] = {"__name__": "__main__", "_name": lambda name: StandIn(asked, name), "_program": program}

    def pending() -> Unknown:
        if asked.valid and asked.exact:
            raise
        return Unknown(asked)

    space |= {"_Text": Text, "_Absent": Absent, "_pending": pending, **{name: StandIn(asked, name) for name in names}}
    results: list[list[Any]] = []

    def test(action: Callable[[], object], *, counts: bool) -> None:
        asked.fault, asked.forged = -1, False
        try:
            action()
        except Absent:
            result = ["absent", asked.fault]
        except Unportable as error:
            result = ["unportable", str(error)]
        except BaseException as error:  # a failed assertion; whatever else the test raises
            result = ["failed", f"{type(error).__name__}: {str(error)[:200]}", asked.fault]
        else:
            result = ["forged" if asked.forged else "passed"]
        if counts or result[0] not in ("passed", "forged"):
            results.append(result)

    def execute(node: ast.stmt) -> Callable[[], object]:
        tree = ast.fix_missing_locations(_Rewrite().visit(ast.Module([node], [])))
        return lambda: exec(compile(tree, "tests.py", "exec"), space)

    for node in ast.parse(shared).body:
        if not isinstance(node, ast.ClassDef):  # its objects are the program's to make
            with suppress(Exception):
                execute(node)()
    body = ast.parse(source).body
    for node in body:
        test(execute(node), counts=is_test(node, body))
    if entry_point:
        test(
            lambda: space["check"](space[entry_point] if entry_point in space else eval(entry_point, space)),
            counts=True,
        )
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and is_collected(node, body):
            for action in _tests_of(space.get(node.name)):
                test(action, counts=True)
    return json.dumps([results, asked.questions, asked.valid and asked.exact])


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


def reaches(node: ast.AST, body: Sequence[ast.stmt]) -> bool:
    """Whether it asserts, or names a function of the module that does."""
    functions = {part.name: part for part in body if isinstance(part, ast.FunctionDef)}
    names: list[ast.AST] = [node]
    seen = set[str]()
    while names:
        part = names.pop()
        if asserts(part):
            return True
        calls = {each.id for each in ast.walk(part) if isinstance(each, ast.Name)} & functions.keys() - seen
        seen |= calls
        names += [functions[name] for name in calls]
    return False


def asserts(node: ast.AST) -> bool:
    """Whether it holds what can fail a test."""
    return any(
        isinstance(part, (ast.Assert, ast.Raise))
        or (
            isinstance(part, ast.Call)
            and ast.unparse(part.func).rpartition(".")[2].startswith(("assert", "raises", "exit"))
        )
        for part in ast.walk(node)
    )


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
