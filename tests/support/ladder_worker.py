"""A short GHPO run that can kill itself in the middle of the ladder, for tests/test_resume.py.

ladder_worker.py FOLDER POLICY STEP:ATTEMPT|none
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from guided_grpo.embedded.pretraining import character_tokenizer
from guided_grpo.store import rundir
from parts import ScriptedAccuracy, chain_rows, digit_reward, make_config, make_trainer


class Killing(ScriptedAccuracy):
    """Half of the problems need the second attempt, the others the third; dies while it grades the given one."""

    def __init__(self, prompts: list[str], moment: tuple[int, int] | None) -> None:
        super().__init__({prompt: 2 + place % 2 for place, prompt in enumerate(prompts)})
        self.moment = moment

    def __call__(self, prompts: list[str], completions: list[str], trainer_state: Any, **columns: Any) -> Any:
        reached = super().__call__(prompts, trainer_state)
        if (self.step, self.attempt) == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return [hit * (0.5 + share) for hit, share in zip(reached, digit_reward(completions), strict=True)]


def main() -> None:
    torch.set_num_threads(2)
    folder, policy, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    config = make_config(
        folder,
        method="ghpo",
        hint_template="{problem}{hint}",
        rescue_cold_start=0,
        max_steps=8,
        save_strategy="steps",
        save_steps=2,
        rollouts_every=1,
    )
    rows = chain_rows(4)
    when = None if moment == "none" else (int(moment.split(":")[0]), int(moment.split(":")[1]))
    last = rundir.last_checkpoint(folder) if folder.exists() else None
    if last is not None:
        rundir.drop_partial_checkpoints(folder)
        for name in rundir.APPENDED:
            rundir.cut_back(folder / name, int(last.name.split("-")[1]))
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    trainer = make_trainer(model, character_tokenizer(), config, rows=rows, reward=Killing(rows["prompt"], when))
    trainer.train(resume_from_checkpoint=None if last is None else str(last))


if __name__ == "__main__":
    main()
