"""Options that several commands take, read in one way. Loads without torch."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from guided_grpo.errors import InputError

# In the package, or beside src/ in a clone.
CONFIGS = next(folder for up in (1, 3) if (folder := Path(__file__).parents[up] / "configs").is_dir())


class OneLineParser(ArgumentParser):
    """An argument parser whose complaint is one line (exit code 2 at the top)."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, fix=f"see {self.prog} --help")


def wants_bars(quiet: bool) -> bool:
    """Bars go to a terminal, unless the user wants quiet."""
    return not quiet and sys.stderr.isatty()


def add_map(parser: ArgumentParser) -> None:
    """`--map`, to be read by `mapping_of`."""
    parser.add_argument(
        "--map", action="append", default=[], metavar="OURS=YOURS",
        help="a column of the data, or a template: 'prompt={Body} {Question}'; repeatable",
    )  # fmt: skip


def mapping_of(pairs: Sequence[str]) -> dict[str, str]:
    """Our column → theirs, from `OURS=YOURS` words. Raises InputError for anything else."""
    mapping = {}
    for pair in pairs:
        ours, separator, yours = pair.partition("=")
        if not separator or not ours or not yours:
            raise InputError("is not OURS=YOURS", field="map", value=pair, fix="write --map prompt=COLUMN")
        mapping[ours] = yours
    return mapping


def take_map(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The mapping of a command line's `--map`, for parsers that know no such option, and the other words."""
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    add_map(parser)
    options, words = parser.parse_known_args(arguments)
    return mapping_of(options.map), words


def find_config(path: Path, *, beside: Path | None = None) -> Path:
    """The config `path`: a file, or else one of those that come with the package, with or without `configs/` in front.

    Args:
        path: as the user named it.
        beside: the file that names it, whose folder it is relative to.

    Raises InputError that names the folders where there is no such file.
    """
    shipped = path.relative_to("configs") if path.is_relative_to("configs") else path
    places = (Path() if beside is None else beside.parent) / path, CONFIGS / shipped
    for place in places:
        if place.is_file():
            return place
    looked = f"looked in {places[0].parent.resolve()} and {places[1].parent.resolve()}"
    raise InputError("is no file", file=beside, field="config", value=str(path), fix=f"check the path ({looked})")


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a YAML file. Raises InputError, with the line where there is one."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", field="config", value=str(path), fix="check the path"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(
            str(getattr(error, "problem", None) or "is not YAML"),
            file=path,
            line=mark.line + 1 if mark else None,
            fix="correct the YAML",
        ) from error
    if not isinstance(data, dict):
        raise InputError("holds no mapping", file=path, fix="write 'field: value' lines")
    return data
