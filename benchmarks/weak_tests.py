"""Tests that a program could forge, by set, counted while the references run.

    .venv/bin/python benchmarks/weak_tests.py --data ../shared/data              all sets
    .venv/bin/python benchmarks/weak_tests.py --data ../shared/data --sets mbpp apps-calls

HumanEval, MBPP and MBPP+ are read as published. APPS and LiveCodeBench are too large to lie beside them: their rows are
made here, in the published schemas, from the calls and values of MBPP (`assert f(1, [2]) == 3`, where both sides are
literals that JSON holds). Calls and output are compared outside the sandbox, whatever they are, so what this shows is
that no such row becomes a script on its way.
"""

from __future__ import annotations

import argparse
import ast
import base64
import gzip
import json
import pickle
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from guided_grpo.data.reading.benchmarks import read_livecodebench
from guided_grpo.data.reading.code_readers import read_humaneval, read_mbpp, read_mbpp_plus
from guided_grpo.errors import InputError
from guided_grpo.grading.code import check_programs
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.grading.code_tests import CodeTests
from guided_grpo.sandbox import Limits, SandboxPool
from guided_grpo.types import Status

Record = dict[str, Any]
Row = tuple[str, CodeTests]  # a reference and its tests

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SLOW_TASK = 123  # of MBPP: takes 15 s alone
BATCH = 50

# Behind a reference: arguments from standard input, one a line, and what it returns as JSON.
_PRINTS = "\nimport json, sys\nprint(json.dumps({name}(*map(json.loads, sys.stdin.read().splitlines()))))\n"
# As a method, as LiveCodeBench's starter code has it.
_SOLUTION = "\nclass Solution:\n    {name} = staticmethod({name})\n"


@dataclass(frozen=True)
class Calls:
    """A problem of MBPP by the calls and values of its asserts."""

    text: str
    code: str
    name: str
    cases: tuple[tuple[list[Any], Any], ...]

    def lines(self) -> list[dict[str, str]]:
        """Test cases with an argument a line."""
        return [
            {"input": "\n".join(map(json.dumps, arguments)), "output": json.dumps(value)}
            for arguments, value in self.cases
        ]


def as_calls(record: Record) -> Calls | None:
    """None where an assert is no call of one function with literals of JSON, or there is a setup."""
    cases, names = [], set()
    for test in record["test_list"]:
        try:
            [statement] = ast.parse(test).body
            comparison = statement.test  # what has none is left out below
            [value] = comparison.comparators
            [operator] = comparison.ops
            call = comparison.left
            if not isinstance(operator, ast.Eq) or not isinstance(call, ast.Call) or call.keywords:
                return None
            arguments = [ast.literal_eval(argument) for argument in call.args]
            cases.append((json.loads(json.dumps(arguments)), json.loads(json.dumps(ast.literal_eval(value)))))
            names.add(call.func.id)  # type: ignore[attr-defined]
        except (AttributeError, SyntaxError, TypeError, ValueError):
            return None
    if len(names) != 1 or record["test_setup_code"] or not all(arguments for arguments, _ in cases):
        return None
    return Calls(record["text"], record["code"].replace("\r\n", "\n"), names.pop(), tuple(cases))


def apps_record(problem: Calls, *, calls: bool) -> Record:
    """APPS: question, starter_code, input_output (JSON of inputs, outputs and, for calls, fn_name)."""
    if calls:  # outputs wrapped in a list of one, as there
        inputs, outputs = [arguments for arguments, _ in problem.cases], [[value] for _, value in problem.cases]
        content = {"fn_name": problem.name, "inputs": inputs, "outputs": outputs}
    else:
        lines = problem.lines()
        content = {"inputs": [case["input"] for case in lines], "outputs": [f"{case['output']}\n" for case in lines]}
    starter = f"def {problem.name}(*args):\n    " if calls else ""
    return {"question": problem.text, "starter_code": starter, "input_output": json.dumps(content)}


def livecodebench_record(problem: Calls, *, calls: bool) -> Record:
    """LiveCodeBench: the first test is shown, the others are packed as its hidden ones are."""
    kind = "functional" if calls else "stdin"
    shown, *hidden = [{**case, "testtype": kind} for case in problem.lines()]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(hidden)))).decode()
    starter = f"class Solution:\n    def {problem.name}(self, *args):\n        " if calls else ""
    return {
        "question_content": problem.text, "starter_code": starter, "difficulty": "easy",
        "public_test_cases": json.dumps([shown]), "private_test_cases": packed,
        "metadata": json.dumps({"func_name": problem.name} if calls else {}),
    }  # fmt: skip


def _apps(record: Record) -> CodeTests:
    return parse_tests(record["input_output"])


def _livecodebench(record: Record) -> CodeTests:
    row = read_livecodebench(record, 0)
    assert row is not None
    return parse_tests(row["tests"], setup=row.get("setup") or "")


def _problems(data: Path) -> list[Calls]:
    return [problem for record in _mbpp(data) if (problem := as_calls(record))]


def _mbpp(data: Path) -> list[Record]:
    records = map(json.loads, (data / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["task_id"] != SLOW_TASK]


def _humaneval_rows(data: Path, *, alone: bool) -> Iterator[Row]:
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        for record in map(json.loads, file):
            tests = record["test"] if alone else read_humaneval(record).tests
            yield (
                record["prompt"] + record["canonical_solution"],
                parse_tests(tests, entry_point=record["entry_point"]),
            )


def _mbpp_rows(data: Path) -> Iterator[Row]:
    for record in _mbpp(data):
        draft = read_mbpp({**record, "challenge_test_list": []})
        yield record["code"], parse_tests(draft.tests, setup=draft.columns.get("setup", ""))


def _mbpp_plus_rows(data: Path) -> Iterator[Row]:
    for record in map(json.loads, (data / "mbpp" / "MbppPlus.jsonl").read_text(encoding="utf-8").splitlines()):
        yield record["canonical_solution"], parse_tests(read_mbpp_plus(record).tests)


def _made_rows(data: Path, *, apps: bool, calls: bool) -> Iterator[Row]:
    make, read = (apps_record, _apps) if apps else (livecodebench_record, _livecodebench)
    for problem in _problems(data):
        behind = _PRINTS if not calls else "" if apps else _SOLUTION
        yield problem.code + behind.format(name=problem.name), read(make(problem, calls=calls))


SETS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "humaneval": lambda data: _humaneval_rows(data, alone=False),
    "humaneval-test-alone": lambda data: _humaneval_rows(data, alone=True),
    "mbpp": _mbpp_rows,
    "mbpp-plus": _mbpp_plus_rows,
    "apps-calls": lambda data: _made_rows(data, apps=True, calls=True),
    "apps-stdin": lambda data: _made_rows(data, apps=True, calls=False),
    "livecodebench-calls": lambda data: _made_rows(data, apps=False, calls=True),
    "livecodebench-stdin": lambda data: _made_rows(data, apps=False, calls=False),
}


def shares(pool: SandboxPool, rows: list[Row], *, label: str = "", bars: bool = False) -> dict[str, int]:
    """Rows, those that are scripts, those whose reference is right; tests, and the weak ones among those passed."""
    counts = dict.fromkeys(("rows", "scripts", "right", "tests", "weak"), 0)
    for start in tqdm(range(0, len(rows), BATCH), desc=label, disable=not bars or None):
        batch = rows[start : start + BATCH]
        verdicts = check_programs(pool, [program for program, _ in batch], [tests for _, tests in batch])
        counts["rows"] += len(batch)
        counts["scripts"] += sum(tests.script is not None for _, tests in batch)
        counts["right"] += sum(verdict.status is Status.CORRECT for verdict in verdicts)
        counts["tests"] += sum(verdict.total for verdict in verdicts)
        counts["weak"] += sum(verdict.weak for verdict in verdicts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder that holds humaneval and mbpp")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--cpu-seconds", type=float, default=60.0, help="of one process")
    parser.add_argument("--json", action="store_true", help="one JSON object and no progress")
    options = parser.parse_args()
    found = {}
    try:
        with SandboxPool(1, limits=Limits(cpu_seconds=options.cpu_seconds, wall_seconds=300.0)) as pool:
            for name in options.sets:
                found[name] = shares(pool, list(SETS[name](options.data)), label=name, bars=not options.json)
    except (InputError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if options.json:
        print(json.dumps(found))
    else:
        print(f"{'':24}" + "".join(f"{column:>9}" for column in next(iter(found.values()))))
        for name, counts in found.items():
            print(f"{name:24}" + "".join(f"{count:>9}" for count in counts.values()))


if __name__ == "__main__":
    main()
