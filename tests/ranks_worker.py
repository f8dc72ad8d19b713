"""What each rank of tests/test_ranks.py runs: five guided steps, greedy sampling: no random state matters."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import AutoModelForCausalLM

from conftest import chain_rows, make_config, make_trainer
from guided_grpo.embedded import character_tokenizer


def main() -> None:
    torch.set_num_threads(1)
    folder, policy, size, options = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
    tokenizer = character_tokenizer()
    config = make_config(
        folder,
        method="g2rpo-a",
        guidance_length=9,
        guidance_ratio=0.5,
        num_generations=12,
        per_device_train_batch_size=12 // size,
        generation_kwargs={"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
        rollouts_every=1,
        **options,
    )
    trainer = make_trainer(
        AutoModelForCausalLM.from_pretrained(policy, dtype="float32"), tokenizer, config, rows=chain_rows(20)
    )
    trainer.train()
    states = gather_object([trainer.guidance_state.to_json()])
    if trainer.accelerator.is_main_process:
        (folder / "states.json").write_text(json.dumps(states))
    leave(trainer)


def leave(trainer: Any) -> None:
    """Leave the process group before the interpreter ends: gloo's threads would abort the exit."""
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
