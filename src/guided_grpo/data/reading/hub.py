"""Whether a name is a path on this disk or an id on the hub, told before a library asks the hub for it.

Left alone, the libraries ask a hub that does not answer again and again: 24 seconds for data, 51 for a policy.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

PATIENCE = 5.0  # seconds that the hub may take to answer at all


def seek(name: str) -> None:
    """Return where something may be loaded by this name, from this disk, the hub or its cache.

    Where the hub does not answer, the libraries are told to use their cache alone. Raises FileNotFoundError for a path
    that is not there.
    """
    if Path(name).expanduser().exists():
        return
    if is_path(name):
        owner = name.partition("/")[0]
        beside = bool(owner.strip(".")) and Path(owner).is_dir()
        hint = f"; no hub id either, as there is a folder {owner} here" if beside else ""
        raise FileNotFoundError(f"there is no such file or folder{hint}")
    _go_offline_without_a_hub()


def is_path(name: str) -> bool:
    """Whether a name can only be a path: a hub id is `owner/name`, and no folder here is called like its owner."""
    owner, slash, rest = name.partition("/")
    return owner in ("", ".", "..") or name.startswith("~") or "/" in rest or bool(slash and Path(owner).is_dir())


@cache
def _go_offline_without_a_hub() -> None:
    import datasets
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # its client changes with the release, and the errors with it
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started from here
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
