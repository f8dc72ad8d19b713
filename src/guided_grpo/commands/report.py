"""`guided-grpo report RUN …`: run directories → one self-contained HTML page. Loads without torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NoReturn

from guided_grpo.errors import InputError
from guided_grpo.studies.report import build_report


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line (exit code 2 at the top)."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, fix=f"see {self.prog} --help")


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Write the page and say where it is."""
    parser = OneLineParser(prog="guided-grpo report", description="Run directories → one self-contained HTML page.")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories; several overlay")
    parser.add_argument("--output", type=Path, help="the page; default: report.html in the first run")
    options = parser.parse_args(arguments)
    page = build_report(options.runs, options.output or options.runs[0] / "report.html")
    print(json.dumps({"report": str(page)}) if as_json else page)
    return 0
