"""With guidance off and `forward: plain` this is TRL's GRPOTrainer, bit for bit: loss, gradients, weights (CPU, float32)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from guided_grpo.train.presets import DEFAULTS
from parts import chain_rows, digit_reward, make_config, make_trainer


class Recorder(TrainerCallback):
    """Losses and gradients of every optimizer step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "accumulation": {"gradient_accumulation_steps": 2, "steps_per_generation": 4},
    "iterations and reference": {"num_iterations": 2, "beta": 0.1, "loss_type": "bnpo"},
    "epochs": {"max_steps": -1, "num_train_epochs": 2},
    "zero shares of a guided method": {"method": "fixed", "guidance_ratio": 0.0},
    "zero length of a guided method": {"method": "fixed", "guidance_length": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equal_to_trl_to_the_bit(case: str, policy_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ours_config = make_config(tmp_path / "ours", forward="plain", **CASES[case])
    plain = {k: v for k, v in CASES[case].items() if k != "method" and k not in DEFAULTS}
    base = make_config(tmp_path / "theirs", **plain)
    fields = {
        k: v
        for k, v in vars(base).items()
        if k in GRPOConfig.__dataclass_fields__ and GRPOConfig.__dataclass_fields__[k].init
    }
    fields.pop("generation_batch_size")
    theirs_config = GRPOConfig(**fields)
    results = []
    for build in ("theirs", "ours"):
        recorder = Recorder()
        model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
        if build == "ours":
            trainer: GRPOTrainer = make_trainer(model, tokenizer, ours_config, callbacks=[recorder])
        else:
            trainer = GRPOTrainer(
                model=model,
                reward_funcs=digit_reward,
                args=theirs_config,
                train_dataset=chain_rows(),
                processing_class=copy.deepcopy(tokenizer),
                callbacks=[recorder],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.remove_callback(ProgressCallback)
        trainer.train()
        results.append((recorder, {k: v.clone() for k, v in trainer.model.state_dict().items()}))
    (theirs, their_weights), (ours, our_weights) = results
    assert len(ours.losses) == len(theirs.losses) >= 4
    assert any(loss != 0 for loss in theirs.losses)
    assert ours.losses == theirs.losses
    for step, (a, b) in enumerate(zip(ours.gradients, theirs.gradients, strict=True)):
        assert all(torch.equal(a[name], b[name]) for name in b), f"gradients differ at step {step}"
    assert all(torch.equal(our_weights[name], their_weights[name]) for name in their_weights)
