"""The trainer as users meet it: rewards, controllers, evaluation, PEFT, losses, chat prompts, order of problems."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from guided_grpo.embedded.pretraining import new_policy
from guided_grpo.errors import InputError
from guided_grpo.grading.rewards import of_form, well_formed
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.presets import METHODS
from parts import TINY, chain_rows, digit_reward, make_config, make_trainer
from templates import PREFILLED, QWEN3, byte_level

GUIDED: dict[str, Any] = {"method": "fixed", "guidance_length": 6, "guidance_ratio": 0.5}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rollouts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


# Share of a group that is guided in the first step, where it is not half.
SHARES = {
    "grpo": 0.0, "dapo": 0.0, "naive": 1.0,
    "ghpo": 0.0, "ghpo-continuous": 0.0, "scaf": 0.0, "nurl": 0.0,  # cold start: no hint
    "relift": 0.0, "bread": 0.0, "trapo": 0.0,  # every rollout has a digit
    "luffy": 0.25, "hpt": 0.25, "chord": 0.25,  # the trace is one of four
}  # fmt: skip
BY_PROBLEM = ("uft", "prefix-rft", "adaback", "adaprefix", "prefixrl", "r3", "questa")  # shares, drawn or followed
OF_LEVELS = ("stephint",)  # test_imitation.py


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in (*BY_PROBLEM, *OF_LEVELS)])
def test_every_method_trains(method: str, policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    changes: dict[str, Any] = {} if method == "naive" else {"guidance_ratio": 0.5}
    length = 0.5 if method.startswith("auto") else 8
    config = make_config(tmp_path, method=method, guidance_length=length, max_steps=2, rollouts_every=1, **changes)
    make_trainer(policy, tokenizer, config).train()
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    share = SHARES.get(method, 0.5)
    assert rows[0]["guidance/ratio"] == share
    arms = [[r["arm"] for r in group["rollouts"]] for group in rollouts(tmp_path)]
    guided = int(share * 4)
    expected = ["guided"] * guided + ["unguided"] * (4 - guided)
    assert arms == [expected] * len(arms) and len(arms) >= 4
    if share and share != 0.25:
        given = [r["guidance"] for r in rollouts(tmp_path)[0]["rollouts"]]
        trace = rollouts(tmp_path)[0]["prompt"]
        most = 5 * (len(trace) - 2) // 4 if method.startswith("auto") else 8  # half of five characters a step
        assert 0 < len(given[0]) <= most, trace
        assert not method.startswith("auto") or len(given[0]) == most


@pytest.mark.slow
@pytest.mark.parametrize("method", BY_PROBLEM)
def test_every_method_of_shares_trains(method: str, policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The rollouts that a group guides get one and the same part of the trace, and the rest nothing."""
    changes: dict[str, Any] = {"prefix-rft": {"guidance_ratio": 0.25}, "questa": {"hint_template": "{problem}{hint}"}}
    config = make_config(
        tmp_path, method=method, max_steps=3, rollouts_every=1, guidance_leak=True, **changes.get(method, {})
    )
    make_trainer(policy, tokenizer, config).train()
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3]
    number = 1 if method == "prefix-rft" else 4
    some = 0
    for group in rollouts(tmp_path):
        given = [rollout["guidance"] for rollout in group["rollouts"]]
        assert len(set(given[:number])) == 1 and not any(given[number:])
        some += bool(given[0])
    assert some


def test_rewards_see_guidance_and_generation(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    seen: list[str] = []

    def reward(completions: list[str], guidance: list[str], **kwargs: Any) -> list[float]:
        seen.extend(text[:6] == trace[:6] for text, trace in zip(completions, guidance, strict=True))
        return digit_reward(completions)

    make_trainer(policy, tokenizer, make_config(tmp_path, **GUIDED, max_steps=1), reward=reward).train()
    assert seen == [True, True, False, False] * 2


def test_controller_is_fed_the_named_accuracy_reward_of_training_alone(
    policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Two reward functions, the accuracy one second, unweighted; evaluation in between must not feed the controller."""
    calls = {"train": 0}

    def other(completions: list[str], **kwargs: Any) -> list[float]:
        return [9.0 + len(text) for text in completions]

    def accuracy(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
        in_training = len(completions) == 8
        calls["train"] += in_training
        level = [0.25, 0.5, 0.25][trainer_state.global_step] if in_training else 1.0
        return [level] * len(completions)

    config = make_config(
        tmp_path,
        method="g2rpo-a",
        guidance_length=8,
        guidance_ratio=0.5,
        guidance_history=1,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=4,
        num_generations_eval=2,
        reward_weights=[1.0, 0.0],
    )
    trainer = make_trainer(policy, tokenizer, config, reward=[other, accuracy], eval_dataset=chain_rows(2, seed=1))
    trainer.train()
    assert calls["train"] == 3
    assert [row["guidance/length"] for row in metrics(tmp_path)] == [8, 8, 4]
    assert trainer.run_state.controller.length == 8
    assert trainer.run_state.controller.updates == 3
    assert [row["reward/accuracy"] for row in metrics(tmp_path)] == [0.25, 0.5, 0.25]


def test_evaluation_during_training_is_unguided(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    lengths: list[tuple[int, int]] = []

    def reward(completions: list[str], guidance: list[str], **kwargs: Any) -> list[float]:
        starts = sum(text.startswith(trace[:6]) for text, trace in zip(completions, guidance, strict=True))
        lengths.append((len(completions), starts))
        return digit_reward(completions)

    config = make_config(
        tmp_path, **GUIDED, max_steps=1, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=4
    )
    make_trainer(policy, tokenizer, config, reward=reward, eval_dataset=chain_rows(2, seed=1)).train()
    assert lengths == [(8, 4), (4, 0), (4, 0)]


def test_an_accuracy_reward_that_is_not_there_is_refused(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    def other(completions: list[str], **kwargs: Any) -> list[float]:
        return digit_reward(completions)

    with pytest.raises(InputError, match="accuracy_reward.*'accuracy' is not among.*digit_reward, other"):
        make_trainer(policy, tokenizer, make_config(tmp_path, **GUIDED), reward=[digit_reward, other])


def test_problems_come_easy_to_hard_in_every_epoch(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = chain_rows(8, 3, 9, seed=5)
    config = make_config(
        tmp_path, **{**GUIDED, "method": "g2rpo-a"}, max_steps=-1, num_train_epochs=2, rollouts_every=1
    )
    make_trainer(policy, tokenizer, config, rows=rows).train()
    seen = [group["difficulty"] for group in rollouts(tmp_path)]
    assert seen == sorted(rows["difficulty"]) * 2
    assert len(set(seen)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_every_loss_type_trains_with_guidance(
    loss_type: str, weight: float, policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    more = {"importance_sampling_level": "sequence"} if loss_type == "luspo" else {}
    config = make_config(
        tmp_path, **GUIDED, loss_type=loss_type, guidance_weight=weight, max_steps=1, epsilon_high=5.0, **more
    )
    before = policy.lm_head.weight.detach().clone()
    make_trainer(policy, tokenizer, config).train()
    assert torch.isfinite(policy.lm_head.weight).all()
    assert not torch.equal(before, policy.lm_head.weight)


@pytest.mark.parametrize(
    "change", [{"loss_type": "vespo"}, {"loss_type": "luspo"}, {"importance_sampling_level": "sequence"}]
)
def test_fractional_weight_is_refused_where_the_ratio_is_over_sequences(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="guidance_weight.*0.5.*use 0 or 1"):
        make_config(tmp_path, **GUIDED, guidance_weight=0.5, **change)


def test_lora_with_reference(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    config = make_config(tmp_path, **GUIDED, beta=0.1, max_steps=2)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = make_trainer(policy, tokenizer, config, peft_config=adapter)
    frozen = {n: p.clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    assert all(torch.equal(p, frozen[n]) for n, p in trainer.model.named_parameters() if n in frozen)
    assert metrics(tmp_path)[1]["kl"] > 0
    assert metrics(tmp_path)[1]["guidance/ratio"] == 0.5


@pytest.mark.slow
def test_pad_that_is_eos_masks_nothing(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """A short trace is never padded, so sharing pad and eos changes no number."""
    shared = copy.deepcopy(tokenizer)
    shared.pad_token = shared.eos_token
    found = []
    for number, each in enumerate((tokenizer, shared)):
        config = make_config(tmp_path / str(number), **{**GUIDED, "guidance_length": 500}, max_steps=2)
        make_trainer(new_policy(TINY, tokenizer), each, config).train()
        found.append(
            [{k: row[k] for k in ("loss", "grad_norm", "guidance/tokens")} for row in metrics(tmp_path / str(number))]
        )
    assert found[0] == found[1]


def test_rows_without_a_trace_train_unguided_and_are_counted(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = Dataset.from_list(
        [{**row, "guidance": None if i % 2 else row["guidance"]} for i, row in enumerate(chain_rows())]
    )
    config = make_config(tmp_path, **GUIDED, max_steps=1, shuffle_dataset=False)
    make_trainer(policy, tokenizer, config, rows=rows).train()
    row = metrics(tmp_path)[0]
    assert (row["guidance/ratio"], row["guidance/missing"]) == (0.25, 0.5)


@pytest.mark.slow
def test_format_reward_knows_what_the_template_opened(tmp_path: Path) -> None:
    """Chat prompts whose template pre-fills <think>: the response cannot hold the opening tag, and is not blamed for it."""
    seen: dict[str, list[Any]] = {}
    for name, template in (("prefilled", PREFILLED), ("opened by the policy", QWEN3)):
        chat_tokenizer = byte_level(template)

        def reward(completions: list[Any], thinking_open: list[bool], name: str = name, **kwargs: Any) -> list[float]:
            texts = [completion[0]["content"] for completion in completions]
            seen[name] = [thinking_open, [text.startswith("<think>") for text in texts[:2]]]
            ended = [text + "</think>7" for text in texts]
            good = of_form(well_formed, "format")(
                completions=[t.replace("</think>", "", t.count("</think>") - 1) for t in ended],
                thinking_open=thinking_open,
            )
            assert set(good[:2]) == {1.0}  # the guided ones, which stand inside the block in both cases
            return digit_reward(texts)

        rows = Dataset.from_list(
            [
                {"prompt": [{"role": "user", "content": f"Add {i}"}], "guidance": "First add 3 and 4 to get 7."}
                for i in range(4)
            ]
        )
        config = make_config(tmp_path / name, **GUIDED, max_steps=1, per_device_train_batch_size=4)
        make_trainer(new_policy(TINY, chat_tokenizer), chat_tokenizer, config, rows=rows, reward=reward).train()
    assert seen["prefilled"] == [[True] * 4, [False, False]]
    assert seen["opened by the policy"] == [[False] * 4, [True, True]]


def test_arm_baseline_replaces_the_advantages(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    config = make_config(tmp_path, **GUIDED, advantage_baseline="arm", max_steps=1, rollouts_every=1)
    make_trainer(policy, tokenizer, config).train()
    for group in rollouts(tmp_path):
        for arm in ("guided", "unguided"):
            values = [r["advantage"] for r in group["rollouts"] if r["arm"] == arm]
            assert sum(values) == pytest.approx(0, abs=1e-5)
    row = metrics(tmp_path)[0]
    assert row["advantage/guided"] == pytest.approx(0, abs=1e-6)
    assert row["advantage/std"] > 0.1


@pytest.mark.slow
def test_training_stops_on_its_token_budget(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tokenizer, make_config(tmp_path, **GUIDED, max_steps=50, max_generated_tokens=200))
    trainer.train()
    total = [row["tokens/generated_total"] for row in metrics(tmp_path)]
    assert total[-1] >= 200 > total[-2]
    assert total[-1] == sum(row["tokens/generated"] for row in metrics(tmp_path)) == trainer.run_state.tokens_generated


@pytest.mark.slow
def test_schedules_end_with_the_steps_or_with_the_token_budget(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    common = {**GUIDED, "method": "linear", "guidance_length": 12}
    make_trainer(policy, tokenizer, make_config(tmp_path / "steps", **common, max_steps=4)).train()
    assert [row["guidance/length"] for row in metrics(tmp_path / "steps")] == pytest.approx([12, 9, 6, 3])
    config = make_config(tmp_path / "tokens", **common, max_steps=400, max_generated_tokens=300)
    make_trainer(policy, tokenizer, config).train()
    rows = metrics(tmp_path / "tokens")
    spent = [0, *(row["tokens/generated_total"] for row in rows)]
    expected = [12 * (1 - min(1, tokens / 300)) for tokens in spent[:-1]]
    assert [row["guidance/length"] for row in rows] == pytest.approx(expected)


@pytest.mark.slow
def test_training_stops_on_its_seconds_and_schedules_end_with_them(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    common = {**GUIDED, "method": "linear", "guidance_length": 12, "max_steps": 400}
    trainer = make_trainer(policy, tokenizer, make_config(tmp_path, **common, max_train_seconds=1.0))
    trainer.train()
    rows = metrics(tmp_path)
    spent = list(itertools.accumulate((row["step_time"] for row in rows), initial=0.0))
    assert spent[-1] >= 1.0 > spent[-2]
    assert trainer.run_state.train_seconds == pytest.approx(spent[-1])
    # The length of a step follows from the batch before it, whose own time was not known yet.
    known = [0.0, *spent[:-2]]
    assert [row["guidance/length"] for row in rows] == pytest.approx([12 * (1 - s) for s in known])


@pytest.mark.slow
def test_seconds_count_whole_steps_and_survive_a_kill(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Two micro-batches a step; only every second step is in the log, which then holds means."""
    common = {**GUIDED, "gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 2}
    first = make_trainer(policy, tokenizer, make_config(tmp_path, **common, max_steps=4, logging_steps=2))
    first.train()
    rows = metrics(tmp_path)
    assert len(rows) == 2
    assert first.run_state.train_seconds == pytest.approx(2 * sum(row["step_time"] for row in rows))
    # Resumed with a budget that the kept sum is over already: one step more, and not another 400.
    longer = make_config(tmp_path, **common, max_steps=400, max_train_seconds=first.run_state.train_seconds)
    resumed = make_trainer(policy, tokenizer, longer)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.state.global_step == 5
    assert resumed.run_state.train_seconds > first.run_state.train_seconds


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (chain_rows().remove_columns("guidance"), "no column 'guidance'.*data_mapping"),
        (chain_rows().map(lambda row: {"guidance": ""}), "no row of the data has a trace"),
    ],
)
def test_data_that_cannot_guide_is_refused(
    rows: Dataset, message: str, policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(policy, tokenizer, make_config(tmp_path, **GUIDED), rows=rows)


def test_guidance_that_outgrows_the_context_is_refused(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    policy.config.max_position_embeddings = 20
    with pytest.raises(InputError, match="guidance_max.*leaves no room.*context 20"):
        make_trainer(policy, tokenizer, make_config(tmp_path, **GUIDED)).train()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "g2rpo"}, "field 'method': 'g2rpo' is not a method; fix: choose one of grpo"),
        (
            {"method": "fixed", "guidance_ratio": 1.5},
            "'guidance_ratio': 1.5 is out of range; fix: use a number in \\[0, 1\\]",
        ),
        ({"method": "fixed", "guidance_ratio": float("nan")}, "guidance_ratio"),
        ({"method": "fixed", "guidance_ratio": 0.1}, "guides no rollout of a group of 4 .*use at least 0.125"),
        ({"method": "fixed", "guidance_weight": -0.1}, "guidance_weight"),
        (
            {"method": "fixed", "guidance_unit": "words"},
            "guidance_unit.*tokens, ratio, steps, ratio-steps, chars, ratio-chars",
        ),
        ({"method": "fixed", "guidance_unit": "ratio", "guidance_length": 40}, "share above 1"),
        ({"method": "auto", "guidance_unit": "tokens"}, "guidance_unit.*use ratio, ratio-steps or ratio-chars"),
        ({"method": "auto", "guidance_credit": "always"}, "guidance_credit.*signed, positive, unguided"),
        ({"method": "concave", "guidance_power": 1.0}, "guidance_power"),
        ({"method": "stepwise", "guidance_decay": 1.0}, "guidance_decay"),
        ({"method": "g2rpo-a", "guidance_min": 9, "guidance_max": 3}, "guidance_max.*below guidance_min"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_config(tmp_path, **values)
    assert "\n" not in str(caught.value)


def test_presets_can_be_overridden(tmp_path: Path) -> None:
    config = GuidedGRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, method="g2rpo-a", guidance_ratio=0.5, curriculum="none"
    )
    assert (config.guidance_strength, config.guidance_ratio, config.curriculum) == ("ratio", 0.5, "none")
    assert config.guidance_length == 3072
