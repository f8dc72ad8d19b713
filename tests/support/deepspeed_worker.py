"""What each rank of tests/train/test_deepspeed.py runs: guided steps, greedy, with every gradient kept.

deepspeed_worker.py FOLDER POLICY JSON, with DeepSpeed where `accelerate launch` asked for it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import AutoModelForCausalLM, TrainerCallback

from guided_grpo.embedded.pretraining import character_tokenizer
from parts import chain_rows, make_config, make_trainer
from ranks_worker import EveryOther, leave

ENGINE = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def letters_reward(completions: list[str], **columns: Any) -> list[float]:
    """A number of the text, so that responses that differ are rewarded differently."""
    return [sum(map(ord, text)) % 11 / 10 for text in completions]


class Gradients(TrainerCallback):
    """The whole gradient of every parameter before each optimizer step, and what this rank holds at the end."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.steps: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if ENGINE:  # it steps as soon as it has all micro-batches: Trainer's own hooks come too late
            engine = self.trainer.deepspeed
            step = engine.step
            engine.step = lambda *a, **k: (self.keep(), step(*a, **k))[1]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not ENGINE:
            self.keep()

    def keep(self) -> None:
        found = {name: _gradient(parameter).clone() for name, parameter in self.trainer.model.named_parameters()}
        self.steps[self.trainer.state.global_step + 1] = found

    def held(self) -> dict[str, Any]:
        """Numbers that this rank keeps between steps: of parameters, and of one of Adam's moments."""
        trainer = self.trainer
        optimizer = trainer.deepspeed.optimizer.optimizer if ENGINE else trainer.optimizer.optimizer
        return {
            "parameters": sum(_held(parameter) for parameter in trainer.model.parameters()),
            "all": sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trainer.model.parameters()),
            "moments": sum(state["exp_avg"].numel() for state in optimizer.state.values()),
            "stage": trainer.deepspeed.zero_optimization_stage() if ENGINE else None,
            "shared": trainer._forward.shared,
            "length": trainer.run_state.controller.to_json().get("length"),
        }


def _gradient(parameter: Any) -> torch.Tensor:
    if ENGINE:
        from deepspeed.utils import safe_get_full_grad

        return safe_get_full_grad(parameter)
    return parameter.grad


def _held(parameter: Any) -> int:
    """In memory: the shard, and the parameter itself where it was not given back."""
    return parameter.numel() + (parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else 0)


def main() -> None:
    torch.set_num_threads(1)
    folder, policy, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    if ENGINE:  # Trainer names no backend, and DeepSpeed would look for a GPU's: the group is there before it
        PartialState(backend="gloo")
        options = {**options, "use_cpu": False, "accelerator_config": {"use_configured_state": True}}
    size = int(os.environ["WORLD_SIZE"])
    batch, checkpoint = options.pop("batch"), options.pop("checkpoint", None)
    usual = {
        # One that does not blow up the rounding errors of gradients near 0: ε = 1.
        "optim": "adamw_torch", "adam_epsilon": 1.0, "learning_rate": 0.005, "max_grad_norm": 0.0,
        "generation_kwargs": {"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
        "rollouts_every": 1, "max_steps": 4,
    }  # fmt: skip
    config = make_config(folder, per_device_train_batch_size=batch // size, **{**usual, **options})
    if ENGINE:  # by default ZeRO-3 keeps parameters of fewer than 10⁵ numbers whole, and here are no others
        config.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    rows, gradients = chain_rows(20, 5, 8), Gradients()
    trainer = make_trainer(
        AutoModelForCausalLM.from_pretrained(policy, dtype="float32"),
        character_tokenizer(),
        config,
        rows=rows,
        reward=EveryOther(rows["prompt"]) if config.rescues else letters_reward,
        callbacks=[gradients],
    )
    gradients.trainer = trainer
    trainer.train(resume_from_checkpoint=checkpoint)
    held = gather_object([gradients.held()])
    if trainer.accelerator.is_main_process:
        name = "resumed" if checkpoint else "run"
        torch.save(gradients.steps, folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(held))
    leave(trainer)


if __name__ == "__main__":
    main()
