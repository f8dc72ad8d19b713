"""`guided-grpo configs`: the configs that come with the package, and where one is, for programs that want a path."""

from __future__ import annotations

import json
from pathlib import Path

from guided_grpo.commands.options import CONFIGS, OneLineParser, find_config


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Print their names, or the path of one."""
    parser = OneLineParser(prog="guided-grpo configs", description="The configs that come with the package.")
    parser.add_argument("name", nargs="?", type=Path, help="prints the path of this one; default: the names of all")
    name = parser.parse_args(arguments).name
    names = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.*"))
    found = [str(find_config(name))] if name else names
    print(json.dumps(found, indent=2) if as_json else "\n".join(found))
    return 0
