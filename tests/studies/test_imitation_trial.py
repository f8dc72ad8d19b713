"""Whether to imitate first: the trial from early stopping's questions, and what it turns the advice into."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from guided_grpo.cli import main
from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.recipes import embedded_folder
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.studies.audit.advice import Advice
from guided_grpo.studies.audit.imitation_trial import ImitationTrial, imitation_trial, is_undecided, with_imitation

GUIDE = Advice("guide", "Guidance can help.", ("why",), {"method": "g2rpo-a", "num_generations": 4})
REFUSED = Advice("no-help", "Guidance cannot help.", ("why",), {})


def trial(low: float, high: float, log_prob: float = -0.5) -> ImitationTrial:
    return ImitationTrial(20, 40, 0.1, 0.1 + (low + high) / 2, (low, high), 64, 0, log_prob)


def test_the_best_evaluation_after_the_first_is_compared_with_it() -> None:
    rows = [
        {"step": 0, "accuracy": 0.5, "scores": [0.0, 1.0, 0.5, 0.5]},
        {"step": 5, "accuracy": 0.25, "scores": [0.0, 0.5, 0.5, 0.0]},
        {"step": 10, "accuracy": 0.375, "scores": [0.0, 0.5, 0.5, 0.5]},
    ]
    found = imitation_trial(rows, 7, 2, -0.5)
    assert (found.steps, found.problems, found.before, found.after, found.demonstrations) == (10, 4, 0.5, 0.375, 7)
    assert sum(found.gain) / 2 == pytest.approx(-1 / 8) and not found.pays
    assert imitation_trial([{**row, "scores": row["scores"] * 30} for row in (rows[1], rows[2])], 7, 2, -0.5).pays


def test_what_it_turns_the_advice_into() -> None:
    assert with_imitation(GUIDE, trial(0.1, 0.3), 12).settings == {"method": "auto", "num_generations": 4}
    assert with_imitation(REFUSED, trial(0.1, 0.3), 12).settings == {"method": "auto", "num_generations": 12}
    guided = with_imitation(GUIDE, trial(-0.1, 0.3), 12)
    assert (guided.verdict, guided.settings) == ("guide", {"method": "auto-guide", "num_generations": 4})
    refused = with_imitation(REFUSED, trial(-0.1, 0.3), 12)
    assert (refused.verdict, refused.settings) == ("no-help", {}) and "difference -10.0% to +30.0%" in refused.reasons[
        -1
    ]


def test_a_form_that_the_policy_does_not_write_is_named() -> None:
    told = with_imitation(REFUSED, trial(-0.1, 0.1, log_prob=-3.3), 12)
    assert (told.verdict, told.settings) == ("no-help", {})
    assert "(-3.3 nats a token)" in told.reasons[-1] and "--imitate 80" in told.reasons[-1]
    assert "nats a token)" not in with_imitation(REFUSED, trial(-0.1, 0.1), 12).reasons[-1]
    assert with_imitation(REFUSED, trial(0.1, 0.3, log_prob=-3.3), 12).settings["method"] == "auto"


def test_a_form_that_is_being_learned_is_told_from_one_that_is_not() -> None:
    """Success of 20 problems: it falls, and comes back in the new form, or does not; a lucky problem is no return."""

    def row(step: int, solved: int) -> dict[str, Any]:
        return {"step": step, "accuracy": solved / 20, "scores": [1.0] * solved + [0.0] * (20 - solved)}

    back, gone, lucky, level = (
        imitation_trial([row(0, 8), *(row(n, solved) for n, solved in enumerate(after, 1))], 64, 0, -3.3)
        for after in ((0, 2, 9), (0, 0, 0), (0, 2, 1), (7, 6, 8))
    )
    assert back.regained == (0.0, 0.45) and not back.pays
    assert gone.regained is lucky.regained is level.regained is None
    told = with_imitation(REFUSED, back, 12)
    assert (told.verdict, told.settings) == ("imitate", {"method": "auto", "num_generations": 12})
    assert "fell to 0.0% and came back to 45.0%" in told.reasons[-1]
    assert with_imitation(REFUSED, gone, 12).settings == {}
    own = dataclasses.replace(back, log_prob=-0.1)  # its own form: success only went down and up
    solved = Advice("solved", "These problems are solved already.", ("why",), {})
    assert with_imitation(REFUSED, own, 12).settings == with_imitation(solved, back, 12).settings == {}


def test_a_longer_trial_where_nothing_helped_so_far() -> None:
    solved = Advice("solved", "These problems are solved already.", ("why",), {})
    assert is_undecided(REFUSED, trial(-0.1, 0.1))
    assert not is_undecided(REFUSED, trial(0.1, 0.3))
    assert not is_undecided(GUIDE, trial(-0.1, 0.1)) and not is_undecided(solved, trial(-0.1, 0.1))


@pytest.mark.slow
def test_the_audit_tries_four_times_as_long_before_it_refuses(tmp_path: Path) -> None:
    """Two steps at a rate of nothing, and a guidance of one token in a hundred: neither can help.

    Its traces are cut, so they are taught, and their likelihood read, without an end token.
    """
    data = "chains:steps=10-14,count=80,seed=1,cut=30-60"
    words = [
        *("audit", "--model", "embedded-small", "--data", data, "--output", str(tmp_path)),
        *("--problems", "4", "--samples", "2", "--unguided", "1", "--groups", "2", "--strengths", "0.01", "--quiet"),
        *("--max-tokens", "96", "--imitate", "2", "--imitate-rate", "1e-9", "--imitate-problems", "4"),
    ]  # fmt: skip
    assert main(words) == 0
    folders = {path.name: json.loads((path / "summary.json").read_text())["steps"] for path in tmp_path.glob("imi*")}
    assert folders == {"imitation": 2, "imitation-8": 8}
    result = json.loads((tmp_path / "audit.json").read_text())
    assert result["imitation"]["steps"] in (3, 6, 8) and result["advice"]["settings"] == {}
    assert result["imitation"]["log_prob"] == pytest.approx(likelihood_without_an_end(data), abs=1e-4)


def likelihood_without_an_end(data: str) -> float:
    """Of a trace token of embedded-small, the mean of the traces' means."""
    folder = embedded_folder("embedded-small")
    policy: Any = AutoModelForCausalLM.from_pretrained(str(folder))
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    rows: Any = load_rows(data)
    means = []
    for row in rows:
        before = GuidanceTokenizer(tokenizer, {}, "auto").prompt_ids(row["prompt"])
        trace = tokenizer(row["guidance"], add_special_tokens=False)["input_ids"]
        chances = policy(torch.tensor([before + trace])).logits[0, len(before) - 1 : -1].detach().log_softmax(-1)
        means.append(float(chances.gather(1, torch.tensor(trace)[:, None]).mean()))
    return mean(means)


@pytest.mark.slow
def test_the_audit_tries_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the real policy: the trial is a run directory of its own, its figures are the audit's, and it runs once."""
    words = [
        *("audit", "--model", "embedded-small", "--data", "chains:steps=10-14,count=80,seed=1", "--output", str(tmp_path)),
        *("--problems", "4", "--samples", "4", "--unguided", "1", "--groups", "4", "--strengths", "0.5", "--quiet"),
        *("--max-tokens", "96", "--imitate", "4", "--imitate-rate", "1e-3", "--imitate-problems", "10"),
        *("--sft-answer", "#### {answer}"),
    ]  # fmt: skip
    assert main(words) == 0
    result = json.loads((tmp_path / "audit.json").read_text())
    summary = tmp_path / "imitation" / "summary.json"
    assert json.loads(summary.read_text())["steps"] == 4
    assert (result["imitation"]["problems"], result["imitation"]["demonstrations"]) == (10, 70)
    written = summary.stat().st_mtime_ns
    config = tmp_path / "config.yaml"
    if config.exists():
        assert yaml.safe_load(config.read_text())["sft_answer"] == "#### {answer}"
    assert main(words) == 0 and summary.stat().st_mtime_ns == written
    assert "steps of fine-tuning on 70 traces" in capsys.readouterr().out
