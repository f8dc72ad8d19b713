"""How likely a policy is to write the traces: a form that it does not know is far below what it writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

FOREIGN = -1.0  # nats a token, below which traces have a form that the policy does not write


@torch.no_grad()
def trace_log_probs(model: Any, examples: Sequence[dict[str, list[int]]]) -> list[float]:
    """Of each example, the mean log-probability of a taught token, in nats at temperature 1.

    Args:
        model: the policy.
        examples: of `demonstrations`, with at least one taught token each.
    """
    means, training = [], model.training
    model.eval()
    for example in examples:
        ids, labels = (torch.tensor(example[name], device=model.device) for name in ("input_ids", "labels"))
        logits = model(ids[None]).logits[0, :-1].float()
        means.append(-float(cross_entropy(logits, labels[1:])))
    model.train(training)
    return means
