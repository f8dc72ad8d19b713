"""Transformers' continuous batching under guidance, on the CPU: the rows, the tokens and the steps of `generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin
from transformers.generation.continuous_batching import continuous_api
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from guided_grpo.embedded.pretraining import new_policy
from guided_grpo.embedded.recipes import SHIPPED
from guided_grpo.errors import InputError
from guided_grpo.train import trainer as trainer_module
from guided_grpo.train.flops import engine_tokens, parameters_of
from guided_grpo.train.generation import PAGE, check_whole, room_for
from parts import TINY, ScriptedAccuracy, chain_rows, digit_reward, make_config, make_trainer

METHODS: dict[str, dict[str, Any]] = {
    "g2rpo-a": {"guidance_length": 9, "guidance_ratio": 0.5},
    "auto": {"guidance_allocation": "spread"},
    "ghpo": {"hint_template": "{problem}{hint}", "rescue_cold_start": 0},
}


class Engine:
    """What the real engine was asked for and how much of its cache it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[list[list[int]]] = []
        self.written, self.bytes = 0, 0
        add, update, room = (
            continuous_api.ContinuousBatchingManager.add_requests, PagedAttentionCache.update, PagedAttentionCache.__init__,
        )  # fmt: skip

        def adding(manager: Any, inputs: list[list[int]], **named: Any) -> Any:
            self.prompts.append(inputs)
            return add(manager, inputs, **named)

        def writing(cache: Any, key_states: Any, value_states: Any, layer_idx: int, kwargs: Any) -> Any:
            self.written += key_states.shape[2] * (layer_idx == 0)
            return update(cache, key_states, value_states, layer_idx, kwargs)

        def making(cache: Any, *arguments: Any, **named: Any) -> None:
            room(cache, *arguments, **named)
            self.bytes = max(self.bytes, cache.max_batch_tokens * (cache.max_tokens_read + cache.max_batch_tokens) * 4)

        monkeypatch.setattr(continuous_api.ContinuousBatchingManager, "add_requests", adding)
        monkeypatch.setattr(PagedAttentionCache, "update", writing)
        monkeypatch.setattr(PagedAttentionCache, "__init__", making)


def train(folder: Path, **options: Any) -> tuple[Any, list[dict[tuple[int, ...], list[float]]]]:
    """Three steps of the embedded policy, and the log-probs that each update read, by the ids of the row."""
    policy = AutoModelForCausalLM.from_pretrained(SHIPPED / "embedded-small", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "embedded-small")
    usual = {"optim": "sgd", "learning_rate": 0.3, "max_steps": 3, "rollouts_every": 1, "max_completion_length": 20}
    config = make_config(folder, **{**usual, **options})
    rows = chain_rows(12, 3, 5)
    difficult = ScriptedAccuracy({prompt: (0, 1, 2, 9)[place % 4] for place, prompt in enumerate(rows["prompt"])})
    trainer = make_trainer(
        policy, tokenizer, config, rows=rows, reward=difficult if config.rescues else digit_reward
    )  # fmt: skip
    read, logps = trainer._get_per_token_logps_and_entropies, []

    def reading(model: Any, input_ids: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        values = read(model, input_ids, *arguments, **named)
        if torch.is_grad_enabled():
            rows = zip(input_ids.tolist(), values[0].detach().tolist(), strict=True)
            logps.append({tuple(ids): row for ids, row in rows})
        return values

    trainer._get_per_token_logps_and_entropies = reading  # type: ignore[method-assign]
    trainer.train()
    return trainer, logps


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_greedy_rows_and_steps_are_those_of_generate(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"method": method, **METHODS[method], "top_k": 1}
    theirs, expected = train(tmp_path / "generate", **options, forward="plain")

    def wrong(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("not the engine that was asked for")

    monkeypatch.setattr(GenerationMixin, "generate", wrong)
    monkeypatch.setattr(trainer_module, "sample_rollouts", wrong)
    engine = Engine(monkeypatch)
    ours, found = train(
        tmp_path / "batching", **options, forward="plain", use_transformers_continuous_batching=True
    )  # fmt: skip

    groups = list(
        zip(lines(tmp_path / "batching", "rollouts.jsonl"), lines(tmp_path / "generate", "rollouts.jsonl"), strict=True)
    )
    assert len(groups) == 6
    for mine, other in groups:
        for name in ("guidance", "generated", "arm", "stage", "rewards"):
            assert [one.get(name) for one in mine["rollouts"]] == [one.get(name) for one in other["rollouts"]], name
    assert len({one["generated"] for mine, _ in groups for one in mine["rollouts"]}) > 4
    for mine, other in zip(
        lines(tmp_path / "batching", "metrics.jsonl"), lines(tmp_path / "generate", "metrics.jsonl"), strict=True
    ):
        for name in ("tokens/generated", "guidance/length", "rescue/calls", "rescue/tokens"):
            assert mine.get(name) == other.get(name), name
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4, abs=1e-7)
    for a, b in zip(found, expected, strict=True):  # the engine seeds torch's generator, so rows come in another order
        assert a.keys() == b.keys() and len(a) > 1
        assert all(a[ids] == pytest.approx(b[ids], abs=1e-5) for ids in a)
    # The engine read the prompts with their guidance behind them, in the order of the rows, into its own cache.
    given = [one["guidance"] for mine, _ in groups[:2] for one in mine["rollouts"]]
    texts = [ours._tokenizer.decode(ids) for ids in engine.prompts[0]]
    if method != "ghpo":  # there the first sampling has none
        assert any(given) and all(text.endswith(trace) for text, trace in zip(texts, given, strict=True))
    assert len(engine.prompts) == (
        3 if method != "ghpo" else 3 + sum(row["rescue/calls"] for row in lines(tmp_path / "batching", "metrics.jsonl"))
    )
    assert engine.written > sum(len(ids) for call in engine.prompts for ids in set(map(tuple, call))) / 2
    assert engine.bytes < 100e6, "half of the machine otherwise"
    assert ours.model.config._attn_implementation == theirs.model.config._attn_implementation
    assert ours.model.dtype == torch.float32


@pytest.mark.slow
def test_flops_are_those_of_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that replays a pass runs no hook, so nothing may be counted by hooks."""
    engine = Engine(monkeypatch)
    options = {**METHODS["g2rpo-a"], "method": "g2rpo-a", "max_steps": 1, "use_transformers_continuous_batching": True}
    trainer, _ = train(tmp_path, **options)
    [row] = lines(tmp_path, "metrics.jsonl")
    generated = [one["generated"] for group in lines(tmp_path, "rollouts.jsonl") for one in group["rollouts"]]
    size = parameters_of(trainer.model)
    sampled = engine_tokens(engine.prompts[0], [range(int(row["tokens/generated"]))])
    assert len(generated) == 8
    assert row["flops/total"] == size.forward(sampled) + size.update(int(row["tokens/forward"]))


@pytest.mark.slow
def test_seeds_draw_other_tokens_and_the_same_again(tmp_path: Path) -> None:
    options = {**METHODS["g2rpo-a"], "method": "g2rpo-a", "max_steps": 2, "use_transformers_continuous_batching": True}
    texts = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(tmp_path / name, **options, seed=seed)
        texts.append(
            [one["generated"] for group in lines(tmp_path / name, "rollouts.jsonl") for one in group["rollouts"]]
        )
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0][:4])) > 1


def test_room_by_hand() -> None:
    """Prompts of 20 and 40 tokens, answers of 30: 4 and 5 pages of 16, and a quarter more."""
    assert PAGE == 16
    assert room_for([[1] * 20, [1] * 40], 30, {}) == {"page_size": 16, "num_blocks": 12, "max_batch_tokens": 512}
    assert room_for([[1]] * 600, 30, {})["max_batch_tokens"] == 600
    assert room_for([[1] * 20], 30, {"num_blocks": 9, "seed": 1}) == {
        "page_size": 16, "num_blocks": 9, "max_batch_tokens": 512, "seed": 1,
    }  # fmt: skip


def test_too_small_a_cache_is_said_before_it_is_made(tmp_path: Path) -> None:
    options = {
        "use_transformers_continuous_batching": True,
        "transformers_continuous_batching_config": {"num_blocks": 1},
    }
    with pytest.raises(InputError, match=r"num_blocks.*1 blocks of 16 tokens hold no rollout of .* use at least [23]"):
        train(tmp_path, **options)


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    small = {"max_memory_percent": 1e-6}
    options = {"use_transformers_continuous_batching": True, "transformers_continuous_batching_config": small}
    with pytest.raises(
        InputError, match=r"transformers_continuous_batching_config.*too little memory.*raise max_memory"
    ):
        train(tmp_path, **options)


@pytest.mark.slow
def test_an_engine_that_breaks_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers returns what its thread had when it died, cut short, as if that were all."""
    update, passes = PagedAttentionCache.update, []

    def breaking(cache: Any, **named: Any) -> Any:
        passes.append(1)
        if len(passes) > 12:
            raise RuntimeError("no more")
        return update(cache, **named)

    monkeypatch.setattr(PagedAttentionCache, "update", breaking)
    with pytest.raises(InputError, match=r"use_transformers_continuous_batching.* of 8 rollouts whole"):
        train(tmp_path, use_transformers_continuous_batching=True)


def test_whole_rollouts_end_or_are_full() -> None:
    check_whole([[5, 1], [5, 5, 5]], 2, {1}, 3)
    for cut in ([[5, 5]], [[]], []):
        with pytest.raises(InputError, match="0 of 1 rollouts"):
            check_whole(cut, 1, {1}, 3)


def test_penalties_that_the_engine_leaves_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"repetition_penalty.*1\.2.*continuous batching"):
        make_config(tmp_path, use_transformers_continuous_batching=True, repetition_penalty=1.2)


@pytest.mark.slow
def test_half_precision_is_told_of(tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TRL casts the policy itself, for good; the weights that are trained are then of half precision."""
    options = {"use_transformers_continuous_batching": True, "max_steps": 1, "bf16": True}
    trainer = make_trainer(new_policy(TINY, tokenizer), tokenizer, make_config(tmp_path, **options))
    assert "bf16" in caplog.text and "for good" in caplog.text
    trainer.train()
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.bfloat16}
