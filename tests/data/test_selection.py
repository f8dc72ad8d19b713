"""Selection, overlap and the figures of a stream: hand-counted sets, and independent computations."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guided_grpo.data import leak
from guided_grpo.data.preparing.overlap import HashTable, load_benchmarks, text_hash, word_runs
from guided_grpo.data.preparing.selection import filter_hard, select
from guided_grpo.data.preparing.survey import EXACT, Lengths, Reservoir
from guided_grpo.errors import InputError


def test_word_runs() -> None:
    assert list(word_runs("A b, C-d.", 3)) == [("a", "b", "c"), ("b", "c", "d")]
    assert list(word_runs("a b", 3)) == []


def test_a_benchmark_that_is_not_there_is_an_error_with_the_fix(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="field 'benchmarks': .*is not there.*; fix: .*offline_benchmarks: skip"):
        load_benchmarks([missing])
    assert list(load_benchmarks([missing], skip_missing=True).skipped) == [missing]
    (tmp_path / "b.jsonl").write_text('{"q": "text"}\n')
    with pytest.raises(InputError, match="holds no text to compare; the columns are q"):
        load_benchmarks([str(tmp_path / "b.jsonl")])
    found = load_benchmarks([{"source": str(tmp_path / "b.jsonl"), "column": "q", "name": "mine"}])
    assert found.problems == {"mine": 1}


def test_hash_table_grows_and_keeps_the_first_value() -> None:
    table, rng = HashTable(), random.Random(0)
    keys = [rng.randrange(1, 1 << 64) for _ in range(5000)] + [1 << 10, 1 << 20, 1 << 30]  # the last three collide
    for number, key in enumerate(keys):
        table.add(key, number)
        table.add(key, 0)
    assert len(table) == len(keys)
    assert [table.get(key) for key in keys] == list(range(len(keys)))
    assert table.get(12345) is None
    assert text_hash("Ａ b") == text_hash("ab") != text_hash("a+b")


def test_sample_filters_by_hand() -> None:
    difficulties = [1, 2, 3, 9, None, 8]
    keep = filter_hard(range(6), difficulties, "keep", hard=8, moderate=2)
    assert keep.rows == [0, 1, 2, 3, 4, 5] and keep.gone == []
    remove = filter_hard(range(6), difficulties, "remove", hard=8, moderate=2)
    assert (remove.rows, remove.gone) == ([0, 1, 2, 4], [3, 5])
    replace = filter_hard(range(6), difficulties, "replace", hard=8, moderate=2, seed=1)
    assert replace == filter_hard(range(6), difficulties, "replace", hard=8, moderate=2, seed=1)
    assert [replace.rows[place] for place in (0, 1, 2, 4)] == [0, 1, 2, 4]
    assert sorted([replace.rows[3], replace.rows[5]]) == [1, 2]  # both moderate rows, each once
    assert (len(replace.gone), replace.repeated) == (2, 2)
    spared = filter_hard([0, 1, 3], [1, 2, 3, 9], "replace", hard="quantile 0.9", moderate=2, spare=[2])
    assert (spared.rows, spared.repeated) == ([0, 1, 2], 0)
    tiers = ["cn_contest", "olympiads", "amc_aime"]
    assert filter_hard(range(3), tiers, "remove", hard="olympiads", moderate="aops_forum").rows == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hard": 2, "moderate": 5}, "is not below hard"),
        ({"hard": "very", "moderate": 1}, "'very' is no bound"),
        ({"hard": "quantile 2", "moderate": 1}, "is no bound"),
        ({"hard": 3, "moderate": 2.5}, "finds no row of difficulty in"),
    ],
)
def test_sample_filter_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        filter_hard(range(3), [1, 2, 3], "replace", **arguments)


def test_selection_spreads_over_tiers_and_accounts_for_every_row() -> None:
    tiers = ["olympiads"] * 50 + ["cn_contest"] * 10 + ["amc_aime"] * 40
    chosen = select(tiers, tiers, limit=45, order="difficulty", seed=3)
    names = [tiers[row] for row in chosen.rows]
    assert Counter(names) == {"cn_contest": 10, "amc_aime": 17, "olympiads": 18}
    assert names == sorted(names, key=["cn_contest", "amc_aime", "olympiads"].index)
    assert sorted([*chosen.rows, *chosen.dropped]) == list(range(100))
    assert (
        chosen == select(tiers, tiers, limit=45, order="difficulty", seed=3) != select(tiers, tiers, limit=45, seed=4)
    )
    few = select(tiers, tiers, per_tier=20)
    assert Counter(few.dropped.values()) == {"tier-full": 50} and len(few.rows) == 50


def test_replacing_draws_from_rows_outside_the_limit_first() -> None:
    difficulties = [1.0, 5.0, 9.0] * 20
    chosen = select(difficulties, [None] * 60, limit=30, seed=1, mode="replace", hard=9, moderate=5)
    assert Counter(difficulties[row] for row in chosen.rows)[9.0] == 0
    assert len(chosen.rows) == 30
    assert len(set(chosen.rows)) + len(chosen.dropped) == 60
    assert chosen.repeated == 30 - len(set(chosen.rows))


def test_lengths_are_exact_when_short_and_to_one_per_cent_when_long() -> None:
    lengths, values = Lengths(), [random.Random(5).randrange(1, 50_000) for _ in range(3000)]
    rng = random.Random(5)
    values = [rng.randrange(1, 50_000) for _ in range(3000)]
    for value in values:
        lengths.add(value)
    for share in (0.5, 0.9, 0.99):
        true = sorted(values)[int(share * 3000 + 0.999999) - 1]
        assert abs(lengths.quantile(share) - true) <= 0.011 * true + 1
    short = Lengths()
    for value in (3, 1, 2, EXACT):
        short.add(value)
    assert [short.quantile(share) for share in (0, 0.25, 0.5, 0.75, 1)] == [1, 1, 2, 3, EXACT]
    assert Lengths().quantile(0.5) == 0


def test_a_reservoir_draws_evenly() -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        drawn = Reservoir[int](2, seed)
        for value in range(10):
            drawn.add(value)
        assert len(set(drawn.sample())) == 2
        counts.update(drawn.sample())
    assert all(330 <= counts[value] <= 470 for value in range(10))  # 400 expected, σ = 18


def test_integers_are_found_as_by_their_own_pattern() -> None:
    rng = random.Random(1)
    bits = [
        "$",
        "\\$",
        " ",
        ",",
        "\\,",
        "{,}",
        ".",
        "0",
        ".0",
        "-",
        "180",
        "1,180",
        "x",
        "204",
        "200 300",
        "100 200 300",
        "0204",
        "20,300",
        "\n",
    ]
    answers = ("180", "204", "1180", "200300", "-180", "300", "20300", "1000200")
    patterns = {answer: leak._pattern(answer) for answer in answers}
    found = 0
    for _ in range(4000):
        text = "".join(rng.choice(bits) for _ in range(rng.randrange(1, 9)))
        for answer in answers:
            match, own = patterns[answer].search(text), leak._Integer(answer).search(text)
            assert (match and match.span()) == (own and own.span()), (text, answer)
            found += match is not None
    assert found > 1000


@pytest.mark.parametrize(
    ("trace", "given"),
    [
        ("Think.\n```python\na = 1\nprint(a)\n```", "Think.\n```python\na = 1"),
        ("Draft:\n```\nx\n```\nno, better\n</think>\n```python\nprint(1)\n```", "Draft:\n```\nx\n```\nno, better"),
        ("```python\nprint(1)\n```", "```python"),
        ("No program.", "No program."),
        ("", ""),
    ],
)
def test_a_slice_is_never_a_whole_program(trace: str, given: str) -> None:
    assert trace[: leak.safe_program_length(trace)] == given
