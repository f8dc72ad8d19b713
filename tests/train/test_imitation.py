"""Guidance trained by a term of its own: by hand, and in the trainer against plain torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import Assignment
from guided_grpo.guidance.slicing import Slice, step_ends
from guided_grpo.train.checks import check_room
from guided_grpo.train.imitation import ImitationSettings, factors_bT, gates_of, imitation_sum, most_uncertain
from parts import ScriptedAccuracy, chain_rows, make_config, make_trainer


def settings(**values: Any) -> ImitationSettings:
    return ImitationSettings(**values)


def term(probability: float, factor: float = 1.0, **values: Any) -> tuple[float, float]:
    """The term of one token, and its slope in log π."""
    logp = torch.tensor([[math.log(probability)]], requires_grad=True)
    loss = imitation_sum(settings(**values), logp, torch.zeros(1, 1), torch.tensor([[factor]]))
    loss.backward()
    assert logp.grad is not None
    return float(loss.detach()), float(logp.grad)


@pytest.mark.parametrize(
    ("probability", "f", "slope"), [(0.01, 0.0909, 0.0826), (0.1, 0.5, 0.25), (0.5, 0.8333, 0.1389), (0.9, 0.9, 0.09)]
)
def test_luffys_shape(probability: float, f: float, slope: float) -> None:
    """f = π/(π + .1); ∂f/∂log π = .1·π/(π + .1)², largest at π = γ. One of eight right: A of the trace is .875."""
    assert term(probability, 0.875, guidance_loss="shaped") == pytest.approx((-0.875 * f, -0.875 * slope), abs=1e-4)


@pytest.mark.parametrize(
    ("tokens", "probability", "weight"),
    [("p(1-p)", 0.5, 0.25), ("p(1-p)", 0.9, 0.09), ("p", 0.02, 0.02), ("p", 0.9, 0.9)],
)
def test_token_weights_of_chord_and_dft(tokens: str, probability: float, weight: float) -> None:
    found = term(probability, guidance_loss="likelihood", imitation_tokens=tokens)
    assert found == pytest.approx((-weight * math.log(probability), -weight), rel=1e-4)


@pytest.mark.parametrize(("probability", "slope"), [(0.02, -0.2), (0.5, -1.0)])
def test_trapos_trust(probability: float, slope: float) -> None:
    assert term(probability, guidance_loss="trust")[1] == pytest.approx(slope, rel=1e-4)


def test_gates_of_a_group() -> None:
    nan = math.nan
    accuracy = torch.tensor([0.0, 0, 0, 1, nan, 0, 1, 1, 1, nan, nan, nan])  # none, one of two, all, not graded
    expected = {"always": [1, 1, 1, 1], "success": [0, 1, 1, 0], "failure": [1, 0, 0, 0], "rate": [0, 0.5, 1, 0]}
    for kind, gates in expected.items():
        assert gates_of(kind, accuracy, 3).view(4, 3).tolist() == [[gate] * 3 for gate in gates]


def test_factors_stand_on_guidance_alone() -> None:
    mask, advantages = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]), torch.tensor([2.0, -1.0])
    likelihood = factors_bT(
        settings(guidance_loss="likelihood", imitation_weight=0.5), mask, [3, 0], torch.ones(2), advantages
    )
    assert likelihood.tolist() == [[0.5, 0.5, 0.5, 0], [0, 0, 0, 0]]
    shaped = factors_bT(settings(guidance_loss="shaped"), mask, [1, 2], torch.ones(2), advantages)
    assert shaped.tolist() == [[2, 0, 0, 0], [-1, -1, 0, 0]]


def test_the_most_uncertain_tokens_are_counted_by_rollout() -> None:
    entropies = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.2], [9.0, 0.3, 0.2, 0.1, 0.0]])
    taken = torch.tensor([[True] * 5, [False, True, True, False, False]])
    chosen = most_uncertain(entropies, taken, 0.4)  # 2 of 5, and 1 of 2 (0.8 is rounded up)
    assert chosen.tolist() == [[False, True, False, True, False], [False, True, False, False, False]]
    assert most_uncertain(entropies, taken & False, 0.4).sum() == 0


class Spy:
    """What the loss is fed, and its gradient."""

    def __init__(self, trainer: Any) -> None:
        self.batches: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        compute, step = trainer._compute_loss, trainer.training_step

        def spied(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            self.batches.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
            self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
            loss = compute(model, inputs)
            self.losses.append(float(loss.detach()))
            return loss

        def spied_step(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            result = step(model, *args, **kwargs)
            self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
            return result

        trainer._compute_loss, trainer.training_step = spied, spied_step


def run(policy: Path, tokenizer: Any, folder: Path, needed: int | None = None, **values: Any) -> tuple[Any, Spy]:
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    rows = chain_rows(2)
    config = make_config(
        folder, max_steps=1, learning_rate=0.0, max_grad_norm=0.0, shuffle_dataset=False, trace_answer="#### {answer}",
        rollouts_every=1, **values,
    )  # fmt: skip
    needs = {rows[0]["prompt"]: 0, rows[1]["prompt"]: 99}  # the first problem's first rollout is right, no other
    trainer = make_trainer(model, tokenizer, config, rows=rows, reward=ScriptedAccuracy(needs))
    spy = Spy(trainer)
    trainer.train()
    return model, spy


def row_logps(model: Any, batch: dict[str, Any], row: int) -> torch.Tensor:
    prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
    completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
    logits = model(torch.cat([prompt, completion]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, completion.unsqueeze(1)).squeeze(1)


@pytest.mark.slow
@pytest.mark.parametrize("forward", ["shared", "plain"])
@pytest.mark.parametrize(("gate", "mean"), [("always", "apart"), ("failure", "apart"), ("success", "joint")])
def test_a_trace_in_each_group_trained_by_likelihood(
    forward: str, gate: str, mean: str, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Loss and gradient against plain torch: the trace is no rollout, and weighs c/n by its tokens."""
    model, spy = run(
        policy_folder, tokenizer, tmp_path, forward=forward, guidance_rows=1, guidance_loss="likelihood",
        imitation_weight=0.3, imitation_gate=gate, imitation_mean=mean,
    )  # fmt: skip
    batch = spy.batches[0]
    traces = [
        tokenizer(row["guidance"] + f"#### {row['answer']}")["input_ids"] + [tokenizer.eos_token_id]
        for row in chain_rows(2)
    ]
    completions = [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    places = [completions.index(trace) for trace in traces]
    assert len(completions) == 8 and batch["advantages"][places].tolist() == [0, 0]
    # ScriptedAccuracy makes the first rollout of the first problem right: that is its trace, which does not count.
    assert not batch["advantages"].any()
    imitated = {"always": [0, 1], "failure": [0, 1], "success": []}[gate]
    model.zero_grad()
    tokens = sum(len(traces[place]) for place in imitated)
    generated = sum(len(ids) for ids in completions) - sum(map(len, traces))
    normaliser = max(1, tokens + (generated if mean == "joint" else 0))
    loss = -0.3 * sum(row_logps(model, batch, places[place]).sum() for place in imitated) / normaliser
    assert spy.losses[0] == pytest.approx(float(loss.detach()) if imitated else 0.0, rel=1e-5, abs=1e-7)
    if imitated:
        loss.backward()
        for name, parameter in model.named_parameters():
            assert torch.allclose(spy.gradients[0][name], parameter.grad, rtol=1e-4, atol=1e-7), name


@pytest.mark.slow
def test_luffys_row_is_a_rollout_like_any(policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """The trace is right and the other three are not: A = r − mean, 3/4 and −1/4; generated tokens −A·ρ, trace −A·f."""
    model, spy = run(
        policy_folder, tokenizer, tmp_path, method="luffy", scale_rewards="none", loss_type="dr_grpo", num_generations=4
    )
    batch = spy.batches[0]
    advantages = sorted(round(value, 4) for value in batch["advantages"].tolist())
    assert advantages == [-0.25, -0.25, -0.25, 0, 0, 0, 0, 0.75]
    trace = int(batch["advantages"].argmax())
    total = torch.tensor(0.0)
    for row in range(8):
        logps, advantage = row_logps(model, batch, row), float(batch["advantages"][row])
        if row == trace:
            total = total - advantage * (logps.exp() / (logps.exp() + 0.1)).sum()
        else:
            total = total - advantage * (logps - logps.detach()).exp().sum()
    total = total / (8 * 12)  # rows × the longest response
    assert spy.losses[0] == pytest.approx(float(total.detach()), rel=1e-5)
    model.zero_grad()
    total.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(spy.gradients[0][name], parameter.grad, rtol=1e-4, atol=1e-7), name
    sampled = json.loads((tmp_path / "rollouts.jsonl").read_text().splitlines()[0])["rollouts"]
    assert [rollout["generated"] == "" for rollout in sampled] == [True, False, False, False]


@pytest.mark.slow
def test_stephints_levels(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Of eight steps: the trace, 6, 5, 4, 3, 2 and 1 of them, and five times none."""
    config = make_config(
        tmp_path, method="stephint", num_generations=12, per_device_train_batch_size=12, max_steps=1, rollouts_every=1,
        trace_answer="#### {answer}", guidance_leak=True,
    )  # fmt: skip
    rows = chain_rows(1, 8, 8)
    make_trainer(policy, tokenizer, config, rows=rows).train()
    (group,) = [json.loads(line)["rollouts"] for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    ends = step_ends(rows[0]["guidance"])
    assert len(ends) == 8 and group[0]["generated"] == "" and group[0]["guidance"].startswith(rows[0]["guidance"])
    assert [len(rollout["guidance"]) for rollout in group[1:7]] == [ends[steps - 1] for steps in (6, 5, 4, 3, 2, 1)]
    assert not any(rollout["guidance"] for rollout in group[7:])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["top-entropy", "trust"])
def test_prefixes_trained_by_a_term_of_their_own(
    kind: str, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Two of four behind seven tokens of the trace: generated −A·ρ, prefix by its term, over all tokens together."""
    model, spy = run(
        policy_folder, tokenizer, tmp_path, method="fixed", guidance_length=7, guidance_ratio=0.5, guidance_loss=kind,
        entropy_share=0.4,
    )  # fmt: skip
    batch, prefixes = spy.batches[0], [tokenizer(row["guidance"][:7])["input_ids"] for row in chain_rows(2)]
    total, tokens = torch.tensor(0.0), 0
    for row in range(8):
        logps, advantage = row_logps(model, batch, row), float(batch["advantages"][row])
        ids = batch["completion_ids"][row][: len(logps)].tolist()
        guided = ids[:7] in prefixes  # no untrained policy writes that by itself
        length = 7 if guided else 0
        total = total - advantage * (logps - logps.detach()).exp()[length:].sum()
        tokens += len(logps) - length
        if not guided:
            continue
        if kind == "trust":
            total = total - (logps.exp() / logps.exp().detach().clamp(min=0.1))[:7].sum()
            tokens += 7
        elif advantage:
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            logits = model(torch.cat([prompt, torch.tensor(ids)]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1][:7]
            entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).detach()
            chosen = entropy.topk(3).indices  # 0.4 of 7 is 2.8
            total = total - advantage * logps[:7][chosen].sum()
            tokens += 7
    model.zero_grad()
    (total / tokens).backward()
    assert spy.losses[0] == pytest.approx(float((total / tokens).detach()), rel=1e-4, abs=1e-6)
    for name, parameter in model.named_parameters():
        assert torch.allclose(spy.gradients[0][name], parameter.grad, rtol=1e-3, atol=1e-6), name


def test_a_group_of_traces_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leaves none of 4 rollouts to be sampled"):
        make_config(tmp_path, guidance_rows=4)


def test_a_rank_of_whole_traces_alone_asks_for_no_room(tmp_path: Path) -> None:
    config = make_config(tmp_path, method="luffy", scale_rewards="none", loss_type="dr_grpo")
    whole, sampled = Assignment(Slice((5, 6, 7), whole=True)), Assignment(Slice((5,)))
    check_room([[1, 2, 5, 6, 7]] * 4, (whole,) * 4, config, room=3)
    check_room([[1, 2, 5, 6, 7], [1, 2, 5]], (whole, sampled), config, room=3)
    with pytest.raises(InputError, match="leaves no room: 3 tokens .* 12 > context 14"):
        check_room([[1, 2, 5, 6, 7], [1, 2, 5]], (whole, sampled), config, room=2)
