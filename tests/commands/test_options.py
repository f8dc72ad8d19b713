"""Options that commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from guided_grpo.cli import main
from guided_grpo.commands.options import find_config
from guided_grpo.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_config_is_a_file_or_else_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart.yaml", "compare/quickstart.yaml", "data/s1k.yaml"):
        assert find_config(Path(name)) == find_config(Path("configs") / name) == CONFIGS / name
    plan = CONFIGS / "compare" / "quickstart.yaml"
    assert find_config(Path("../quickstart.yaml"), beside=plan).samefile(CONFIGS / "quickstart.yaml")

    mine = tmp_path / "plans" / "mine.yaml"
    assert find_config(Path("quickstart.yaml"), beside=mine) == CONFIGS / "quickstart.yaml"
    mine.parent.mkdir()
    mine.with_name("quickstart.yaml").touch()
    assert find_config(Path("quickstart.yaml"), beside=mine) == mine.with_name("quickstart.yaml")
    Path("quickstart.yaml").touch()
    assert find_config(Path("quickstart.yaml")) == Path("quickstart.yaml")  # the user's own comes first


def test_configs_are_listed_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a program of another package wants them, from any folder."""
    monkeypatch.chdir(tmp_path)
    assert main(["configs"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert len(names) == len(list(CONFIGS.glob("**/*.*"))) and "accelerate/fsdp2.yaml" in names
    assert [name for name in names if not name.endswith(".yaml")] == ["accelerate/slurm.sh"]
    for name in ("accelerate/fsdp2.yaml", "configs/accelerate/fsdp2.yaml"):
        assert main(["configs", name]) == 0
        assert capsys.readouterr().out == f"{CONFIGS}/accelerate/fsdp2.yaml\n"
    assert main(["configs", "accelerate/fsdp.yaml"]) == 2


def test_a_config_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        find_config(Path("compare/quick.yaml"))
    assert str(error.value) == (
        "field 'config': 'compare/quick.yaml' is no file; "
        f"fix: check the path (looked in {tmp_path}/compare and {CONFIGS}/compare)"
    )
    with pytest.raises(InputError, match=r"^plan.yaml: field 'config': 'quick.yaml' is no file"):
        find_config(Path("quick.yaml"), beside=Path("plan.yaml"))
