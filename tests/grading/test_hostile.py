"""The hostile reading: what was found is graded as it is labelled, but for what is named here as left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from guided_grpo.grading.answers import declared_answer
from guided_grpo.grading.code import check_code, check_programs
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.grading.maths import check_maths, compare_exactly
from guided_grpo.grading.maths_pool import MathsPool
from guided_grpo.sandbox import SandboxPool
from guided_grpo.store import rundir
from guided_grpo.store.jsonl import append_rows, whole_rows
from guided_grpo.types import Status

HERE = Path(__file__).parent
PROGRAMS = [
    row
    for name in ("hostile_programs.yaml", "fresh_programs.yaml", "third_programs.yaml")
    for row in yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
]
LEFT_PROGRAMS = {
    "NaN against a distance",  # so does Python: no comparison with NaN is true
    "a decorator of the program",  # a function of the tests that changes their own list stays with them
    "compared with itself",  # as an object that has an __eq__ may be
    "compared with its other name",  # tests that no program fails: only plain cases are seen
    "a lambda that is never called",
    "a decorator that swallows",
    "user list",  # a class of a module that equals a plain list: no plain data here
}


def is_accepted(pool: SandboxPool, row: dict[str, Any]) -> bool:
    try:
        tests = parse_tests(row["tests"], entry_point=row.get("entry_point", ""))
    except ValueError:
        return False
    check = check_code if row.get("response") else check_programs
    [verdict] = check(pool, [row["program"]], [tests], partial=False)
    return verdict.status is Status.CORRECT and not verdict.weak


@pytest.mark.parametrize("row", PROGRAMS, ids=lambda row: row["name"])
def test_programs(pool: SandboxPool, row: dict[str, Any]) -> None:
    assert is_accepted(pool, row) is (row["correct"] ^ (row["name"] in LEFT_PROGRAMS))


ANSWERS = [json.loads(line) for line in (HERE / "hostile_answers.jsonl").open(encoding="utf-8")]
LEFT_ANSWERS = {  # answer, and what is between the braces
    ("2", r"\text{two}"),  # number words are not read
    ("1+2+\\cdots+10", "55"),  # no gold answer: refused when it is loaded
    (r"A\cup B", r"B\cup A"),  # the same
}


ORDINARY = [json.loads(line) for line in (HERE / "ordinary_answers.jsonl").open(encoding="utf-8")]


def test_ordinary_answers() -> None:
    """Written to be held out; what an infinite sum is, the algebra system decides, or does not."""
    rows = [row for row in ORDINARY if r"\infty}\frac{1}{n^2}" not in row["completion"]]
    with MathsPool(1) as maths:
        verdicts = maths.check([(row["completion"], row["answer"]) for row in rows])
    graded = zip(rows, verdicts, strict=True)
    assert not [row for row, verdict in graded if (verdict.status is Status.CORRECT) is not row["correct"]]


FRESH = [json.loads(line) for line in (HERE / "fresh_answers.jsonl").open(encoding="utf-8")]
LEFT_FRESH = {
    (r"-2\le m\le 2", r"m^2\le4"),  # an inequality that is still to be solved
}


@pytest.mark.slow
def test_fresh_answers() -> None:
    with MathsPool(1) as maths:
        verdicts = maths.check([(row["completion"], row["answer"]) for row in FRESH])
    graded = list(zip(FRESH, verdicts, strict=True))
    assert not [row for row, verdict in graded if verdict.status is Status.CORRECT and not row["correct"]]
    assert {(row["answer"], verdict.extracted) for row, verdict in graded
            if row["correct"] and verdict.status is not Status.CORRECT} == LEFT_FRESH  # fmt: skip


THIRD = [json.loads(line) for line in (HERE / "third_answers.jsonl").open(encoding="utf-8")]
LEFT_THIRD = {
    ("19", r"\text{nineteen}"),  # whole numbers in words are not read: the labels we were given call them wrong
    ("-8", r"\text{negative eight}"),
    ("10", r"\text{ten}"),
    ("10", "10 (2 x 5)"),  # brackets that may be a factor
    ("3x-4y+12=0", r"3x - 4y + 12 = 0 \text{ (the tangent line)}"),  # a bracket whose words are not known
    (r"1\le k\le 6", r"(k-1)(k-6)\le0"),  # an inequality that is still to be solved
    (r"1\le k\le 6", r"k^2-7k+6\le0"),
    (r"\emptyset", r"\text{no such }x\text{ exists, since }x^2\ge0"),  # an inequality in the reason
}
DEBATED_THIRD = {("3.14", r"3.14\%")}  # labelled wrong, though a percent sign is a unit of what is over 1


@pytest.mark.slow
def test_third_answers() -> None:
    with MathsPool(1) as maths:
        verdicts = maths.check([(row["completion"], row["answer"]) for row in THIRD])
    graded = list(zip(THIRD, verdicts, strict=True))
    for label, left in ((True, LEFT_THIRD), (False, DEBATED_THIRD)):
        assert {(row["answer"], verdict.extracted) for row, verdict in graded
                if row["correct"] is label and (verdict.status is Status.CORRECT) is not label} == left  # fmt: skip


@pytest.mark.parametrize(("gold", "right", "wrong"), [
    ("42", r"42\text{ (by periodicity)}", r"42\text{ (by 2)}"), ("42", "42, as claimed", "42, as a lower bound"), ("42", r"42\text{ since }6\cdot7=42", r"42\text{ since }n=1\text{ or }n=2"),
    ("42", r"42\text{ because all others repeat}", r"42\text{ because I guessed}"), ("42", "42 (due to symmetry)", "42 (mod 7)"), ("42", r"42\ (=6\cdot7)", r"42\ (=6\cdot 8)"), ("42", r"42\text{ (from part b)}", r"42\text{ (from }50)"),
    ("42", r"42\text{ by continuity}", r"42\text{ by continuity} + 1"), ("42", r"42\text{ by convexity}", r"42\text{ by convexity minus }1"), ("42", r"42\text{ due to parity}", r"42\text{ due to rounding; exactly }42.3"),
    ("42", r"42\text{ by the chain rule}", r"42\text{ by the chain rule, so }43"), ("42", r"42\text{ (by Lemma }3)", r"42\text{ (by Lemma }3)\cdot 2"), ("42", r"42\text{ by induction}", r"42\text{ by induction: }43"), ("42", r"42\text{ by Lemma 3}", r"42\text{ by }3"), ("42", r"42\text{ (exactly)}", r"42\text{ (at most)}"), ("42", r"n=42\text{ is the unique solution}", r"n=42\text{ is not the solution}"), ("42", r"42\text{ (by the sine rule)}", r"42\text{ (by symmetry), }43"),
    ("42", r"42\text{ as required}", r"42\text{ (if }n\text{ is even)}"), ("42", "42, by Vieta's formulas", "42, by symmetry, and 41"), (r"\sqrt{11}", r"\sqrt{11}\ (\text{approximately }3.317)", r"\sqrt{11}\ (\text{approximately }3.3)\text{ or }4"), ("1,2", r"1,2\text{ by inspection}", r"1\text{ by inspection}"),
    (r"\text{proof by induction}", r"\text{Proof by induction}", r"\text{proof by contradiction}"), ("B", r"B, by elimination", "B or C, by elimination"), (r"\text{No}", r"\text{No (by parity)}", r"\text{Yes (by parity)}"),
    (r"\text{odd}", r"\text{an odd function}", r"\text{an odd prime}"), (r"\text{even}", r"\text{even integer}", r"\text{even or odd}"), (r"\text{even}", r"g\text{ is even}", r"g\text{ is not even}"), (r"\text{acute triangle}", r"\text{acute}", r"\text{acute angle}"),
    (r"\text{convergent}", r"\text{a convergent series}", r"\text{conditionally convergent series}"), (r"\text{increasing}", r"\text{increasing sequence}", r"\text{increasing or constant sequence}"), (r"\text{scalene}", r"\triangle PQR\text{ is scalene}", r"\triangle PQR\text{ is not scalene}"),
    (r"\text{circle}", r"\text{It is a circle.}", r"\text{It is not a circle.}"), (r"\text{infinitely many}", r"\text{infinitely many roots}", r"\text{finitely many roots}"), (r"\text{no solution}", r"\text{no such integer exists}", r"\text{such an integer exists}"), (r"\text{April 9}", r"\text{the 9th of April}", r"\text{the 19th of April}"),
    (r"\frac34", r"\text{three quarters}", r"\text{three thirds}"), ("2.5", r"\text{two and a half}", r"\text{two and a third}"), ("-6", r"\text{negative }6", r"\text{not }-6"), (r"\frac23", r"\text{two-thirds}", r"\text{three halves}"),
    ("x+3", "3+x", "|x+3|"), ("5-x", "-(x-5)", "|x-5|"), ("x-10", r"\frac{(x-10)^2}{x-10}", "-|x-10|"), ("2-x", "-x+2", r"\sqrt{(x-2)^2}"), ("x", r"\sqrt[3]{x^3}", r"\max(x,-9)"), (r"\lfloor\sqrt{m}\rfloor", r"\text{floor}(\sqrt{m})", r"\lfloor m\rfloor"), (r"\lceil x/2\rceil", r"\text{ceil}(x/2)", r"\lfloor x/2\rfloor+1"),
    ("a+b", "b+a", "|a+b+9|-9"), (r"\frac{1}{10-x}", r"-\frac{1}{x-10}", r"\frac{1}{|x-10|}"),
    ("xy=6", r"y=\frac6x", r"xy=-6"), (r"y=\frac{1}{x^2}", "x^2y=1", "x^3y=x"), ("y=x", "2x=2y", "y^2=xy"), (r"pV=12", r"V=\frac{12}{p}", r"p=\frac{V}{12}"),
    ("4:45\\text{ p.m.}", "16:45", "15:45"), ("13:10", "1:10 PM", "1:10 AM"), (r"\frac{3}{10}", "3:10", "10:3"), ("8.5\\times10^{3}", "8.5 x 10^3", "8.5 x 10^{-3}"), (r"\$7.25", r"7\text{ dollars and }25\text{ cents}", r"7\text{ dollars and }52\text{ cents}"),
    (r"2.4\text{ million}", r"2.4\text{ million people}", r"2.4\text{ billion people}"), (r"30\%", r"30\%\text{ of the class}", r"30\%\text{ or less of the class}"), (r"30\%", r"\text{a }30\%\text{ rise}", r"\text{a }3\%\text{ rise}"),
    ("2-5i", r"\overline{2+5i}", r"\overline{2-5i}"), (r"\overline{ab}", r"\overline{ab}", "ab+1"), (r"\sqrt2", r"\frac{1}{\cos 45^\circ}", r"\frac{1}{\cos 45}"), (r"3e^{i\pi/3}", r"3e^{i 60^\circ}", r"3e^{i 30^\circ}"), (r"\frac{\pi}{10}", r"18\text{ degrees}", r"18\text{ radians}"),
    (r"\begin{pmatrix}4\\6\end{pmatrix}", r"[4,6]^T", "[4,6]"), (r"\begin{pmatrix}4\\6\end{pmatrix}", r"4\mathbf i+6\mathbf j", r"6\mathbf i+4\mathbf j"), (r"\binom83", "8C3", "3C8"),
    (r"(-\infty,1)\cup(2,\infty)", "x<1, x>2", "x>1, x<2"), (r"(-\infty,1)\cup(2,\infty)", "x>2; x<1", "x<2; x>1"), (r"\emptyset", r"\emptyset", "x<1, x>2"), (r"x\ge0", r"\text{all nonnegative real numbers}", r"\text{all positive real numbers}"), (r"(-\infty,0)", r"\text{the negative reals}", r"\text{the negative integers}"), (r"\mathbb{R}", r"\text{any real number}", r"x\in\mathbb{R}, x\ne3"),
    ("y=Ce^{x}", "y=Ke^{x}", "y=xe^{x}"), ("P(t)=Ce^{2t}", "P(t)=Ae^{2t}", "P(t)=2e^{2t}"), ("2C", "C+C", "2A"), (r"\frac{1}{x-4}", r"\frac{1}{x-4},\ x\ne4", r"\frac{1}{x-4}, x=4"), ("x^2", r"x^2\text{ for all real }x", r"x^2\text{ for }x>0\text{ and }-x^2\text{ else}"), ("2n-1", r"2n-1, n\ge1", r"2n-1, n=1"),
    ("(4,7)", "C(4,7)", "C(7,4)"), ("35", "C(7,4)", "C(7,5)"), ("f(x)=3x", r"f: x\mapsto 3x", r"f: x\mapsto 3"), ("321_5", r"321\text{ in base }5", r"321\text{ in base }6"),
])  # fmt: skip
def test_causes_of_the_third_answers(gold: str, right: str, wrong: str) -> None:
    assert [check_maths(f"\\boxed{{{text}}}", gold).status is Status.CORRECT for text in (right, wrong)] == [
        True,
        False,
    ]


@pytest.mark.parametrize(("gold", "right", "wrong"), [
    (r"\log_{10} 7", r"\log 7", r"\log_7 10"), ("3", r"\log 1000", r"\log 100"), (r"\binom{m}{3}", "C(m,3)", "C(3,m)"), ("10", "C_5^3", "C_3^5"),
    (r"3x^2+C", r"3x^2+C,\ C\in\mathbb{R}", r"3x^2+C,\ x\in\mathbb{N}"), (r"2k\pi, k\in\mathbb{Z}", r"2n\pi\ (n \in \mathbb{Z})", r"n\pi\ (n \in \mathbb{Z})"),
    (r"n\pi+1, n\in\mathbb{Z}", r"1+k\pi\text{, where }k\text{ is an integer}", r"1+k\pi, k\in\mathbb{N}"), ("2k+1, k\\in\\mathbb{Z}", "2k+1", "2k-2"),
    (r"\begin{bmatrix}4\\0\\-7\end{bmatrix}", r"4\mathbf{i}-7\mathbf{k}", r"4\mathbf{i}-7\mathbf{j}"), (r"\begin{bmatrix}4\\0\end{bmatrix}", "(4,0)^T", "(0,4)^T"),
    (r"\begin{pmatrix}2&4\\6&8\end{pmatrix}", r"2\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"2\begin{pmatrix}2&4\\6&8\end{pmatrix}"), (r"\begin{pmatrix}1&0\end{pmatrix}", r"\begin{pmatrix}1\\0\end{pmatrix}^T", r"\begin{pmatrix}0\\1\end{pmatrix}^T"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]", "[[1,2],[4,3]]"), ("x=3", r"x^3=27\implies x=3", r"x=3\implies x^2=9"),
    (r"\text{no solution}", r"\text{no real solution exists}", r"\text{a solution exists}"), (r"x\ne\pm2", r"\mathbb{R}\setminus\{\pm2\}", r"x\ne2"), (r"x\ne1\pm\sqrt3", r"\mathbb{R}\setminus\{1-\sqrt3,1+\sqrt3\}", r"x\ne\pm(1+\sqrt3)"),
    (r"\$40", r"\text{EUR }40", r"\text{EUR }4"), ("8:05", "08:05", "8:50"), (r"\text{Friday}", r"\text{on Friday}", r"\text{on Monday}"), (r"\text{No}", r"\text{No, there are none.}", r"\text{No, but yes for even n}"),
    (r"\text{continuous}", r"\text{the function is continuous}", r"\text{the discontinuous}"), ("f(x)=x^2+x", "f(t)=t^2+t", "f(t)=t^2-t"), ("4", r"4\ (\text{mod } 9)", r"13\bmod 10"), (r"4\pmod 9", r"x\equiv4\pmod 9", r"4\pmod 7"), ("8", r"17\bmod 9", r"8\bmod 3"),
    ("A3_{16}", r"\text{A3}_{16}", r"\text{3A}_{16}"), (r"\min(a,b)", r"\min\{b,a\}", r"\max\{a,b\}"), (r"\sqrt{7}", r"\sqrt7=2.6457\ldots", r"\sqrt7=2.6467\ldots"), (r"\sqrt{7}", r"7^{1/2}", r"\sqrt7+10^{-45}"), ("0", r"\sin^2 1+\cos^2 1-1", "e^{-2000}"),
    ("[0,4]", r"0\le f(x)\le4", r"0\le f(x)<4"), (r"x\ge3", r"2x-6\ge0", r"6-2x\ge0"), (r"(-\infty,2)", "3x<6", "3x>6"), ("x>-1", "-x<1", "-x>1"),
])  # fmt: skip
def test_causes_of_the_fresh_answers(gold: str, right: str, wrong: str) -> None:
    assert [check_maths(f"\\boxed{{{text}}}", gold).status is Status.CORRECT for text in (right, wrong)] == [
        True,
        False,
    ]


@pytest.mark.parametrize("text", [
    "5 by " + "As-" * 120, "5 by " + "A's " * 120, "5 by " + "the " * 120 + "x", "5" + ", " * 240 + "since", "5" + " (" * 240 + "by", "5 since " + "a, " * 160, "5, " + r"\text{" * 60,
    "5" + r"\text{ is the only }" * 20, "5 (=" + "(1)" * 150, "one " * 120, "5, x\\ne " + "x " * 200, "5 for all " * 45, "5 as required" + " ." * 240 + "x", "5 dollars and " * 30,
])  # fmt: skip
def test_remarks_that_are_costly_to_read(text: str) -> None:
    started = time.process_time()
    compare_exactly(text, "5")
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(("response", "found"), [
    ("**Answer: Yes**, since it is even.", True), ("**Answer: Yes** or no.", False), ("**Answer: Yes**, but not for 2.", False), ("**Answer: No**, it is not.", False),
])  # fmt: skip
def test_what_is_bold_was_declared(response: str, found: bool) -> None:
    assert (check_maths(response, "Yes").status is Status.CORRECT) is found


def test_answers() -> None:
    with MathsPool(1) as maths:
        verdicts = maths.check([(row["completion"], row["answer"]) for row in ANSWERS])
    graded = list(zip(ANSWERS, verdicts, strict=True))
    assert not [row for row, verdict in graded if verdict.status is Status.CORRECT and not row["correct"]]
    rejected = {(row["answer"], verdict.extracted) for row, verdict in graded
                if row["correct"] and verdict.status is not Status.CORRECT}  # fmt: skip
    assert rejected == LEFT_ANSWERS
    masked = {row["answer"] for row, verdict in graded if verdict.status in (Status.TIMEOUT, Status.INFRA_ERROR)}
    assert masked == {"1+2+\\cdots+10", r"A\cup B"}  # which no data set gets past loading


@pytest.mark.parametrize(("gold", "right", "wrong"), [
    ("3^{n+1}-3", r"\sum_{k=1}^{n}2\cdot3^k", r"\sum_{k=0}^{n}2\cdot3^k"), ("(n+1)!", r"\prod_{k=1}^{n}(k+1)", r"\prod_{k=1}^{n}k"),
    ("2^m", r"\sum_{j=0}^{m}\binom{m}{j}", r"\sum_{j=1}^{m}\binom{m}{j}"), ("x^2-9", "x^2-9=(x-3)(x+3)", "x^2-9=(x-3)(x-3)"),
    (r"\sin x+C", r"\sin x+c", r"\sin x+7"), (r"e^x+C", r"e^x+C_1", "e^x"), ("2a+k", "k+2a", "2a+c"), ("Ax+C", "C+Ax", "Ax+k"),
    ("(1,4),(4,1)", r"(a,b)\in\{(4,1),(1,4)\}", r"(a,b)\in\{(4,1)\}"), (r"9\text{ km/h}", r"9\ \frac{km}{h}", r"9\ \frac{h}{km}"),
    ("9", "9 yrs", "9 yr 2"), ("9", r"9\ \mu\text{F}", r"9\mu"), ("9", r"\text{There are 9 such pairs}", r"\text{There are 9 or 10 such pairs}"),
    ("9", r"\text{exactly }9", r"\text{not exactly }9"), ("9", "9 in total", "9 of 12"),
])  # fmt: skip
def test_causes_of_the_ordinary_answers(gold: str, right: str, wrong: str) -> None:
    assert check_maths(f"\\boxed{{{right}}}", gold).status is Status.CORRECT
    assert check_maths(f"\\boxed{{{wrong}}}", gold).status is not Status.CORRECT


@pytest.mark.parametrize(("response", "found"), [
    ("**Answer.** 9", True), ("There is no answer. 9", False), ("The answer is **9**, not 8.", True), ("The answer is **8**, not 9.", False),
    ("The answer is 9 rather than 8.", True), ("The answer is 9, not sure.", False), ("Final answer: there are **9** of them.", True),
    ("The answer is exactly 9.", True), ("The answer is not exactly 9.", False), ("The answer is 9**2**.", False),
])  # fmt: skip
def test_declared_within_a_sentence(response: str, found: bool) -> None:
    assert (check_maths(response, "9").status is Status.CORRECT) is found


@pytest.mark.parametrize(("gold", "right", "wrong"), [
    ("(-2,3]", "]-2,3]", "[-2,3["), (r"(-\infty,1)\cup(4,\infty)", r"]-\infty,1[\cup]4,+\infty[", r"]-\infty,1]\cup[4,+\infty["),
    ("-2<x<8", "|x-3|<5", "|x+3|<5"), ("|2-x|<1", "1<x<3", "-3<x<-1"), ("|x|>2", r"|x-0|>2", r"|x-1|>2"),
    (r"(-\infty,0)", r"\mathbb{R}^-", r"\mathbb{R}^+"), (r"[0,\infty)", r"\mathbb{R}_{\ge 0}", r"\mathbb{R}_{>0}"),
    (r"\mathbb{R}\setminus\{2\}", r"\text{all real numbers except } x=2", r"\text{all real numbers}"),
    (r"\{(0,3),(3,0)\}", r"x=0, y=3 \text{ or } x=3, y=0", r"x=0, y=0 \text{ or } x=3, y=3"),
    (r"\frac{7}{12}", r"0.58333\ldots", r"0.5833"), (r"\frac{4}{33}", r"0.1212\dots", r"0.12\dots"), ("3.14", "3.14", r"3.1414\ldots"),
    (r"\sqrt{3}", r"\sqrt3\approx1.73", r"\sqrt3\approx1.8"), (r"\frac{2}{7}", r"x=\frac{2}{7}\approx 0.286", r"\frac{2}{9}\approx 0.222"),
    (r"\frac{3}{4}", "3:4", "4:3"), ("3:4", "0.75", "0.57"), ("10:30", "10:30", r"\frac13"), ("4", "4", "8:2"),
    (r"\frac{n\pi}{2}, n\in\mathbb{Z}", r"\frac{k\pi}{2},\ k\in\mathbb{Z}", r"\frac{k\pi}{3},\ k\in\mathbb{Z}"),
    ("x=4,y=7", r"\begin{cases} x = 4 \\ y = 7 \end{cases}", r"\begin{cases} x = 7 \\ y = 4 \end{cases}"),
    (r"\text{1 hour 5 minutes}", r"\text{1 hour and 5 minutes}", r"\text{5 hours and 1 minute}"),
    (r"45^\circ", r"\frac{\pi}{4}\text{ rad}", r"45\text{ rad}"), ("CAB", r"\text{CAB}", "BAC"), (r"\sqrt{50}", "√50", "√5"),
    ("9", "EUR 9", "EUR 9 million"), (r"\frac58", r"\frac{\text{5}}{\text{8}}", r"5\text{8}"), ("13", r"n+m=13", r"\text{not } n=13"), ("5", r"\text{No. of ways}=5", r"\text{no}=5"),
    ("6 ft 2 in", r"6\text{ ft }2\text{ in}", "2 ft 6 in"), (r"2\text{ hours }5\text{ minutes}", "2 hours and 5 minutes", "5 hours and 2 minutes"),
    ("June 5, 2020", "5 June 2020", "6 June 2020"),
    ("6", r"6\text{ (mod } 7)", r"6\pm 0"),
])  # fmt: skip
def test_further_forms_in_both_directions(gold: str, right: str, wrong: str) -> None:
    assert [check_maths(f"\\boxed{{{text}}}", gold).status is Status.CORRECT for text in (right, wrong)] == [
        True,
        False,
    ]


@pytest.mark.parametrize(("response", "answer"), [
    ("The answers are $2$ and $7$.", "$2$ and $7$"), ("The correct choice is (D).", "(D)"), ("It is the best option: no.", None),
    ("The correct option was lost.", None), ("The answer is 4, Q.E.D.", "4"),
])  # fmt: skip
def test_further_declarations(response: str, answer: str | None) -> None:
    found = declared_answer(response)
    assert (found and found.rstrip(".")) == answer


@pytest.mark.parametrize(("gold", "right", "wrong"), [
    (r"\frac{1}{3}", r"\int_0^1 x^2\,dx", r"\int_0^1 x^3\,dx"), (r"\frac{\sqrt{\pi}}{2}", r"\int_0^\infty e^{-x^2} dx", r"\int_0^\infty e^{-2x^2} dx"),
    ("2", r"\int_0^{\pi} \sin\theta\, d\theta", r"\int_0^{\pi} \cos\theta\, d\theta"), (r"\ln 2", r"\int_1^2 \frac{1}{t} dt", r"\int_1^3 \frac{1}{t} dt"),
    ("x^3", r"\int_0^x 3t^2 dt", r"\int_0^x 2t^2 dt"), ("4", r"\int_0^1 3 dx + 1", r"\int_0^1 3 dx - 1"), (r"\frac16", r"\int_0^1 x dx \int_0^1 x^2 dx", r"\int_0^1 x dx \int_0^1 x^3 dx"),
])  # fmt: skip
def test_integrals_between_bounds(gold: str, right: str, wrong: str) -> None:
    assert [check_maths(f"\\boxed{{{text}}}", gold).status for text in (right, wrong)] == [Status.CORRECT, Status.WRONG]


@pytest.mark.parametrize("stall", [
    r"\int_0^1 x^{x^{x}} dx", r"\int \frac{1}{y^5+y+2} dy", r"\int_0^1 \frac{\sin(x^{17}+e^{x})\ln(x+3)}{x^5+\cos(x)+7} dx",
    r"\int_1^2 \sqrt{x^5+\sqrt{x^3+\sqrt{x}}} dx", r"\int_2^3 \frac{e^{x}}{\ln\ln x^4} dx", r"\int_0^1 x^{x^{x}} dx\int_0^1 x^{x} dx",
])  # fmt: skip
def test_integrals_without_a_closed_form_never_reach_the_algebra_system(
    stall: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr("guided_grpo.grading.symbolic.symbolic_equal", refuse)
    for gold in ("7", r"\frac{\pi}{3}", r"2+\sqrt{5}"):
        assert check_maths(f"\\boxed{{{stall}}}", gold).status is Status.WRONG


def test_half_characters_reach_files_and_are_read_back(pool: SandboxPool, tmp_path: Path) -> None:
    tests = [parse_tests(source) for source in (["assert f(3) == 9"], "for n in (1, 2):\n    assert f(n) == n")]
    programs = ["def f(x): raise ValueError(chr(0xD800))", "def f(x): return chr(0xDFFF)"]
    verdicts = check_programs(pool, programs * 2, [tests[0], tests[0], tests[1], tests[1]])
    maths = check_maths("The answer is 5\udfff", "5")
    rows = [{"extracted": each.extracted, "reason": each.reason} for each in (*verdicts, maths)]
    assert "ValueError: \ud800" in [row["reason"] for row in rows]
    append_rows(tmp_path / "rows.jsonl", rows)
    assert list(whole_rows(tmp_path / "rows.jsonl")) == rows
    rundir.write_json(tmp_path / "eval.json", rows)
    assert rundir.read_json(tmp_path / "eval.json") == rows
