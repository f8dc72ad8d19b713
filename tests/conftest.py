"""What every test gets: a policy, its tokenizer, a pool of sandboxes. The helpers are in support/."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from guided_grpo.embedded.pretraining import character_tokenizer, new_policy
from guided_grpo.sandbox import Limits, SandboxPool
from parts import SHARED, TINY
from sandbox_places import place

# Thinking as in Qwen3: the policy opens the block, unless enable_thinking is false.
QWEN3_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

# A shell starts background jobs with interrupts ignored, and their processes would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # test-fast runs a process a core


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return character_tokenizer()


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    """Two workers that run programs."""
    with place("A"):  # skips with its reason where there is none
        pass
    with SandboxPool(2, "A", limits=Limits(cpu_seconds=2.0)) as pool:
        yield pool


@pytest.fixture
def policy(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained policy, the same in every test."""
    return new_policy(TINY, tokenizer)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The same policy as a checkpoint folder, for command lines and reference models."""
    folder = tmp_path_factory.mktemp("policy")
    new_policy(TINY, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gsm8k_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of Qwen3's architecture with a byte-level BPE of GSM8K and a Qwen3-like chat template."""
    if not (SHARED / "gsm8k").is_dir():
        pytest.skip("the GSM8K copy is not there")
    records = [json.loads(line) for line in (SHARED / "gsm8k" / "train.jsonl").read_text().splitlines()[:800]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([r["question"] + r["answer"] for r in records], trainer)
    tokenizer.add_tokens(["<think>", "</think>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = QWEN3_TEMPLATE
    folder = tmp_path_factory.mktemp("gsm8k-policy")
    config = new_policy(TINY, fast).config
    config.max_position_embeddings = 1024
    Qwen3ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
