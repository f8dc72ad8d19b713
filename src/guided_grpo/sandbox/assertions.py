"""What tests use of pytest and unittest, where the program's values may not be known yet."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

from guided_grpo.sandbox.stand_ins import Absent, Asked, StandIn, Unknown, source_of


class Raises:
    """`pytest.raises`, and that of unittest."""

    def __init__(self, asked: Asked, *kinds: Any, match: str | None = None) -> None:
        self.asked = asked
        self.kinds = [one for kind in kinds for one in (kind if isinstance(kind, tuple) else (kind,))]
        self.match, self.value = match, None

    def __enter__(self) -> Raises:
        self.asked.asserted += 1
        return self

    def __exit__(self, kind: Any, error: Any, _: object) -> bool:
        import re

        self.value = self.exception = error
        if isinstance(error, Absent):
            return False
        if error is None:
            if not self.asked.valid:  # the answer that would raise is not there yet
                return True
            raise AssertionError("nothing was raised")
        names = getattr(error, "names", ()) or tuple(each.__name__ for each in kind.__mro__)
        fits = any(source_of(k) in names if isinstance(k, StandIn) else isinstance(error, k) for k in self.kinds)
        if fits:
            self.asked.stopped = False  # it was expected
        return fits and (self.match is None or re.search(self.match, str(error)) is not None)


def raises(asked: Asked, *kinds: Any, match: str | None = None) -> Any:
    """A context, or the call of a function in one: `raises(E, f, argument)`."""
    if len(kinds) > 1 and callable(kinds[1]) and not isinstance(kinds[1], type):
        with Raises(asked, kinds[0]) as context:
            kinds[1](*kinds[2:])
        return context
    return Raises(asked, *kinds, match=match)


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


class Marks:
    """`pytest.mark`: cases, and tests that are not run; all other marks say nothing."""

    def __getattr__(self, name: str) -> Any:
        def mark(*arguments: Any, **_: Any) -> Any:
            if len(arguments) == 1 and callable(arguments[0]):
                return self._apply(name, arguments[0], skipped=name in ("skip", "xfail"))
            skipped = name in ("skip", "xfail") or (name == "skipif" and bool(arguments and arguments[0]))
            return lambda function: self._apply(name, function, skipped=skipped)

        return mark

    def _apply(self, name: str, function: Any, *, skipped: bool) -> Any:
        if skipped:
            function.cases = []
        return function

    @staticmethod
    def parametrize(names: Any, values: Any, **_: Any) -> Callable[[Any], Any]:
        """A test for each of `values`."""
        parts = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

        def mark(function: Any) -> Any:
            rows = [dict(zip(parts, case if len(parts) > 1 else (case,), strict=True)) for case in values]
            function.cases = [{**a, **b} for a in getattr(function, "cases", [{}]) for b in rows]
            return function

        return mark


def pytest_module(asked: Asked) -> types.ModuleType:
    """What tests commonly use of pytest."""

    def fixture(function: Any = None, **_: Any) -> Any:
        return function or fixture

    module = types.ModuleType("pytest")
    names = {"approx": Approx, "main": lambda *_, **__: 0}
    names |= {"raises": partial(raises, asked), "param": lambda *values, **_: values if len(values) > 1 else values[0]}
    vars(module).update(names, mark=Marks(), fixture=fixture)
    return module


def prepare_unittest(asked: Asked) -> None:
    """Its tests are run one by one, its assertions are counted."""
    import unittest

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def assertion(*arguments: Any, **named: Any) -> Any:
            asked.asserted += 1
            return method(*arguments, **named)

        return assertion

    case: Any = unittest.TestCase
    for name in [name for name in dir(case) if name.startswith("assert")]:
        setattr(case, name, counted(getattr(case, name)))
    case.assertRaises = lambda _, *kinds: raises(asked, *kinds)
    vars(unittest)["main"] = lambda *_, **__: None
