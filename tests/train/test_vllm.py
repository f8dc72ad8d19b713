"""The real vLLM, where it is installed, beside Transformers: training with guidance and ladder, and evaluation.

Sampling is greedy, so that both must draw the same tokens, and go on doing so while the weights change.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_runs import (
    ENVIRONMENT,
    GREEDY,
    METHODS,
    WORKER,
    assert_alike,
    assert_weights_were_sent,
    lines,
    needs_vllm,
    wide_policy,
    worker_words,
)

pytestmark = needs_vllm(2400)

RUN = 900  # seconds that a run has to end, on a busy machine too

EAGER = '{"dtype": "float32", "max_model_len": 256, "enforce_eager": true, "enable_chunked_prefill": false}'


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return wide_policy(tmp_path_factory.mktemp("wide"), tokenizer)


def run(folder: Path, policy: Path, engine: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    words = worker_words("vllm_worker.py", folder, policy, engine, options)
    subprocess.run(words, check=True, env=WORKER, timeout=RUN)
    return lines(folder, "metrics.jsonl")


@pytest.mark.parametrize("method", METHODS)
def test_training_samples_what_transformers_samples(method: str, wide: Path, tokenizer: Any, tmp_path: Path) -> None:
    for engine in ("vllm", "transformers"):
        run(tmp_path / engine, wide, engine, {**GREEDY, **METHODS[method]})
    assert_alike(tmp_path / "vllm", tmp_path / "transformers")
    asked = [one["ids"] for call in lines(tmp_path / "vllm", "engine.jsonl") for one in call["requests"]]
    groups = [row["rollouts"] for row in lines(tmp_path / "vllm", "rollouts.jsonl")]
    guidance = [one["guidance"] for group in groups for one in group if one["guidance"]]
    ends = [tokenizer.decode(ids) for ids in asked]
    assert guidance and all(any(text.endswith(one) for text in ends) for one in guidance)  # vLLM was asked, behind it
    if method != "ghpo":  # greedy rollouts of a group are alike there, and teach nothing
        assert_weights_were_sent(tmp_path / "vllm")


def test_log_probs_stand_where_their_tokens_do(wide: Path, tmp_path: Path) -> None:
    """vLLM's log-probs, behind the guidance, against those of the trained policy: a shift by one gives ratios of 1/20."""
    for row in run(tmp_path, wide, "vllm", {**METHODS["g2rpo-a"], "learning_rate": 1.0}):
        assert row["sampling/sampling_logp_difference/max"] < 0.05
        for name in ("min", "max"):  # of whole responses
            assert row[f"sampling/importance_sampling_ratio/{name}"] == pytest.approx(1.0, abs=0.1)
        assert abs(row["loss"]) > 1e-3 and row["grad_norm"] > 0.1


def beginning(a: list[int], b: list[int]) -> int:
    """Ids that both begin with."""
    return next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@pytest.mark.parametrize("caching", [True, False])
def test_guided_rows_hit_the_prefix_cache(caching: bool, tokenizer: Any, tmp_path: Path) -> None:
    """Two problems in all, so each step asks for the prompts of the one before: what old weights left must be gone."""
    policy = wide_policy(tmp_path / "policy", tokenizer, max_position_embeddings=1024)
    options: dict[str, Any] = {
        "method": "g2rpo-a", "guidance_length": 200, "guidance_ratio": 0.5, "problems": 2, "steps": (70, 80),
        "vllm_max_model_length": 1024, "max_steps": 3, "engine": {} if caching else {"enable_prefix_caching": False},
    }  # fmt: skip
    run(tmp_path, policy, "vllm", options)
    calls = lines(tmp_path, "engine.jsonl")
    assert len(calls) == 3
    groups = [row["rollouts"] for row in lines(tmp_path, "rollouts.jsonl")]
    guidance = [len(one["guidance"]) for group in groups for one in group]  # a character, a token
    assert min(guidance) == 0 and max(guidance) >= 128
    for call in calls:
        block, ids = call["block"], [request["ids"] for request in call["requests"]]
        assert len(ids) == 8  # two groups of four, of which two are guided
        common = [max((beginning(ids[row], ids[other]) for other in range(row)), default=0) for row in range(8)]
        # The engine computes the last token of a request in any case.
        whole = [min(tokens, len(ids[row]) - 1) // block * block for row, tokens in enumerate(common)]
        assert whole[0] == whole[4] == 0
        assert min(whole[1:4] + whole[5:]) >= block  # the prompt alone fills a block
        assert max(whole) >= 2 * block and max(whole) > len(ids[2]), "guidance is to fill further blocks"
        assert [request["cached"] for request in call["requests"]] == (whole if caching else [0] * 8)


def evaluate(policy: Path, output: Path, *words: str) -> list[dict[str, Any]]:
    base = ["eval", "--model", str(policy), "--data", "chains:steps=3,count=12,seed=9", "--max-tokens", "16", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "guided_grpo.cli", *base, "--output", str(output), *words],
        check=True,
        env=ENVIRONMENT,
        timeout=RUN,
    )
    found = [json.loads(line) for line in (output / "completions.jsonl").read_text().splitlines()[1:]]
    return sorted(found, key=lambda record: (record["problem"], record["sample"]))


def test_evaluation_answers_what_transformers_answers(wide: Path, tmp_path: Path) -> None:
    greedy = ["--samples", "1", "--temperature", "0"]
    mine = evaluate(wide, tmp_path / "v", *greedy, "--engine", "vllm", "--engine-options", EAGER)
    theirs = evaluate(wide, tmp_path / "t", *greedy)
    for a, b in zip(mine, theirs, strict=True):
        names = ("key", "response", "tokens", "ended", "verdict")
        assert {name: a[name] for name in names} == {name: b[name] for name in names}


def test_a_seed_of_its_own_for_every_response(wide: Path, tmp_path: Path) -> None:
    """The same responses in batches of another make-up; those to one problem differ."""
    warm = ["--samples", "3", "--temperature", "1", "--top-p", "1", "--top-k", "0", "--engine", "vllm"]
    words = [*warm, "--engine-options", EAGER]
    whole = evaluate(wide, tmp_path / "whole", *words, "--batch-size", "36")
    parts = evaluate(wide, tmp_path / "parts", *words, "--batch-size", "5")
    assert [one["response"] for one in whole] == [one["response"] for one in parts]
    assert len({one["response"] for one in whole[:3]}) == 3
