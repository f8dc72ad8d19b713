"""The wheel: what travels in it, and that it works in an environment and a folder that hold nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import guided_grpo
from guided_grpo.embedded.recipes import POLICIES

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(words, check=True, capture_output=True)  # the wheel of the source distribution
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    words = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*words, str(wheel)], check=True, capture_output=True)
    # A path in a .pth file brings the packages alone, not the .pth files there, one of which names this clone.
    [packages] = folder.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def call(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python.with_name("guided-grpo")), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_everything_travels(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("guided_grpo/") for name in archive.namelist() if name.startswith("guided_grpo/")}
    source = ROOT / "src" / "guided_grpo"
    ours = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.*")}
    assert names == ours | configs
    assert {
        "studies/page.css",
        "studies/page.js",
        "studies/report/curves.yaml",
        "configs/compare/quickstart.yaml",
    } < names
    assert {f"embedded/weights/{name}/model.safetensors" for name in POLICIES} < names


@pytest.mark.slow
def test_the_quickstart_from_an_empty_folder(python: Path, tmp_path: Path) -> None:
    assert call(python, tmp_path, "--version").stdout.strip() == VERSION
    for config in ("compare/quickstart.yaml", "configs/compare/quickstart.yaml"):
        result = call(python, tmp_path, "compare", "--config", config, "--plan")
        assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "0 of 2 runs are finished"), result.stderr
    assert not any(tmp_path.iterdir())
    result = call(python, tmp_path, "train", "--config", "nowhere.yaml")
    assert result.returncode == 2
    package = python.parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    assert f"looked in {tmp_path} and {package}/guided_grpo/configs" in result.stderr


@pytest.mark.slow
def test_two_steps_from_an_empty_folder(python: Path, tmp_path: Path) -> None:
    words = ["train", "--config", "quickstart.yaml", "--max_steps", "2", "--use_cpu", "--eval_limit", "8"]
    result = call(python, tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["g2rpo-a"]  # nothing was pre-trained
    assert len((tmp_path / "runs/g2rpo-a/metrics.jsonl").read_text().splitlines()) == 2
    card = (tmp_path / "runs/g2rpo-a/model/README.md").read_text()
    assert "a fine-tuned version of `embedded`." in card and 'model="runs/g2rpo-a/model"' in card
    assert "huggingface.co/None" not in card and "site-packages" not in card
    lines = result.stderr.splitlines()
    before = next(n for n, line in enumerate(lines) if "unguided accuracy before training" in line)
    first = next(n for n, line in enumerate(lines) if line.startswith("g2rpo-a seed 0: step 1, "))
    assert before < first
    assert re.search(r"step 1, [\d,]+ of 360,000 tokens, .*guided 0\.\d\d, unguided 0\.\d\d, length 45", lines[first])


def test_the_version_stands_everywhere() -> None:
    assert guided_grpo.__version__ == VERSION
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION
    assert f"## {VERSION} - " in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_calls_the_targets_there_are() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    targets = {step["run"].removeprefix("make ") for job in jobs.values() for step in job["steps"] if "run" in step}
    assert targets == {"lint", "test", "test-vllm"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
