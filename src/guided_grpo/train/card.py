"""What a model card says of guidance, and of its own policy: beside what TRL writes."""

from __future__ import annotations

from collections.abc import Mapping

from guided_grpo.train.config import SETTINGS, GuidedGRPOConfig
from guided_grpo.train.presets import DEFAULTS, METHODS
from guided_grpo.train.state import RunState

MARK = "\n## Guidance\n"


def name_policies(card: str, base: str, folder: str) -> str:
    """TRL's card, which says None for both, with the policy that was trained as the user named it, and where it is.

    Args:
        card: its text.
        base: a hub id, a folder, or the name of an embedded policy.
        folder: of the trained policy.
    """
    card = card.replace("[None](https://huggingface.co/None)", f"`{base}`")
    return card.replace('model="None"', f'model="{folder}"')


def guidance_section(config: GuidedGRPOConfig, run: RunState, facts: Mapping[str, str]) -> str:
    """A section of Markdown: method, the axes that are not at their default, budget spent, and further facts.

    Args:
        config: of the run.
        run: what it has come to.
        facts: by name, such as data and unguided accuracy.
    """
    method = METHODS[config.method]
    values = {item.name: getattr(config, item.name) for item in SETTINGS if item.is_axis}
    limits = {"generated tokens": config.max_generated_tokens, "seconds": config.max_train_seconds,
              "steps": config.max_steps, "FLOPs": config.max_flops}  # fmt: skip
    budget = [f"{amount:,} {unit}" for unit, amount in limits.items() if amount > 0]
    rows = {
        "method": f"`{config.method}`: {method.text} ({method.source})",
        "rollouts a group (G)": str(config.num_generations),
        **({"share guided (α)": f"{config.guidance_ratio:g}"} if config.guided else {}),
        **({"length ℓ0": f"{config.guidance_length:g} {config.guidance_unit}"} if config.guides_first else {}),
        **({"length at the end": f"{run.controller.length:.3g} {config.guidance_unit}"} if config.guides_first else {}),
        "axes not at their default": ", ".join(f"`{k}: {v}`" for k, v in values.items() if v != DEFAULTS[k]) or "none",
        **({"budget": ", ".join(budget)} if budget else {}),
        "tokens generated": f"{run.tokens_generated:,}",
        "FLOPs": f"{run.flops:.2e}",
        "seconds of training steps": f"{run.train_seconds:,.0f}",
        **facts,
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([MARK, "| | |", "|---|---|", *lines, ""])
