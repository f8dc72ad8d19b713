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

from guided_grpo.embedded.pretraining import character_tokenizer
from parts import ScriptedAccuracy, chain_rows, digit_reward, make_config, make_trainer


def main() -> None:
    torch.set_num_threads(1)
    folder, policy, size, options = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
    tokenizer, batch = character_tokenizer(), options.pop("batch", 12)
    config = make_config(
        folder,
        per_device_train_batch_size=batch // size,
        generation_kwargs={"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
        rollouts_every=1,
        **{
            "method": "g2rpo-a", "guidance_length": 9, "guidance_ratio": 0.5, "num_generations": 12, **options,
        },
    )  # fmt: skip
    rows = chain_rows(20)
    ladder = config.rescues or config.failure_buffer
    trainer = make_trainer(
        AutoModelForCausalLM.from_pretrained(policy, dtype="float32"),
        tokenizer,
        config,
        rows=rows,
        reward=EveryOther(rows["prompt"]) if ladder else digit_reward,
    )
    trainer.train()
    order = trainer.run_state.order and trainer.run_state.order.state_dict()
    run = trainer.run_state
    costs = {"flops": run.flops, "trace_tokens": run.trace_tokens, "failures": run.failures}
    states = gather_object([{**run.controller.to_json(), "history": run.history.state_dict(), "order": order, **costs}])
    if trainer.accelerator.is_main_process:
        (folder / "states.json").write_text(json.dumps(states))
    leave(trainer)


class EveryOther(ScriptedAccuracy):
    """Every other problem succeeds at once; the rest at attempts 1, 2, 3, never, 1, … : one rank has them all."""

    def __init__(self, prompts: list[str]) -> None:
        super().__init__({prompt: (1, 2, 3, 9)[place // 2 % 4] for place, prompt in enumerate(prompts) if place % 2})

    def __call__(self, prompts: list[str], completions: list[str], trainer_state: Any, **columns: Any) -> Any:
        # By rollout, whichever rank it is on: greedy samples of a group differ by their hint alone.
        super().__call__(prompts, trainer_state)
        reached = [self.attempt >= self.needed.get(prompt, 0) for prompt in prompts]
        return [hit * (0.5 + share) for hit, share in zip(reached, digit_reward(completions), strict=True)]


def leave(trainer: Any) -> None:
    """Leave the process group before the interpreter ends: gloo's threads would abort the exit."""
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
