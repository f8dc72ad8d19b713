"""Dynamic sampling: which groups are kept, how outputs are joined, and a run that fills its batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from guided_grpo.train.dynamic import filled_batch, further_problem, joined, teaching_rows
from parts import chain_rows, make_config, make_trainer

NAN = float("nan")


def test_groups_whose_accuracy_varies_are_kept() -> None:
    accuracy = torch.tensor([0, 0, 0, 1.0, 0, 1, 1, 1, 1, NAN, NAN, NAN, NAN, 1, 0])
    assert teaching_rows(accuracy, 3) == [3, 4, 5, 12, 13, 14]  # 0 0 0 · 1 0 1 · 1 1 1 · none graded · ? 1 0


def test_outputs_are_joined_with_prompts_on_the_right_and_completions_on_the_left() -> None:
    def output(prompt: list[list[int]], completion: list[list[int]]) -> dict[str, Any]:
        ids, answers = torch.tensor(prompt), torch.tensor(completion)
        return {
            "prompt_ids": ids, "prompt_mask": (ids != 9).long(), "completion_ids": answers,
            "completion_mask": (answers != 9).long(), "advantages": torch.arange(float(len(ids))), "notes": list("ab"),
            "num_items_in_batch": torch.tensor(3),
        }  # fmt: skip

    whole = joined([output([[9, 1], [2, 3]], [[4, 5, 9], [4, 5, 6]]), output([[7], [8]], [[1], [2]])], [[1], [0, 1]], 9)
    assert whole["prompt_ids"].tolist() == [[2, 3], [9, 7], [9, 8]]
    assert whole["prompt_mask"].tolist() == [[1, 1], [0, 1], [0, 1]]
    assert whole["completion_ids"].tolist() == [[4, 5, 6], [1, 9, 9], [2, 9, 9]]
    assert whole["completion_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert whole["advantages"].tolist() == [1, 0, 1] and whole["notes"] == ["b", "a", "b"]


@pytest.mark.parametrize(
    ("most", "of_others", "of_this", "batches", "advantages"),
    [
        (9, [0, 0, 0], [4, 2, 0], 3, [11, 12, 21, 22, 31, 32]),  # of the third batch one group is too many
        (2, [0], [4], 2, [11, 12, 13, 14, 21, 22]),  # an idle group of the first batch fills it
        (1, [], [], 1, [11, 12, 13, 14, 15, 16]),
        (9, [2, 2, 2, 0], [4, 2, 0, 0], 4, [11, 12, 21, 22, 31, 32]),  # another rank needs one more, this one does not
    ],
)
def test_a_batch_is_filled_from_as_many_as_it_takes(
    most: int, of_others: list[int], of_this: list[int], batches: int, advantages: list[int]
) -> None:
    """Three groups of two a batch: one teaches in the first, one in the second, two in the third, all in the fourth."""
    accuracies = [[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]]
    scored = iter(
        ({"advantages": torch.arange(1.0, 7) + 10 * number}, torch.tensor(accuracy, dtype=torch.float))
        for number, accuracy in enumerate(accuracies, start=1)
    )
    others, missing = iter(of_others), []

    def gather(here: list[int]) -> list[int]:
        missing.extend(here)
        return [*here, next(others)]

    whole, count = filled_batch(next(scored), lambda: next(scored), most=most, group_size=2, pad_id=9, gather=gather)
    assert (whole["advantages"].tolist(), count, missing) == (advantages, batches, of_this)


class OnceInAWhile:
    """An accuracy that varies in every third group that is sampled, and in no other."""

    __name__ = "accuracy"

    def __init__(self) -> None:
        self.groups = 0

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        rewards: list[float] = []
        for _ in range(len(completions) // 4):
            rewards += [1.0, 0.0, 0.0, 0.0] if self.groups % 3 == 2 else [0.0] * 4
            self.groups += 1
        return rewards


@pytest.mark.slow
@pytest.mark.parametrize(("most", "batches"), [(10, 3), (2, 2)])
def test_batches_are_filled_and_every_token_is_counted(
    most: int, batches: int, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Two groups a batch, one in three teaches: three batches hold two; two batches hold one, and an idle one fills it."""
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    config = make_config(tmp_path, method="dapo", dynamic_sampling=most, max_steps=1)
    trainer = make_trainer(model, tokenizer, config, reward=OnceInAWhile())
    seen: list[dict[str, Any]] = []
    compute = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: (seen.append(inputs), compute(model, inputs))[1]
    trainer.train()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["sampling/batches"] == batches
    assert row["rewards/accuracy/mean"] is not None and row["signal/zero_groups"] == pytest.approx(2 / 3, abs=0.1)
    advantages = seen[0]["advantages"]
    assert len(advantages) == 8
    assert int((advantages > 0).sum()) == (2 if most == 10 else 1)
    assert int(seen[0]["num_items_in_batch"]) == int(seen[0]["completion_mask"].sum())
    assert trainer.run_state.tokens_generated > int(seen[0]["completion_mask"].sum())  # surplus is paid for
    assert trainer.run_state.problems_drawn == 2 * (batches - 1)


@pytest.mark.slow
def test_a_resumed_run_draws_the_same_problems(policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    trainer = make_trainer(model, tokenizer, make_config(tmp_path, method="dapo"), rows=chain_rows(5))
    drawn = [further_problem(trainer.train_dataset, place, seed=3)["prompt"] for place in range(10)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == sorted(chain_rows(5)["prompt"])  # each once an epoch
    assert drawn[:5] != drawn[5:]
    state = trainer.run_state.state_dict()
    trainer.run_state.problems_drawn = 99
    trainer.run_state.load_state_dict(state)
    assert trainer.run_state.problems_drawn == 0
