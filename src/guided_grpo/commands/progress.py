"""Whether there are bars. Light: commands that stream data load neither torch nor transformers."""

from __future__ import annotations

import sys


def wants_bars(quiet: bool) -> bool:
    """Bars go to a terminal, unless the user wants quiet."""
    return not quiet and sys.stderr.isatty()
