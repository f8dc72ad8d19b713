"""What a row must be before anything trains on it: its types, a gold answer that can be graded, a safe trace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn

from guided_grpo.data.leak import safe_length, safe_program_length
from guided_grpo.data.reading.streams import exact_text
from guided_grpo.errors import InputError
from guided_grpo.grading.code_forms import read_tests
from guided_grpo.grading.maths import parse_gold
from guided_grpo.grading.strict import KINDS, check_gold

TASKS = ("math", "code")
_SHORT_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,12})?", re.ASCII)


@lru_cache(maxsize=16_384)
def gold_fault(answer: str) -> str:
    """Why `answer` can be no gold answer (`parse_gold`), or an empty text."""
    if _SHORT_NUMBER.fullmatch(answer):
        return ""  # the verifier compares such numbers exactly
    try:
        parse_gold(answer)
    except ValueError as error:
        return str(error)
    return ""


class _Checker:
    """The checks of one record; `file` and `line` are for messages."""

    def __init__(self, record: Mapping[str, Any], file: str, line: int) -> None:
        self.record, self.file, self.line = record, file, line

    def fail(self, problem: str, field: str, fix: str, value: object = None) -> NoReturn:
        raise InputError(problem, file=self.file, line=self.line, field=field, value=value, fix=fix)

    def required(self, field: str) -> Any:
        if field not in self.record:
            self.fail(
                f"is missing; the columns are {', '.join(self.record) or 'none'}",
                field,
                f'rename the column, or map it: {{"{field}": COLUMN}}',
            )
        return self.record[field]

    def prompt(self) -> Any:
        prompt = self.required("prompt")
        if isinstance(prompt, str) and prompt.strip():
            return prompt
        fix = "give a text, or chat messages [{role, content}, …] that end with the user's turn"
        if not isinstance(prompt, list) or not prompt:
            self.fail("is no prompt", "prompt", fix, prompt)
        for message in prompt:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message.get("content"):
                self.fail("is no chat message", "prompt", fix, message)
        if prompt[-1]["role"] != "user":
            self.fail("is the role of the last message", "prompt", fix, prompt[-1]["role"])
        return prompt

    def task(self) -> str:
        task = self.record.get("task")
        if task is None:
            return "code" if "answer" not in self.record and "tests" in self.record else "math"
        if task not in TASKS:
            self.fail("is no task", "task", f"use one of {', '.join(TASKS)}", task)
        return str(task)

    def answer(self) -> str:
        answer = self.required("answer")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | Decimal):
            self.fail("is no answer", "answer", "give a text or a number", answer)
        text = exact_text(answer)
        fault = gold_fault(text)
        if fault:
            self.fail(fault, "answer", "correct the answer, or drop the record", text)
        kind = self.record.get("answer_kind") or "math"
        if kind not in KINDS:
            self.fail("is no kind of answer", "answer_kind", f"use one of {', '.join(KINDS)}", kind)
        try:
            check_gold(kind, text)
        except ValueError as error:
            self.fail(str(error), "answer", f"correct it, or change answer_kind {kind}", text)
        return text

    def tests(self) -> None:
        tests = self.required("tests")
        names = {name: self.record.get(name) or "" for name in ("entry_point", "setup")}
        for name, text in names.items():
            if not isinstance(text, str):
                self.fail("is no text", name, "write it as text", text)
        try:
            read_tests(tests, **names)
        except ValueError as error:
            self.fail(str(error), "tests", "correct them (forms: docs/verifiers.md), or drop the record")

    def guidance(self) -> str | None:
        trace = self.record.get("guidance")
        if trace is not None and not isinstance(trace, str):
            self.fail("is no trace", "guidance", "give a text, or null where there is none", trace)
        return trace if trace and trace.strip() else None

    def limit(self, trace: str | None, answer: str | None) -> int:
        """Characters of the trace that may be handed over: the data's own figure where it gives one, else measured."""
        limit = self.record.get("guidance_limit")
        if limit is None:
            length = safe_program_length(trace or "") if answer is None else safe_length(trace or "", answer)
            return length if trace else 0
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            self.fail("is no number of characters", "guidance_limit", "give a whole number ≥ 0, or leave it out", limit)
        return min(limit, len(trace or ""))

    def difficulty(self) -> Any:
        value = self.record.get("difficulty")
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float | Decimal)):
            self.fail("is no difficulty", "difficulty", "give a number, a tier, or null", value)
        return float(value) if isinstance(value, float | Decimal) else value


def check_prompt(prompt: Any, *, file: str, line: int) -> None:
    """Raise `InputError` where `prompt` is neither a text nor chat messages that end with the user's turn."""
    _Checker({"prompt": prompt}, file, line).prompt()


def check_row(record: Mapping[str, Any], *, file: str, line: int, kind: type | None = None) -> dict[str, Any]:
    """The row of a record that carries our column names, `guidance_limit` filled; further columns are kept.

    Args:
        record: the columns by our names.
        file: for messages.
        line: for messages, counted from 1.
        kind: the type that the prompt must have (str or list); None = either.

    Raises InputError that names file, line, field, value and fix.
    """
    check = _Checker(record, file, line)
    prompt, task = check.prompt(), check.task()
    if kind is not None and not isinstance(prompt, kind):
        fault = f"is a {type(prompt).__name__}, the first was a {kind.__name__}"
        check.fail(fault, "prompt", "use one form throughout")
    if task == "code":
        check.tests()
    answer = check.answer() if task == "math" else None
    trace = check.guidance()
    row = {
        "prompt": prompt,
        "answer": answer,
        "guidance": trace,
        "guidance_limit": check.limit(trace, answer),
        "difficulty": check.difficulty(),
        "task": task,
    }
    return {**row, **{name: value for name, value in record.items() if name not in row}}
