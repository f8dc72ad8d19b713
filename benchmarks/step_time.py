"""Step time of this trainer where nothing is to be guided against TRL's GRPOTrainer, in pairs within one process.

    .venv/bin/python benchmarks/step_time.py --pairs 9 --steps 6                    guidance off
    .venv/bin/python benchmarks/step_time.py --pairs 9 --steps 6 --method ghpo      the ladder open, no group difficult

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
from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.recipes import EMBEDDED, SHIPPED
from guided_grpo.grading import reward_functions


class Clock(TrainerCallback):
    """Seconds of every optimizer step, sampling included; the first is warm-up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def accuracy(**columns: Any) -> list[float]:
    """The real grader, lifted so that every rollout has a positive reward: no group is difficult."""
    return [0.5 + 0.5 * (reward or 0.0) for reward in reward_functions(["accuracy"])[0](**columns)]


def one_run(ours: str | None, base: Path, rows: Dataset, steps: int, folder: str) -> float:
    """Median step time; `ours` is the method, None is TRL."""
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
    if ours:
        kind, config = GuidedGRPOTrainer, GuidedGRPOConfig
        fields |= {"method": ours, "rescue_cold_start": 0, "hint_template": "{problem}{hint}"}
    else:
        kind, config = GRPOTrainer, GRPOConfig
    clock = Clock()
    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
        reward_funcs=[accuracy],
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
    parser.add_argument("--base", type=Path, default=SHIPPED / EMBEDDED)
    parser.add_argument("--method", choices=("grpo", "ghpo", "ghpo-continuous"), default="grpo")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    rows = load_rows("chains:steps=10-14,count=640,seed=1")
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(options.pairs):
            order = (options.method, None) if pair % 2 else (None, options.method)
            seconds = {ours: one_run(ours, options.base, rows, options.steps, folder) for ours in order}
            mine, theirs = seconds[options.method], seconds[None]
            ratios.append(mine / theirs)
            print(f"pair {pair}: ours {mine:.3f} s, TRL {theirs:.3f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(
        json.dumps(
            {
                "method": options.method,
                "pairs": len(ratios),
                "median_ratio": round(statistics.median(ratios), 4),
                "ratios": ratios,
            }
        )
    )


if __name__ == "__main__":
    main()
