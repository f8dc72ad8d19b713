"""Rollouts of a group in turn: places and thresholds by hand, and a step in the trainer against plain torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from guided_grpo.errors import InputError
from guided_grpo.train.turns import omega_of, seats_of_turns
from parts import Counted, chain_rows, make_config, make_trainer

NAN = float("nan")


@pytest.mark.parametrize(
    ("group", "sizes"),
    [(8, [4, 2, 1, 1]), (12, [6, 3, 2, 1]), (16, [8, 4, 2, 2]), (4, [2, 1, 1, 0]), (6, [3, 2, 0, 1])],
)
def test_each_turn_is_half_of_what_is_left(group: int, sizes: list[int]) -> None:
    turns = seats_of_turns(group, 3)
    assert [len(seats) for seats in turns] == sizes
    assert [place for seats in turns for place in seats] == list(range(group))


@pytest.mark.parametrize(
    ("rewards", "omega", "below", "given"),
    [
        ([0, 0, 1, 0], 0.2, 0.5, 0.2),
        ([0, 0, 1, 1], 0.2, 0.5, 0.0),  # half is not below half
        ([1, 1, 0, 0, 1, 1], 0.5, 0.7, 0.5),  # 4 of 6, where the paper's code gives nothing
        ([1, 1, 0, 1, 1, 1, 1], 1.0, 0.9, 1.0),  # 6 of 7
        ([1] * 7, 1.0, 0.9, 0.0),
        ([0, NAN, NAN, 1], 0.2, 0.6, 0.2),  # one of the two that were graded
        ([NAN] * 4, 0.2, 0.5, 0.0),  # nobody knows
    ],
)
def test_what_a_turn_gets(rewards: list[float], omega: float, below: float, given: float) -> None:
    assert omega_of(torch.tensor(rewards), omega, below) == given


@pytest.mark.slow
@pytest.mark.parametrize("forward", ["shared", "plain"])
def test_trapos_step(forward: str, policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Right in each turn: of the first problem 0 of 4, 1 of 2, 0 of 1, the trace; of the second 2, 2, 0, the trace.

    So the first gets .2, .5 and the trace; the second nothing, then .5 (4 of 6 < .7) and the trace (4 of 7 < .9).
    A = r − mean, over all eight; generated tokens −A·ρ, guidance −π/max(π, .1), divided by rows × the longest response.
    """
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    rows = chain_rows(2, low=4, high=5)
    counts = dict(zip(rows["prompt"], [[0, 1, 0, 1], [2, 2, 0, 1]], strict=True))
    config = make_config(
        tmp_path, method="trapo", scale_rewards="none", loss_type="dr_grpo", num_generations=8, max_steps=1,
        per_device_train_batch_size=16, learning_rate=0.0, max_grad_norm=0.0, shuffle_dataset=False, rollouts_every=1,
        trace_answer="#### {answer}", forward=forward,
    )  # fmt: skip
    reward = Counted(counts)
    reward.masks_ungraded = True  # type: ignore[attr-defined]  # as the real graders: they look at whole groups
    trainer = make_trainer(model, tokenizer, config, rows=rows, reward=reward)
    calls: list[int] = []
    batches: list[dict[str, Any]] = []
    gradients: list[dict[str, torch.Tensor]] = []
    single, compute, step = trainer._generate_single_turn, trainer._compute_loss, trainer.training_step

    def spied_single(prompt_ids: Any, *args: Any) -> Any:
        calls.append(len(prompt_ids))
        return single(prompt_ids, *args)

    def spied_loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        batches.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
        return compute(model, inputs)

    def spied_step(model: Any, *args: Any, **named: Any) -> torch.Tensor:
        result = step(model, *args, **named)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        return result

    trainer._generate_single_turn, trainer._compute_loss = spied_single, spied_loss  # type: ignore[method-assign]
    trainer.training_step = spied_step  # type: ignore[method-assign]
    trainer.train()
    assert calls == [8, 4, 2, 2]
    groups = [json.loads(line)["rollouts"] for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    given = [[rollout["guidance_tokens"] for rollout in group] for group in groups]
    for row, lengths, plain in zip(rows, given, (4, 6), strict=True):
        trace = len(row["guidance"])
        guided = [int(0.2 * trace)] * 2 if plain == 4 else []
        assert lengths[:7] == [0] * plain + guided[: 6 - plain] + [int(0.5 * trace)]
        assert lengths[7] == len(tokenizer(row["guidance"] + f"#### {row['answer']}")["input_ids"]) + 1
    assert [group[7]["generated"] for group in groups] == ["", ""]
    right = [[0, 0, 0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1, 0, 1]]
    assert [[rollout["rewards"]["accuracy"] for rollout in group] for group in groups] == right
    assert [[round(rollout["advantage"], 4) for rollout in group] for group in groups] == [
        [r - 0.25 for r in right[0]], [r - 0.625 for r in right[1]]
    ]  # fmt: skip
    found = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (found["reward/first"], found["signal/difficult"]) == (2 / 8, 0.5)  # of the first turn

    batch, total, generated = batches[0], torch.tensor(0.0), 0
    prefixes = {tuple(tokenizer(row["prompt"])["input_ids"]): lengths for row, lengths in zip(rows, given, strict=True)}
    taken: dict[tuple[int, ...], list[int]] = {}
    for row in range(16):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
        logits = model(torch.cat([prompt, completion]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(1, completion.unsqueeze(1)).squeeze(1)
        length = int((batch["imitation_factors"][row] != 0).sum())
        taken.setdefault(tuple(prompt.tolist()), []).append(length)
        total = total - float(batch["advantages"][row]) * (logps - logps.detach()).exp()[length:].sum()
        generated += len(logps) - length
        total = total - (logps.exp() / logps.exp().detach().clamp(min=0.1))[:length].sum()
    for prompt_ids, lengths in prefixes.items():
        assert sorted(taken[prompt_ids]) == sorted(lengths)
    assert found["tokens/generated"] == generated  # nothing was thrown away
    model.zero_grad()
    (total / (16 * 12)).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(gradients[0][name], parameter.grad, rtol=1e-3, atol=1e-6), name


@pytest.mark.slow
def test_problems_without_a_trace_or_room_stay_plain(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Of a policy whose context leaves six tokens of guidance only the first stage of the shorter trace fits."""
    rows = chain_rows(2, low=4, high=4)
    rows = rows.map(lambda row, place: {**row, "guidance": row["guidance"] if place else None}, with_indices=True)
    policy.config.max_position_embeddings = len(tokenizer(rows[0]["prompt"])["input_ids"]) + 12 + 6
    config = make_config(
        tmp_path, method="trapo", num_generations=8, per_device_train_batch_size=16, max_steps=1, shuffle_dataset=False,
        rollouts_every=1,
    )  # fmt: skip
    reward = Counted({prompt: [0, 0, 0, 0] for prompt in rows["prompt"]})
    make_trainer(policy, tokenizer, config, rows=rows, reward=reward).train()
    groups = [json.loads(line)["rollouts"] for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    share = int(0.2 * len(rows[1]["guidance"]))
    assert [[len(rollout["guidance"]) for rollout in group] for group in groups] == [
        [0] * 8, [0] * 4 + [share] * 2 + [0] * 2
    ]  # fmt: skip


def test_thresholds_that_do_not_go_with_the_stages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"turn_below.*one threshold for each of rescue_stages"):
        make_config(tmp_path, method="trapo", turn_below=[0.5])
