"""What each rank of tests/train/test_fsdp.py runs: guided steps, greedy, with the whole gradient of every step kept.

fsdp_worker.py FOLDER POLICY JSON, sharded where `accelerate launch` asked for FSDP.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, TrainerCallback

from guided_grpo.embedded.pretraining import character_tokenizer
from parts import chain_rows, make_config, make_trainer
from ranks_worker import EveryOther, leave


def letters_reward(completions: list[str], **columns: Any) -> list[float]:
    """A number of the text, so that responses that differ are rewarded differently."""
    return [sum(map(ord, text)) % 11 / 10 for text in completions]


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
    folder, policy, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    size = int(os.environ["WORLD_SIZE"])
    batch, checkpoint = options.pop("batch"), options.pop("checkpoint", None)
    usual = {
        # An optimizer that does not blow up the rounding errors of gradients near 0: ε = 1.
        "optim": "adamw_torch", "adam_epsilon": 1.0, "learning_rate": 0.1, "max_grad_norm": 0.0,
        "generation_kwargs": {"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
        "rollouts_every": 1, "max_steps": 4,
    }  # fmt: skip
    config = make_config(folder, per_device_train_batch_size=batch // size, **{**usual, **options})
    rows, gradients = chain_rows(20, 5, 8), Gradients()
    trainer = make_trainer(
        AutoModelForCausalLM.from_pretrained(policy, dtype="float32"),
        character_tokenizer(),
        config,
        rows=rows,
        reward=EveryOther(rows["prompt"]) if config.rescues else letters_reward,
        callbacks=[gradients],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    moments = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    held = {
        "type": str(trainer.accelerator.distributed_type.value),
        "parameters": {name: here(parameter) for name, parameter in trainer.model.named_parameters()},
        "all": {name: parameter.numel() for name, parameter in trainer.model.named_parameters()},
        "moments": sum(map(here, moments)),
        "shared": trainer._forward.shared,
        "length": trainer.run_state.controller.to_json().get("length"),
    }
    held_by_rank = gather_object([held])
    weights = {name: whole(parameter) for name, parameter in trainer.model.named_parameters()}
    if trainer.accelerator.is_main_process:
        name = "resumed" if checkpoint else "run"
        torch.save({"gradients": gradients.steps, "weights": weights}, folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(held_by_rank))
    leave(trainer)


if __name__ == "__main__":
    main()
