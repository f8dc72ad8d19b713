"""Real small parts: a two-layer Qwen3 over single characters, chain problems, configs and trainers of a few steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback

from guided_grpo.data.domains.chains import chains
from guided_grpo.embedded.recipes import BaseRecipe, Phase
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.trainer import GuidedGRPOTrainer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TINY = BaseRecipe(hidden_size=32, layers=2, heads=2, intermediate_size=64, phases=(Phase(1, 3, 4, 0.0),))


def chain_rows(count: int = 16, low: int = 3, high: int = 5, seed: int = 7) -> Dataset:
    return Dataset.from_list(
        [{**row, "guidance_limit": len(row["guidance"])} for row in chains(count, low, high, seed)]
    )


def digit_reward(completions: list[str], **kwargs: Any) -> list[float]:
    """Share of digits: an untrained policy gets rewards that differ within a group."""
    return [sum(character.isdigit() for character in text) / max(1, len(text)) for text in completions]


def make_config(folder: Path, **changes: Any) -> GuidedGRPOConfig:
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 5,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "seed": 3,
    }
    return GuidedGRPOConfig(**{**values, **changes})


def make_trainer(
    model: Any,
    tokenizer: Any,
    config: GuidedGRPOConfig,
    rows: Dataset | None = None,
    reward: Any = digit_reward,
    **more: Any,
) -> GuidedGRPOTrainer:
    trainer = GuidedGRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=chain_rows() if rows is None else rows,
        processing_class=tokenizer,
        **more,
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


class ScriptedAccuracy:
    """An accuracy reward that succeeds at a scripted attempt by problem (0 = first sampling), on the first rollout of it.

    Attempts are counted by call within an optimizer step, so that every rank, and a resumed run, counts alike.
    """

    __name__ = "accuracy"

    def __init__(self, needed: dict[str, int]) -> None:
        self.needed, self.step, self.attempt = needed, -1, -1

    def __call__(self, prompts: list[str], trainer_state: Any, **columns: Any) -> list[float | None]:
        self.attempt = 0 if trainer_state.global_step != self.step else self.attempt + 1
        self.step = trainer_state.global_step
        seen: set[str] = set()
        return [self.reward(prompt, seen) for prompt in prompts]

    def reward(self, prompt: str, seen: set[str]) -> float | None:
        first, needed = prompt not in seen, self.needed.get(prompt, 0)
        seen.add(prompt)
        return float(first and self.attempt >= needed)


class Counted(ScriptedAccuracy):
    """So many of a problem's rollouts succeed, its first ones, by attempt of that problem; the last figure goes on."""

    def __init__(self, counts: dict[str, list[int]]) -> None:
        super().__init__({})
        self.counts, self.calls = counts, dict.fromkeys(counts, -1)

    def __call__(self, prompts: list[str], trainer_state: Any, **columns: Any) -> list[float]:
        self.calls = {prompt: call + (prompt in prompts) for prompt, call in self.calls.items()}
        places = dict.fromkeys(self.counts, -1)
        rewards = []
        for prompt in prompts:
            places[prompt] += 1
            rewards.append(float(places[prompt] < self.counts[prompt][self.calls[prompt]]))
        return rewards


def small_run(policy: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(policy),
        "train_data": "chains:steps=3-5,count=24,seed=1",
        "eval_data": "chains:steps=3-5,count=6,seed=2",
        "guidance_length": 8,
        "guidance_ratio": 0.5,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 12,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "rollouts_every": 1,
        "eval_samples": 2,
        "quiet": True,
    }
