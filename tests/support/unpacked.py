"""vLLM's CPU build packs weights as it loads them. Loaded anew, a head that shares the embedding's keeps the first.

`vllm serve --worker-extension-cls unpacked.Unpacked` reads weights as they are: its workers import this module.
"""

from __future__ import annotations

import torch
from vllm.model_executor.layers import utils


def keep(layer: torch.nn.Module, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


utils.dispatch_cpu_unquantized_gemm = keep


class Unpacked:
    """Adds nothing to a worker."""
