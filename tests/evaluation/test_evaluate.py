"""Evaluation is unguided by type, leaves the training's random state alone, and counts problems, not samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.questions import Question, evaluate, questions
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.types import Status, Verdict
from parts import chain_rows, digit_reward


class DigitGrader(Grader):
    """Gives every response the share of its digits."""

    def grade(self, submissions: Sequence[Submission]) -> list[Verdict | None]:
        return [Verdict(Status.WRONG, None, "by hand") for _ in submissions]

    def worth(self, submission: Submission, verdict: Verdict | None) -> float | None:
        return digit_reward([submission.response])[0]


DECODING = Decoding(samples=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=8, batch_size=8)


def test_a_question_has_no_place_for_guidance() -> None:
    assert {field.name for field in dataclasses.fields(Question)} == {"prompt", "grading", "tier"}
    question = questions(chain_rows(1))[0]
    assert "guidance" not in question.grading and "guidance_limit" not in question.grading
    assert question.tier == str(chain_rows(1)[0]["difficulty"])
    assert question.grading["answer"] == chain_rows(1)[0]["answer"]


def test_prompts_reach_the_model_unguided(policy: Any, tokenizer: Any) -> None:
    seen: list[str] = []
    generate = policy.generate

    def spied(input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        seen.extend(tokenizer.decode(i[m.bool()]) for i, m in zip(input_ids, attention_mask, strict=True))
        return generate(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    policy.generate = spied
    rows = chain_rows(5)
    evaluate(policy, tokenizer, questions(rows), DigitGrader(), DECODING)
    assert sorted(seen) == sorted([row["prompt"] for row in rows] * 2)


def test_random_state_and_mode_are_left_alone(policy: Any, tokenizer: Any) -> None:
    policy.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = evaluate(policy, tokenizer, questions(chain_rows(4)), DigitGrader(), DECODING)
    assert torch.equal(torch.rand(3), expected)
    assert policy.training
    second = evaluate(policy, tokenizer, questions(chain_rows(4)), DigitGrader(), DECODING)
    assert first["scores"] == second["scores"]
    other = evaluate(policy, tokenizer, questions(chain_rows(4)), DigitGrader(), dataclasses.replace(DECODING, seed=1))
    assert other["scores"] != first["scores"]


def test_figures_by_hand(policy: Any, tokenizer: Any) -> None:
    """Grades fixed by the answer: two tiers, one ungraded response, one ungraded problem."""
    grades = {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [0.0, None], "d": [None, None]}
    problems = [Question("1+2=", {"answer": name}, "easy" if name in "ab" else "hard") for name in grades]
    left = {name: list(values) for name, values in grades.items()}

    class Scripted(DigitGrader):
        def worth(self, submission: Submission, verdict: Verdict | None) -> float | None:
            return left[submission.row["answer"]].pop(0)

    result = evaluate(policy, tokenizer, problems, Scripted(), DECODING)
    assert result["scores"] == [0.5, 1.0, 0.0, None]
    assert result["accuracy"] == pytest.approx(0.5)
    assert result["problems"] == 3
    assert result["tiers"]["easy"]["accuracy"] == pytest.approx(0.75)
    assert result["tiers"]["hard"]["problems"] == 1
    low, high = result["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert result["tokens"] <= 8 * 8
    assert result["temperature"] == 1.0
    assert result["ungraded"] == 3 and result["difficulty"] == ["easy", "easy", "hard", "hard"]
