"""How likely a policy is to write the traces: what it finds hard in them decides how much it can learn of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from guided_grpo.data.demonstrations import IGNORED


@torch.no_grad()
def trace_log_prob(model: Any, examples: Sequence[dict[str, list[int]]]) -> float:
    """Log-probability of a taught token, in nats at temperature 1: the mean over all tokens of all examples.

    Args:
        model: the policy.
        examples: at least one, of `demonstrations`.
    """
    total, count = 0.0, 0
    for example in examples:
        ids, labels = (torch.tensor(example[name], device=model.device) for name in ("input_ids", "labels"))
        logits = model(ids[None]).logits[0, :-1].float()
        total -= float(cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum"))
        count += int((labels[1:] != IGNORED).sum())
    return total / count
