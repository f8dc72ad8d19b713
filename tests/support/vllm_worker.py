"""A short run with vLLM or with Transformers sampling greedily, for tests/test_vllm.py.

vllm_worker.py FOLDER POLICY vllm|transformers JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from guided_grpo.embedded.pretraining import character_tokenizer
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
    if engine == "vllm":
        sampler = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 128,
                   "vllm_gpu_memory_utilization": 0.1}  # fmt: skip
        if not torch.cuda.is_available():
            _plain_weights()
    # Plain gradient steps: Adam would blow up the rounding errors of gradients that cancel.
    usual = {"temperature": 1.0, "optim": "sgd", "rollouts_every": 1}
    config = make_config(folder, **{**usual, **sampler, **options})
    rows = chain_rows(12)
    reward = Difficult(rows["prompt"]) if config.rescues else digit_reward
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    make_trainer(model, character_tokenizer(), config, rows=rows, reward=reward).train()


def _plain_weights() -> None:
    """vLLM packs weights for the CPU, after which they cannot be updated: keep them as they are."""
    from vllm.model_executor.layers import utils

    def unpacked(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = unpacked


if __name__ == "__main__":
    main()
