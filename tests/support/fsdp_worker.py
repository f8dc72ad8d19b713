"""What each rank of tests/train/test_fsdp.py runs, sharded where `accelerate launch` asked for FSDP: sharded_run.py."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from sharded_run import run


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def here(tensor: torch.Tensor) -> int:
    """Numbers of it on this rank."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()


class Gradients(TrainerCallback):
    """The whole gradient of every parameter before each optimizer step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, torch.Tensor]] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **more: Any) -> None:
        names = {name.replace("module.", ""): parameter for name, parameter in model.named_parameters()}
        self.steps[state.global_step + 1] = {name: whole(parameter.grad) for name, parameter in names.items()}


def main() -> None:
    torch.set_num_threads(1)
    gradients = Gradients()

    def kept(trainer: Any) -> tuple[Any, dict[str, Any]]:
        named = dict(trainer.model.named_parameters())
        held = {
            "type": str(trainer.accelerator.distributed_type.value),
            "parameters": {name: here(parameter) for name, parameter in named.items()},
            "all": {name: parameter.numel() for name, parameter in named.items()},
            "moments": sum(here(state["exp_avg"]) for state in trainer.optimizer.state.values()),
        }
        weights = {name: whole(parameter) for name, parameter in named.items()}
        return {"gradients": gradients.steps, "weights": weights}, held

    run(gradients, 0.1, kept)


if __name__ == "__main__":
    main()
