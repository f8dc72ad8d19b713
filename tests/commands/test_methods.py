"""`guided-grpo methods`, and the page that is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guided_grpo.cli import main
from guided_grpo.commands.methods import page
from guided_grpo.errors import InputError
from guided_grpo.settings import describe
from guided_grpo.train.presets import METHODS, Axes

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_page_in_the_docs_is_the_one_that_is_printed() -> None:
    assert PAGE.read_text().rstrip() == page(), "run: guided-grpo methods > docs/methods.md"
    assert max(map(len, page().splitlines())) <= 100
    for axis in describe(Axes):
        assert page().count(f"- `{axis.name}`") == 1
    for name in METHODS:
        assert f"## {name}\n" in page()


def test_presets_name_axes_and_values_in_range() -> None:
    axes = {axis.name: axis for axis in describe(Axes)}
    for method in METHODS.values():
        for name, value in method.values.items():
            assert name in axes and (axes[name].names is None or value in axes[name].names)


def test_one_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "naive", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["guidance_strength"] == "constant" and shown["guidance_ratio"] == 1.0
    with pytest.raises(InputError, match="is not a method"):
        from guided_grpo.commands import methods

        methods.main(["none-such"])


def test_output_that_nobody_reads_is_no_error() -> None:
    """As behind `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "guided_grpo.cli", "methods"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")
