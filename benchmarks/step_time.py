"""Step time and peak memory against TRL's GRPOTrainer, in pairs within one process; the update (a step without its
sampling and grading) apart.

    .venv/bin/python benchmarks/step_time.py plain auto long-guidance long-answers      the shared forward
    .venv/bin/python benchmarks/step_time.py overhead ghpo                              the plain forward's own cost
    .venv/bin/python benchmarks/step_time.py plain auto --profile                       where the time of a step goes
    .venv/bin/python benchmarks/step_time.py long-guidance --memory                     peaks, each in a process

Each pair trains the same policy on the same problems with both, in alternating order; a pair's figure is the ratio of
the median times, and the result is the median over pairs, with the range. TRL has no guidance: where the method guides,
the other side is our trainer with TRL's own forward and sampling (`forward: plain`) on the same plan.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen3Config,
    Qwen3ForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from guided_grpo import GuidedGRPOConfig, GuidedGRPOTrainer
from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.recipes import EMBEDDED, SHIPPED
from guided_grpo.grading import reward_functions

WORDS = 1024  # a policy that draws among so many rarely ends before its limit
PARTS = ("tokens/forward", "tokens/generated", "time/generate", "time/reward", "time/update", "signal/zero_groups")


class Clock(TrainerCallback):
    """Seconds of every optimizer step, and of its update; the first is warm-up."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.updates: list[float] = []
        self.logs: list[dict[str, float]] = []
        self.preparing = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.preparing, self.started = 0.0, time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self.started)
        self.updates.append(self.steps[-1] - self.preparing)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))

    def watch(self, trainer: Any) -> None:
        """Count what `_prepare_inputs` takes: sampling, grading, arranging."""
        prepare = trainer._prepare_inputs

        def timed(batch: Any) -> Any:
            started = time.perf_counter()
            inputs = prepare(batch)
            self.preparing += time.perf_counter() - started
            return inputs

        trainer._prepare_inputs = timed


@dataclass(frozen=True)
class Scenario:
    """A policy, its problems, and how it is trained."""

    meaning: str
    method: str
    parts: Callable[[], tuple[Any, Any, Dataset]]
    reward: Callable[..., list[float]]
    fields: dict[str, Any] = field(default_factory=dict)
    guides: bool = False  # the other side is our trainer with the plain forward
    forward: str = "shared"


def accuracy(**columns: Any) -> list[float]:
    """The real grader."""
    return [reward or 0.0 for reward in reward_functions(["accuracy"])[0](**columns)]


def lifted(**columns: Any) -> list[float]:
    """The real grader, lifted so that every rollout has a positive reward: no group is difficult."""
    return [0.5 + 0.5 * reward for reward in accuracy(**columns)]


def parity(completions: list[str], **columns: Any) -> list[float]:
    """A reward that differs within every group."""
    return [float(sum(map(ord, text)) % 2) for text in completions]


def chains() -> tuple[Any, Any, Dataset]:
    base = SHIPPED / EMBEDDED
    rows = load_rows("chains:steps=10-14,count=640,seed=1")
    return AutoModelForCausalLM.from_pretrained(base, dtype="float32"), AutoTokenizer.from_pretrained(base), rows


def words(prompt: int, guidance: int, width: int) -> tuple[Any, Any, Dataset]:
    """A random policy of four layers over words, and problems of such lengths."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, WORDS)}}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=WORDS, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, head_dim=width // 4, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    draw = random.Random(0)

    def text(mean: int) -> str:
        return " ".join(f"w{draw.randrange(2, WORDS)}" for _ in range(round(mean * draw.uniform(0.8, 1.2))))

    rows = [{"prompt": text(prompt), "guidance": text(guidance) if guidance else None} for _ in range(64)]
    return Qwen3ForCausalLM(config).float(), tokenizer, Dataset.from_list(rows)


CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
GUIDED = {"guidance_length": 400, "guidance_unit": "tokens", "guidance_ratio": 1.0}
LONG_GUIDANCE = {"per_device_train_batch_size": 24, "max_completion_length": 100, **GUIDED, **CHECKPOINTED}
LONG_ANSWERS = {"per_device_train_batch_size": 24, "max_completion_length": 300}
SCENARIOS = {
    "plain": Scenario("plain GRPO, hard chains", "grpo", chains, accuracy),
    "auto": Scenario("auto, hard chains, on both sides", "auto-guide", chains, accuracy, guides=True),
    "long-guidance": Scenario(
        "prompt 100 + guidance 400 + generated 100, 256 wide, checkpointing",
        "fixed", lambda: words(100, 400, 256), parity, LONG_GUIDANCE, guides=True,
    ),
    "long-answers": Scenario(
        "plain, prompt 200, generated 300, all groups with a signal",
        "grpo", lambda: words(200, 0, 128), parity, LONG_ANSWERS,
    ),
    "overhead": Scenario("guidance off, plain forward", "grpo", chains, lifted, forward="plain"),
    "ghpo": Scenario("the ladder open, no group difficult, plain forward", "ghpo", chains, lifted, forward="plain"),
}  # fmt: skip


def one_run(scenario: Scenario, ours: bool, steps: int, folder: str) -> Clock:
    """Train a few steps with our trainer or the other side."""
    model, tokenizer, rows = scenario.parts()
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
        **scenario.fields,
    }
    if ours or scenario.guides:
        kind, config = GuidedGRPOTrainer, GuidedGRPOConfig
        fields |= {"method": scenario.method, "rescue_cold_start": 0, "hint_template": "{problem}{hint}"}
        fields["forward"] = scenario.forward if ours else "plain"
    else:
        kind, config = GRPOTrainer, GRPOConfig
    clock = Clock()
    trainer = kind(
        model=model,
        reward_funcs=[scenario.reward],
        args=config(**fields),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    clock.watch(trainer)
    trainer.train()
    return clock


def ratios(pairs: list[tuple[float, float]]) -> str:
    values = sorted(mine / theirs for mine, theirs in pairs)
    return f"{statistics.median(values):.3f} ({values[0]:.3f}–{values[-1]:.3f})"


def compare(name: str, pairs: int, steps: int, folder: str) -> None:
    scenario, wholes, updates = SCENARIOS[name], [], []
    for pair in range(pairs):
        clocks = {
            ours: one_run(scenario, ours, steps, folder) for ours in ((True, False) if pair % 2 else (False, True))
        }
        for figures, attribute in ((wholes, "steps"), (updates, "updates")):
            mine, theirs = (statistics.median(getattr(clocks[ours], attribute)[1:]) for ours in (True, False))
            figures.append((mine, theirs))
        print(f"{name} pair {pair}: step {wholes[-1]}, update {updates[-1]}", file=sys.stderr, flush=True)
    result = {"scenario": name, "meaning": scenario.meaning, "pairs": pairs}
    print(json.dumps({**result, "update": ratios(updates), "step": ratios(wholes)}, ensure_ascii=False), flush=True)


def profile(name: str, steps: int, folder: str) -> None:
    """Where the time of a step goes, by the trainer's own metrics; each step's logs, medians."""
    for ours in (True, False):
        clock = one_run(SCENARIOS[name], ours, steps, folder)
        logs = [row for row in clock.logs if "loss" in row][1:]
        parts = {part: statistics.median(row[part] for row in logs) for part in PARTS if part in logs[0]}
        whole = statistics.median(clock.steps[1:])
        shown = {part: round(value, 4) for part, value in parts.items()}
        print(json.dumps({"scenario": name, "ours": ours, "step": round(whole, 4), **shown}), flush=True)


def peak(name: str, ours: bool, folder: str) -> int:
    """KiB by which training grows the process at its highest, over what it has once everything is loaded."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(key)).split()[1])

    before: list[int] = []

    class Begin(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not before:
                before.append(status("VmRSS"))
                Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here

    scenario = SCENARIOS[name]
    original = Clock.on_step_begin
    Clock.on_step_begin = lambda self, *a, **k: (original(self, *a, **k), Begin().on_step_begin(*a, **k))[0]  # type: ignore[method-assign]
    one_run(scenario, ours, 1, folder)
    return status("VmHWM") - before[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="+", choices=SCENARIOS)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.scenarios:
            if options.peak_of:
                print(peak(name, options.peak_of == "ours", folder))
            elif options.memory:
                words_of = [sys.executable, __file__, name, "--peak-of"]
                mine, theirs = (
                    int(
                        subprocess.run([*words_of, side], check=True, capture_output=True, text=True).stdout.split()[-1]
                    )
                    for side in ("ours", "theirs")
                )
                print(
                    json.dumps(
                        {"scenario": name, "peak MiB": [mine >> 10, theirs >> 10], "ratio": round(mine / theirs, 3)}
                    )
                )
            elif options.profile:
                profile(name, options.steps, folder)
            else:
                compare(name, options.pairs, options.steps, folder)


if __name__ == "__main__":
    main()
