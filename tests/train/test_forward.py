"""Reading shared prefixes once gives the loss and gradients of TRL's own forward."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from guided_grpo.train.attention import TreeLayout, switched
from guided_grpo.train.forward import arrange_rows, read_shared, why_plain
from guided_grpo.train.prefixes import build_tree
from parts import make_config, make_trainer

EQUAL = 1e-5  # relative, float32


def test_tree_of_a_group_holds_prompt_and_guidance_once() -> None:
    prompt, trace = [5] * 10, [6] * 20
    rows = [[*prompt, *trace, 7, 8], [*prompt, *trace, 7, 9, 9], [*prompt, 1, 2], [*prompt, 3]]
    tree = build_tree(rows, least_gain=10)
    # 9 inputs predict the other 9 tokens of the prompt; then 20 and 1 of the trace's branch, and what is left of each.
    assert [(node.start, node.end) for node in tree.nodes] == [
        (0, 10),
        (10, 12),
        (10, 11),
        (10, 31),
        (31, 32),
        (31, 33),
    ]
    assert tree.inputs == 9 + 2 + 1 + 21 + 1 + 2
    assert [len(tree.places(row)) for row in range(4)] == [len(row) - 1 for row in rows]


def test_packed_inputs_by_hand() -> None:
    """Of the shared beginning all but its last token predicts; that one is read by the branches."""
    rows = [[1, 2, 3, 4, 5], [1, 2, 3, 6, 7, 8]]
    tree = build_tree(rows, least_gain=1)
    assert tree.packed(rows) == ([1, 2, 3, 4, 3, 6, 7], [0, 1, 2, 3, 2, 3, 4])


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
        [tok for _ in range(draw.randrange(1, 4)) for tok in draw.choice(stems)]
        + [draw.randrange(3), draw.randrange(3)]
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
    trainer._forward.shared = shared
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, {k: v.clone() for k, v in inputs.items()})
    loss.backward()
    loss = loss.detach()
    trainer._forward.close()
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


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_plain_forward(
    case: str, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    trainer = make_trainer(model, tokenizer, make_config(tmp_path, **CASES[case]))
    draw = random.Random(case)
    for _ in range(12):
        assert_same(trainer, batch(draw, model.config.vocab_size))


@pytest.mark.slow
def test_two_hundred_random_batches(policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    trainer = make_trainer(model, tokenizer, make_config(tmp_path))
    draw = random.Random(0)
    shapes = [{}, {"all_zero": True}, {"groups": 1, "rows": 1}, {"rows": 1}, {"groups": 5, "rows": 8}]
    for number in range(200):
        assert_same(trainer, batch(draw, model.config.vocab_size, **shapes[number % len(shapes)]))


def test_where_nothing_can_move_the_loss_gradients_are_zeros_and_the_entropy_is_none(
    policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    trainer = make_trainer(model, tokenizer, make_config(tmp_path))
    inputs = batch(random.Random(1), model.config.vocab_size, all_zero=True)
    loss, found = gradients(trainer, inputs, shared=True)
    assert loss == 0
    assert found.keys() == dict(model.named_parameters()).keys()  # zeros: Adam's moments must decay as in TRL
    assert all(not gradient.any() for gradient in found.values())
    assert trainer._metrics["train"]["entropy"][-1] != trainer._metrics["train"]["entropy"][-1]  # NaN: of no token


def test_entropy_is_over_the_tokens_that_were_read(policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    trainer = make_trainer(model, tokenizer, make_config(tmp_path))
    inputs = batch(random.Random(2), model.config.vocab_size, groups=3, rows=4)
    dead = torch.arange(12) % 4 == 1
    inputs["advantages"] = torch.ones(12).masked_fill(dead, 0)
    gradients(trainer, inputs, shared=True)
    logged = trainer._metrics["train"]["entropy"][-1]
    alive = {k: v[~dead] if v.dim() else v for k, v in inputs.items()}
    alive["tool_mask"] = (alive["tool_mask"] != 0).float()  # TRL weighs entropies by the mask; here each token counts
    gradients(trainer, alive, shared=False)
    assert logged == pytest.approx(trainer._metrics["train"]["entropy"][-1], rel=1e-5)


@pytest.mark.slow
def test_adapters(policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    trainer = make_trainer(model, tokenizer, make_config(tmp_path, beta=0.2), peft_config=lora)
    for _ in range(5):
        assert_same(trainer, batch(random.Random(4), model.config.vocab_size))


SMALL = {
    "vocab_size": 29, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 1,
}  # fmt: skip
FAMILIES = [Qwen2Config, Qwen3Config, LlamaConfig, GemmaConfig, Olmo2Config, Phi3Config, MistralConfig]


def fused_logps(
    config: Any, *, gather: bool, monkeypatch: pytest.MonkeyPatch, autocast: Callable[[], Any] = nullcontext
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of a batch by TRL's inputs and by shared prefixes."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float()
    add_fused_lm_head(model)
    assert why_plain(model) is None
    inputs = batch(random.Random(6), 29, groups=3, rows=4)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    needed = inputs["completion_mask"].bool()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : -needed.size(1)] = -100
    with autocast():
        plain = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    if gather:  # what devices other than the CPU do
        monkeypatch.setattr(TreeLayout, "reads_by_gathering", staticmethod(lambda device: True))
    with switched(model.config):
        reading = read_shared(model, ids, mask, needed, autocast)
    return plain.log_probs[:, -needed.size(1) :], reading.logps_bT


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_models(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"sliding_window": None} if family is MistralConfig else {}
    theirs, ours = fused_logps(family(**SMALL, **changes), gather=False, monkeypatch=monkeypatch)
    assert (ours - theirs).abs().max() < 2e-5


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("family", [Qwen2Config, Qwen3Config, GemmaConfig])
def test_bfloat16(family: Any, gather: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast leaves what was rotated or normed in float32 beside values in bfloat16."""
    theirs, ours = fused_logps(
        family(**SMALL), gather=gather, monkeypatch=monkeypatch, autocast=lambda: torch.autocast("cpu", torch.bfloat16)
    )
    assert (ours - theirs).abs().mean() < 5e-3 and (ours - theirs).abs().max() < 0.1
    ours.sum().backward()


def test_gathering_the_keys_of_each_path_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = fused_logps(Qwen3Config(**SMALL), gather=True, monkeypatch=monkeypatch)
    assert (ours - theirs).abs().max() < 2e-5
    assert ours.requires_grad


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(**SMALL, sliding_window=16), "sliding window"),
        (Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=16, max_window_layers=1), "sliding_attention"),
        (Gemma2Config(**SMALL), "sliding_attention"),
        (GPT2Config(vocab_size=29, n_embd=32, n_layer=1, n_head=2), "not rotary"),
        (LlamaConfig(**SMALL, attention_dropout=0.1), "dropout"),
    ],
)
def test_models_that_cannot_share_say_why(config: Any, reason: str) -> None:
    assert reason in str(why_plain(AutoModelForCausalLM.from_config(config)))


@pytest.mark.slow
def test_a_model_that_cannot_share_trains_with_the_plain_forward(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = LlamaConfig(**{**SMALL, "vocab_size": len(tokenizer)}, attention_dropout=0.1)
    model = AutoModelForCausalLM.from_config(config)
    trainer = make_trainer(model, tokenizer, make_config(tmp_path, max_steps=1))
    trainer.train()
    assert "forward: plain instead of shared, because it has dropout" in caplog.text


def test_groups_stay_together_and_tokens_are_balanced() -> None:
    groups = list("abcdabcdabcdabcd")  # four groups of four rows, shuffled
    costs = [{"a": 10, "b": 1, "c": 9, "d": 2}[group] for group in groups]
    chunks = arrange_rows(groups, costs, 2)
    assert [sorted({groups[row] for row in chunk}) for chunk in chunks] == [["a", "b"], ["c", "d"]]
    assert sorted(row for chunk in chunks for row in chunk) == list(range(16))
    cut = arrange_rows(groups, costs, 8)  # a group is larger than a micro-batch
    assert [sorted({groups[row] for row in chunk}) for chunk in cut] == [[g] for g in "aabbccdd"]


@pytest.mark.slow
def test_accumulated_micro_batches_give_the_gradient_of_one(
    policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """With rows arranged by group the sum over micro-batches is the same as over TRL's shuffled ones."""
    losses = []
    for forward in ("plain", "shared"):
        model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
        config = make_config(
            tmp_path / forward, forward=forward, per_device_train_batch_size=4, gradient_accumulation_steps=4,
            generation_kwargs={"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
            method="fixed", guidance_length=7, guidance_ratio=0.5, loss_type="dapo", shuffle_dataset=False,
        )  # fmt: skip
        trainer = make_trainer(model, tokenizer, config)
        trainer.train()
        rows = [json.loads(line) for line in (tmp_path / forward / "metrics.jsonl").read_text().splitlines()]
        losses.append([(row["loss"], row["grad_norm"]) for row in rows])
        assert all(row["tokens/forward"] > 0 and row["time/update"] > 0 for row in rows)
    assert losses[1] == [pytest.approx(pair, rel=1e-3, abs=1e-5) for pair in losses[0]]
