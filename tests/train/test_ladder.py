"""The rescue ladder in the real trainer: who is sampled again, on which prompt, and what reaches the loss."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from guided_grpo.errors import InputError
from guided_grpo.train.trainer import GuidedGRPOTrainer
from parts import ScriptedAccuracy, chain_rows, make_config, make_trainer

pytestmark = pytest.mark.slow

HINT = "{problem}{hint}"  # the alphabet of the chains has no words
GHPO: dict[str, Any] = {"method": "ghpo", "hint_template": HINT, "rescue_cold_start": 0, "rollouts_every": 1}
NEVER = 99


class Spy:
    """What goes into the policy while sampling, and what reaches the loss."""

    def __init__(self, trainer: GuidedGRPOTrainer) -> None:
        self.sampled: list[list[list[int]]] = []  # by call: prompt ids of each row
        self.batches: list[dict[str, Any]] = []
        self.logps: list[torch.Tensor] = []
        sample, compute_loss = trainer._sample_rollouts, trainer._compute_loss

        def spied_sample(prompts: list[list[int]]) -> list[list[int]]:
            self.sampled.append(prompts)
            return sample(prompts)

        def spied_loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            self.batches.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()})
            if not self.logps:
                self.logps = [alone(model, *row) for row in rows_of(inputs)]
            return compute_loss(model, inputs)

        trainer._sample_rollouts = spied_sample  # type: ignore[method-assign]
        trainer._compute_loss = spied_loss  # type: ignore[method-assign]


def rows_of(inputs: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and completion ids of each row that the loss sees, without padding."""
    return [
        tuple(
            inputs[f"{part}_ids"][row][inputs[f"{part}_mask"][row].bool()].tolist() for part in ("prompt", "completion")
        )
        for row in range(len(inputs["prompt_ids"]))
    ]  # type: ignore[return-value]


def alone(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log-probs of a completion, computed from its own prompt in a batch of one, without padding."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def two_problems() -> Dataset:
    """Two problems with traces of 20 and 25 characters."""
    rows = chain_rows(40, 4, 5)
    short = next(row for row in rows if row["difficulty"] == 4)
    long = next(row for row in rows if row["difficulty"] == 5)
    return Dataset.from_list([short, long])


def text_rows(spy: Spy, tokenizer: Any, batch: int = 0) -> list[str]:
    return sorted(tokenizer.decode(prompt) for prompt, _ in rows_of(spy.batches[batch]))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rollouts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def hinted(row: dict[str, Any], share: float) -> str:
    """The paper's slice: int(ω · characters)."""
    return str(row["prompt"] + row["guidance"][: int(share * len(row["guidance"]))])


def test_rows_train_on_the_prompt_that_produced_them(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """One group is rescued at .25, the other goes on to .75. The public code trains the first one without its hint."""
    rows = two_problems()
    a, b = rows[0], rows[1]
    reward = ScriptedAccuracy({a["prompt"]: 1, b["prompt"]: 3})
    trainer = make_trainer(policy, tokenizer, make_config(tmp_path, **GHPO, max_steps=1), rows=rows, reward=reward)
    spy = Spy(trainer)
    trainer.train()
    wanted = sorted([hinted(a, 0.25)] * 4 + [hinted(b, 0.75)] * 4)
    assert text_rows(spy, tokenizer) == wanted
    assert hinted(a, 0.25) != a["prompt"]
    # Exactly the rows that must be: 8, then both groups, then the one that still fails, twice.
    assert [len(call) for call in spy.sampled] == [8, 8, 4, 4]
    last = {tokenizer.decode(ids) for ids in spy.sampled[3]}
    assert last == {hinted(b, 0.75)}
    # Every row's completion was sampled from its own prompt: as often as the records say, rewards beside it.
    records = {group["prompt"]: group["rollouts"] for group in rollouts(tmp_path)}
    assert [r["stage"] for r in records[a["prompt"]]] == [1] * 4
    assert [r["stage"] for r in records[b["prompt"]]] == [3] * 4
    assert {r["omega"] for r in records[b["prompt"]]} == {0.75}
    for row in (a, b):
        assert [r["rewards"]["accuracy"] for r in records[row["prompt"]]] == [1.0, 0.0, 0.0, 0.0]
        assert {r["guidance"] for r in records[row["prompt"]]} == {
            hinted(row, 0.25 if row == a else 0.75)[len(row["prompt"]) :]
        }
    pairs = {
        (tokenizer.decode(prompt), tokenizer.decode(ids), round(float(advantage), 4))
        for (prompt, ids), advantage in zip(rows_of(spy.batches[0]), spy.batches[0]["advantages"], strict=True)
    }
    assert pairs == {
        (hinted(row, share), r["generated"], round(r["advantage"], 4))
        for row, share in ((a, 0.25), (b, 0.75))
        for r in records[row["prompt"]]
    }
    found = metrics(tmp_path)[0]
    assert found["signal/difficult"] == 1.0
    assert (found["rescue/1"], found["rescue/2"], found["rescue/3"], found["rescue/lost"]) == (0.5, 0, 0.5, 0)
    assert found["rescue/omega"] == 0.5
    assert (found["rescue/calls"], found["rescue/rows"]) == (3, 16)
    assert found["signal/zero_groups"] == 0.0
    assert (found["reward/first"], found["reward/accuracy"], found["reward/guided"]) == (0.0, 0.25, 0.25)


def test_tokens_of_thrown_away_rollouts_are_counted(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = two_problems()
    reward = ScriptedAccuracy({rows[0]["prompt"]: 2, rows[1]["prompt"]: 0})
    trainer = make_trainer(policy, tokenizer, make_config(tmp_path, **GHPO, max_steps=1), rows=rows, reward=reward)
    lengths: list[int] = []
    single_turn = trainer._generate_single_turn

    def counted(*args: Any, **kwargs: Any) -> Any:
        ids, logprobs = single_turn(*args, **kwargs)
        lengths.extend(len(row) for row in ids)
        return ids, logprobs

    trainer._generate_single_turn = counted  # type: ignore[method-assign]
    trainer.train()
    found = metrics(tmp_path)[0]
    assert len(lengths) == 8 + 4 + 4
    assert found["tokens/generated"] == found["tokens/generated_total"] == sum(lengths)
    assert found["rescue/tokens"] == sum(lengths[8:])
    assert found["tokens/trained"] < found["tokens/generated"]


@pytest.mark.parametrize("placement", ["hint", "prefix"])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_logprobs_are_those_of_the_rows_own_prompt(
    placement: str, beta: float, policy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Old and reference log-probs in the loss against each row recomputed alone."""
    rows = two_problems()
    reward = ScriptedAccuracy({rows[0]["prompt"]: 1, rows[1]["prompt"]: 3})
    config = make_config(
        tmp_path, **GHPO, guidance_placement=placement, max_steps=2, num_iterations=2, beta=beta, bf16=False
    )
    model = AutoModelForCausalLM.from_pretrained(policy_folder, dtype="float32")
    trainer = make_trainer(model, tokenizer, config, rows=rows, reward=reward)
    spy = Spy(trainer)
    trainer.train()
    batch = spy.batches[0]
    worst = 0.0
    for place, own in enumerate(spy.logps):
        names = ["old_per_token_logps", *(["ref_per_token_logps"] if beta else [])]  # at step 0 both policies are one
        for name in names:
            found = batch[name][place][batch["completion_mask"][place].bool()]
            worst = max(worst, float((found - own).abs().max()))
    print(f"{placement}, β = {beta}: largest difference {worst:.1e}")
    assert worst <= 1e-6
    # The second iteration trains on the same rows.
    assert text_rows(spy, tokenizer, 0) == text_rows(spy, tokenizer, 1)
    prompts = set(text_rows(spy, tokenizer))
    if placement == "hint":
        assert prompts == {hinted(rows[0], 0.25), hinted(rows[1], 0.75)}
    else:
        assert prompts == {rows[0]["prompt"], rows[1]["prompt"]}
        for prompt, completion in rows_of(batch):
            row = rows[0] if tokenizer.decode(prompt) == rows[0]["prompt"] else rows[1]
            given = hinted(row, 0.25 if row == rows[0] else 0.75)[len(row["prompt"]) :]
            assert tokenizer.decode(completion).startswith(given)
        # ghpo's guidance has no weight in the loss, wherever it stands
        weights = [sum(w == 0 for w in row) for row in (batch["tool_mask"] * batch["completion_mask"]).tolist()]
        assert min(weights) >= 5


def test_all_fine_and_all_lost(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = two_problems()
    fine, lost = tmp_path / "fine", tmp_path / "lost"
    trainer = make_trainer(
        policy, tokenizer, make_config(fine, **GHPO, max_steps=1), rows=rows, reward=ScriptedAccuracy({})
    )
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8]
    found = metrics(fine)[0]
    assert (found["signal/difficult"], found["rescue/calls"], found["rescue/rows"]) == (0, 0, 0)
    reward = ScriptedAccuracy(dict.fromkeys(rows["prompt"], NEVER))
    trainer = make_trainer(policy, tokenizer, make_config(lost, **GHPO, max_steps=1), rows=rows, reward=reward)
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8, 8, 8, 8]
    assert text_rows(spy, tokenizer) == sorted(
        [hinted(row, 0.75) for row in rows for _ in range(4)]
    )  # the last is kept
    found = metrics(lost)[0]
    assert (found["rescue/lost"], found["signal/zero_groups"], found["loss"]) == (1, 1, 0)


def bonus(completions: list[str], **columns: Any) -> list[float]:
    return [1.0] * len(completions)


@pytest.mark.parametrize("order", ["accuracy first", "accuracy last"])
def test_difficulty_is_read_off_the_accuracy_reward_by_name(
    order: str, policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Every rollout earns the other reward, with a larger weight: the group is difficult all the same."""
    rows = two_problems()
    script = ScriptedAccuracy({rows[0]["prompt"]: 2, rows[1]["prompt"]: 0})
    rewards, weights = ([script, bonus], [0.1, 5.0]) if order == "accuracy first" else ([bonus, script], [5.0, 0.1])
    config = make_config(tmp_path, **GHPO, max_steps=1, reward_weights=weights)
    make_trainer(policy, tokenizer, config, rows=rows, reward=rewards).train()
    found = metrics(tmp_path)[0]
    assert found["signal/difficult"] == 0.5
    assert (found["rescue/1"], found["rescue/2"], found["rescue/lost"]) == (0, 0.5, 0)


def test_verifier_errors_are_masked(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """One group cannot be graded at all: it is not difficult, not sampled again, and not trained on."""
    rows = two_problems()

    class Broken(ScriptedAccuracy):
        def reward(self, prompt: str, seen: set[str]) -> float | None:
            return None if prompt == rows[0]["prompt"] else super().reward(prompt, seen)

    trainer = make_trainer(
        policy,
        tokenizer,
        make_config(tmp_path, **GHPO, max_steps=1),
        rows=rows,
        reward=Broken({rows[1]["prompt"]: 1}),
    )
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8, 4]
    found = metrics(tmp_path)[0]
    assert found["signal/difficult"] == 1.0  # of the one group that was graded
    records = {group["prompt"]: group["rollouts"] for group in rollouts(tmp_path)}
    assert [r["advantage"] for r in records[rows[0]["prompt"]]] == [0.0] * 4
    assert [r["rewards"]["accuracy"] for r in records[rows[0]["prompt"]]] == [None] * 4


def test_columns_and_logged_extras_stay_with_their_rows(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = two_problems().add_column("mark", ["A", "B"])
    seen: list[tuple[str, str, str]] = []

    class Checked(ScriptedAccuracy):
        def __call__(self, prompts: Any, trainer_state: Any, log_extra: Any = None, **columns: Any) -> Any:  # type: ignore[override]
            seen.extend(zip(prompts, columns["mark"], columns["answer"], strict=True))
            result = super().__call__(prompts, trainer_state)
            log_extra("told", [f"{mark}{self.attempt}" for mark in columns["mark"]])
            return result

    trainer = make_trainer(
        policy,
        tokenizer,
        make_config(tmp_path, **GHPO, max_steps=1),
        rows=rows,
        reward=Checked({rows[0]["prompt"]: 2}),
    )
    extras: dict[str, list[str]] = {}
    log = trainer.log

    def spied(*args: Any, **kwargs: Any) -> None:
        extras.update({name: list(values) for name, values in trainer._logs["extra"].items()})
        log(*args, **kwargs)

    trainer.log = spied  # type: ignore[method-assign]
    trainer.train()
    assert set(seen) == {(row["prompt"], row["mark"], row["answer"]) for row in rows}
    assert sorted(extras["told"]) == ["A2"] * 4 + ["B0"] * 4


def test_cold_start_by_steps_and_by_format(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = two_problems()
    script = ScriptedAccuracy(dict.fromkeys(rows["prompt"], NEVER))
    steps = tmp_path / "steps"
    config = make_config(steps, **{**GHPO, "rescue_cold_start": 3}, max_steps=4)
    make_trainer(policy, tokenizer, config, rows=rows, reward=script).train()
    found = metrics(steps)
    assert ["rescue/calls" in row for row in found] == [False, False, False, True]
    assert [row["signal/difficult"] for row in found] == [1] * 4

    def format(completions: list[str], trainer_state: Any, **columns: Any) -> list[float]:
        return [1.0 if trainer_state.global_step == 1 else 0.5] * len(completions)

    by_format = tmp_path / "format"
    config = make_config(by_format, **GHPO, rescue_cold_format=0.9, max_steps=4)
    make_trainer(policy, tokenizer, config, rows=rows, reward=[script, format]).train()
    # Step 2 is the one whose format is good; from then on the ladder is open, also where format falls again.
    assert ["rescue/calls" in row for row in metrics(by_format)] == [False, False, True, True]
    with pytest.raises(InputError, match="format_reward"):
        make_trainer(policy, tokenizer, config, rows=rows, reward=script)


def test_a_problem_starts_where_it_was_last_rescued(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Four epochs over two problems; one needs the third attempt when it is new."""
    rows = two_problems()
    config = make_config(tmp_path, **{**GHPO, "method": "ghpo-continuous"}, max_steps=3)
    _a, b = rows["prompt"]

    class ByHint(ScriptedAccuracy):
        """Problem a succeeds from .6 of its hint on, whichever attempt that is."""

        def reward(self, prompt: str, seen: set[str]) -> float | None:
            omegas = {self.omega_of(prompt)}
            first = prompt not in seen
            seen.add(prompt)
            return float(first and (prompt == b or max(omegas) >= 0.6))

        def omega_of(self, prompt: str) -> float:
            batch = trainer._batch
            assert batch is not None
            place = [row["prompt"] for row in batch.rows].index(prompt)
            return batch.plan[place].omega or 0.0

    trainer = make_trainer(policy, tokenizer, config, rows=rows, reward=ByHint({}))
    spy = Spy(trainer)
    trainer.train()
    # New: .25, .5, .75 ✓ with 1 of 4: next .75 + .5·(.5 − .25), clipped to .75: one attempt from then on.
    assert [len(call) for call in spy.sampled] == [8, 4, 4, 4, 8, 4, 8, 4]
    assert [row["rescue/omega"] for row in metrics(tmp_path)] == [0.75] * 3
    assert [row["rescue/1"] for row in metrics(tmp_path)] == [0, 0.5, 0.5]
    state = trainer.run_state.history.state_dict()
    assert sorted(value[0] for value in state.values()) == pytest.approx([0.05, 0.75])  # b: .25 − .125·3, at least .05


@pytest.mark.parametrize("trigger", ["rescue", "both"])
def test_any_method_takes_the_ladder(trigger: str, policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = two_problems()
    config = make_config(
        tmp_path, method="g2rpo-a", guidance_trigger=trigger, guidance_length=6, guidance_ratio=0.5, guidance_weight=0.5,
        rescue_cold_start=0, rollouts_every=1, max_steps=1,
    )  # fmt: skip
    reward = ScriptedAccuracy({rows[0]["prompt"]: 1})
    trainer = make_trainer(policy, tokenizer, config, rows=rows, reward=reward)
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8, 4]
    records = {group["prompt"]: group["rollouts"] for group in rollouts(tmp_path)}
    rescued, other = records[rows[0]["prompt"]], records[rows[1]["prompt"]]
    assert [r["arm"] for r in rescued] == ["guided"] * 2 + ["unguided"] * 2  # the method's own allocation
    # Alone, the ladder gives the controller's length; on top of a guided first sampling, shares of the trace.
    given = 6 if trigger == "rescue" else int(0.25 * len(rows[0]["guidance"]))
    assert [r["guidance_tokens"] for r in rescued] == [given, given, 0, 0]
    assert [r["guidance_tokens"] for r in other] == ([0] * 4 if trigger == "rescue" else [6, 6, 0, 0])
    masks = spy.batches[0]["tool_mask"] * spy.batches[0]["completion_mask"]
    halves = sorted(int((row == 0.5).sum()) for row in masks)
    assert halves == ([0] * 6 + [6, 6] if trigger == "rescue" else [0] * 4 + sorted([given] * 2 + [6, 6]))


def test_hints_of_one_length_for_all(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The fixed ω of GHPO's ablation: no ladder, half of the solution in the prompt of half of each group."""
    rows = two_problems()
    config = make_config(
        tmp_path, method="fixed", guidance_placement="hint", hint_template=HINT, guidance_ratio=0.5,
        guidance_unit="ratio-chars", guidance_length=0.5, max_steps=1, rollouts_every=1,
    )  # fmt: skip
    trainer = make_trainer(policy, tokenizer, config, rows=rows, reward=ScriptedAccuracy({}))
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8]
    wanted = [prompt for row in rows for prompt in ([hinted(row, 0.5)] * 2 + [row["prompt"]] * 2)]
    assert text_rows(spy, tokenizer) == sorted(wanted)
    assert "tool_mask" not in spy.batches[0]  # nothing to weigh: a hint is prompt
    found = metrics(tmp_path)[0]
    assert found["guidance/ratio"] == 0.5
    assert found["tokens/trained"] == found["tokens/generated"]
    given = [len(hinted(row, 0.5)) - len(row["prompt"]) for row in rows]
    assert found["guidance/tokens"] == 2 * sum(given)


def test_a_hint_that_does_not_fit_is_not_tried(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The ladder ends where the context does: the run goes on, and the group is counted."""
    rows = two_problems()
    script = ScriptedAccuracy(dict.fromkeys(rows["prompt"], NEVER))
    config = make_config(tmp_path, **GHPO, max_steps=1)
    room = len(rows[0]["prompt"]) + 12 + 7  # a: hints of 5 characters fit, 10 do not; b: prompt longer by 2
    policy.config.max_position_embeddings = room
    trainer = make_trainer(policy, tokenizer, config, rows=rows, reward=script)
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8, 4]
    found = metrics(tmp_path)[0]
    assert (found["rescue/lost"], found["rescue/unguidable"]) == (0.5, 0.5)


def test_sampler_logprobs_go_with_their_rows(
    policy: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine's log-probs (here: the token id, negated) stay beside the ids they belong to."""
    from trl import GRPOTrainer

    original = GRPOTrainer._generate_single_turn

    def with_logprobs(self: Any, *args: Any, **kwargs: Any) -> Any:
        ids, _ = original(self, *args, **kwargs)
        return ids, [[-float(token) for token in row] for row in ids]

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", with_logprobs)
    rows = two_problems()
    reward = ScriptedAccuracy({rows[0]["prompt"]: 1, rows[1]["prompt"]: 0})
    config = make_config(tmp_path, **GHPO, guidance_placement="prefix", max_steps=1, forward="plain")
    trainer = make_trainer(policy, tokenizer, config, rows=rows, reward=reward)
    spy = Spy(trainer)
    trainer.train()
    batch = spy.batches[0]
    counts = defaultdict(int)
    for place, (_, completion) in enumerate(rows_of(batch)):
        values = batch["sampling_per_token_logps"][place][: len(completion)].tolist()
        for token, value in zip(completion, values, strict=True):
            assert value != value or value == -token  # NaN: guidance, which no sampler drew
            counts["guidance" if value != value else "drawn"] += 1
    assert counts["guidance"] == 4 * 5
    assert counts["drawn"] > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rescue_stages": [0.5, 0.25]}, "rescue_stages.*increasing"),
        ({"rescue_stages": [0.0, 0.5]}, "rescue_stages"),
        ({"rescue_stages": [0.5, 1.5]}, "rescue_stages.*up to 1"),
        ({"rescue_strength": "controller"}, "rescue_strength.*has none"),
        ({"rescue_strength": "ladder"}, "rescue_strength.*stages, memory, controller"),
        ({"rescue_slice": "words"}, "rescue_slice.*chars, tokens, steps"),
        ({"guidance_trigger": "never"}, "guidance_trigger.*always, rescue, both"),
        ({"guidance_placement": "system"}, "guidance_placement.*prefix, hint"),
        ({"hint_template": "Hint: {hint}"}, "hint_template.*once each"),
        ({"hint_template": "{problem}{hint}{hint}"}, "hint_template.*once each"),
        ({"rescue_cold_start": -1}, "rescue_cold_start"),
        ({"rescue_cold_format": 2.0}, "rescue_cold_format"),
    ],
)
def test_ladders_that_make_no_sense_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        make_config(tmp_path, **{"method": "ghpo", **values})


def test_one_rollout_climbs_and_the_others_stay(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Scaf-GRPO: of eight rollouts one succeeds after the second hint; A = 7/8 and −1/8 over a deviation of √(1/8)."""
    rows = chain_rows(1)
    config = make_config(
        tmp_path, method="scaf", hint_template=HINT, rescue_cold_start=0, num_generations=8, max_steps=1,
        guidance_leak=True,
    )  # fmt: skip
    reward = ScriptedAccuracy({rows[0]["prompt"]: 2})
    reward.masks_ungraded = True  # type: ignore[attr-defined]  # as the real graders: they look at whole groups
    trainer = make_trainer(policy, tokenizer, config, rows=rows, reward=reward)
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8, 1, 1]
    plain, first, second = spy.sampled[0][0], spy.sampled[1][0], spy.sampled[2][0]
    assert len(plain) < len(first) < len(second)
    trained = sorted((len(prompt), round(float(a), 2)) for (prompt, _), a in zip(
        rows_of(spy.batches[0]), spy.batches[0]["advantages"], strict=True))  # fmt: skip
    assert trained == [(len(plain), -0.35)] * 7 + [(len(second), 2.47)]


def test_a_cue_for_all_but_one_rollout(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """NuRL: of eight rollouts of a group that failed seven are sampled again with the whole cue, and one without."""
    rows = chain_rows(1)
    config = make_config(
        tmp_path, method="nurl", hint_template=HINT, rescue_cold_start=0, num_generations=8, max_steps=1,
        guidance_leak=True,
    )  # fmt: skip
    trainer = make_trainer(policy, tokenizer, config, rows=rows, reward=ScriptedAccuracy({rows[0]["prompt"]: 1}))
    spy = Spy(trainer)
    trainer.train()
    assert [len(call) for call in spy.sampled] == [8, 8]
    assert text_rows(spy, tokenizer) == sorted([hinted(rows[0], 1.0)] * 7 + [rows[0]["prompt"]])
