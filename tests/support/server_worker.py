"""A short run whose rollouts a vLLM server samples, or Transformers, greedily: for tests/train/test_vllm_server.py.

    server_worker.py FOLDER POLICY URL|transformers JSON        a trainer
    server_worker.py train WORD …                               `guided-grpo train`

Without CUDA TRL's client sends no weights. There the policy is written to where the server reads it from, and the
server told to read it again: vLLM's own endpoint, without NCCL.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from guided_grpo import cli
from guided_grpo.embedded.pretraining import character_tokenizer
from guided_grpo.store.jsonl import append_rows
from parts import chain_rows, digit_reward, make_config, make_trainer
from vllm_worker import Difficult


def weights_by_file() -> None:
    """TRL's client as far as it goes without CUDA."""
    from trl.generation.vllm_client import VLLMClient

    def init(client: Any, device: Any = 0) -> None:
        assert client.get_server_info()["weight_transfer_config"]["backend"] == "nccl"
        assert client.get_world_size() == 1

    def update(client: Any, metadata: Any, named: Any) -> None:
        path = Path(client.model) / "model.safetensors"
        save_file({name: weights.detach().clone().contiguous() for name, weights in named}, path, {"format": "pt"})
        answer = client.session.post(f"{client.base_url}/collective_rpc", json={"method": "reload_weights"})
        answer.raise_for_status()

    VLLMClient.init_communicator = init
    VLLMClient.update_named_params = update


def record_calls(path: Path) -> None:
    """A line for each call: what the server says that it read, and what it answered."""
    from trl.generation.vllm_client import VLLMClient

    generate = VLLMClient.generate

    def recorded(client: Any, **named: Any) -> Any:
        output = generate(client, **named)
        append_rows(path, [{"read": output["prompt_ids"], "answered": output["completion_ids"]}])
        return output

    VLLMClient.generate = recorded


def main() -> int:
    torch.set_num_threads(1)
    if sys.argv[1] == "train":
        if not torch.cuda.is_available():
            weights_by_file()
        return cli.main(sys.argv[1:])
    folder, policy, engine, options = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    sampler: dict[str, Any] = {}
    if engine != "transformers":
        sampler = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": engine}
        record_calls(folder / "calls.jsonl")
        if not torch.cuda.is_available():
            weights_by_file()
    usual = {"temperature": 1.0, "optim": "sgd", "rollouts_every": 1, "use_cpu": not torch.cuda.is_available()}
    config = make_config(folder, **{**usual, **sampler, **options})
    rows = chain_rows(12, 3, 5)
    reward = Difficult(rows["prompt"]) if config.rescues else digit_reward
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    make_trainer(model, character_tokenizer(), config, rows=rows, reward=reward).train()
    return 0


if __name__ == "__main__":
    sys.exit(main())
