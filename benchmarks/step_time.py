"""Step time of this trainer with guidance off against TRL's GRPOTrainer, in pairs within one process.

    .venv/bin/python benchmarks/step_time.py --pairs 8 --steps 6

Each pair trains the same policy on the same problems with both, in alternating order; a pair's figure is the ratio of
the median step times, and the result is the median over pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from guided_grpo import GuidedGRPOConfig, GuidedGRPOTrainer
from guided_grpo.embedded import BaseRecipe, build_base
from guided_grpo.problems.sources import load_rows
from guided_grpo.verifiers import reward_functions


class Clock(TrainerCallback):
    """Seconds of every optimizer step, sampling included; the first is warm-up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def one_run(ours: bool, base: Path, rows: Dataset, steps: int, folder: str) -> float:
    """Median step time."""
    fields: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": 96,
        "num_generations": 12,
        "max_completion_length": 96,
        "max_steps": steps + 1,
        "learning_rate": 1e-6,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
    }
    kind, config = (GuidedGRPOTrainer, GuidedGRPOConfig) if ours else (GRPOTrainer, GRPOConfig)
    clock = Clock()
    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
        reward_funcs=reward_functions(["accuracy"]),
        args=config(**fields),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return statistics.median(clock.seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("runs/embedded-base"))
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    base = build_base(options.base, BaseRecipe(), bars=True)
    rows = load_rows("chains:steps=10-14,count=640,seed=1")
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(options.pairs):
            order = (True, False) if pair % 2 else (False, True)
            seconds = {ours: one_run(ours, base, rows, options.steps, folder) for ours in order}
            ratios.append(seconds[True] / seconds[False])
            print(
                f"pair {pair}: ours {seconds[True]:.3f} s, TRL {seconds[False]:.3f} s, ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(json.dumps({"pairs": len(ratios), "median_ratio": round(statistics.median(ratios), 4), "ratios": ratios}))


if __name__ == "__main__":
    main()
