"""A run of four guided steps, greedy, with every gradient kept: what the workers of FSDP and DeepSpeed have in common.

WORKER FOLDER POLICY JSON: where to write, the policy, and fields of the config, with the rows of a `batch` of all ranks
and, where it goes on, a `checkpoint`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import AutoModelForCausalLM

from guided_grpo.embedded.pretraining import character_tokenizer
from parts import chain_rows, make_config, make_trainer
from ranks_worker import EveryOther, leave


def letters_reward(completions: list[str], **columns: Any) -> list[float]:
    """A number of the text, so that responses that differ are rewarded differently."""
    return [sum(map(ord, text)) % 11 / 10 for text in completions]


def run(
    callback: Any,
    learning_rate: float,
    kept: Callable[[Any], tuple[Any, dict[str, Any]]],
    *,
    settle: Callable[[Any], None] = lambda config: None,
    **changes: Any,
) -> None:
    """Train and write run.pt and run.json (resumed.* where it went on from a checkpoint).

    Args:
        callback: keeps gradients; its `trainer` is set.
        learning_rate: of Adam.
        kept: of the trainer afterwards, what run.pt gets, and what run.json gets of this rank.
        settle: called with the config before the trainer is made.
        changes: fields of the config.
    """
    folder, policy, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    batch, checkpoint = options.pop("batch"), options.pop("checkpoint", None)
    usual = {
        # One that does not blow up the rounding errors of gradients near 0: ε = 1.
        "optim": "adamw_torch", "adam_epsilon": 1.0, "learning_rate": learning_rate, "max_grad_norm": 0.0,
        "generation_kwargs": {"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
        "rollouts_every": 1, "max_steps": 4,
    }  # fmt: skip
    size = int(os.environ["WORLD_SIZE"])
    config = make_config(folder, per_device_train_batch_size=batch // size, **{**usual, **options, **changes})
    settle(config)
    rows = chain_rows(20, 5, 8)
    trainer = make_trainer(
        AutoModelForCausalLM.from_pretrained(policy, dtype="float32"),
        character_tokenizer(),
        config,
        rows=rows,
        reward=EveryOther(rows["prompt"]) if config.rescues else letters_reward,
        callbacks=[callback],
    )
    callback.trainer = trainer
    trainer.train(resume_from_checkpoint=checkpoint)
    tensors, held = kept(trainer)
    held |= {"shared": trainer._forward.shared, "length": trainer.run_state.controller.to_json().get("length")}
    by_rank = gather_object([held])
    if trainer.accelerator.is_main_process:
        name = "resumed" if checkpoint else "run"
        torch.save(tensors, folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(by_rank))
    leave(trainer)
