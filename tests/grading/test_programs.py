"""The program domain: its arithmetic by hand, and its programs in the real sandbox."""

from __future__ import annotations

import random
import re

import pytest

from guided_grpo.data.domains.programs import ALPHABET, program, programs, run_prompt, solution
from guided_grpo.data.sources import load_rows
from guided_grpo.grading.code import check_code
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.guidance.slicing import step_ends
from guided_grpo.sandbox import SandboxPool
from guided_grpo.types import Status

LINE = re.compile(r" ([xyz])([+\-*])=(\d)\n")
AFTER = {"x>": "y", "y>": "z", "z>": "x", "x<": "z", "y<": "x", "z<": "y"}


def statuses(pool: SandboxPool, responses: list[str], rows: list) -> list[Status]:
    return [found.status for found in check_code(pool, responses, [parse_tests(row["tests"]) for row in rows])]


def registers_of(prompt: str) -> list[str]:
    """Which register each instruction is about, by turning a ring instead of counting."""
    ring, found = ["x", "y", "z"], []
    for move in re.findall("[<>]", prompt):
        ring = ring[1:] + ring[:1] if move == ">" else ring[-1:] + ring[:-1]
        found.append(ring[0])
    return found


def test_outputs_by_hand() -> None:
    # y = -1 + 3 = 2; x = 4 - 2 = 2; z = 9 * 7 = 63; y = 2 * 5 = 10
    assert run_prompt(">+3<-2<*7<*5:", (4, -1, 9)) == (2, 10, 63)
    assert run_prompt(">+3>+3>+3:", (0, 0, 0)) == (3, 3, 3)


def test_traces_write_what_the_prompt_asks() -> None:
    for row in programs(200, 1, 14, seed=4):
        asked = re.findall(r"([+\-*])(\d)", row["prompt"])
        lines = LINE.findall(row["guidance"])
        assert [(op, operand) for _, op, operand in lines] == asked
        assert [register for register, _, _ in lines] == registers_of(row["prompt"])
        assert row["difficulty"] == len(lines) and row["task"] == "code"
        assert solution(row) == row["guidance"] + " return x,y,z"
        assert set(row["prompt"] + solution(row)) <= set(ALPHABET)


@pytest.mark.slow
def test_the_verifier_accepts_solutions_and_refuses_every_one_step_mutation(pool: SandboxPool) -> None:
    rows = list(programs(30, 3, 14, seed=2))
    assert statuses(pool, [solution(row) for row in rows], rows) == [Status.CORRECT] * 30
    assert statuses(pool, [f"```python\n{solution(row)}\n```" for row in rows[:3]], rows[:3]) == [Status.CORRECT] * 3
    assert statuses(pool, [row["guidance"] for row in rows[:3]], rows[:3]) == [Status.WRONG] * 3
    mutants, theirs = [], []
    for row in rows[:12]:
        for line in LINE.finditer(solution(row)):
            register, op, operand = line.groups()
            for changed in (
                *(f" {other}{op}={operand}\n" for other in "xyz" if other != register),
                *(f" {register}{other}={operand}\n" for other in "+-*" if other != op),
                f" {register}{op}={11 - int(operand)}\n",
                "",
            ):
                mutants.append(solution(row)[: line.start()] + changed + solution(row)[line.end() :])
                theirs.append(row)
    assert len(mutants) > 400
    assert set(statuses(pool, mutants, theirs)) == {Status.WRONG}


def test_a_noisy_demonstration_goes_on_from_its_mistakes_and_is_tested_by_the_prompt(pool: SandboxPool) -> None:
    rng, rows = random.Random(0), []
    wrong = steps = moved = 0
    for _ in range(400):
        row = program(8, rng, noise=0.3)
        before = "x"
        for move, (_, operand), (register, _, written) in zip(
            re.findall("[<>]", row["prompt"]),
            re.findall(r"([+\-*])(\d)", row["prompt"]),
            LINE.findall(row["guidance"]),
            strict=True,
        ):
            expected = AFTER[before + move]
            wrong += register != expected or written != operand
            moved += register != expected
            steps += 1
            before = register
        rows.append(row)
    assert wrong / steps == pytest.approx(0.3, abs=0.03)
    assert moved / steps == pytest.approx(0.15, abs=0.03)
    for row in rows[:20]:
        called, outputs = re.fullmatch(r"assert f(\(.*\))==(\(.*\))", row["tests"][0]).groups()
        assert run_prompt(row["prompt"], eval(called)) == eval(outputs)
    faithful = [
        [register for register, _, _ in LINE.findall(row["guidance"])] == registers_of(row["prompt"])
        and [part[1:] for part in LINE.findall(row["guidance"])] == re.findall(r"([+\-*])(\d)", row["prompt"])
        for row in rows[:60]
    ]
    graded = statuses(pool, [solution(row) for row in rows[:60]], rows[:60])
    assert 0 < sum(faithful) < 20
    assert all(status is Status.CORRECT for status, right in zip(graded, faithful, strict=True) if right)
    assert graded.count(Status.CORRECT) <= sum(faithful) + 2  # two mistakes can cancel, rarely


def test_rows_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    assert list(programs(5, 3, 6, seed=1)) == list(programs(5, 3, 6, seed=1))
    assert list(programs(5, 3, 6, seed=1)) != list(programs(5, 3, 6, seed=2))
    source = "programs:steps=10-14,count=64,seed=1"
    rows = load_rows(source)
    assert rows[:5] == load_rows(source, limit=5)[:]
    assert set(rows["difficulty"]) == {10, 11, 12, 13, 14}


def test_guidance_is_cut_by_lines_and_is_never_a_whole_program() -> None:
    for row in load_rows("programs:steps=10-14,count=20,seed=3"):
        trace = row["guidance"]
        assert step_ends(trace) == [i + 1 for i, char in enumerate(trace) if char == "\n"]
        assert row["guidance_limit"] == len(trace) - 1 and "return" not in trace


def test_prompts_and_responses_stay_short() -> None:
    """One character is one token: prompt, trace and response of the hard tier fit into the 256 of the policies."""
    row = program(14, random.Random(0))
    assert (len(row["prompt"]), len(row["guidance"]), len(solution(row))) == (43, 98, 111)
