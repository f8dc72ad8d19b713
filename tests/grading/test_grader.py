"""The grader of training: what verdicts are worth, repeats, background work, infrastructure errors, real runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from guided_grpo.cli import main
from guided_grpo.errors import InfraLimitError, InputError
from guided_grpo.grading import Accuracy, Grader, GradingSettings, reward_functions
from guided_grpo.grading.answers import declared_answer
from guided_grpo.grading.code import CodeVerdict
from guided_grpo.grading.grader import Submission
from guided_grpo.grading.maths import compare, compare_exactly
from guided_grpo.grading.worth import read_worth
from guided_grpo.train.advantage import mask_ungraded
from guided_grpo.types import Status, Verdict
from maths_pairs import PAIRS
from parts import small_run

TESTS = ["assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 6", "assert f(0) == 0"]
RIGHT, THREE, SPIN = (
    f"```python\ndef f(x):\n    {body}\n```"
    for body in ("return 2 * x", "return x * 2 if x else 1", "while True: pass")
)


@pytest.fixture(scope="module")
def sandbox() -> None:
    """Skips, with the reason, where no program can be run safely."""
    try:
        with Grader() as grader:
            grader.start(["code"])
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def grader(sandbox: None) -> Iterator[Grader]:
    with Grader(GradingSettings(code_cpu_seconds=1.0)) as grader:
        yield grader


def code(response: str, tests: Any = TESTS, **columns: Any) -> Submission:
    return Submission(response, {"tests": tests, **columns})


def maths(response: str, answer: str | None, **columns: Any) -> Submission:
    return Submission(response, {"answer": answer, **columns})


def statuses(grader: Grader, *questions: Submission) -> list[str | None]:
    return [None if verdict is None else verdict.status.value for verdict in grader.grade(questions)]


def test_tasks_mixed_in_one_batch_keep_their_order(grader: Grader) -> None:
    both = {"answer": "5", "tests": TESTS}
    assert statuses(
        grader,
        maths("#### 5", "5"), code(RIGHT), maths("\\boxed{x+x}", "2x"), code(THREE), maths("#### 5", None), code("no program"),
        Submission("#### 5", {**both, "task": "math"}), Submission(RIGHT, {**both, "task": "code"}),
        maths("#### B", "B", answer_kind="choice"), maths("#### 5", "5", answer_kind="essay"),
        Submission("#### 5", {"answer": "5", "task": "code"}), code(RIGHT, ["assert True"]), code(RIGHT, json.dumps(TESTS)),
    ) == [
        "correct", "correct", "correct", "wrong", None, "no_answer",
        "correct", "correct", "correct", "infra_error", None, "infra_error", "correct",
    ]  # fmt: skip


def test_program_over_its_time_is_wrong_and_a_grader_over_its_time_is_not_counted(grader: Grader) -> None:
    [verdict] = grader.grade([code(SPIN)])
    assert verdict is not None and verdict.status is Status.TIMEOUT
    assert grader.worth(code(SPIN), verdict) == 0.0
    assert grader.worth(maths("#### 5", "5"), Verdict(Status.TIMEOUT, "5", "slow")) is None


@pytest.mark.parametrize(
    ("settings", "verdict", "reward"),
    [
        ({}, CodeVerdict(Status.WRONG, "", "", passed=3, total=4), 0.0),
        ({"code_partial": True}, CodeVerdict(Status.WRONG, "", "", passed=3, total=4), 0.75),
        (
            {"code_partial": True, "code_weak": False},
            CodeVerdict(Status.WRONG, "", "", passed=3, total=4, weak=2),
            0.25,
        ),
        ({"code_weak": False}, CodeVerdict(Status.CORRECT, "", "", passed=4, total=4, weak=1), 0.0),
        ({"code_weak": True}, CodeVerdict(Status.CORRECT, "", "", passed=4, total=4, weak=1), 1.0),
        ({}, CodeVerdict(Status.CORRECT, "", "", passed=4, total=4, weak=1), 0.0),
        ({}, CodeVerdict(Status.INFRA_ERROR, "", "", passed=3, total=4), None),
        ({"code_partial": True}, CodeVerdict(Status.NO_ANSWER, None, "", total=4), 0.0),
        (
            {"code_partial": True, "verdict_rewards": '{"code": {"wrong": -1, "correct": 2}}'},
            CodeVerdict(Status.WRONG, "", "", passed=1, total=4),
            -0.25,
        ),
        ({"verdict_rewards": {"code": {"timeout": None}}}, CodeVerdict(Status.TIMEOUT, "", "", total=4), None),
    ],
)
def test_what_verdicts_on_programs_are_worth(
    settings: dict[str, Any], verdict: CodeVerdict, reward: float | None
) -> None:
    assert Grader(GradingSettings(**settings)).worth(code(""), verdict) == reward


def test_partial_credit_is_measured(grader: Grader) -> None:
    [verdict] = grader.grade([code(THREE)])
    assert isinstance(verdict, CodeVerdict) and (verdict.passed, verdict.total) == (3, 4)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"poetry": {}}',
        '{"math": 1}',
        '{"math": {"true": 1}}',
        '{"math": {"wrong": "0"}}',
        '{"math": {"wrong": true}}',
    ],
)
def test_tables_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="field 'verdict_rewards'.*fix: write"):
        read_worth(text)


def test_mbpp_plus_form_runs_its_reference_once(grader: Grader) -> None:
    tests = {"reference": "def f(x): return (x, x / 3)", "entry_point": "f", "inputs": [[1], [[2]][0]]}
    right, wrong = "```python\ndef f(x): return (x, x / 3)\n```", "```python\ndef f(x): return [x, x / 3]\n```"
    assert statuses(grader, code(right, tests), code(wrong, tests)) == ["correct", "wrong"]
    broken = {**tests, "inputs": [["a"]]}
    assert statuses(grader, code(right, broken)) == ["infra_error"]


def test_begun_verdicts_are_taken_once_and_nothing_runs_twice(sandbox: None, tmp_path: Path) -> None:
    with Grader(GradingSettings(code_cpu_seconds=1.0)) as grader:
        grader.start(["code"])
        run, jobs, threads = grader._code.run, [], []

        def counted(batch: Any) -> Any:
            jobs.append(len(batch))
            threads.append(threading.current_thread() is threading.main_thread())
            return run(batch)

        grader._code.run = counted
        questions = [code(RIGHT), code(THREE), code(RIGHT), maths("#### 5", "5")]
        grader.begin(questions)
        assert statuses(grader, *questions) == ["correct", "wrong", "correct", "correct"]
        assert (jobs, threads) == ([2], [False])  # two different programs, not in the caller's thread
        assert grader.counts == {Status.CORRECT: 3, Status.WRONG: 1}
        assert statuses(grader, *questions[:2]) == ["correct", "wrong"]
        assert jobs == [2, 2]  # what was begun is forgotten with its batch
        grader.begin([code(SPIN)])
        assert statuses(grader, code(RIGHT)) == ["correct"]  # something else than was begun


@pytest.mark.slow
def test_begin_returns_at_once_and_close_does_not_wait_for_what_never_ends(sandbox: None) -> None:
    with Grader(GradingSettings(code_cpu_seconds=60, code_wall_seconds=120)) as grader:
        grader.start(["code"])
        started = time.monotonic()
        grader.begin([code("```python\nimport time\ntime.sleep(100)\n```")])
        assert time.monotonic() - started < 50
    assert time.monotonic() - started < 90


def test_rewards_in_the_form_of_trl_begin_too(grader: Grader) -> None:
    accuracy = Accuracy(grader)
    columns = {"answer": ["5", None, "6"], "tests": [None, TESTS, None], "difficulty": [1, 2, 3]}
    completions = ["#### 5", [{"role": "assistant", "content": RIGHT}], "#### 7"]
    accuracy.begin(completions=completions, **columns)
    assert accuracy(prompts=["?"] * 3, completions=completions, completion_ids=[[1]] * 3, **columns) == [1.0, 1.0, 0.0]
    verdicts = accuracy.verdicts(completions, **columns)
    assert [verdict.extracted for verdict in verdicts if verdict] == ["5", "def f(x):\n    return 2 * x\n", "7"]


def test_exact_comparison_never_differs_from_the_whole_one() -> None:
    pairs = [
        *((found, gold) for response, gold in PAIRS if (found := declared_answer(response))),
        ("1/2", "0.5"),
        ("3,4", "4, 3"),
        ("(1,2]", "(1,2]"),
        ("\\sqrt{8}", "2\\sqrt2"),
        ("\\frac{", "5"),
        ("5", "\\frac{"),
    ]
    pairs += [
        ("x=5", "y=5"),
        ("\\{1,2\\}", "2,1"),
        ("2^{99999}", "1"),
        ("yes", "Yes"),
        ("135^\\circ", "\\frac{3\\pi}{4}"),
        ("", "5"),
    ]
    decided = 0
    for found, gold in pairs:
        quick = compare_exactly(found, gold)
        assert quick is None or quick == compare(found, gold), (found, gold)
        decided += quick is not None
    assert decided >= 11


def test_exact_answers_start_no_process() -> None:
    with Grader() as grader:
        assert statuses(grader, maths("#### 1,000", "1000"), maths("\\boxed{\\frac12}", "0.5")) == [
            "correct",
            "correct",
        ]
        assert grader._maths is not None and grader._maths._workers == []


def test_infrastructure_errors_end_a_run_before_it_trains_on_noise() -> None:
    bad, good = maths("#### 5", "5", answer_kind="essay"), maths("#### 5", "5")
    with Grader(GradingSettings(infra_limit=0.2)) as grader:
        grader.grade([bad] * 50)  # too few to say anything
        grader.grade([good] * 200)  # 50 of 250: at the limit, not over it
        with pytest.raises(InfraLimitError, match=r"51 of the last 251 .*answer_kind 'essay' is none of math, choice"):
            grader.grade([bad])
    with Grader(GradingSettings(infra_limit=1.0)) as grader:
        grader.grade([bad] * 500)


def test_ungraded_rollouts_leave_their_group() -> None:
    nan = torch.nan
    rewards = torch.tensor([[1.0, 0.5], [nan, 0.5], [0.0, 0.0], [nan, 0.5], [nan, 0.0], [nan, nan]])
    masked = mask_ungraded(rewards, 0, 3)
    expected = torch.tensor([[1.0, 0.5], [nan, nan], [0.0, 0.0], [nan, 0.5], [nan, 0.0], [nan, nan]])
    assert torch.equal(masked.nan_to_num(9), expected.nan_to_num(9))


def test_penalties_of_trl_see_what_was_generated() -> None:
    grader = Grader(GradingSettings(repeat_ngram=2, overlong_tokens=4))
    repetition, overlong, tags = reward_functions(["repetition", "overlong", "tags"], grader, max_tokens=10)
    ids = [[7, 7, 7, 7, 1, 2, 3], [1, 2, 1, 2, 1], [5] * 12]
    columns = {"guidance_tokens": [4, 0, 3], "trainer_state": None}
    assert repetition(completion_ids=ids, completions=[""] * 3, **columns) == [0.0, -0.5, -1 + 1 / 8]
    assert overlong(completion_ids=ids, completions=[""] * 3, **columns) == [0.0, 0.0, -0.75]  # 9 of 10, soft from 6
    texts = ["<think>a</think>b", "a</think>b", "<think><think>a</think>b", "b", "<think>a</think></think>b"]
    assert tags(completions=texts, thinking_open=[False, True, False, None, False]) == [1.0, 1.0, 0.5, 0.5, 0.5]
    with pytest.raises(InputError, match="overlong_tokens"):
        reward_functions(["overlong"])
    assert [function.__name__ for function in (repetition, overlong, tags)] == ["repetition", "overlong", "tags"]


@pytest.mark.slow
def test_a_run_on_programs(sandbox: None, gsm8k_policy: Path, tmp_path: Path) -> None:
    """A guided half that gets the whole program, in the real trainer and sandbox: it is right, the other half is not."""
    solution = "```python\nn = int(input())\nprint(2 * n)\n```\n"
    rows = [
        {"prompt": f"{n}: double", "tests": json.dumps([{"input": "4\n", "output": "8"}, {"input": "-1", "output": "-2"}]),
         "guidance": solution, "task": "code"}
        for n in range(4)
    ]  # fmt: skip
    data, run = tmp_path / "code.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        **small_run(gsm8k_policy), "train_data": str(data), "eval_data": str(data), "method": "fixed", "max_steps": 2,
        "guidance_length": 500, "guidance_leak": True, "rewards": ["accuracy", "repetition", "overlong"], "output_dir": str(run),
        "reward_weights": [1.0, 0.1, 0.1], "num_iterations": 2, "steps_per_generation": 1, "code_cpu_seconds": 2.0,
    }  # fmt: skip
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(config)]) == 0
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert (row["reward/guided"], row["reward/unguided"], row["verifier/correct"]) == (1.0, 0.0, 0.5)
    evaluation = json.loads((run / "eval.json").read_text())
    assert evaluation["after"]["verdicts"] == {"no_answer": 8}
    assert evaluation["after"]["accuracy"] == 0


@pytest.mark.slow
def test_a_run_whose_graders_fail_ends_with_one_line(
    sandbox: None, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "rows.jsonl", tmp_path / "run"
    # The reference raises: nobody can know what is right.
    tests = json.dumps({"inputs": [["a"]], "reference": "def f(x): return x / 3", "entry_point": "f"})
    rows = [{"prompt": f"{n}+1=", "tests": tests, "guidance": f"{n}+1={n + 1};", "task": "code"} for n in range(9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        **small_run(policy_folder), "train_data": str(data), "eval_data": None, "max_steps": 40, "output_dir": str(run),
        "method": "grpo", "per_device_train_batch_size": 24, "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(config)]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("guided-grpo train: 120 of the last 120 responses could not be graded (infra_error")
    assert (run / "checkpoint-4").is_dir() and not (run / "summary.json").exists()


def test_grade_code_from_the_command_line(sandbox: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    check = "def check(candidate):\n    assert candidate(2) == 4\n"
    rows = [
        {"completion": RIGHT, "tests": TESTS, "task_id": 1},
        {"completion": "def f(x):\n    return 2 * x\n", "tests": check, "entry_point": "f"},
        {"completion": THREE, "tests": TESTS},
        {"completion": "I do not know.", "tests": TESTS},
        {
            "completion": "```python\nprint(int(input()) + 1)\n```",
            "tests": [{"input": "1", "output": "2"}, {"input": "2", "output": "4"}],
        },
        {"completion": "```python\nimport os\nos._exit(0)\n```", "tests": TESTS},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        main(
            ["grade", "--data", str(data), "--task", "code", "--output", str(out), "--code-cpu-seconds", "2", "--quiet"]
        )
        == 0
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["correct", "correct", "wrong", "no_answer", "wrong", "wrong"]
    assert [(line["passed"], line["total"]) for line in lines] == [(4, 4), (1, 1), (3, 4), (0, 4), (1, 2), (0, 4)]
    data.write_text(json.dumps(rows[0]) + "\n" + json.dumps({"completion": "x", "tests": []}) + "\n")
    out.unlink()
    capsys.readouterr()
    assert main(["grade", "--data", str(data), "--task", "code", "--output", str(out)]) == 2
    assert f"{data}:2: field 'tests': [] are no tests" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [data]


def test_a_lone_surrogate_ends_no_grading(sandbox: None, tmp_path: Path) -> None:
    """In an error's message, in a program, in an answer: the output is JSON that gives them back."""
    lines = [
        {"completion": "def f(x): raise ValueError(chr(0xD800))", "tests": ["assert f(1) == 1"]},
        {"completion": "def f(x): return '\udfff'", "tests": ["assert f(1) == 1"]},
        {"completion": "def f(x): return 1", "tests": ["assert f(1) == 1"]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["--data", str(tmp_path / "in.jsonl"), "--task", "code", "--output", str(tmp_path / "out.jsonl")]
    assert main(["grade", *arguments, "--quiet"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["verdict"] for row in rows] == ["wrong", "wrong", "correct"]
    assert "\ud800" in rows[0]["reason"] and "\udfff" in rows[1]["extracted"]
