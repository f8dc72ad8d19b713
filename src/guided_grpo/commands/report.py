"""`guided-grpo report RUN …`: run directories → one self-contained HTML page. Loads without torch."""

from __future__ import annotations

import json
from pathlib import Path

from guided_grpo.commands.options import OneLineParser
from guided_grpo.studies.report.page import build_report


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Write the page and say where it is."""
    parser = OneLineParser(prog="guided-grpo report", description="Run directories → one self-contained HTML page.")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories; several overlay")
    parser.add_argument("--output", type=Path, help="the page; default: report.html in the first run")
    options = parser.parse_args(arguments)
    page = build_report(options.runs, options.output or options.runs[0] / "report.html")
    print(json.dumps({"report": str(page)}) if as_json else page)
    return 0
