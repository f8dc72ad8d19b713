"""Traces of failed problems, learned in steps of their own: by hand, and in the trainer against plain torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from guided_grpo.errors import InputError
from guided_grpo.guidance.slicing import NO_SLICE, Slice
from guided_grpo.train.failures import failed_traces, trace_batch
from parts import ScriptedAccuracy, chain_rows, make_config, make_trainer

NAN = math.nan
NEVER = 99


def test_groups_without_a_success_give_their_trace() -> None:
    """Four groups of two over two ranks: right, wrong, wrong without a trace, not graded; the second rank has two."""
    accuracy = torch.tensor([0, 1, 0, 0, 0, NAN, NAN, NAN])
    rows = [{"prompt": name, "guidance": None} for name in "aabbccdd"]

    def found(first: int) -> list[Any]:
        def trace_of(row: Any) -> Slice:
            return NO_SLICE if row["prompt"] == "c" else Slice((7, ord(row["prompt"])), whole=True)

        return failed_traces(rows[first : first + 4], first, accuracy, 2, lambda prompt: [ord(prompt)], trace_of)

    assert found(0) == [[[98], [7, 98]]]
    assert found(4) == []


def test_rows_are_dealt_over_micro_batches_and_ranks() -> None:
    """Three traces over two ranks of two micro-batches: one row each, the last of them filler."""
    traces = [[[1], [2, 3]], [[4, 5], [6]], [[7], [8, 9, 10]]]
    first, second = (trace_batch(traces, chunks=2, ranks=2, rank=rank, pad_id=0, weight=0.5) for rank in (0, 1))
    assert first["prompt_ids"].tolist() == [[0, 1], [4, 5]] and first["prompt_mask"].tolist() == [[0, 1], [1, 1]]
    assert first["completion_ids"].tolist() == [[2, 3], [6, 0]]
    assert first["completion_mask"].tolist() == [[1, 1], [1, 0]]
    assert first["imitation_factors"].tolist() == [[0.5, 0.5], [0.5, 0]]
    assert second["completion_ids"].tolist() == [[8, 9, 10]] * 2
    assert second["imitation_factors"].tolist() == [[0.5] * 3, [0] * 3]
    assert float(first["imitation_items"]) == float(second["imitation_items"]) == 6


@pytest.mark.slow
@pytest.mark.parametrize("forward", ["shared", "plain"])
@pytest.mark.parametrize("micro", [1, 2])
def test_a_step_of_traces(micro: int, forward: str, policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Two problems that always fail, three traces a step: sampled, sampled, traces (the newest three), sampled.

    The step's gradient is that of −Σ log π / n over both traces, the first one twice, whatever the micro-batches.
    """
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    rows = chain_rows(2)
    config = make_config(
        tmp_path, method="relift", failure_buffer=3, scale_rewards="none", loss_type="dr_grpo", max_steps=4,
        learning_rate=0.0, max_grad_norm=0.0, shuffle_dataset=False, trace_answer="#### {answer}", forward=forward,
        per_device_train_batch_size=8 // micro, gradient_accumulation_steps=micro, rollouts_every=1,
    )  # fmt: skip
    trainer = make_trainer(
        model, tokenizer, config, rows=rows, reward=ScriptedAccuracy(dict.fromkeys(rows["prompt"], NEVER))
    )
    gradients: list[dict[str, torch.Tensor]] = []
    step = trainer.training_step

    def spied_step(model: Any, *args: Any, **named: Any) -> torch.Tensor:
        result = step(model, *args, **named)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        return result

    trainer.training_step = spied_step  # type: ignore[method-assign]
    trainer.train()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("imitation/traces") for row in found] == [None, None, 3, None]
    assert ["reward/accuracy" in row for row in found] == [True, True, False, True]
    assert [group["step"] for group in map(json.loads, (tmp_path / "rollouts.jsonl").read_text().splitlines())] == [
        1, 1, 2, 2, 4, 4
    ]  # fmt: skip

    def ids(row: Any) -> tuple[list[int], list[int]]:
        trace = tokenizer(row["guidance"] + f"#### {row['answer']}")["input_ids"]
        return tokenizer(row["prompt"])["input_ids"], [*trace, tokenizer.eos_token_id]

    total, tokens = torch.tensor(0.0), 0
    model.zero_grad()
    for prompt, trace in map(ids, (rows[0], rows[1], rows[0])):
        logits = model(torch.tensor([[*prompt, *trace]])).logits[0, len(prompt) - 1 : -1]
        total = total - logits.log_softmax(-1).gather(1, torch.tensor(trace).unsqueeze(1)).sum()
        tokens += len(trace)
    (total / tokens).backward()
    assert found[2]["loss"] == pytest.approx(float((total / tokens).detach()), rel=1e-4)
    assert found[2]["tokens/traces_total"] == tokens and found[1]["tokens/traces_total"] == 0
    seen = gradients[3 * micro - 1]  # of the last micro-batch of step 3: they add up
    for name, parameter in model.named_parameters():
        assert torch.allclose(seen[name], parameter.grad, rtol=1e-4, atol=1e-7), name
    # The fourth step found one older trace, and put two before it.
    assert trainer.run_state.failures == [list(map(list, ids(row))) for row in (rows[0], rows[1], rows[1])]
    assert found[2]["flops/total"] > found[1]["flops/total"]


def test_a_buffer_without_likelihood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"failure_buffer.*guidance_loss: likelihood"):
        make_config(tmp_path, failure_buffer=4)
