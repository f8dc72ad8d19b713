"""`guided-grpo audit` on a real policy: what it samples, resumes, refuses, writes; and the comparison with runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from guided_grpo.commands.audit import CONFIG, JOURNAL, PAGE, RESULT, main
from guided_grpo.commands.parsing import parse
from guided_grpo.errors import InputError
from guided_grpo.evaluation.completions import CompletionRun
from guided_grpo.evaluation.engines import TransformersEngine
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.studies.audit.against import compare, pooled
from guided_grpo.studies.audit.estimates import Table
from guided_grpo.studies.audit.trials import (
    AuditProblem,
    GuidanceSetting,
    Trial,
    TrialDecoding,
    choose,
    choose_first,
    tiers_of,
    trial_requests,
    trials_of,
)
from parts import chain_rows

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DATA = "chains:steps=3-5,count=30,seed=1"
SMALL = ["--data", DATA, "--problems", "6", "--samples", "4", "--strengths", "0.5", "1", "--groups", "4", "--alphas",
         "0.5", "--max-tokens", "8", "--batch-size", "16", "--quiet"]  # fmt: skip


def audited(policy: Path, output: Path, *more: str) -> dict[str, Any]:
    assert main(["--model", str(policy), "--output", str(output), *SMALL, *more]) == 0
    return json.loads((output / RESULT).read_text())  # type: ignore[no-any-return]


def untimed(folder: Path) -> list[dict[str, Any]]:
    """The lines of the journal, but for how long they took."""
    return [{**json.loads(line), "seconds": 0} for line in (folder / JOURNAL).read_text().splitlines()]


def test_tiers_and_the_part_that_is_drawn() -> None:
    assert tiers_of([3, 3, 5]) == ["3", "3", "5"]
    assert tiers_of([None, None]) == ["all", "all"]
    assert tiers_of(["easy", None, "hard"]) == ["easy", "unknown", "hard"]
    many = tiers_of(list(range(60)))
    assert many[0] == "0–10" and many[9] == "0–10" and many[10] == "10–20" and many[59] == "50–59"
    tiers = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    chosen = choose(tiers, 20, seed=0)
    assert [sum(tiers[n] == name for n in chosen) for name in "abc"] == [12, 6, 2]
    assert chosen == sorted(set(chosen)) == choose(tiers, 20, seed=0) != choose(tiers, 20, seed=1)
    assert choose(tiers, 1000, seed=0) == list(range(100))


def test_more_of_the_tier_that_is_trained_first() -> None:
    tiers = ["10"] * 20 + ["9"] * 30 + ["12"] * 10  # 9 is the easiest: numbers, not names
    chosen = choose(tiers, 12, seed=0)
    more = choose_first(tiers, chosen, 10, seed=0)
    assert len(more) == 10 and {tiers[n] for n in more} == {"9"} and not set(more) & set(chosen)
    assert more != choose_first(tiers, chosen, 10, seed=1)
    assert len(choose_first(tiers, chosen, 1000, seed=0)) == 30 - 6  # all there are
    assert choose_first(tiers, chosen, 0, seed=0) == []
    assert choose_first(["10–12", "9–10", "10–12", "unknown"], [], 9, seed=0) == [
        1
    ]  # ranges by their numbers, then names


def sampled(
    policy: Any,
    tokenizer: Any,
    row: Any,
    settings: list[GuidanceSetting],
    guide: GuidanceTokenizer,
    decoding: TrialDecoding,
) -> list[Trial]:
    """One problem in these settings, in their order."""
    requests = trial_requests([AuditProblem(0, "3", row)], settings, {guide.placement: guide})
    with Grader() as grader, CompletionRun(len(requests), decoding, {}) as run:
        run.run(requests, TransformersEngine(policy, tokenizer), grader)
    return sorted(trials_of(run.records), key=lambda trial: trial.setting)


@pytest.mark.parametrize("placement", ["prefix", "hint"])
def test_prompts_and_grades_are_those_of_training(policy: Any, tokenizer: Any, placement: str) -> None:
    """The ids that reach the model are prompt and slice; guidance counts in the grade; tokens count what was written."""
    row = chain_rows(1)[0]
    seen: list[list[int]] = []
    generate = policy.generate

    def answering(input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        seen.extend(ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True))
        generate(input_ids=input_ids, attention_mask=attention_mask, **kwargs)  # it must be able to
        # The second half of the trace and the answer: right only behind the first half.
        written = row["guidance"][len(row["guidance"]) // 2 :] + f"#### {row['answer']}"
        ids = [*tokenizer(written)["input_ids"], tokenizer.eos_token_id]
        return torch.cat([input_ids, torch.tensor([ids] * len(input_ids))], dim=1)

    policy.generate = answering
    guide = GuidanceTokenizer(tokenizer, {}, "auto", placement=placement, template="{problem}{hint}")
    settings = [GuidanceSetting(placement, "ratio", 0.0), GuidanceSetting(placement, "ratio", 0.5)]
    alone, helped = sampled(policy, tokenizer, row, settings, guide, TrialDecoding(samples=2, max_tokens=4))
    half = row["guidance"][: len(row["guidance"]) // 2]
    assert [tokenizer.decode(ids) for ids in seen] == [row["prompt"]] * 2 + [row["prompt"] + half] * 2
    assert helped.successes == helped.graded == 2 and helped.guidance_tokens == len(half) and alone.guidance_tokens == 0
    assert alone.tokens == helped.tokens == 2 * (len(row["guidance"]) - len(half) + len("#### 123") + 1)
    assert alone.truncated == 0


def test_a_slice_that_states_the_answer_is_seen_whatever_the_limit_says(policy: Any, tokenizer: Any) -> None:
    row = {**chain_rows(1)[0], "guidance": "one step\nThe answer is 42.\nso it is", "answer": "42"}
    row["guidance_limit"] = len(row["guidance"])  # the data says that all of it is safe
    guide = GuidanceTokenizer(tokenizer, {}, "auto")
    settings = [GuidanceSetting("prefix", "ratio-chars", amount) for amount in (0.2, 1.0)]
    trials = sampled(policy, tokenizer, row, settings, guide, TrialDecoding(samples=2, max_tokens=2))
    assert [trial.states_answer for trial in trials] == [False, True]


def test_a_killed_audit_goes_on_to_the_same_result(policy_folder: Path, tmp_path: Path) -> None:
    whole = audited(policy_folder, tmp_path / "whole")
    lines = (tmp_path / "whole" / JOURNAL).read_text().splitlines()
    assert len(lines) == 1 + 6 * (3 + 2) * 4  # 16 a batch
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / JOURNAL).write_text("\n".join(lines[: 1 + 35]) + '\n{"batch": 2, "prob')
    again = audited(policy_folder, cut)
    records = [json.loads(line) for line in lines[1:]]
    alone = [record["response"] for record in records if record["key"].startswith("0/")]
    assert alone != [record["response"] for record in records if record["key"].startswith("1/")]  # not the same again
    assert again["estimates"] == whole["estimates"] and again["advice"] == whole["advice"]
    assert untimed(cut) == untimed(tmp_path / "whole")
    kept = (cut / JOURNAL).read_text()
    # What is asked of the same responses may change; what shapes them may not.
    assert audited(policy_folder, cut, "--groups", "2", "3")["estimates"]["cells"][0]["group"] == 2
    assert (cut / JOURNAL).read_text() == kept
    with pytest.raises(InputError, match=r"field 'temperature': 0.5 is not 1.0 of the audit that is there"):
        audited(policy_folder, cut, "--temperature", "0.5")


def test_an_untrained_policy_is_sent_to_learn_the_format(policy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("stale: true\n")
    found = audited(policy_folder, tmp_path)
    assert found["advice"]["verdict"] in ("format", "too-short")
    assert not (tmp_path / CONFIG).exists()
    assert found["estimates"]["problems"] == 6 and len(found["estimates"]["points"]) == 3


def test_more_problems_of_the_tier_trained_first(policy_folder: Path, tmp_path: Path) -> None:
    found = audited(policy_folder, tmp_path / "out", "--first", "3")["estimates"]
    assert (found["problems"], found["further"]) == (6, 3)
    lines = [json.loads(line) for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()]
    asked = {record["problem"]: record["tier"] for record in lines[1:]}
    assert sorted(asked.values()).count("3") == 3 + found["tiers"]["3"] and len(asked) == 9
    assert found["points"][0]["tiers"]["3"]["problems"] == 3 + found["tiers"]["3"]
    assert found["points"][0]["success"]["problems"] == 6
    unordered = tmp_path / "plain.jsonl"
    unordered.write_text("".join(json.dumps({"prompt": f"{n}+1=", "answer": str(n + 1)}) + "\n" for n in range(9)))
    with pytest.raises(InputError, match=r"field 'first': 3 asks for the tier that a curriculum trains first, and"):
        audited(policy_folder, tmp_path / "no", "--data", str(unordered), "--first", "3")
    assert not (tmp_path / "no").exists()


def solved_journal(folder: Path, policy: Path) -> None:
    """The journal of an audit in which half of the trace makes every second response right."""
    audited(policy, folder)
    head, *records = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    for record in records:
        amount = record["setting"]["amount"]
        right = record["sample"] < (2 if amount == 0.5 else 3 if amount else 0)
        record |= {"score": float(right), "verdict": "correct" if right else "wrong", "ended": True}
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in [head, *records]))


def test_the_config_is_one_that_train_takes(policy_folder: Path, tmp_path: Path) -> None:
    solved_journal(tmp_path, policy_folder)
    found = audited(policy_folder, tmp_path)
    assert found["advice"]["settings"]["guidance_length"] == 0.5
    settings = parse(["--config", str(tmp_path / CONFIG), "--output_dir", str(tmp_path / "run"), "--max_steps", "3"])
    assert settings.training.method == found["advice"]["settings"]["method"]
    assert (settings.training.guidance_length, settings.training.guidance_unit) == (0.5, "ratio")
    assert settings.training.num_generations == 4 and settings.training.generation_batch_size == 32
    assert (settings.run.train_data, settings.model.model_name_or_path) == (DATA, str(policy_folder))
    assert settings.training.max_completion_length == 8 and settings.training.temperature == 1.0


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_draws_the_page(policy_folder: Path, tmp_path: Path) -> None:
    solved_journal(tmp_path, policy_folder)
    audited(policy_folder, tmp_path)
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    dom = subprocess.run(
        [str(BROWSER), *words, (tmp_path / PAGE).resolve().as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    assert 'data-drawn="true"' in dom and "The plots could not be drawn" not in dom.split("<script")[0]
    assert dom.count('class="main-svg"') >= 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strengths", "1.5"], "field 'strengths': 1.5 is out of range; fix: use amounts above 0 in ratio, up to 1"),
        (["--alphas", "0"], "field 'alphas': 0.0 is out of range"),
        (["--temperature", "0"], "field 'temperature': 0.0 is out of range"),
        (["--samples", "1"], "field 'samples': 1 is out of range"),
        (["--max-tokens", "300"], "outgrow the context of 256; fix: use --max-tokens 2"),
        (["--model", "/nowhere"], "has no tokenizer that loads"),
        (["--against", "/nowhere"], "holds no config.yaml of a run"),
    ],
)
def test_bad_input_is_said_in_one_line(policy_folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        audited(policy_folder, tmp_path / "out", *words)
    assert said in str(error.value) and "\n" not in str(error.value)


def make_run(folder: Path, shares: list[float], lengths: list[float], **config: Any) -> Path:
    folder.mkdir()
    given = {"method": "g2rpo-a", "num_generations": 4, "generation_batch_size": 8, "guidance_ratio": 0.5,
             "guidance_strength": "ratio", "guidance_placement": "prefix", "guidance_unit": "tokens",
             "train_data": "chains:steps=3-5,count=12,seed=2", "curriculum": "difficulty", "seed": 0}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(given | config))
    rows = [
        {"step": n, "signal/zero_groups": share, "guidance/length": length}
        for n, (share, length) in enumerate(zip(shares, lengths, strict=True), 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_against_a_run_by_hand(tmp_path: Path) -> None:
    """Four samples a problem. Tier 3 succeeds always with 10 tokens, tier 4 and 5 never; nothing succeeds alone."""
    trials = [
        Trial(
            problem=problem, tier=tier, setting=GuidanceSetting("prefix", "tokens", amount), graded=4,
            successes=4 if amount and tier == "3" else 0, tokens=20, truncated=0, statuses={"wrong": 4},
            guidance_tokens=int(amount), clipped=False, states_answer=False,
        )
        for problem, tier in enumerate(["3", "3", "4", "4", "5", "5"])
        for amount in (0.0, 10.0)
    ]  # fmt: skip
    table, names, sizes = Table(trials), {3: "3", 4: "4", 5: "5"}, {"3": 9, "4": 2, "5": 1}
    run = make_run(tmp_path / "a", [0.0, 0.5, 1.0, 1.0], [10, 5, 10, 10])
    found = compare(table, run, tiers=names, sizes=sizes)
    # Curriculum: easy problems first, two a step; between 0 tokens (all groups dead) and 10 the share is linear.
    steps = [row["difficulty"] for row in sorted(chain_rows(12, 3, 5, seed=2), key=lambda row: row["difficulty"])]
    dead = [{3: 1 - length / 10}.get(steps[2 * n + k], 1.0) for n, length in enumerate([10, 5, 10, 10]) for k in (0, 1)]
    assert found.predicted == pytest.approx([(dead[2 * n] + dead[2 * n + 1]) / 2 for n in range(4)])
    assert found.measured == (0.0, 0.5, 1.0, 1.0)
    [window] = found.windows
    assert (window.first, window.last, window.groups) == (1, 4, 8)
    assert window.measured == pytest.approx(0.625)
    # Tier 3 is 9 of the 12 problems of the data: at 10 tokens 3/12 of the groups of an unknown tier are dead.
    average = compare(table, run, tiers={4: "4", 5: "5"}, sizes=sizes)
    share = {n: 1 - 0.75 * length / 10 for n, length in enumerate([10, 5, 10, 10])}
    dead = [share[place // 2] if steps[place] == 3 else 1.0 for place in range(8)]
    assert average.predicted == pytest.approx([(dead[2 * n] + dead[2 * n + 1]) / 2 for n in range(4)])
    plain = compare(
        table, make_run(tmp_path / "b", [1.0], [0], method="grpo", guidance_strength="none"), tiers=names, sizes=sizes
    )
    assert plain.predicted == (1.0,)
    other = make_run(tmp_path / "c", [1.0, 0.0, 0.0, 0.0], [10, 10, 10, 10])
    [both] = pooled([found, plain, compare(table, other, tiers=names, sizes=sizes)])
    assert both.windows[0].groups == 16 and both.windows[0].measured == pytest.approx((0.625 + 0.25) / 2)
    with pytest.raises(InputError, match="guides by prefix in ratio, which was not audited; fix: audit with"):
        compare(table, make_run(tmp_path / "d", [1.0], [0.5], guidance_unit="ratio"), tiers=names, sizes=sizes)
