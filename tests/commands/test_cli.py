"""The commands end to end, on a policy made here: train, eval, compare, report, and GSM8K with a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoConfig

from guided_grpo.cli import main
from guided_grpo.commands.parsing import parse
from guided_grpo.errors import InputError
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.presets import METHODS
from guided_grpo.train.trainer import GuidedGRPOTrainer
from parts import SHARED, small_run

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_compare_trains_evaluates_and_reports(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(small_run(policy_folder)))
    plan = {
        "config": "run.yaml",
        "output_dir": str(tmp_path / "out"),
        "seeds": [0, 1],
        "variants": {"grpo": {"method": "grpo"}, "g2rpo-a": {"method": "g2rpo-a"}},
    }
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    words = ["compare", "--config", str(tmp_path / "compare.yaml"), "--quiet", "--json"]
    assert main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary["variants"]) == {"grpo", "g2rpo-a"}
    assert [(run["variant"], run["seed"], run["steps"]) for run in summary["runs"]] == [
        ("grpo", 0, 3), ("g2rpo-a", 0, 3), ("grpo", 1, 3), ("g2rpo-a", 1, 3),
    ]  # fmt: skip
    run = tmp_path / "out" / "g2rpo-a-seed1"
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "rollouts.jsonl", "eval.json", "summary.json", "model"} <= names
    evaluation = rundir.read_json(run / "eval.json")
    assert evaluation["before"]["problems"] == evaluation["after"]["problems"] == 6
    assert evaluation["before"]["temperature"] == 0.6
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert main(words) == 0  # a finished queue is not run again
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    assert (
        main(["eval", "--model", str(run), "--data", "chains:steps=3,count=5,seed=3", "--samples", "2", "--quiet"]) == 0
    )
    assert "95 % interval" in capsys.readouterr().out
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").exists()


def test_one_bad_run_does_not_end_the_rest(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from guided_grpo.commands import compare

    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**small_run(policy_folder), "max_steps": 1}))
    plan = {
        "config": "run.yaml",
        "output_dir": str(tmp_path / "out"),
        "variants": {"a": {"method": "fixed"}, "b": {"method": "grpo"}},
    }
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    real = compare.train

    def broken(settings: Any) -> dict[str, Any]:
        if settings.training.method == "fixed":
            raise RuntimeError("out of memory")
        return real(settings)

    monkeypatch.setattr(compare, "train", broken)
    assert main(["compare", "--config", str(tmp_path / "compare.yaml"), "--quiet"]) == 1
    summary = rundir.read_json(tmp_path / "out" / "summary.json")
    assert summary["runs"][0]["error"] == "RuntimeError: out of memory"
    assert list(summary["variants"]) == ["b"]
    assert "out of memory" in capsys.readouterr().out


@pytest.mark.slow
def test_fields_of_the_command_line_go_into_every_variant(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**small_run(policy_folder), "max_steps": 3}))
    plan = {
        "config": "run.yaml",
        "output_dir": str(tmp_path / "out"),
        "common": {"max_steps": 2},
        "variants": {"a": {"method": "grpo"}, "b": {"method": "grpo", "learning_rate": 1.0e-3}},
    }
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(plan))
    words = ["compare", "--config", str(tmp_path / "compare.yaml"), "--quiet"]
    assert main([*words, "--set", "max_steps=1", "learning_rate=2.0e-5", "rewards=[accuracy, format]"]) == 0
    told = {name: yaml.safe_load((tmp_path / "out" / f"{name}-seed0" / "config.yaml").read_text()) for name in "ab"}
    assert [told[name]["max_steps"] for name in "ab"] == [1, 1]
    assert [told[name]["learning_rate"] for name in "ab"] == [2.0e-5, 1.0e-3]  # a variant's own wins
    assert [told[name]["rewards"] for name in "ab"] == [["accuracy", "format"]] * 2
    capsys.readouterr()
    for pair in ("max_steps", "=3", "max_steps=[1"):
        assert main([*words, "--set", pair]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [
            f"guided-grpo compare: field 'set': {pair!r} is not FIELD=VALUE; "
            "fix: write --set learning_rate=1.0e-4, the value in YAML"
        ]
    assert main([*words, "--set", "max_stepz=1"]) == 2
    assert "max_stepz" in capsys.readouterr().err
    for field, option in (("output_dir", "--output_dir"), ("seed", "--seeds")):  # one folder or seed for all runs
        assert main([*words, "--set", f"{field}=7"]) == 2
        line = f"guided-grpo compare: field '{field}': is another one for each run; fix: use {option}"
        assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_read(path: Path) -> None:
    words = ["--config", str(path), "--bf16", "false", "--use_cpu", "--use_vllm", "false", "--output_dir", "elsewhere"]
    settings = parse(words)
    assert settings.training.method in path.read_text()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_takes_every_shipped_config(path: Path, method: str) -> None:
    """`auto` and `ghpo` need none of the numbers that a config chose for another method, and are not held to them."""
    words = ["--config", str(path), "--bf16", "false", "--use_cpu", "--use_vllm", "false", "--output_dir", "elsewhere"]
    training = parse([*words, "--method", method]).training
    assert training.method == method
    if method in ("auto", "ghpo", "naive"):
        assert training.guidance_ratio == 1.0
    if method == "auto":
        assert (training.guidance_unit, training.guidance_length, training.guidance_max) == ("ratio", 0.9, None)


def test_fields_of_another_method_give_way_and_the_command_line_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model_name_or_path: x\ntrain_data: y\nmethod: g2rpo-a\nguidance_length: 45\nguidance_max: 75\nguidance_ratio: 0.5\n"
                    "guidance_weight: 0.5\ncurriculum: random\n")  # fmt: skip
    words = ["--config", str(path), "--bf16", "false", "--use_cpu", "--output_dir", "elsewhere"]

    def read(*more: str) -> tuple[Any, ...]:
        found = parse([*words, *more]).training
        return found.guidance_length, found.guidance_max, found.guidance_ratio, found.guidance_weight, found.curriculum

    assert read() == read("--method", "g2rpo-a") == (45, 75, 0.5, 0.5, "random")
    assert read("--method", "fixed") == (45, 75, 0.5, 0.5, "random")  # counts in the same unit, has no ratio of its own
    assert capsys.readouterr().err == ""
    assert read("--method", "auto") == (0.9, None, 1.0, 0.5, "random")
    said = "guidance_length, guidance_max, guidance_ratio of the config: chosen for g2rpo-a, so auto takes its own\n"
    assert capsys.readouterr().err == said
    assert read("--method=auto") == read("--method", "fixed", "--method", "auto") == (0.9, None, 1.0, 0.5, "random")
    assert read("--method", "auto", "--guidance_length", "0.8") == (0.8, None, 1.0, 0.5, "random")
    assert read("--method", "ghpo") == (45, 75, 1.0, 0.0, "random")
    path.write_text(path.read_text().replace("method: g2rpo-a\n", ""))
    assert read("--method", "ghpo") == (45, 75, 0.5, 0.5, "random")  # no method named: the fields are meant for any


def test_the_group_size_is_written_at_its_default_too(tmp_path: Path) -> None:
    """Audit and report read it again, and a run with another one is another run."""
    words = ["--model_name_or_path", "x", "--train_data", "y", "--bf16", "false", "--use_cpu", "--output_dir"]
    fields = parse([*words, str(tmp_path)]).to_json()
    assert fields["num_generations"] == 8
    rundir.claim(tmp_path, fields)
    rundir.check(tmp_path, fields, frozenset())
    with pytest.raises(InputError, match="field 'num_generations': 12 is not 8 of the run that is there"):
        rundir.check(tmp_path, {**fields, "num_generations": 12}, frozenset())


@pytest.mark.slow
def test_every_shipped_comparison_names_runs_that_are_read() -> None:
    from guided_grpo.commands.compare import _read_plan, _selected, _words
    from guided_grpo.studies.comparison.search import points, read_search

    for path in sorted((CONFIGS / "compare").glob("*.yaml")):
        plan = _read_plan(path)
        assert plan["baseline"] in plan["variants"], path
        search = read_search(plan, path, list(plan["variants"]), plan["seeds"])
        for name, fields in _selected(plan, None).items():
            for values in points(search.grids.get(name, {})):  # {} where nothing is searched
                words = _words(path.parent / plan["config"], Path("x"), 5, {**fields, **values}, quiet=True)
                assert parse(words).training.seed == 5


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_launch_config_is_read_by_accelerate(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_machines == (2 if "2-nodes" in path.name else 1)
    assert config.num_processes == 8 * config.num_machines
    if config.num_machines > 1:  # one machine's config, on more of them
        one = yaml.safe_load(path.with_name(path.name.replace("-2-nodes", "")).read_text())
        more = {"num_machines": 2, "num_processes": 16, "rdzv_backend": "static", "same_network": True}
        if "deepspeed_config" in one:  # by accelerate itself, not by pdsh and a file of hosts
            one["deepspeed_config"]["deepspeed_multinode_launcher"] = "standard"
        assert yaml.safe_load(path.read_text()) == {**one, **more}


def test_report_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; import guided_grpo.studies.report, guided_grpo.cli, guided_grpo.train.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("thinking", "start"), [(True, "<think>\n"), (False, "")])
def test_gsm8k_with_a_chat_template(thinking: bool, start: str, gsm8k_policy: Path, tmp_path: Path) -> None:
    """Twenty steps on the real file: worked steps stand as guidance at the start of the assistant's turn."""
    steps = 20 if thinking else 2
    words = [
        "train", "--config", str(CONFIGS / "gsm8k.yaml"), "--model_name_or_path", str(gsm8k_policy),
        "--train_data", str(SHARED / "gsm8k" / "train.jsonl"), "--output_dir", str(tmp_path / "run"),
        "--max_steps", str(steps), "--max_completion_length", "24", "--num_generations", "4", "--data_limit", "400",
        "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1", "--rollouts_every", "1",
        "--use_cpu", "--bf16", "false", "--gradient_checkpointing", "false", "--report_to", "none", "--quiet",
        "--chat_template_kwargs", json.dumps({"enable_thinking": thinking}),
    ]  # fmt: skip
    assert main(words) == 0
    assert AutoConfig.from_pretrained(tmp_path / "run" / "model").model_type == "qwen3"
    assert len(list(jsonl.whole_rows(tmp_path / "run" / "metrics.jsonl"))) == steps
    traces = {}
    for line in (SHARED / "gsm8k" / "train.jsonl").read_text().splitlines()[:400]:
        record = json.loads(line)
        traces[record["question"].strip()] = record["answer"]
    groups = list(jsonl.whole_rows(tmp_path / "run" / "rollouts.jsonl"))
    assert len(groups) == 2 * steps
    difficulties = [group["difficulty"] for group in groups]
    assert difficulties == sorted(difficulties)
    for group in groups:
        assert [rollout["arm"] for rollout in group["rollouts"]] == ["guided"] * 2 + ["unguided"] * 2
        guidance = group["rollouts"][0]["guidance"]
        assert guidance.startswith(start)
        assert "<<" not in guidance and "####" not in guidance
        question = next(q for q in traces if group["prompt"][0]["content"].startswith(q))
        first_line = guidance[len(start) :].splitlines()[0]
        plain = __import__("re").sub(r"<<.*?>>", "", traces[question])
        assert plain.startswith(first_line)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ghpo_on_gsm8k_puts_hints_in_the_users_turn(
    gsm8k_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained policy solves nothing: every group climbs to the top, in whole steps, in the paper's words."""
    seen: list[Any] = []
    original = GuidedGRPOTrainer._tokenize_prompts

    def spied(self: Any, prompts: Any) -> Any:
        seen.append(prompts)
        return original(self, prompts)

    monkeypatch.setattr(GuidedGRPOTrainer, "_tokenize_prompts", spied)
    words = [
        "train", "--config", str(CONFIGS / "gsm8k.yaml"), "--model_name_or_path", str(gsm8k_policy),
        "--train_data", str(SHARED / "gsm8k" / "train.jsonl"), "--output_dir", str(tmp_path / "run"),
        "--method", "ghpo", "--guidance_ratio", "1.0", "--rescue_cold_start", "1", "--rescue_slice", "steps",
        "--max_steps", "2", "--max_completion_length", "24", "--num_generations", "4", "--data_limit", "400",
        "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1", "--rollouts_every", "1",
        "--use_cpu", "--bf16", "false", "--gradient_checkpointing", "false", "--report_to", "none", "--quiet",
    ]  # fmt: skip
    assert main(words) == 0
    first, last = list(jsonl.whole_rows(tmp_path / "run" / "metrics.jsonl"))
    assert "rescue/lost" not in first  # the cold start
    assert (last["signal/difficult"], last["rescue/lost"]) == (1.0, 1.0)
    groups = [group for group in jsonl.whole_rows(tmp_path / "run" / "rollouts.jsonl") if group["step"] == 2]
    for group in groups:
        assert {(r["placement"], r["arm"]) for r in group["rollouts"]} == {("hint", "guided")}
        hint, question = group["rollouts"][0]["guidance"], group["prompt"][0]["content"]
        assert "<<" not in hint and "####" not in hint and hint.endswith("\n")
        wording = (
            "The following text is the beginning part of the answer, which you can refer to for solving the problem:"
        )
        turn = f"{question}\n {wording}\n{hint}"
        assert any(message[-1] == {"role": "user", "content": turn} for prompts in seen for message in prompts)


@pytest.mark.slow
def test_evaluation_during_training_is_kept_and_watched(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = {**small_run(policy_folder), "eval_every": 2, "max_steps": 5, "output_dir": str(run)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 0
    rows = list(jsonl.whole_rows(run / "evals.jsonl"))
    assert [row["step"] for row in rows] == [2, 4]
    assert all(row["problems"] == 6 for row in rows)
    log = {row["step"]: row for row in jsonl.whole_rows(run / "metrics.jsonl")}
    assert [row["tokens"] for row in rows] == [log[2]["tokens/generated_total"], log[4]["tokens/generated_total"]]
    seconds = [sum(log[step]["step_time"] for step in range(1, last + 1)) for last in (2, 4)]
    assert [row["seconds"] for row in rows] == pytest.approx(seconds, abs=1e-3)
    assert all(sum(row["scores"]) / 6 == pytest.approx(row["accuracy"]) for row in rows)
    assert sorted(set(rundir.read_json(run / "eval.json")["after"]["difficulty"])) <= ["3", "4", "5"]
    # It samples with its own random state: the run is the one that is not evaluated.
    plain = {**settings, "eval_every": 0, "output_dir": str(tmp_path / "plain")}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain))
    assert main(["train", "--config", str(tmp_path / "plain.yaml")]) == 0
    losses = [[row["loss"] for row in jsonl.whole_rows(tmp_path / n / "metrics.jsonl")] for n in ("run", "plain")]
    assert losses[0] == losses[1]
    summary = rundir.read_json(run / "summary.json")
    assert summary["rescue_tokens"] == 0
    norms = [row["grad_norm"] for row in jsonl.whole_rows(run / "metrics.jsonl")]
    mean = sum(norms) / 5
    assert summary["grad_norm_mean"] == pytest.approx(mean)
    assert summary["grad_norm_variance"] == pytest.approx(sum((norm - mean) ** 2 for norm in norms) / 4)


def test_sample_filters_when_a_run_loads_its_rows(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chains of 3–5 steps, hard from 5 on: removed, or exchanged one for one for chains of 4."""
    from guided_grpo.commands.train import load_data

    words = [word for name, value in small_run(policy_folder).items() for word in (f"--{name}", str(value))]
    bounds = ["--sample_hard", "5", "--sample_moderate", "4", "--output_dir", str(tmp_path / "run")]
    rows = {
        mode: load_data(parse([*words, *bounds, "--sample_filter", mode])) for mode in ("keep", "remove", "replace")
    }
    steps = {mode: list(found["difficulty"]) for mode, found in rows.items()}
    hard = steps["keep"].count(5)
    assert hard > 0 and steps["remove"] == [n for n in steps["keep"] if n < 5]
    assert steps["replace"] == [4 if n == 5 else n for n in steps["keep"]]
    assert f"sample_filter replace: {hard} of 24 problems are hard" in capsys.readouterr().err
    assert main(["train", *words, "--output_dir", str(tmp_path / "run"), "--sample_filter", "remove"]) == 2
    assert "field 'sample_hard': is missing for remove; fix: give a difficulty" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
