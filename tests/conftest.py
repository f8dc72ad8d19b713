"""What every test gets: a policy, its tokenizer, a pool of sandboxes. The helpers are in support/."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from guided_grpo.embedded import character_tokenizer, new_policy
from guided_grpo.sandbox import Limits, SandboxPool
from parts import TINY
from sandbox_places import place

# A shell starts background jobs with interrupts ignored, and their processes would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


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
