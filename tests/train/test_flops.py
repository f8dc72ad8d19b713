"""FLOPs by hand: parameters of a small model, tokens of each way to read them, budgets, kills, ranks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerControl

from guided_grpo.train.callbacks import BudgetCallback
from guided_grpo.train.feedback import share_done
from guided_grpo.train.flops import Meter, Parameters, engine_tokens, parameters_of
from parts import chain_rows, make_config, make_trainer

# TINY: two layers, hidden 32, two heads of 16 (keys too), feed-forward 64, and the tied table of V characters.
LAYER = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32 + 2 * 16  # projections; feed-forward; two norms; norms of queries and keys
BODY = 2 * LAYER + 32


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def size_of(policy: Any) -> int:
    """N: the body, and the head once, which is the table too."""
    return BODY + 32 * int(policy.config.vocab_size)


def test_parameters_by_hand(policy: Any) -> None:
    assert parameters_of(policy) == Parameters(size_of(policy))
    untied = copy.deepcopy(policy)
    untied.lm_head.weight = torch.nn.Parameter(policy.lm_head.weight.clone())
    assert parameters_of(untied) == Parameters(size_of(policy))  # the table is looked up: only the head multiplies
    # LoRA of rank 4 at two projections of each layer, 32 → 32: A 4×32 and B 32×4.
    adapted = get_peft_model(policy, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    assert parameters_of(adapted) == Parameters(2 * 2 * (4 * 32 + 32 * 4), size_of(policy))


def test_tokens_with_and_without_gradient() -> None:
    assert (Parameters(7).forward(10), Parameters(7).update(10)) == (140, 420)
    assert (Parameters(7, 100).forward(10), Parameters(7, 100).update(10)) == (2140, 4420)


def test_an_engine_reads_a_prompt_once() -> None:
    assert engine_tokens([[1, 2, 3], [1, 2, 3], [1, 2]], [[4], [5, 6], [7]]) == 3 + 2 + 4


def test_the_meter_counts_what_is_read_while_it_is_open(policy: Any) -> None:
    size, meter = size_of(policy), Meter(policy)
    ids = torch.ones(3, 5, dtype=torch.long)
    policy(input_ids=ids)
    assert meter.take() == 0  # closed
    with meter:
        policy(input_ids=ids)
        assert meter.take() == 6 * size * 15
        with torch.no_grad():
            policy(ids)
            # Four tokens each: the prompts of five, then three steps; the fourth token is drawn and never read.
            policy.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
        assert meter.take() == 2 * size * (15 + 15 + 3 * 3)
        meter.add_sampled([[1, 2], [1, 2]], [[3], [4]])
    meter.add_sampled([[1, 2], [1, 2]], [[3], [4]])
    assert meter.take() == 2 * size * 4


def test_frozen_parts_and_recomputed_layers(policy: Any) -> None:
    size = size_of(policy)
    adapted = get_peft_model(policy, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted.train()
    meter = Meter(adapted)
    with meter:
        adapted(input_ids=torch.ones(2, 5, dtype=torch.long)).logits.sum().backward()
    assert meter.take() == (6 * 2 * 4 * 64 + 4 * size) * 10


def rows_of_one_length() -> Any:
    """Problems whose prompts have as many tokens: nothing is padded."""
    rows = chain_rows(40)
    most = max(set(map(len, rows["prompt"])), key=list(map(len, rows["prompt"])).count)
    return rows.filter(lambda row: len(row["prompt"]) == most)


class Ends:
    """A reward that remembers how long the completions were."""

    __name__ = "accuracy"

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.prompts: list[str] = []

    def __call__(self, prompts: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        self.lengths, self.prompts = [len(ids) for ids in completion_ids], prompts
        return [float(place % 2) for place in range(len(completion_ids))]


@pytest.mark.parametrize("forward", ["shared", "plain"])
def test_a_step_by_hand(forward: str, policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Two prompts of P tokens, four rollouts each: sampling, old and reference log-probs of another N, the update."""
    reward, size = Ends(), size_of(policy)
    config = make_config(tmp_path, max_steps=1, forward=forward, num_iterations=2)  # old log-probs are needed
    trainer = make_trainer(policy, tokenizer, config, rows=rows_of_one_length(), reward=reward)
    trainer.train()
    [row] = metrics(tmp_path)
    prompt, lengths = len(reward.prompts[0]), reward.lengths
    most = max(lengths)
    if forward == "plain":  # everything is padded to the longest; a token that is drawn last is not read by sampling
        sampled = 8 * prompt + 8 * (most - 1)
        read = 8 * (prompt + most)
        assert row["tokens/forward"] == 2 * read  # old log-probs, update
        expected = 2 * size * (sampled + read) + 6 * size * read
    else:  # a shared prompt once, no token that predicts nothing; of ended rollouts some stay for a while
        read = 2 * (prompt - 1) + sum(lengths)
        assert row["tokens/forward"] == 2 * read
        expected = 2 * size * read + 6 * size * read
        sampled = row["flops/total"] / size / 2 - 4 * read
        assert 2 * prompt + sum(lengths) - 8 <= sampled <= 2 * prompt + 8 * (most - 1)
        expected += int(2 * size * sampled)
    assert row["flops/total"] == trainer.run_state.flops == expected


@pytest.mark.slow
def test_the_reference_policy_is_read_too(policy: Any, policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    totals = []
    for beta in (0.0, 0.1):
        config = make_config(tmp_path / str(beta), max_steps=1, forward="plain", beta=beta)
        own = copy.deepcopy(policy)
        own.config._name_or_path = str(policy_folder)  # where TRL finds the reference
        make_trainer(own, tokenizer, config, reward=Ends()).train()
        [row] = metrics(tmp_path / str(beta))
        totals.append((row["flops/total"], row["tokens/forward"]))
    (without, update), (with_it, both) = totals
    assert both == 2 * update
    assert with_it - without == 2 * size_of(policy) * update


@pytest.mark.slow
def test_training_stops_after_the_step_that_spends_the_flops(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    common: dict[str, Any] = {"method": "linear", "guidance_length": 12, "guidance_ratio": 0.5, "max_steps": 50}
    budget = 4.5 * 6 * size_of(policy) * 8 * 20
    trainer = make_trainer(policy, tokenizer, make_config(tmp_path, **common, max_flops=budget))
    trainer.train()
    rows = metrics(tmp_path)
    spent = [row["flops/total"] for row in rows]
    assert len(spent) > 2 and spent[-1] >= budget > spent[-2]
    # The schedule runs over the budget: what was spent before the batch in which the length of a step was chosen.
    known = [0, 0, *spent[:-2]]
    assert [row["guidance/length"] for row in rows] == pytest.approx([12 * (1 - flops / budget) for flops in known])
    traces = [row["tokens/traces_total"] for row in rows]
    assert traces[-1] == sum(row["guidance/tokens"] for row in rows) == trainer.run_state.trace_tokens > 0


@pytest.mark.slow
def test_flops_survive_a_kill(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    common: dict[str, Any] = {"method": "fixed", "guidance_length": 6, "guidance_ratio": 0.5}
    first = make_trainer(
        policy, tokenizer, make_config(tmp_path, **common, save_strategy="steps", save_steps=2, max_steps=2)
    )
    first.train()
    spent = first.run_state.flops
    longer = make_config(tmp_path, **common, max_steps=400, max_flops=float(spent))
    resumed = make_trainer(policy, tokenizer, longer)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 3  # over the budget already: one step, and not another 400
    assert resumed.run_state.flops > spent
    assert resumed.run_state.trace_tokens > first.run_state.trace_tokens > 0


@pytest.mark.parametrize(("flops", "stops"), [(99, False), (100, True), (101, True)])
def test_the_budget_is_reached_not_passed(flops: int, stops: bool) -> None:
    config = SimpleNamespace(max_generated_tokens=0, max_flops=100.0, max_train_seconds=0.0)
    run = SimpleNamespace(tokens_generated=10**9, flops=flops, train_seconds=1e9)
    callback = BudgetCallback(config, run)  # type: ignore[arg-type]
    assert callback.on_step_end(None, None, TrainerControl()).should_training_stop is stops  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "flops", "seconds", "most_steps", "share"),
    [
        (400, 100.0, 10.0, 8, 0.25),  # 100 of 400 tokens
        (0, 100.0, 10.0, 8, 0.5),  # 60 of 100, of which a first stage spent 20: 40 of 80
        (0, 50.0, 10.0, 8, 1.0),
        (0, 0.0, 10.0, 8, 0.75),  # 7.5 of 10 seconds
        (0, 0.0, 0.0, 8, 0.375),  # 3 of 8 steps
        (0, 0.0, 0.0, -1, 0.0),  # no end is known
    ],
)
def test_how_much_of_a_run_is_done(tokens: int, flops: float, seconds: float, most_steps: int, share: float) -> None:
    run = SimpleNamespace(tokens_generated=100, flops=60, stage_flops=20, train_seconds=7.5)
    budgets = SimpleNamespace(max_generated_tokens=tokens, max_flops=flops, max_train_seconds=seconds)
    assert share_done(run, budgets, 3, most_steps) == share
