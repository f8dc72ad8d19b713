"""Embedded policies: small Qwen3s over single characters, pre-trained on first use, for trials without a hub or a GPU.

recipes.py      the named policies: size, domain, phases
pretraining.py  from a recipe to a checkpoint folder
"""

from guided_grpo.embedded.pretraining import (
    MAX_POSITIONS,
    build_base,
    character_tokenizer,
    new_policy,
)
from guided_grpo.embedded.recipes import (
    DOMAINS,
    EMBEDDED,
    POLICIES,
    BaseRecipe,
    Domain,
    Phase,
    base_folder,
    embedded_recipe,
)

__all__ = [
    "DOMAINS",
    "EMBEDDED",
    "MAX_POSITIONS",
    "POLICIES",
    "BaseRecipe",
    "Domain",
    "Phase",
    "base_folder",
    "build_base",
    "character_tokenizer",
    "embedded_recipe",
    "new_policy",
]
