"""Where the policy of a command is: an embedded one is made on first use."""

from __future__ import annotations

from pathlib import Path

from guided_grpo.commands.settings import say
from guided_grpo.embedded import BaseRecipe, base_folder, build_base, embedded_recipe
from guided_grpo.progress import wants_bars


def embedded_source(
    model: str, given: str | Path | None, *, quiet: bool, recipe: BaseRecipe | None = None
) -> Path | None:
    """The folder of the embedded policy `model`, pre-trained on first use; None where `model` is a hub id or a folder.

    Args:
        model: as the user named it.
        given: the folder that the user gave; None = runs/NAME-base.
        quiet: no progress bars.
        recipe: in place of the named policy's own.

    Raises InputError for an unknown embedded policy.
    """
    named = embedded_recipe(model)
    if named is None:
        return None
    folder = base_folder(model, given)
    if not folder.exists():
        say(f"pre-training the base policy '{model}' into {folder} (once, some minutes)")
    return build_base(folder, recipe or named, bars=wants_bars(quiet))
