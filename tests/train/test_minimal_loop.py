"""The trainer computes what examples/minimal_loop.py specifies: loss and gradients, on the ids that were sampled."""

from __future__ import annotations

import importlib.util
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from guided_grpo.train.trainer import GuidedGRPOTrainer
from parts import Counted, chain_rows, digit_reward, make_config, make_trainer

pytestmark = pytest.mark.slow

_PATH = Path(__file__).parents[2] / "examples" / "minimal_loop.py"
_SPEC = importlib.util.spec_from_file_location("minimal_loop", _PATH)
assert _SPEC and _SPEC.loader
minimal_loop = importlib.util.module_from_spec(_SPEC)
sys.modules["minimal_loop"] = minimal_loop
_SPEC.loader.exec_module(minimal_loop)


class Spy:
    """Copies what goes into the model while sampling, what comes out, and what the loss is fed."""

    def __init__(self, trainer: GuidedGRPOTrainer) -> None:
        self.sampled: list[tuple[list[int], list[int]]] = []
        self.batches: list[dict[str, Any]] = []
        self.losses: list[torch.Tensor] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.rewards: list[float] = []
        generate, compute_loss, step = trainer.model.generate, trainer._compute_loss, trainer.training_step
        calculate = trainer._calculate_rewards

        def spied_generate(*args: Any, **kwargs: Any) -> torch.Tensor:
            output = generate(*args, **kwargs)
            ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
            width = ids.size(1)
            for row, keep, whole in zip(ids, mask, output, strict=True):
                self.sampled.append((row[keep.bool()].tolist(), whole[width:].tolist()))
            return output

        sample = trainer._sample_rollouts

        def spied_sample(prompts: list[list[int]]) -> list[list[int]]:
            rollouts = sample(prompts)
            self.sampled += zip(prompts, rollouts, strict=True)
            return rollouts

        def spied_rewards(*args: Any, **kwargs: Any) -> torch.Tensor:
            rewards = calculate(*args, **kwargs)
            self.rewards += rewards[:, 0].tolist()
            return rewards

        def spied_loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            self.batches.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
            self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
            loss = compute_loss(model, inputs)
            self.losses.append(loss.detach().clone())
            return loss

        def spied_step(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            result = step(model, *args, **kwargs)
            self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
            return result

        trainer.model.generate = spied_generate  # type: ignore[method-assign]
        trainer._sample_rollouts = spied_sample  # type: ignore[method-assign]
        trainer._compute_loss = spied_loss  # type: ignore[method-assign]
        trainer._calculate_rewards = spied_rewards  # type: ignore[method-assign]
        trainer.training_step = spied_step  # type: ignore[method-assign]


@pytest.mark.parametrize(("weight", "credit"), [(0.0, "signed"), (0.5, "signed"), (1.0, "signed"),
                                                (0.5, "positive"), (1.0, "positive")])  # fmt: skip
@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("forward", ["plain", "shared"])
def test_loss_and_gradients_equal_the_specification(
    weight: float,
    credit: str,
    iterations: int,
    beta: float,
    forward: str,
    policy_folder: Path,
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    config = make_config(
        tmp_path,
        forward=forward,
        method="fixed",
        guidance_length=7,
        guidance_ratio=0.5,
        guidance_weight=weight,
        guidance_credit=credit,
        num_iterations=iterations,
        beta=beta,
        max_steps=2,
        learning_rate=5e-3,
        max_grad_norm=0.0,
        shuffle_dataset=False,
    )
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    reference = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32").eval()
    twin = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32").train()
    trainer = make_trainer(model, tokenizer, config)
    spy = Spy(trainer)
    trainer.train()

    assert len(spy.losses) == 2
    assert len(spy.sampled) == (8 if iterations == 2 else 16)
    sampling_weights = spy.weights[0]
    for step in range(2):
        if iterations == 1:
            sampling_weights = spy.weights[step]
        first = 0 if iterations == 2 else 8 * step
        rollouts = expected_rollouts(spy, first, tokenizer)
        check_ids(spy.batches[step], rollouts)
        for rollout in rollouts:
            twin.load_state_dict(sampling_weights, strict=False)
            with torch.no_grad():
                rollout.old_logps_T = minimal_loop.token_logps(twin, rollout)
                rollout.ref_logps_T = minimal_loop.token_logps(reference, rollout) if beta else None
        twin.load_state_dict(spy.weights[step], strict=False)
        twin.zero_grad()
        loss = minimal_loop.guided_loss(twin, rollouts, guidance_weight=weight, guidance_credit=credit, beta=beta)
        if credit == "positive" and weight:  # otherwise this would be the other case again
            assert any(r.advantage < 0 and r.guidance_ids for r in rollouts)
        loss.backward()
        # Advantages of a group sum to 0, so the loss is a sum that cancels: errors are relative to what is summed.
        summed = sum(abs(r.advantage) * len(r.completion_ids) for r in rollouts)
        scale = summed / sum(len(r.completion_ids) for r in rollouts)
        print("loss error", abs(loss.item() - spy.losses[step].item()) / scale)
        assert loss.item() == pytest.approx(spy.losses[step].item(), rel=1e-6, abs=1e-6 * scale)
        norm = sum(float(g.square().sum()) for g in spy.gradients[step].values()) ** 0.5
        assert norm > 1e-3
        worst = 0.0
        for name, parameter in twin.named_parameters():
            assert parameter.grad is not None
            error = float((parameter.grad - spy.gradients[step][name]).norm())
            worst = max(worst, error / norm)
            assert error <= 1e-6 * norm, f"{name} at step {step}: {error} against {norm}"
        print("gradient error", worst)


def expected_rollouts(spy: Spy, first: int, tokenizer: Any) -> list[Any]:
    """The 8 rollouts of a batch from the ids that really went into and came out of the model."""
    rows = chain_rows()
    rollouts = []
    for place in range(8):
        front, output = spy.sampled[first + place]
        row = rows[(first + place) // 4]
        prompt = tokenizer(row["prompt"])["input_ids"]
        guidance = tokenizer(row["guidance"][:7])["input_ids"] if place % 4 < 2 else []
        assert front == prompt + guidance
        end = output.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in output else len(output)
        rollouts.append(minimal_loop.Rollout(prompt, guidance, output[:end]))
    for start in range(0, 8, 4):
        group = rollouts[start : start + 4]
        texts = [tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in group]
        rewards = digit_reward(texts)
        assert rewards == pytest.approx(spy.rewards[first + start : first + start + 4], abs=1e-6)
        for rollout, advantage in zip(group, minimal_loop.group_advantages(rewards), strict=True):
            rollout.advantage = advantage
    return rollouts


def check_ids(batch: dict[str, Any], rollouts: list[Any]) -> None:
    """Ids trained on = ids sampled, in whatever order TRL shuffled the rows."""
    trained = []
    for prompt, prompt_mask, completion, mask in zip(
        batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"], strict=True
    ):
        trained.append((prompt[prompt_mask.bool()].tolist(), completion[mask.bool()].tolist()))
    assert sorted(trained) == sorted((r.prompt_ids, r.completion_ids) for r in rollouts)


LADDERS: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "ghpo": ({"hint_template": "{problem}{hint}"}, [[0, 1], [0, 0, 0, 2], [1], [0, 0, 0, 0]]),
    # .4 first; all four finish: .2. None does: of .6 and .8 the shorter one, then .8.
    "bread": ({"rescue_slice": "chars", "rescue_stages": [0.2, 0.4, 0.6, 0.8]}, [[0, 4, 1], [0, 0, 3], [1], [0, 0, 0, 0]]),
}  # fmt: skip


@pytest.mark.parametrize("method", LADDERS)
@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("forward", ["plain", "shared"])
def test_a_rescued_batch_equals_the_specification(
    method: str, iterations: int, forward: str, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """The specification makes the calls that the trainer made, on the same prompts, and computes the same loss."""
    rows, (changes, counts) = chain_rows(4), LADDERS[method]
    config = make_config(
        tmp_path,
        forward=forward,
        method=method,
        rescue_cold_start=0,
        num_iterations=iterations,
        per_device_train_batch_size=16,
        max_steps=iterations,
        learning_rate=5e-3,
        max_grad_norm=0.0,
        shuffle_dataset=False,
        **changes,
    )
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    twin = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32").train()
    by_problem = dict(zip(rows["prompt"], counts, strict=True))
    trainer = make_trainer(model, tokenizer, config, rows=rows, reward=Counted(by_problem))
    spy = Spy(trainer)
    trainer.train()
    recorded = iter(spy.sampled)
    attempts = dict.fromkeys(rows["prompt"], -1)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    def replay(groups: list[list[Any]], problems: list[Any]) -> None:
        for group, row in zip(groups, problems, strict=True):
            attempts[row["prompt"]] += 1
            for place, rollout in enumerate(group):
                front, output = next(recorded)
                assert front == rollout.prompt_ids + rollout.guidance_ids  # same call, same row, same prompt
                end = output.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in output else len(output)
                rollout.generated_ids = output[:end]
                rollout.reward = float(place < by_problem[row["prompt"]][attempts[row["prompt"]]])

    groups = [[minimal_loop.Rollout(encode(row["prompt"]), [], []) for _ in range(4)] for row in rows]
    replay(groups, list(rows))
    bread = method == "bread"
    minimal_loop.rescue(groups, list(rows), config.rescue_stages, encode, replay, search=bread, prefix=bread)
    assert next(recorded, None) is None  # and not one row more
    assert list(attempts.values()) == [len(counted) - 1 for counted in counts]
    if bread:
        shares = [len(group[0].guidance_ids) / len(row["guidance"]) for group, row in zip(groups, rows, strict=True)]
        assert shares == pytest.approx([0.2, 0.6, 0.0, 0.8], abs=0.07)
    for group in groups:
        for rollout, advantage in zip(group, minimal_loop.group_advantages([r.reward for r in group]), strict=True):
            rollout.advantage = advantage
    rollouts = [rollout for group in groups for rollout in group]
    for step in range(iterations):
        check_ids(spy.batches[step], rollouts)
        twin.load_state_dict(spy.weights[0], strict=False)
        with torch.no_grad():
            for rollout in rollouts:
                rollout.old_logps_T = minimal_loop.token_logps(twin, rollout)
        twin.load_state_dict(spy.weights[step], strict=False)
        twin.zero_grad()
        loss = minimal_loop.guided_loss(twin, rollouts, guidance_weight=0.0)
        loss.backward()
        assert loss.item() == pytest.approx(spy.losses[step].item(), rel=1e-6, abs=1e-6)
        norm = sum(float(g.square().sum()) for g in spy.gradients[step].values()) ** 0.5
        assert norm > 1e-3
        errors = [float((p.grad - spy.gradients[step][name]).norm()) / norm for name, p in twin.named_parameters()]
        print("loss error", abs(loss.item() - spy.losses[step].item()), "gradient error", max(errors))
        assert max(errors) <= 1e-6


def test_eq5_of_the_specification_by_hand() -> None:
    following = minimal_loop.next_length
    assert following(40.0, [0.2], 2, 1, 100) == 40.0  # no history yet
    assert following(40.0, [0.2, 0.4], 2, 1, 100) == pytest.approx(20.0)  # reward doubled: half the guidance
    assert following(40.0, [0.2, 0.4, 0.15], 2, 1, 100) == pytest.approx(80.0)  # mean .3 against .15
    assert following(40.0, [0.2, 0.0], 2, 1, 100) == 40.0  # nothing to compare


def test_specification_is_short() -> None:
    assert len(_PATH.read_text().splitlines()) < 300


@pytest.mark.parametrize("rescue", [False, True])
def test_the_specification_runs(rescue: bool, tokenizer: Any, policy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    options = Namespace(
        learning_rate=1e-4, seed=0, length=9.0, steps=2, problems=2, group_size=4, ratio=0.5, max_tokens=8,
        guidance_weight=1.0, window=2, longest=75.0, rescue=rescue,
    )  # fmt: skip
    minimal_loop.train(policy, tokenizer, options)
    assert len(re.findall(r"step +\d  length +9\.0  reward", capsys.readouterr().out)) == 2
