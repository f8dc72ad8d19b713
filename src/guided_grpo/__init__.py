"""Guided reinforcement learning with verifiable rewards for small language models, on TRL.

The public names load on first use, so that reports and the command line start without torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guided_grpo.errors import InputError
    from guided_grpo.train.config import GuidedGRPOConfig
    from guided_grpo.train.presets import METHODS
    from guided_grpo.train.trainer import GuidedGRPOTrainer

__version__ = version("guided-grpo")
__all__ = ["METHODS", "GuidedGRPOConfig", "GuidedGRPOTrainer", "InputError"]

_HOMES = {
    "GuidedGRPOConfig": "guided_grpo.train.config",
    "GuidedGRPOTrainer": "guided_grpo.train.trainer",
    "InputError": "guided_grpo.errors",
    "METHODS": "guided_grpo.train.presets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
