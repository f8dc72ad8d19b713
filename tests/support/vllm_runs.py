"""What the tests of the real vLLM have in common: a policy it takes, short runs in a process of their own, two of them compared."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from guided_grpo.embedded.pretraining import new_policy
from parts import TINY

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
WORKER = {**ENVIRONMENT, "PYTHONPATH": str(HERE)}  # of a process that imports from here
METHODS: dict[str, dict[str, Any]] = {
    "g2rpo-a": {"method": "g2rpo-a", "guidance_length": 9, "guidance_ratio": 0.5},
    "auto": {"method": "auto", "guidance_allocation": "spread"},
    "ghpo": {"method": "ghpo", "hint_template": "{problem}{hint}", "rescue_cold_start": 0},
}
# There vLLM's log-probs are those of a policy of one choice, so the loss is not corrected by them.
GREEDY = {"top_k": 1, "learning_rate": 1.0, "vllm_importance_sampling_correction": False}


def needs_vllm(seconds: int) -> list[pytest.MarkDecorator]:
    """Marks of a module whose tests take up to so many seconds each."""
    missing = find_spec("vllm") is None
    return [
        pytest.mark.slow,
        pytest.mark.skipif(missing, reason="vLLM is not installed"),
        pytest.mark.timeout(seconds),
    ]


def wide_policy(folder: Path, tokenizer: Any, **config: Any) -> Path:
    """An untrained policy whose heads are as wide as vLLM's attention wants on a CPU."""
    policy = new_policy(replace(TINY, hidden_size=64), tokenizer)
    policy.config.update(config)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def worker_words(worker: str, folder: Path, policy: Path, engine: str, options: dict[str, Any]) -> list[str]:
    """The command line of a run by one of the workers that lie here."""
    return [sys.executable, str(HERE / worker), str(folder), str(policy), engine, json.dumps(options)]


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of a run's files."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def assert_alike(mine: Path, theirs: Path) -> None:
    """Two runs gave and drew the same, and learned the same of it."""
    for a, b in zip(lines(mine, "rollouts.jsonl"), lines(theirs, "rollouts.jsonl"), strict=True):
        for name in ("guidance", "generated", "arm", "stage"):
            assert [one.get(name) for one in a["rollouts"]] == [one.get(name) for one in b["rollouts"]], name
    for a, b in zip(lines(mine, "metrics.jsonl"), lines(theirs, "metrics.jsonl"), strict=True):
        for name in ("tokens/generated", "guidance/length", "rescue/calls", "rescue/tokens"):
            assert a.get(name) == pytest.approx(b.get(name)), name
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3, abs=1e-4)


def assert_weights_were_sent(folder: Path) -> None:
    """Greedy rollouts of one policy would not change from step to step."""
    texts = {tuple(one["generated"] for one in row["rollouts"]) for row in lines(folder, "rollouts.jsonl")}
    assert len(texts) > 2, "weights that are never sent would pass"
