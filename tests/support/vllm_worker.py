"""A short run with vLLM or with Transformers sampling greedily, for tests/test_vllm.py.

vllm_worker.py FOLDER POLICY vllm|transformers JSON
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from guided_grpo.embedded.pretraining import character_tokenizer
from guided_grpo.store.jsonl import append_rows
from parts import ScriptedAccuracy, chain_rows, digit_reward, make_config, make_trainer


class Difficult(ScriptedAccuracy):
    """Problems succeed at attempts 0, 1, 2, never, 0, …: the ladder asks for another part of the batch each time."""

    def __init__(self, prompts: list[str]) -> None:
        super().__init__({prompt: (0, 1, 2, 9)[place % 4] for place, prompt in enumerate(prompts)})

    def __call__(self, prompts: list[str], completions: list[str], trainer_state: Any, **columns: Any) -> Any:
        hits = super().__call__(prompts, trainer_state)
        return [hit * (0.5 + share) for hit, share in zip(hits, digit_reward(completions), strict=True)]


def main() -> None:
    torch.set_num_threads(1)
    folder, policy, engine, options = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    sampler: dict[str, Any] = {}
    problems, steps = options.pop("problems", 12), options.pop("steps", (3, 5))
    _engine_options(**options.pop("engine", {}))
    if engine == "vllm":
        sampler = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 128,
                   "vllm_gpu_memory_utilization": 0.1}  # fmt: skip
        if not torch.cuda.is_available():
            import unpacked  # noqa: F401 - weights that are packed cannot be updated
    # Plain gradient steps: Adam would blow up the rounding errors of gradients that cancel.
    usual = {"temperature": 1.0, "optim": "sgd", "rollouts_every": 1}
    config = make_config(folder, **{**usual, **sampler, **options})
    rows = chain_rows(problems, *steps)
    reward = Difficult(rows["prompt"]) if config.rescues else digit_reward
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    trainer = make_trainer(model, character_tokenizer(), config, rows=rows, reward=reward)
    if engine == "vllm":
        _record_cached(trainer.vllm_generation.llm, folder / "engine.jsonl")
    trainer.train()


def _engine_options(**options: Any) -> None:
    """Options of vLLM's engine that TRL has no field for."""
    if options:
        from trl.generation import vllm_generation

        vllm_generation.LLM = partial(vllm_generation.LLM, **options)


def _record_cached(llm: Any, path: Path) -> None:
    """A line for each call of the engine: its block size, the ids of each request, tokens taken from the cache."""
    generate = llm.generate

    def recorded(*args: Any, **kwargs: Any) -> Any:
        outputs = generate(*args, **kwargs)
        block = llm.llm_engine.vllm_config.cache_config.block_size
        requests = [{"ids": list(one.prompt_token_ids), "cached": one.num_cached_tokens} for one in outputs]
        append_rows(path, [{"block": block, "requests": requests}])
        return outputs

    llm.generate = recorded


if __name__ == "__main__":
    main()
