"""Reading shared prefixes once gives the loss and gradients of TRL's own forward."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from guided_grpo.train.forward import arrange_rows
from guided_grpo.train.prefixes import build_tree
from parts import make_config, make_trainer

EQUAL = 1e-5  # relative, float32


def test_tree_of_a_group_holds_prompt_and_guidance_once() -> None:
    prompt, trace = [5] * 10, [6] * 20
    rows = [[*prompt, *trace, 7, 8], [*prompt, *trace, 7, 9, 9], [*prompt, 1, 2], [*prompt, 3]]
    tree = build_tree(rows, least_gain=10)
    # 9 inputs predict the other 9 tokens of the prompt; then 20 and 1 of the trace's branch, and what is left of each.
    assert [(node.start, node.end) for node in tree.nodes] == [(0, 10), (10, 12), (10, 11), (10, 31), (31, 32), (31, 33)]
    assert tree.inputs == 9 + 2 + 1 + 21 + 1 + 2
    assert [len(tree.places(row)) for row in range(4)] == [len(row) - 1 for row in rows]


def test_tree_of_equal_rows_and_of_one_that_begins_another() -> None:
    rows = [[1] * 40, [1] * 40, [1] * 30, [1] * 30 + [2]]
    tree = build_tree(rows, least_gain=1)
    assert tree.places(0) == tree.places(1) == list(range(39))
    assert tree.places(2) == list(range(29))
    assert tree.inputs == 40


@pytest.mark.parametrize("seed", range(40))
def test_tree_gives_every_row_its_own_tokens(seed: int) -> None:
    draw = random.Random(seed)
    stems = [[draw.randrange(3) for _ in range(draw.randrange(1, 30))] for _ in range(4)]
    rows = [
        [tok for _ in range(draw.randrange(1, 4)) for tok in draw.choice(stems)] + [draw.randrange(3), draw.randrange(3)]
        for _ in range(draw.randrange(1, 20))
    ]
    levels = draw.randrange(1, 5)
    tree = build_tree(rows, least_gain=draw.randrange(1, 20), most_levels=levels)
    read = [0] * tree.inputs  # what each place reads and predicts
    predicted = [0] * tree.inputs
    for node in tree.nodes:
        for i in range(node.size):
            first = max(node.start, 1)
            read[node.offset + i], predicted[node.offset + i] = rows[node.row][first - 1 + i], rows[node.row][first + i]
    for row, tokens in enumerate(rows):
        places = tree.places(row)
        assert [read[place] for place in places] == tokens[:-1]
        assert [predicted[place] for place in places] == tokens[1:]
        assert all(a < b for a, b in pairwise(places))
        assert tree.ends[row].level < levels
    assert tree.inputs <= sum(len(row) - 1 for row in rows)


def batch(draw: random.Random, vocabulary: int, **fixed: Any) -> dict[str, Any]:
    """A batch as TRL hands it to its loss: ragged groups, guidance of several lengths, weights and dead rows."""
    prompts, completions, weights, advantages = [], [], [], []
    for _ in range(fixed.get("groups", draw.randrange(1, 4))):
        prompt = [draw.randrange(2, vocabulary) for _ in range(draw.randrange(1, 20))]
        trace = [draw.randrange(2, vocabulary) for _ in range(30)]
        dead = draw.random() < 0.4
        weight = draw.choice([0.0, 0.5, 1.0])
        for _ in range(fixed.get("rows", draw.randrange(1, 7))):
            guidance = trace[: draw.choice([0, 0, 12, 25])]
            generated = [draw.randrange(2, vocabulary) for _ in range(draw.randrange(1, 15))]
            prompts.append(prompt)
            completions.append([*guidance, *generated])
            weights.append([weight] * len(guidance) + [draw.choice([1.0, 1.0, 1.0, 0.0])] * len(generated))
            advantages.append(0.0 if dead else draw.gauss(0, 1))
    if fixed.get("all_zero"):
        advantages = [0.0] * len(advantages)
    wide, long = max(map(len, prompts)), max(map(len, completions))
    left = lambda ids, value: [value] * (wide - len(ids)) + ids  # noqa: E731
    right = lambda ids, value: ids + [value] * (long - len(ids))  # noqa: E731
    inputs = {
        "prompt_ids": torch.tensor([left(ids, 0) for ids in prompts]),
        "prompt_mask": torch.tensor([left([1] * len(ids), 0) for ids in prompts]),
        "completion_ids": torch.tensor([right(ids, 0) for ids in completions]),
        "completion_mask": torch.tensor([right([1] * len(ids), 0) for ids in completions]),
        "tool_mask": torch.tensor([right(row, 0.0) for row in weights]),
        "advantages": torch.tensor(advantages),
    }
    inputs["num_items_in_batch"] = (inputs["completion_mask"] * inputs["tool_mask"]).sum()
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        noise = torch.tensor([[draw.gauss(-2.5, 0.3) for _ in range(long)] for _ in completions])
        inputs[name] = noise * inputs["completion_mask"]
    return inputs


def gradients(trainer: Any, inputs: dict[str, Any], *, shared: bool) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._shares_prefixes = shared
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, {k: v.clone() for k, v in inputs.items()})
    loss.backward()
    trainer._switch.close()
    named = trainer.model.named_parameters()
    return float(loss), {name: p.grad.clone() for name, p in named if p.requires_grad and p.grad is not None}


def assert_same(trainer: Any, inputs: dict[str, Any]) -> None:
    loss, theirs = gradients(trainer, inputs, shared=False)
    ours_loss, ours = gradients(trainer, inputs, shared=True)
    assert ours_loss == pytest.approx(loss, rel=EQUAL, abs=1e-6)
    assert ours.keys() == theirs.keys()
    size = torch.stack([g.square().sum() for g in theirs.values()]).sum().sqrt()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= EQUAL * max(gradient.norm(), 1e-2 * size) + 1e-9, name


CASES: dict[str, dict[str, Any]] = {
    **{loss: {"loss_type": loss} for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo")},
    "reference": {"beta": 0.2},
    "sequence level": {"importance_sampling_level": "sequence"},
    "entropy quantile": {"top_entropy_quantile": 0.3},
    "entropy bonus": {"entropy_coef": 0.1},
    "two-sided clipping": {"delta": 1.5},
    "off-policy mask": {"off_policy_mask_threshold": 0.1},
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_plain_forward(
    case: str, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    trainer = make_trainer(model, tokenizer, make_config(tmp_path, **CASES[case]))
    draw = random.Random(case)
    for _ in range(12):
        assert_same(trainer, batch(draw, model.config.vocab_size))
