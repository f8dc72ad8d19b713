"""Maths checks a second beside bare math-verify, and a search for strings that crash, stall or swell the workers.

    .venv/bin/python benchmarks/maths_verifier.py                          GSM8K's labelled solutions, on one core
    .venv/bin/python benchmarks/maths_verifier.py --fuzz 100000 --seed 0   random and mutated answers through MathsPool
    .venv/bin/python benchmarks/maths_verifier.py --pairs pairs.jsonl      hand-labelled pairs: what is graded otherwise

The same blocks of solutions go to each grader in turn, in an order that rotates; the figures are medians over blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from math_verify import parse, verify
from tqdm.auto import tqdm

from guided_grpo.grading.maths import check_maths, parse_gold
from guided_grpo.grading.maths_pool import MathsPool
from guided_grpo.types import Status

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
PAGE = os.sysconf("SC_PAGE_SIZE")

# Golds beside GSM8K's integers, one or two of each form.
GOLDS = (
    r"\frac{1}{2}", "0.25", r"3\sqrt{2}", r"\frac{3\pi}{4}", r"135^{\circ}", "(1, -2)", r"[0, \infty)",
    r"\{1, 2, 3\}", "x = 5", r"x^2 + 2x + 1", r"\text{even}", r"50\%", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
    r"2 \pm \sqrt{3}",
    "1,234,567", r"2^{100}", r"10_{2}", r"(-\infty, 2) \cup (3, \infty)", r"\frac{x}{x+1}", r"e^{i\pi}", "3, 5",
    "C",
    r"\log_2 3", r"x > 5", r"12 \text{ cm}^2", r"\$18.00", "-7",
)  # fmt: skip

# What stalls algebra systems.
SLOW = (
    "9^{9^9}", "2^{10^9}", "10000000!", r"\prod_{k=1}^{10^6}(k^k+1)", r"(\sin x+\cos x)^{200}", "(x+y+z+1)^{60}",
    r"\{" + ",".join(map(str, range(3_000))) + r"\}", "=".join(["1"] * 301), r"\binom{1000000000}{500000000}",
    r"\int_0^1 x^{x^{x}} dx", r"\sum_{n=1}^{\infty} \frac{1}{n^3}", r"\lim_{x\to 0} \frac{\sin x}{x}",
    r"\sqrt{2+\sqrt{2+\sqrt{2+\sqrt{2+\sqrt{2}}}}}", r"x^{20}-1=0", r"|x-1|+|x-2|>3",
)  # fmt: skip

FRAGMENTS = (
    *"0123456789+-*/^_=<>(){}[],.;:!%$&|~'\" \n\t", r"\frac", r"\sqrt", r"\sqrt[3]", r"\pi", r"\infty", r"\cup",
    r"\cap", r"\binom",
    r"\sum", r"\prod", r"\int", r"\lim", r"\log", r"\ln", r"\sin", r"\arctan", r"\text{", r"\left(", r"\right)",
    r"\{", r"\}",
    r"\begin{matrix}", r"\end{matrix}", r"\\", r"\pm", r"\le", r"\ne", r"\in", r"\circ", r"\overline{",
    r"\mathbb{R}", r"\boxed{",
    r"\times", r"\cdot", r"\div", r"\mod", r"\to", r"\dots", r"\%", r"\$", "x", "y", "n", "i", "e", "or", "and",
    "e9", "1e400", "10^9",
    "½", "²", "π", "∞", "−", "–", "٣", "Ⅷ", "０", "\u200b", "\u00a0", "\u202e", "\x00", "\ud800", "😀", "√", "≤",
    "×", "NaN", "inf",
)  # fmt: skip
TEMPLATES = ("\\boxed{{{0}}}", "#### {0}", "The answer is {0}.", "A: {0}", "<think>{0}</think>\n$${0}$$ \\boxed{{{0}}}")


def solutions(file: Path) -> list[tuple[str, str, bool]]:
    """Solution, gold answer and label of each model solution of GSM8K."""
    found = []
    for line in file.open(encoding="utf-8"):
        record = json.loads(line)
        gold = record["ground_truth"].rpartition("A:")[2].strip()
        found += [(record[name]["solution"], gold, bool(record[name]["is_correct"])) for name in MODELS]
    return found


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Checks a second of each grader, and how many of the labels each agrees with."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = solutions(options.data / "gsm8k" / "example_model_solutions.jsonl")
    random.Random(options.seed).shuffle(rows)
    size = len(rows) // options.blocks
    with MathsPool(1) as pool:
        pool.check([("#### 1", "1")])  # the worker starts
        graders: dict[str, Callable[[Sequence[tuple[str, str]]], list[bool]]] = {
            "MathsPool": lambda pairs: [verdict.status is Status.CORRECT for verdict in pool.check(pairs)],
            "check_maths": lambda pairs: [check_maths(*pair).status is Status.CORRECT for pair in pairs],
            "math-verify": lambda pairs: [verify(parse(gold), parse(response)) for response, gold in pairs],
        }
        rates: dict[str, list[float]] = {name: [] for name in graders}
        agreed = Counter[str]()
        for block in tqdm(range(options.blocks), desc="blocks", disable=options.json or None):
            part = rows[block * size : (block + 1) * size]
            names = list(graders)
            for name in names[block % 3 :] + names[: block % 3]:
                started = time.perf_counter()
                given = graders[name]([(response, gold) for response, gold, _ in part])
                rates[name].append(len(part) / (time.perf_counter() - started))
                agreed[name] += sum(one == label for one, (_, _, label) in zip(given, part, strict=True))
    graded = size * options.blocks
    return {
        "checks_per_second": {name: round(statistics.median(each)) for name, each in rates.items()},
        "range": {name: [round(min(each)), round(max(each))] for name, each in rates.items()},
        "labels_agreed": {name: f"{agreed[name]}/{graded}" for name in graders},
    }


def pairs(options: argparse.Namespace) -> dict[str, Any]:
    """Labelled pairs graded otherwise, of this verifier (time within one warm worker) and of bare math-verify."""
    rows = [json.loads(line) for line in options.pairs.open(encoding="utf-8")]
    wrong = sum(not row["correct"] for row in rows)
    report: dict[str, Any] = {"pairs": len(rows), "wrong": wrong, "right": len(rows) - wrong}
    with MathsPool(1, seconds=options.seconds) as pool:
        pool.check([(r"\boxed{x+x}", "2x")])  # the worker starts

        def grade(completion: str, answer: str) -> str:
            return pool.check([(completion, answer)])[0].status

        def grade_bare(completion: str, answer: str) -> str:
            return "correct" if verify(parse(f"${answer}$"), parse(completion)) else "wrong"

        for name, grader in (("MathsPool", grade), ("math-verify", grade_bare)):
            times, found = [], []
            for row in tqdm(rows, desc=name, disable=options.json or None):
                started = time.perf_counter()
                found.append(str(grader(row["completion"], row["answer"])))
                times.append(time.perf_counter() - started)
            graded = list(zip(rows, found, strict=True))
            masked = {"timeout", "infra_error"}
            lists = {
                "accepted_wrong": [row for row, status in graded if status == "correct" and not row["correct"]],
                "rejected_right": [row for row, status in graded if status != "correct" and row["correct"]],
                "masked": [row for row, status in graded if status in masked],
            }
            report[name] = {
                **{kind: len(list_) for kind, list_ in lists.items()},
                "median_ms": round(1e3 * statistics.median(times), 2),
                "slowest_ms": round(1e3 * max(times)),
            }
            if name == "MathsPool":
                report["left"] = {
                    kind: [[row["answer"], row["completion"][:200]] for row in list_] for kind, list_ in lists.items()
                }
    return report


def tokens(text: str) -> list[str]:
    """Commands, numbers and single characters."""
    found, at = [], 0
    while at < len(text):
        end = at + 1
        if text[at] == "\\":
            while end < len(text) and text[end].isalpha():
                end += 1
        found.append(text[at:end])
        at = end
    return found


def mutated(text: str, dice: random.Random) -> str:
    """`text` after one to six random changes of its tokens."""
    parts = tokens(text)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(parts) + 1)
        kind = dice.choice(("delete", "double", "swap", "insert", "insert", "nest", "repeat"))
        if kind == "delete":
            del parts[at : at + 1]
        elif kind == "double":
            parts[at:at] = parts[at : at + dice.randint(1, 8)]
        elif kind == "swap" and len(parts) > 1:
            one, other = dice.sample(range(len(parts)), 2)
            parts[one], parts[other] = parts[other], parts[one]
        elif kind == "insert":
            parts.insert(at, dice.choice(FRAGMENTS))
        elif kind == "nest":
            opening, closing = dice.choice(
                (("(", ")"), ("{", "}"), ("\\frac{", "}{2}"), ("\\sqrt{", "}"), ("2^{", "}"))
            )
            depth = dice.choice((1, 1, 2, 10, 50))
            parts = [opening] * depth + parts + [closing] * depth
        elif kind == "repeat":
            parts = parts * dice.choice((2, 2, 3, 20))
        parts = parts[:2_000]
    return "".join(parts)


def refusal(gold: str) -> str:
    """Why `gold` would not be loaded; "" = it would."""
    try:
        parse_gold(gold)
    except ValueError as error:
        return str(error)
    return ""


def invented(numbers: Sequence[str], written: Sequence[str], dice: random.Random) -> tuple[str, str]:
    """A response and a gold answer."""
    gold = dice.choice(numbers) if dice.random() < 0.3 else dice.choice(written)
    kind = dice.random()
    if kind < 0.2:
        answer = "".join(dice.choice(FRAGMENTS) for _ in range(dice.randint(1, 40)))
    elif kind < 0.3:
        answer = "".join(
            chr(dice.choice((dice.randrange(32, 127), dice.randrange(0x250)))) for _ in range(dice.randint(1, 60))
        )
    elif kind < 0.5:
        answer = mutated(dice.choice(SLOW), dice)
    elif kind < 0.6:
        answer = mutated(dice.choice(GOLDS), dice)
    else:
        answer = mutated(gold, dice)
    return dice.choice(TEMPLATES).format(answer), gold


def resident() -> int:
    """Bytes of memory of the processes below this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in children)


def fuzz(options: argparse.Namespace) -> dict[str, Any]:
    """Verdicts, restarts, slowest pairs and memory over `--fuzz` invented pairs."""
    dice = random.Random(options.seed)
    refused = {gold: why for gold in GOLDS if (why := refusal(gold))}
    written = [gold for gold in GOLDS if gold not in refused]
    golds = [gold for _, gold, _ in solutions(options.data / "gsm8k" / "example_model_solutions.jsonl")[::4]]
    statuses = Counter[str]()
    memory: list[int] = []
    slowest: list[tuple[float, str, str, str]] = []
    suspects: list[dict[str, Any]] = []
    accepted: dict[tuple[str, str], None] = {}
    with MathsPool(1, seconds=options.seconds) as pool:
        pool.check([("#### 1", "1")])
        started = time.perf_counter()
        for count in tqdm(range(options.fuzz), desc="strings", disable=options.json or None, mininterval=1):
            pair = invented(golds, written, dice)
            restarts, before = pool.restarts, time.perf_counter()
            [verdict] = pool.check([pair])
            taken = time.perf_counter() - before
            statuses[verdict.status] += 1
            slowest = sorted([*slowest, (round(taken, 3), str(verdict.status), *pair)], reverse=True)[:20]
            if pool.restarts > restarts or verdict.status in (Status.INFRA_ERROR, Status.TIMEOUT):
                suspects.append({"pair": pair, "status": verdict.status, "reason": verdict.reason, "seconds": taken})
            found = "".join((verdict.extracted or "").split())
            if verdict.status is Status.CORRECT and found != "".join(pair[1].split()):
                accepted[verdict.extracted or "", pair[1]] = None
            if count % (max(1, options.fuzz // 50)) == 0:
                memory.append(resident() // 2**20)
        seconds = time.perf_counter() - started
        total = pool.restarts
    return {
        "pairs": options.fuzz, "seed": options.seed, "pairs_per_second": round(options.fuzz / seconds, 1),
        "statuses": dict(statuses), "restarts": total, "limit_s": options.seconds, "slowest": slowest[: options.show],
        "over_the_limit": sum(taken > options.seconds + 2 for taken, *_ in slowest), "worker_mib_over_time": memory,
        "golds_refused": refused,
        "suspects": suspects, "accepted_though_written_differently": list(accepted)[: options.show * 20],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=SHARED, help="folder that holds gsm8k/example_model_solutions.jsonl"
    )
    parser.add_argument("--blocks", type=int, default=9, help="repetitions, each on solutions of its own")
    parser.add_argument("--fuzz", type=int, default=0, help="invented pairs; 0 = measure the speed instead")
    parser.add_argument("--pairs", type=Path, help="hand-labelled pairs; compared with math-verify")
    parser.add_argument("--seconds", type=float, default=6.0, help="limit of the pool for one pair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=10, help="slowest pairs to print")
    parser.add_argument("--json", action="store_true", help="one JSON object and no progress")
    options = parser.parse_args()
    if not (options.data / "gsm8k" / "example_model_solutions.jsonl").is_file():
        print(f"{options.data}: no gsm8k/example_model_solutions.jsonl; fix: give --data FOLDER", file=sys.stderr)
        sys.exit(2)
    result = pairs(options) if options.pairs else fuzz(options) if options.fuzz else speed(options)
    print(json.dumps(result, indent=None if options.json else 2, ensure_ascii=options.json))


if __name__ == "__main__":
    main()
