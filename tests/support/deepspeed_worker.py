"""What each rank of tests/train/test_deepspeed.py runs, with DeepSpeed where `accelerate launch` asked for it.

The run itself is sharded_run.py's.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from sharded_run import run

ENGINE = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


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

    def held(self, trainer: Any) -> dict[str, Any]:
        """Numbers that this rank keeps between steps: of parameters, and of one of Adam's moments."""
        optimizer = trainer.deepspeed.optimizer.optimizer if ENGINE else trainer.optimizer.optimizer
        return {
            "parameters": sum(_held(parameter) for parameter in trainer.model.parameters()),
            "all": sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trainer.model.parameters()),
            "moments": sum(state["exp_avg"].numel() for state in optimizer.state.values()),
            "stage": trainer.deepspeed.zero_optimization_stage() if ENGINE else None,
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
    gradients, changes = Gradients(), {}
    if ENGINE:  # Trainer names no backend, and DeepSpeed would look for a GPU's: the group is there before it
        PartialState(backend="gloo")
        changes = {"use_cpu": False, "accelerator_config": {"use_configured_state": True}}

    def settle(config: Any) -> None:
        if ENGINE:  # by default ZeRO-3 keeps parameters of fewer than 10⁵ numbers whole, and here are no others
            config.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    run(gradients, 0.005, lambda trainer: (gradients.steps, gradients.held(trainer)), settle=settle, **changes)


if __name__ == "__main__":
    main()
