"""How likely a policy is to write a trace."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch

from guided_grpo.evaluation.likelihood import trace_log_probs


def test_log_probs_are_those_of_taught_tokens_alone(policy: Any) -> None:
    """Against probabilities read off position by position."""
    examples = [{"input_ids": [3, 4, 5, 6], "labels": [-100, -100, 5, 6]}, {"input_ids": [7, 8], "labels": [-100, 8]}]
    chances = [policy(torch.tensor([one["input_ids"]])).logits[0].detach().softmax(-1).tolist() for one in examples]
    first = (log(chances[0][1][5]) + log(chances[0][2][6])) / 2
    assert trace_log_probs(policy, examples) == pytest.approx([first, log(chances[1][0][8])], abs=1e-5)
