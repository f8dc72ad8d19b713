"""The forms in which data sets write the tests of a code problem, read into `CodeTests`.

    ["assert f(1) == 2", …]                                    MBPP; one text of such lines too
    "def check(candidate): …" with an entry point              HumanEval
    [{"input": "1\\n", "output": "2"}, …]                      standard input and output
    {"inputs": […], "outputs": […]}                            the same in columns (APPS, TACO)
    {"test_cases": […]}                                        the same inside verifiable-coding-problems
    {"inputs": [[1], …], "outputs": […], "fn_name": "f"}       calls, values as in JSON; also a test with a "fn_name"
    {"inputs": [[1], …], "reference": CODE, "entry_point": f}  MBPP+: what the reference returns (code.py runs it)

Each may be the JSON text of its value, as in columns of mixed tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guided_grpo.grading.code_tests import CallTest, CodeTests, EqualJson, StdinTest, module_of, read_module


@dataclass(frozen=True)
class ByReference:
    """Tests that are known once a trusted solution has answered them."""

    reference: str
    entry_point: str
    inputs: tuple[tuple[Any, ...], ...]
    tolerance: float = 0.0


def parse_tests(tests: Any, *, entry_point: str = "", setup: str = "") -> CodeTests:
    """Read tests that bring their expected values.

    Args:
        tests: in one of the forms above, but the last.
        entry_point: name of the function that `check(candidate)` is given; "" = as the source itself says.
        setup: source that runs after the program and before the tests.

    Raises ValueError that says in one line why these tests can grade nothing.
    """
    result = read_tests(tests, entry_point=entry_point, setup=setup)
    if isinstance(result, ByReference):
        raise ValueError("need a reference to be run first: use grading.code.reference_tests")
    return result


def read_tests(tests: Any, *, entry_point: str = "", setup: str = "") -> CodeTests | ByReference:
    """As `parse_tests`, and with the form that has a reference."""
    if isinstance(tests, str):
        result = _text(tests, entry_point, setup)
    elif isinstance(tests, Mapping):
        result = _mapping(tests, entry_point, setup)
    elif isinstance(tests, Sequence) and tests and all(isinstance(test, str) for test in tests):
        for test in tests:
            module_of(test)  # each is whole by itself
        result = read_module("\n".join(tests), entry_point=entry_point, setup=setup)
    elif isinstance(tests, Sequence) and tests and all(isinstance(test, Mapping) for test in tests):
        result = _cases(tests, setup)
    else:
        raise ValueError("are no tests: give assert statements, pairs of input and output, or the source of a check")
    if isinstance(result, CodeTests) and not len(result):
        raise ValueError("hold no test")
    return result


def _text(text: str, entry_point: str, setup: str) -> CodeTests | ByReference:
    if text.lstrip().startswith(("[", "{")):
        try:
            return read_tests(json.loads(text), entry_point=entry_point, setup=setup)
        except json.JSONDecodeError:
            pass  # Python may begin with a bracket too
    if not any(word in text for word in ("assert", "raise", "check", "test", "exit(")):
        module_of(text)
        raise ValueError("hold neither check(candidate) nor an assert")
    return read_module(text, entry_point=entry_point, setup=setup)


def _mapping(tests: Mapping[str, Any], entry_point: str, setup: str) -> CodeTests | ByReference:
    language = str(tests.get("language") or "python").lower()
    if language not in ("python", "python3", "py"):
        raise ValueError(f"are for {language}: only Python is run here")
    if tests.get("reference"):
        inputs = tests.get("inputs")
        function = str(tests.get("entry_point") or entry_point)
        if not isinstance(inputs, Sequence) or not inputs or not function:
            raise ValueError("hold a reference without inputs or without an entry point")
        return ByReference(
            str(tests["reference"]),
            function,
            tuple(tuple(each) for each in inputs),
            float(tests.get("tolerance") or 0.0),
        )
    if "test_cases" in tests:
        return read_tests(tests["test_cases"], entry_point=entry_point, setup=setup)
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or len(inputs) != len(outputs):
        raise ValueError("hold no inputs and outputs, or not equally many")
    name = tests.get("fn_name")
    cases = [
        {"input": i, "output": o, "fn_name": name, "compare": tests.get("compare")}
        for i, o in zip(inputs, outputs, strict=True)
    ]
    return _cases(cases, setup)


def _cases(cases: Sequence[Mapping[str, Any]], setup: str) -> CodeTests:
    stdin, calls = [], []
    outputs = [case.get("output") for case in cases]
    wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)  # as APPS and TACO have them
    for case in cases:
        if not {"input", "output"} <= case.keys():
            raise ValueError("hold a test without input and output")
        if case.get("fn_name"):
            calls.append(_call(str(case["fn_name"]), case["input"], case["output"], wrapped=wrapped))
        else:
            stdin.append(StdinTest(_lines(case["input"]), _lines(case["output"]), case.get("compare") == "exact"))
    if stdin and not any(test.expected.strip() for test in stdin):
        raise ValueError("expect no output at all: a program that does nothing would pass")
    return CodeTests(stdin=tuple(stdin), calls=tuple(calls), setup=setup)


def _lines(value: Any) -> str:
    """Text; a list of lines, as some records have it, is joined."""
    return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _call(name: str, arguments: Any, expected: Any, *, wrapped: bool) -> CallTest:
    text = isinstance(arguments, str)
    if text:  # one argument a line, as LiveCodeBench writes them; then the result is JSON too
        arguments = [_json(line) for line in arguments.splitlines() if line.strip()]
        expected = _json(expected) if isinstance(expected, str) else expected
    if not isinstance(arguments, (list, tuple)):
        raise ValueError(f"hold a call of {name} without a list of arguments")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"name no function: {name!r}")
    call = f"{name}({', '.join(repr(_int_keys(argument)) for argument in arguments)})"
    return CallTest(call, EqualJson(expected, wrapped=wrapped))


def _int_keys(argument: Any) -> Any:
    """JSON has no other keys than strings: those of whole numbers were numbers, as APPS reads them."""
    if isinstance(argument, dict) and argument and all(key.lstrip("-").isdecimal() for key in argument):
        return {int(key): value for key, value in argument.items()}
    return argument


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
