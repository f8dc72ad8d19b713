"""Sampling on shared prefixes draws from the policy's own logits."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, Qwen3Config, Qwen3ForCausalLM

from guided_grpo.train.sampling import sample_rollouts, warpers

END = 1


def policy(key_heads: int) -> Qwen3ForCausalLM:
    torch.manual_seed(key_heads)
    config = Qwen3Config(
        vocab_size=23, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=key_heads, head_dim=8, max_position_embeddings=256, pad_token_id=0, eos_token_id=END,
        initializer_range=0.4,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def prompts_of(seed: int) -> list[list[int]]:
    """Groups with guidance of several lengths: some share it, some end inside of it."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(draw.randrange(1, 4)):
        prompt = [draw.randrange(2, 23) for _ in range(draw.randrange(1, 20))]
        trace = [draw.randrange(2, 23) for _ in range(60)]
        for _ in range(draw.randrange(1, 7)):
            prompts.append(prompt + trace[: draw.choice([0, 0, 30, 45, 45])])
    return prompts


class Spy(LogitsProcessorList):
    """Warpers that remember the logits of each step."""

    def __init__(self, inner: LogitsProcessorList) -> None:
        super().__init__(inner)
        self.steps: list[torch.Tensor] = []

    def __call__(self, ids: Any, logits: torch.Tensor) -> torch.Tensor:
        self.steps.append(logits.clone())
        return super().__call__(ids, logits)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_rollouts_are_those_of_generate(key_heads: int, seed: int) -> None:
    model, prompts = policy(key_heads), prompts_of(seed)
    rollouts = sample_rollouts(model, prompts, warpers(top_k=1), [END], 70)
    greedy = GenerationConfig(max_new_tokens=70, do_sample=False, pad_token_id=0, eos_token_id=END)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        whole = model.generate(torch.tensor([prompt]), generation_config=greedy)[0].tolist()
        assert rollout == whole[len(prompt) :]


def test_logits_of_every_step_are_those_of_the_whole_sequence_while_rollouts_leave() -> None:
    """With rollouts that end at different times, so that buffers are copied and grow."""
    model, prompts = policy(2), [*prompts_of(0), *prompts_of(4), *prompts_of(5)]
    torch.manual_seed(0)
    spy = Spy(warpers(temperature=3.0))
    rollouts = sample_rollouts(model, prompts, spy, [END], 80)
    lengths = sorted(len(rollout) for rollout in rollouts)
    assert lengths[0] < lengths[-1] and lengths[-1] > 33
    assert spy.steps[-1].size(0) < len(prompts)  # some have left
    expected = []
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + rollout])).logits[0, len(prompt) - 1 : -1]
        expected.append(logits)
        assert all(token != END for token in rollout[:-1])
    for step, logits in enumerate(spy.steps):
        for row in expected:
            if step < len(row):  # each rollout under way is one of the rows, in the same order
                assert (logits - row[step]).abs().amax(dim=1).min() < 1e-4


def test_frequencies_are_the_policys() -> None:
    model, prompt = policy(4), [5, 6, 7, 8]
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / 1.5).softmax(-1)
    torch.manual_seed(1)
    rollouts = sample_rollouts(model, [prompt] * 20_000, warpers(temperature=1.5), [END], 1)
    counts = torch.bincount(torch.tensor([rollout[0] for rollout in rollouts]), minlength=23) / 20_000
    assert (counts - expected).abs().max() < 4 * (expected * (1 - expected) / 20_000).sqrt().max()


def test_warpers_in_the_order_of_generate() -> None:
    names = [type(warper).__name__ for warper in warpers(0.5, 5, 0.9, 0.1)]
    assert names == ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"]
    assert not warpers()
