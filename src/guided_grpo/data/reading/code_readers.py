"""Readers of code sets: a record of a published schema → a `Draft` whose tests `parse_tests` reads.

A reference solution is a trace like any other, as a block of Python; sets with teacher traces have them first.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from guided_grpo.data.reading.drafts import (
    FUNCTION,
    PROGRAM,
    Draft,
    Inputs,
    RejectedError,
    Trace,
    asserts_of,
    fence,
    list_of,
    maybe_text,
    split_thought,
    text_of,
)
from guided_grpo.data.reading.streams import Record

_TEACHERS = ("generations", "generation", "reasoning", "qwq_trace", "trace", "cot")
OF_CODING = (
    "source task_type in_source_id problem_statement problem prompt gold_standard_solution problem_id metadata "
    "generations generation reasoning qwq_trace trace cot"
)
OF_MBPP_PLUS = "task_id canonical_solution base_input plus_input atol contract"


def read_coding(record: Record) -> Draft:
    """Open-R1 Verifiable-Coding-Problems-Python, and copies with teacher traces.

    From its card: metadata {difficulty, time_limit, …}, verification_info {language, test_cases: [{type, fn_name,
    input, output}]}, all strings. `stdin_stdout` tests become pairs of input and output, `function_call` tests asserts.
    Teacher traces, where a copy has them (the official recipe of G²RPO-A names Blancy/verifiable-coding-problems-CoT,
    whose columns were not published with the code), are looked for in `generations` and a few like names; set
    `trace: COLUMN`.
    """
    info = _parse(record.get("verification_info"))
    if not isinstance(info, Mapping):
        raise RejectedError("missing-field", "verification_info is no record of language and test_cases")
    language = str(info.get("language") or "python").lower()
    if not language.startswith("python"):
        raise RejectedError("bad-tests", f"the language is {language}")
    cases = _parse(info.get("test_cases"))
    if not isinstance(cases, list) or not cases or not all(isinstance(case, Mapping) for case in cases):
        raise RejectedError("bad-tests", "no test cases")
    functions = [case for case in cases if case.get("type") == "function_call"]
    tests: Any = [_call(case) for case in functions]
    if not functions:
        tests = [{name: str(case.get(name, "")) for name in ("input", "output")} for case in cases]
    meta = _parse(record.get("metadata"))
    difficulty = meta.get("difficulty") if isinstance(meta, Mapping) else None
    columns = {name: str(record[name]) for name in ("problem_id", "in_source_id") if record.get(name)}
    if isinstance(difficulty, str) and difficulty:
        columns["rated"] = difficulty
    return Draft(
        problem=text_of(record, "problem_statement", "problem", "prompt"),
        tests=tests,
        traces=[*_teacher_traces(record), *_reference(record, "gold_standard_solution")],
        task="code",
        tier=maybe_text(record, "source"),
        instruction=FUNCTION if functions else PROGRAM,
        columns=columns,
    )


def read_humaneval(record: Record) -> Draft:
    """HumanEval: task_id, prompt (head of the function), canonical_solution (its body), test (`check`), entry_point."""
    head, body = record.get("prompt"), record.get("canonical_solution")
    if not isinstance(head, str):
        raise RejectedError("missing-field", "no prompt")
    return Draft(
        problem=f"Complete this function:\n\n{fence(head)}",
        tests=_helpers(head, text_of(record, "entry_point"), text_of(record, "test")) + text_of(record, "test"),
        traces=[Trace(fence(head + body), "canonical_solution")] if isinstance(body, str) and body.strip() else [],
        task="code",
        instruction=FUNCTION,
        columns={"entry_point": text_of(record, "entry_point"), "id": str(record.get("task_id", ""))},
    )


def _helpers(head: str, entry_point: str, tests: str) -> str:
    """Functions of the head that the tests call: theirs, since a response may write them anew."""
    try:
        body, test = ast.parse(head).body, ast.parse(tests)
    except (SyntaxError, ValueError):
        return ""
    used = {part.id for part in ast.walk(test) if isinstance(part, ast.Name)} - {entry_point}
    helpers = [part for part in body if isinstance(part, ast.FunctionDef) and part.name in used]
    imports = [part for part in body if isinstance(part, ast.Import | ast.ImportFrom)]
    return "".join(f"{ast.unparse(part)}\n" for part in [*imports, *helpers]) if helpers else ""


def read_mbpp(record: Record) -> Draft:
    """MBPP: text (or prompt), code with CRLF, test_list, test_setup_code, challenge_test_list; the first test is shown.

    The problem alone does not name the function; one test does, the others stay unseen.
    """
    tests = asserts_of(record)
    more = [test for test in list_of(record, "challenge_test_list") if isinstance(test, str)]
    setup = maybe_text(record, "test_setup_code")
    return Draft(
        problem=f"{text_of(record, 'text', 'prompt')}\n\nIt must pass tests such as\n\n{fence(tests[0])}",
        tests=[*tests, *more],
        traces=_reference(record, "code"),
        task="code",
        instruction=FUNCTION,
        columns={"id": str(record.get("task_id", "")), **({"setup": setup} if setup else {})},
    )


def read_mbpp_plus(record: Record) -> Draft:
    """MBPP+: task_id, prompt (a docstring), entry_point, canonical_solution, base_input, plus_input, atol, assertion.

    The tests are those of `assertion`; with `reference_tests: true` a run of the reference on `base_input` and
    `plus_input` (median 105 a problem) makes them instead.
    """
    try:
        statements = [ast.unparse(part) for part in ast.parse(text_of(record, "assertion")).body]
    except (SyntaxError, ValueError) as error:
        raise RejectedError("bad-tests", f"assertion is no Python ({error})") from None
    prompt = text_of(record, "prompt").strip("\"' \n")
    reference, name = text_of(record, "canonical_solution"), text_of(record, "entry_point")
    arguments = [*list_of(record, "base_input"), *list_of(record, "plus_input")]
    if not all(isinstance(each, list | tuple) for each in arguments):
        raise RejectedError("bad-tests", "inputs that are no lists of arguments")
    tolerance = record.get("atol")
    return Draft(
        problem=f"{prompt}\n\nIt must pass tests such as\n\n{fence(statements[0])}" if statements else prompt,
        tests=statements,
        traces=_reference(record, "canonical_solution"),
        task="code",
        inputs=Inputs(reference, name, arguments, float(tolerance) if isinstance(tolerance, int | float) else 0.0)
        if arguments
        else None,
        instruction=FUNCTION,
        columns={"entry_point": name, "id": str(record.get("task_id", ""))},
    )


def _teacher_traces(record: Record) -> list[Trace]:
    traces = []
    for name in _TEACHERS:
        value = record.get(name)
        for number, text in enumerate(value if isinstance(value, list | tuple) else [value]):
            if isinstance(text, str) and text.strip():
                body, closed = split_thought(text)
                traces.append(Trace(body, name if isinstance(value, str) else f"{name}[{number}]", closed))
    return traces


def _reference(record: Record, name: str) -> list[Trace]:
    code = maybe_text(record, name)
    return [] if code is None else [Trace(code if "```" in code else fence(code), name)]


def _parse(value: Any) -> Any:
    """Some copies keep these columns as text: JSON, or Python's own notation."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _call(case: Mapping[str, Any]) -> str:
    """`assert f(*input) == output`. Outputs come wrapped in a list of one, as in TACO and APPS."""
    name, arguments, expected = case.get("fn_name"), _parse(case.get("input")), _parse(case.get("output"))
    lost = expected is None and case.get("output") not in (None, "null", "None")
    if not isinstance(name, str) or not name.isidentifier() or not isinstance(arguments, list) or lost:
        fault = f"a function_call test without a name, a list of arguments and a plain output: {case}"
        raise RejectedError("bad-tests", fault)
    if isinstance(expected, list) and len(expected) == 1:
        expected = expected[0]
    return f"assert {name}({', '.join(map(repr, arguments))}) == {expected!r}"
