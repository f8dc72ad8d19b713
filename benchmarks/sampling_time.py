"""Tokens a second of the ways to sample on a CPU, in turns within one process.

    .venv/bin/python benchmarks/sampling_time.py --rounds 5
    .venv/bin/python benchmarks/sampling_time.py --rounds 5 --guidance 55

One batch of the quickstart's kind: hard chains, G = 12, the embedded policy at temperature 1. Each round asks every way
for the same rollouts' prompts, in rotating order; figures are medians over rounds, with ranges.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.recipes import EMBEDDED, SHIPPED
from guided_grpo.train.generation import room_for
from guided_grpo.train.sampling import sample_rollouts, warpers

GROUP = 12
MOST = 96


def batching(model: Any, prompts: list[list[int]], greedy: GenerationConfig, **fields: Any) -> list[list[int]]:
    outputs = model.generate_batch(
        prompts, generation_config=greedy, continuous_batching_config=ContinuousBatchingConfig(**fields)
    )
    return [output.generated_tokens for output in outputs.values()]


def padded(model: Any, prompts: list[list[int]], config: GenerationConfig, end: int, pad: int) -> list[list[int]]:
    """`generate` on prompts that are padded on the left, as TRL calls it."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, longest:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--guidance", type=int, default=0, help="tokens of the trace behind every prompt")
    parser.add_argument("--memory-percent", type=float, default=0.0, help="measure TRL's own sizes too; 0 = leave out")
    parser.add_argument("--batches", type=int, nargs="*", default=[], help="further max_requests_per_batch")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(SHIPPED / EMBEDDED, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / EMBEDDED)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = load_rows(f"chains:steps=10-14,count={options.problems},seed=1")
    prompts = [
        tokenizer(row["prompt"])["input_ids"] + tokenizer(row["guidance"])["input_ids"][: options.guidance]
        for row in rows
        for _ in range(GROUP)
    ]
    config = GenerationConfig(
        max_new_tokens=MOST, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=pad, eos_token_id=end,
        disable_compile=True,
    )  # fmt: skip
    room = room_for(prompts, MOST, {})
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "sample_rollouts": lambda: sample_rollouts(model, prompts, warpers(), [end], MOST),
        "generate": lambda: padded(model, prompts, config, end, pad),
        "continuous batching": lambda: batching(model, prompts, config, **room, max_memory_percent=0.5),
    }
    for size in options.batches:
        ways[f"continuous batching, {size} at once"] = lambda size=size: batching(
            model, prompts, config, **room, max_memory_percent=0.5, max_requests_per_batch=size
        )
    if options.memory_percent:
        share = options.memory_percent
        ways[f"continuous batching, own sizes at {share:g}"] = lambda: batching(
            model, prompts, config, max_memory_percent=share
        )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):  # the first is warm-up
        names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in names:
            torch.manual_seed(turn)
            started = time.perf_counter()
            with torch.no_grad():
                rollouts = ways[name]()
            took = time.perf_counter() - started
            assert len(rollouts) == len(prompts)
            if turn:
                seconds[name].append(took)
                rates[name].append(sum(map(len, rollouts)) / took)
            print(f"{turn} {name}: {took:.2f} s, {sum(map(len, rollouts)) / took:.0f} tokens/s", file=sys.stderr)
    for name in ways:
        shown = {
            "tokens a second": [round(f(rates[name])) for f in (statistics.median, min, max)],
            "seconds": [round(f(seconds[name]), 3) for f in (statistics.median, min, max)],
        }
        print(json.dumps({"way": name, "rollouts": len(prompts), "guidance": options.guidance, **shown}), flush=True)


if __name__ == "__main__":
    main()
