"""The program domain: short Python programs over three registers, graded by running them.

A problem of three steps and its full solution (one character is one token):

    prompt    ">+3<-2>*7:"
    guidance  "def f(x,y,z):\n y+=3\n x-=2\n y*=7\n"
    then      " return x,y,z" and the end token
    tests     ["assert f(4,-1,9)==(2,14,9)", …]

Each instruction moves a pointer over the registers x, y, z, in a ring and from x on: `>` to the next, `<` to the one
before. Then it adds to, subtracts from, or multiplies what the pointer stands at.

Why these choices: the pointer is a hidden state, so one wrong move spoils all later lines, like the running value of
the chains. No factor is 0, so nothing forgives a wrong line: with one wrong register, operator or operand at least one
register ends as another function of its input, and the tests, at random inputs, tell the two apart. A program that
computes the same in another order is right. Tests follow from the prompt, by arithmetic on three numbers, and never
from a trace: a *noisy demonstrator* (see chains.py) changes what is written, not what is asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from guided_grpo.data.domains import rows_by_steps
from guided_grpo.types import Row

ALPHABET = "0123456789+-*=<>:,()\n defnrtuxyz"
REGISTERS = "xyz"
TESTS = 3  # calls a problem; two points fix the line that a right or wrong program computes from each register
_HEAD, _TAIL = f"def f({','.join(REGISTERS)}):\n", f" return {','.join(REGISTERS)}"
_MOVES = {">": 1, "<": -1}
_INSTRUCTION = re.compile(r"([<>])([+\-*])(\d)")


def run_prompt(prompt: str, inputs: tuple[int, ...]) -> tuple[int, ...]:
    """What the registers hold after the instructions of `prompt`, from `inputs` on."""
    values, pointer = list(inputs), 0
    for move, op, operand in _INSTRUCTION.findall(prompt):
        pointer = (pointer + _MOVES[move]) % len(values)
        if op == "*":
            values[pointer] *= int(operand)
        else:
            values[pointer] += int(f"{op}{operand}")
    return tuple(values)


def program(steps: int, rng: random.Random, noise: float = 0.0) -> Row:
    """One problem of `steps` instructions (at least 1).

    With `noise` > 0 the trace is a noisy demonstration: each line is wrong with that probability, in its register or in
    its operand, and the pointer goes on from the register that was written. `tests` are always those of the prompt.
    """
    pointer, prompt, trace = 0, [], []
    for _ in range(steps):
        move, op = rng.choice("<>"), rng.choice("+-*")
        operand = rng.randrange(2, 10)
        prompt.append(f"{move}{op}{operand}")
        pointer += _MOVES[move]
        if noise and rng.random() < noise:
            if rng.random() < 0.5:
                pointer += rng.choice((1, 2))
            else:
                operand = rng.choice([digit for digit in range(2, 10) if digit != operand])
        pointer %= len(REGISTERS)
        trace.append(f" {REGISTERS[pointer]}{op}={operand}\n")
    text = "".join(prompt) + ":"
    return {
        "prompt": text,
        "tests": [_test(text, rng) for _ in range(TESTS)],
        "guidance": _HEAD + "".join(trace),
        "difficulty": steps,
        "task": "code",
    }


def _test(prompt: str, rng: random.Random) -> str:
    inputs = tuple(rng.randrange(-99, 100) for _ in REGISTERS)
    outputs = run_prompt(prompt, inputs)
    return f"assert f({','.join(map(str, inputs))})==({','.join(map(str, outputs))})"


def solution(row: Row) -> str:
    """The whole response that the trace of `row` leads to, without the end token."""
    return f"{row['guidance']}{_TAIL}"


def programs(count: int, low: int, high: int, seed: int, noise: float = 0.0) -> Iterator[Row]:
    """`count` problems whose number of steps is uniform in [low, high]; the same for the same arguments."""
    return rows_by_steps("programs", program, count, low, high, seed, noise)
