"""Stand-ins for the program's names, in the sandbox where the tests are and the program is not (`script.py`).

A call of a stand-in is a *question*, an expression that another process, the program's, has answered or has yet to
answer. Answers are plain data, so that every comparison, builtin and helper here is the test's own. A question without
an answer is noted, and the tests go on with an `Unknown`, to find the other questions. An object that is no plain data
stays with the program; here it is the name under which the program's process holds it.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from guided_grpo.sandbox.values import decode

MOST = 5_000  # questions; tests that ask more are cut off there
MOST_ELEMENTS = 10_000  # of an iterator that the program is given
_COLLECTIONS = (list, dict, set, bytearray)
_ENDS = (".__next__()", ".send", ".throw")  # what may say by StopIteration that there is no more


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
        self.stopped = False  # a call that is no step of an iterator has raised StopIteration, which ends loops
        self.asserted = 0  # assertions that ran
        self.sources: dict[str, str] = {}  # of functions of the tests that need nothing but builtins
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
        values = (*arguments, *named.values())
        texts = [v._path if isinstance(v, Unknown) and v._path else self.text_of(v) for v in values]  # may ask, too
        number = len(self.questions)
        parts: list[str] = []
        changed: list[Any] = []
        for value, text in zip(values, texts, strict=True):
            if isinstance(value, _COLLECTIONS):
                text = f"(_{number}_{len(changed)} := {text})"
                changed.append(value)
            parts.append(text)
        parts[len(arguments) :] = [f"{name}={text}" for name, text in zip(named, parts[len(arguments) :], strict=True)]
        question = f"(_{number} := {function}({', '.join(parts)}))"
        if changed:
            names = [f"_{number}_{n}" for n in range(len(changed))]
            same = ", ".join(f"_{number} is {name}" for name in names)
            question = f"({question}, [{', '.join(names)}], [{same}])"
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
                content, changes, same = content["tuple"]
                for argument, change in zip(arguments, changes, strict=True):
                    _update(argument, change)
                for argument, is_same in zip(arguments, same, strict=True):
                    if is_same is True:  # it gave the argument itself back
                        return argument
            return self._value(content, f"_{number}")
        self.fault = number
        if kind == "raised":
            error = _exception(*content)
            self.stopped = self.stopped or (isinstance(error, StopIteration) and not name.endswith(_ENDS))
            raise error
        raise Absent

    def text_of(self, value: Any) -> str:
        """An expression for an argument: also for a function of the tests, and for an iterator."""
        if isinstance(value, types.FunctionType) and value.__name__ in self.sources:
            return f"[_ := {{}}, exec({self.sources[value.__name__]!r}, _), _[{value.__name__!r}]][-1]"
        if isinstance(value, Iterator) and type(value).__module__ == "builtins":
            elements = list(islice(value, MOST_ELEMENTS + 1))
            if len(elements) > MOST_ELEMENTS:
                raise Unportable("the program cannot be given an iterator without an end")
            return f"iter({source_of(elements)})"
        return source_of(value)

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


# What an object that is asked for it says of itself, where texts, sets and numbers, which come back, would have it.
_OF_PLAIN_DATA = {name for name in dir(str) if name.startswith("is")}
_OF_PLAIN_DATA |= {"startswith", "endswith", "isdisjoint", "issubset", "issuperset", "is_integer"}


class StandIn:
    """A name of the program, or an object that its process holds."""

    def __init__(self, asked: Asked, path: str) -> None:
        object.__setattr__(self, "asked", asked)
        object.__setattr__(self, "path", path)

    def __getattr__(self, name: str) -> StandIn:
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        if name in _OF_PLAIN_DATA:
            _asked(self).forged = True
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
    if isinstance(other, StandIn) and source_of(stand_in).startswith("type("):
        return is_same(stand_in, other)  # of classes: no method of the program is asked
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


# What tests ask by builtins of Python that would look at a stand-in, and not at what it stands for.


def is_same(one: Any, other: Any) -> Any:
    """`one is other`."""
    one, other = (_value(each) if isinstance(each, StandIn) else each for each in (one, other))
    if isinstance(one, StandIn) and isinstance(other, StandIn):
        return _asked(one).ask(f"{source_of(one)} is {source_of(other)}")
    return one is other


def type_of(value: Any) -> Any:
    """`type(value)`."""
    value = _value(value) if isinstance(value, StandIn) else value
    return StandIn(_asked(value), f"type({source_of(value)})") if isinstance(value, StandIn) else type(value)


def has_attribute(value: Any, name: str) -> bool:
    """`hasattr`."""
    if not isinstance(value, StandIn):
        return hasattr(value, name)
    return bool(_asked(value).ask(f"hasattr({source_of(value)}, {name!r})"))


def get_attribute(value: Any, name: str, *default: Any) -> Any:
    """`getattr`."""
    if isinstance(value, StandIn) and default and not has_attribute(value, name):
        return default[0]
    return getattr(value, name, *default)


def is_callable(value: Any) -> bool:
    """`callable`."""
    if not isinstance(value, StandIn):
        return callable(value)
    return bool(_asked(value).ask(f"callable({source_of(value)})"))
