r"""The maths verifier: hand-written verdicts, known wrong verdicts of algebra systems, costly input, labelled solutions."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from guided_grpo.errors import InputError
from guided_grpo.grading import Grader, accuracy, reward_functions
from guided_grpo.grading.answers import declared_answer
from guided_grpo.grading.exact import exact_value
from guided_grpo.grading.maths import check_maths, parse_gold
from guided_grpo.grading.symbolic import TimeLimitError
from guided_grpo.types import Status

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
needs_gsm8k = pytest.mark.skipif(not GSM8K.is_dir(), reason=f"the GSM8K fixtures are not at {GSM8K}")


def boxed(answer: str, gold: str) -> Status:
    return check_maths(f"So it is \\boxed{{{answer}}}.", gold).status


@pytest.mark.parametrize(
    ("response", "declared"),
    [
        (r"\boxed{4}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5} #### 6", "5"),
        ("#### 5\n#### 6\nand so on 7", "6"),
        ("####1,234\n", "1,234"),
        ("The answer is 5. Check: 2 + 3.", "5"),
        ("the final answer is: 3.5.", "3.5"),
        ("So the answer is 18 because 16 - 3 + 5 = 18.", "18"),
        ("**Answer:** 5", "5"),
        ("**Final Answer**\n\n\\boxed{5}", "5"),
        ("Answer:\n$$\n5\n$$", "5"),
        ("Add them up\nA: 18", "18"),
        ("<think>maybe \\boxed{6}</think>\n#### 5", "5"),
        ("<think>no, #### 6</think>#### 7</think>\n#### 5", "5"),
        ("<think>never closed, so #### 5", "5"),
        ("<think>\\boxed{5}</think> I am done.", None),
        ("2 + 3 = 5", None),
        ("\\boxed{}", None),
        ("#### \n5", None),
        ("\\boxed{5", None),
        ("", None),
    ],
)
def test_only_the_last_declaration_counts(response: str, declared: str | None) -> None:
    assert declared_answer(response) == declared


def test_lenient_takes_the_last_number_and_only_where_nothing_is_declared() -> None:
    assert declared_answer("First 3, then $1,250.50 in all.", lenient=True) == "$1,250.50"
    assert declared_answer("#### 4 of 7 or 9", lenient=True) == "4 of 7 or 9"
    assert declared_answer("no number", lenient=True) is None
    assert check_maths("It makes 18", "18").status is Status.NO_ANSWER
    assert check_maths("It makes 18", "18", lenient=True).status is Status.CORRECT


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("73", "**73**"),
        ("1234", "1,234"),
        ("1234", "$1{,}234.00"),
        ("10000", r"10,\!000"),
        ("1,234", "1234"),
        ("1000", "1\u00a0000"),
        ("-5", "\u22125"),
        ("5", "\u200b5\u00a0."),
        ("5", r"\(5\)"),
        ("18", "18 dollars per day"),
        ("5", r"5\text{ cm}^2"),
        ("5", "x = 5"),
        ("5", "x = 10/2 = 5"),
        ("x=5", "5"),
        ("27.0", "27"),
        ("073", "73"),
        ("0.5", r"\frac12"),
        (r"\frac56", "5/6"),
        (r"\dfrac{5}{6}", r"\tfrac{10}{12}"),
        ("2.5", r"2\frac{1}{2}"),
        ("2.5", "2 1/2"),
        (r"0.\overline{3}", "1/3"),
        ("50%", r"50\%"),
        ("0.5", "50 percent"),
        ("6.02e23", r"6.02 \times 10^{23}"),
        ("120", "5!"),
        (r"\frac{1}{2^{99}}", "2^{-99}"),
        ("135", r"135^\circ"),
        ("135°", r"\frac{3\pi}{4}"),
        (r"\frac{3\pi}{4}", "135°"),
        (r"4\sqrt{2}", r"\sqrt{32}"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"[0,1)\cup(2,3]", r"[0, 1) \cup (2, 3]"),
        (r"(5,\infty)", "x > 5"),
        ("(1,0.5)", r"\left(1, \frac{1}{2}\right)"),
        ("1,2", "x = 2 or x = 1"),
        (r"\{1,2\}", "2, 1"),
        ("2, -2", r"\pm 2"),
        (r"1\pm\sqrt{2}", r"1-\sqrt2, 1+\sqrt2"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        ("1011_2", "1011_{2}"),
        ("1011_2", "1011"),
        (r"\text{even}", "Even"),
        ("C", "(C)"),
        ("$5$", "5"),
        (r"\boxed{5}", "5"),
    ],
)
def test_right(gold: str, answer: str) -> None:
    assert boxed(answer, gold) is Status.CORRECT


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "x=4=5"),
        ("5", "5,5"),
        ("5", "5 or 6 or 7"),
        ("5", "4 or 5"),
        ("5", r"\pm 5"),
        ("5", "x > 5"),
        ("5", "5.0000001"),
        ("5", "5^5"),
        ("5", "-5"),
        ("5", "-" * 301 + "5"),
        ("0.5", r"0.5\%"),
        ("1/2^98", "1/2^99"),
        (r"\frac{\pi}{2^{98}}", r"\frac{\pi}{2^{99}}"),
        ("4", r"4\sqrt(2)"),
        (r"\sqrt{2}", "1.41"),
        ("1/3", "0.333333"),
        ("5m", "5"),
        ("(1,2)", "(2,1)"),
        ("(3,4)", "3,4"),
        ("[0,1)", "[0,1]"),
        ("1,2", "1,2,3"),
        ("1,2", "1,1"),
        ("1011_2", "1011_3"),
        ("even", "neve"),
        ("x=5", "y=5"),
        ("x^2", "2^x"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    ],
)
def test_wrong(gold: str, answer: str) -> None:
    assert boxed(answer, gold) is Status.WRONG


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", 14),
        ("8/4/2", 1),
        ("-2^2", -4),
        ("2^3^2", 512),
        (r"1/2\cdot 4", 2),
        ("2(3)", 6),
        (r"-2\frac12", Fraction(-5, 2)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"\sqrt{\frac{1}{4}}", Fraction(1, 2)),
        ("12.5%", Fraction(1, 8)),
        (r"\sqrt{2}", None),
        ("1/0", None),
        ("1.5.2", None),
        ("2 3", None),
        ("x", None),
    ],
)
def test_exact_values(text: str, value: int | Fraction | None) -> None:
    assert exact_value(text) == value


@pytest.mark.parametrize(
    "answer", ["1 2 3 4 5", "10 + John's age", "5 reasons or six", "x+", r"\frac{1}{0", r"\foo{5}", "five"]
)
def test_unparseable(answer: str) -> None:
    assert check_maths(f"#### {answer}", "15").status is Status.UNPARSEABLE


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^9}",
        "2^{10^9}",
        "9^{9^x}",
        "10000000!",
        "(9!)!!x",
        r"\prod_{k=1}^{10^6}(k^k+1)",
        r"\prod_{k=1}^{{10}^{6}} k",
        r"(\sin x+\cos x)^{200}",
        "(x+y+z+1)^{60}",
        r"\binom{1000000000}{500000000}",
        r"\{" + ",".join(str(i) for i in range(3000)) + r"\}",
        ",".join("1" for _ in range(100)),
        "x=" + "=".join("1+1" for _ in range(300)),
        "(" * 200 + "5" + ")" * 200,
        "2" + "^2" * 200,
        "9" * 600,
        "1e999999",
    ],
)
def test_costly_answers_are_refused_at_once(answer: str) -> None:
    start = time.process_time()
    status = boxed(answer, "5")
    assert status is Status.RESOURCE
    assert time.process_time() - start < 3  # milliseconds; what was not refused would take minutes


def test_a_long_response_is_read_in_linear_time() -> None:
    start = time.process_time()
    for filler in (" ", "\n", "#", "{", r"\boxed{", "answer is ", "<think>", "so ", "*", "$"):
        check_maths("The answer is" + filler * 100_000 + "x", "5")
    assert time.process_time() - start < 30  # a second; quadratic time would be hours


def test_no_text_makes_it_raise() -> None:
    rng = random.Random(0)
    pieces = [*"0123456789+-*/^_{}()[]=<>,.!%$ xyi|&~", "\\frac", "\\sqrt", "\\pi", "\\text{", "\\left(", "\\cdot ", "or ",
              "\\begin{pmatrix}", "\\\\", "°", "½", "\\pm", "\\infty", "\\sum_{k=1}^", "π", "\x00", "\u2028", "٣"]  # fmt: skip
    seen = set()
    for _ in range(400):
        answer = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 12)))
        seen.add(boxed(answer, rng.choice(["5", "x+1", "(1,2)", "even"])))
    assert Status.INFRA_ERROR not in seen
    assert {Status.WRONG, Status.UNPARSEABLE} <= seen


@pytest.mark.parametrize(
    "gold",
    ["5", "-3", "1,234", "3.50", r"\frac{1}{2}", r"\text{no solution}", "Evelyn", "x=5", r"[0,1)\cup(2,3]", "11 \\text{ cm}",
     r"x \in \mathbb{R}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "A", "12:30", r"\$32,\!348", "4343_6", "1e+22"],
)  # fmt: skip
def test_gold_accepts_itself(gold: str) -> None:
    parse_gold(gold)
    for response in (f"\\boxed{{{gold}}}", f"#### {gold}", f"The answer is ${gold}$."):
        if not gold.startswith("\\$"):
            assert check_maths(response, gold).status is Status.CORRECT, response


@pytest.mark.parametrize(
    "gold",
    ["", "  ", "nan", "None", "\x0crac{1}{2}", r"\frac{1}{2", "x+", "9^{9^9}", "1 2 3", "5" * 600,
     "We show by induction on n that the sum is even."],
)  # fmt: skip
def test_gold_that_no_one_could_match_is_rejected(gold: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_gold(gold)


def test_a_bad_gold_is_the_graders_fault() -> None:
    assert check_maths("#### 5", r"\frac{1}{").status is Status.INFRA_ERROR
    assert check_maths("#### 5", " ").status is Status.INFRA_ERROR


def test_timeout_is_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def stall(gold: str, answer: str, *, sets_as_relations: bool = False) -> bool:
        raise TimeLimitError("too slow")

    monkeypatch.setattr("guided_grpo.grading.symbolic.symbolic_equal", stall)
    assert boxed(r"\int x dx", r"\int y dy") is Status.TIMEOUT


def test_math_verifys_alarm_becomes_a_timeout_and_the_callers_alarm_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    def stall(*args: object, **kwargs: object) -> bool:
        time.sleep(10)
        return True

    monkeypatch.setattr("guided_grpo.grading.symbolic.SECONDS", 1)
    monkeypatch.setattr("guided_grpo.grading.symbolic._close", stall)
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    before = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        assert boxed(r"\int x dx", r"\int y dy") is Status.TIMEOUT
        left, _ = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, old)
    assert 90 < left < 100


def test_threads_get_the_same_verdicts() -> None:
    found: list[Status] = []
    thread = threading.Thread(target=lambda: found.extend([boxed("y+y+7", "2y+7"), boxed("y+8", "2y+7")]))
    thread.start()
    thread.join()
    assert found == [Status.CORRECT, Status.WRONG]


def test_accuracy_grades_texts_and_messages_and_logs_every_status() -> None:
    logged: dict[str, float] = {}
    completions = [
        "#### 5",
        [{"role": "assistant", "content": "#### 6"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "\\boxed{5}"}]}],
        "no idea",
        "#### 5",
        "#### 5",
    ]
    gold = ["5", "5", "5", "5", None, "\\frac{1}{"]
    rewards = accuracy(
        completions=completions,
        answer=gold,
        log_metric=logged.__setitem__,
        prompts=["?"] * 6,
        trainer_state=None,
        difficulty=[1] * 6,
    )
    assert rewards == [1.0, 0.0, 1.0, 0.0, None, None]
    assert logged == {
        "verifier/correct": 0.4,
        "verifier/wrong": 0.2,
        "verifier/no_answer": 0.2,
        "verifier/unparseable": 0.0,
        "verifier/timeout": 0.0,
        "verifier/resource": 0.0,
        "verifier/infra_error": 0.2,
    }
    assert accuracy.__name__ == "accuracy"


def test_reward_functions_by_name() -> None:
    with Grader() as grader:
        functions = reward_functions(["format", "accuracy"], grader)
    assert [function.__name__ for function in functions] == ["format", "accuracy"]
    assert functions[1].grader is grader
    with pytest.raises(InputError, match=r"'accurate' is no reward function; fix: choose from accuracy, format, over"):
        reward_functions(["accuracy", "accurate"])


@needs_gsm8k
@pytest.mark.parametrize(("name", "count"), [pytest.param("train", 7473, marks=pytest.mark.slow), ("test", 1319)])
def test_every_gsm8k_gold_accepts_itself_and_no_neighbour(name: str, count: int) -> None:
    golds = [json.loads(line)["answer"].split("####")[1].strip() for line in (GSM8K / f"{name}.jsonl").open()]
    assert len(golds) == count
    for gold in golds:
        parse_gold(gold)
        other = str(int(gold.replace(",", "")) + 1)
        assert check_maths(f"#### {gold}", gold).status is Status.CORRECT
        assert check_maths(f"#### {other}", gold).status is Status.WRONG


@pytest.mark.slow
@needs_gsm8k
def test_agrees_with_every_label_of_the_gsm8k_model_solutions() -> None:
    """5,276 solutions by four models, 2,001 of them labelled right; the golds are those of test.jsonl."""
    golds = [json.loads(line)["answer"].split("####")[1] for line in (GSM8K / "test.jsonl").open()]
    graded, right, disagreements = 0, 0, []
    for number, line in enumerate((GSM8K / "example_model_solutions.jsonl").open(), 1):
        record = json.loads(line)
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            verdict = check_maths(record[model]["solution"], golds[number - 1])
            graded, right = graded + 1, right + record[model]["is_correct"]
            if (verdict.status is Status.CORRECT) != record[model]["is_correct"]:
                disagreements.append((number, model, verdict, golds[number - 1]))
    assert (graded, right) == (5276, 2001)
    assert disagreements == []
