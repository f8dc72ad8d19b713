"""The report on runs with a rescue ladder: shares worked out by hand, warnings, hints, and that a browser draws it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from guided_grpo.errors import InputError
from guided_grpo.studies.report.curves import CURVES, curve_plot
from guided_grpo.studies.report.ladder import in_words, layer_colours, outcome_plots, outcomes
from guided_grpo.studies.report.logs import Run, load_runs
from guided_grpo.studies.report.page import build_report
from guided_grpo.studies.report.plots import REWARD_COLOURS
from guided_grpo.studies.report.texts import rollouts_section, summary_table, warning_list
from report_runs import EVIL, PROBE, Elements, dump_dom, figures_of, make_run, write_run

# Batches of 8 groups: a cold start, all rescued, three lost, two without a trace.
COLD_START = {"signal/difficult": 6 / 8}
ALL_RESCUED = {"signal/difficult": 4 / 8, "rescue/1": 2 / 8, "rescue/2": 1 / 8, "rescue/3": 1 / 8, "rescue/lost": 0.0}
SOME_LOST = {"signal/difficult": 6 / 8, "rescue/1": 2 / 8, "rescue/2": 0.0, "rescue/3": 1 / 8, "rescue/lost": 3 / 8}
NO_TRACE = {"signal/difficult": 4 / 8, "rescue/1": 1 / 8, "rescue/lost": 1 / 8, "rescue/unguidable": 2 / 8}


def one_run(path: Path, records: list[dict[str, Any]], **files: object) -> Run:
    return load_runs([write_run(path, records, **files)])[0]


def test_outcomes_by_hand(tmp_path: Path) -> None:
    found = outcomes(one_run(tmp_path / "ghpo", [COLD_START, ALL_RESCUED, SOME_LOST, NO_TRACE]))
    assert found.steps == [1, 2, 3, 4]
    assert found.shares == {
        "solved at first sampling": [2 / 8, 4 / 8, 2 / 8, 4 / 8],
        "rescued at attempt 1": [0, 2 / 8, 2 / 8, 1 / 8],
        "rescued at attempt 2": [0, 1 / 8, 0, 0],
        "rescued at attempt 3": [0, 1 / 8, 1 / 8, 0],
        "still lost": [0, 0, 3 / 8, 1 / 8],
        "not tried": [6 / 8, 0, 0, 2 / 8],
    }
    assert (found.cold, found.left_out) == (1, 0)
    # 14 of 24 groups after the cold start: 5, 1 and 2 rescued, 4 lost, 2 not tried.
    words = "58.3 % of groups were difficult after the cold start of 1 step; of these 35.7 % rescued at attempt 1, "
    words += "7.1 % rescued at attempt 2, 14.3 % rescued at attempt 3, 28.6 % still lost, 14.3 % not tried."
    assert in_words(found).replace("\u00a0", " ") == words


def test_smoothed_layers_sum_to_one_and_the_ladder_starts_at_once(tmp_path: Path) -> None:
    run = one_run(tmp_path / "ghpo", [COLD_START] * 20 + [ALL_RESCUED, SOME_LOST, NO_TRACE] * 10)
    (plot,) = outcome_plots([run])
    assert plot.figure is not None
    layers = {trace["name"]: trace["y"] for trace in plot.figure["data"]}
    assert {trace["stackgroup"] for trace in plot.figure["data"]} == {"outcomes"}
    for place in range(50):
        assert math.fsum(layer[place] for layer in layers.values()) == pytest.approx(1, abs=1e-4)
    assert layers["rescued at attempt 1"][:20] == [0] * 20
    # The window of 5 has 3 values at the first step on the ladder: 2/8, 2/8 and 1/8.
    assert layers["rescued at attempt 1"][20] == pytest.approx(5 / 24, abs=1e-5)
    assert layers["rescued at attempt 1"][22] == pytest.approx(9 / 40, abs=1e-5)
    go.Figure(plot.figure)


def test_rounded_shares_still_sum_to_one(tmp_path: Path) -> None:
    thirds = {"signal/difficult": 0.6667, "rescue/1": 0.3333, "rescue/lost": 0.3338}
    found = outcomes(one_run(tmp_path / "ghpo", [thirds]))
    assert math.fsum(share[0] for share in found.shares.values()) == pytest.approx(1, abs=1e-12)
    assert found.shares["not tried"] == [0]


@pytest.mark.parametrize(
    "broken",
    [
        {"signal/difficult": 0.25, "rescue/1": 0.5},  # more rescued than difficult
        {"signal/difficult": 1.5, "rescue/1": 0.5},
        {"signal/difficult": float("nan"), "rescue/1": 0.5},
        {"rescue/1": 0.5},
    ],
)
def test_shares_that_do_not_add_up_are_left_out_with_a_note(tmp_path: Path, broken: dict[str, float]) -> None:
    (plot,) = outcome_plots([one_run(tmp_path / "ghpo", [ALL_RESCUED, broken])])
    assert plot.figure is not None
    assert plot.figure["data"][0]["x"] == [1]
    assert plot.notes == ["Steps left out, without signal/difficult or with shares that do not add up: 1."]
    (plot,) = outcome_plots([one_run(tmp_path / "other", [broken])])
    assert plot.figure is None
    assert plot.notes[0] == "Left out: no step records signal/difficult with shares that add up."


def test_a_run_that_was_never_in_need(tmp_path: Path) -> None:
    found = outcomes(one_run(tmp_path / "ghpo", [COLD_START, {"signal/difficult": 0.0, "rescue/1": 0.0}]))
    assert in_words(found) == "No group was difficult after the cold start of 1 step."


def test_layers_go_from_bright_to_dark_for_any_number_of_attempts() -> None:
    three = layer_colours([1, 2, 3])
    assert list(three.values()) == [*reversed(REWARD_COLOURS), "#8c8c8c"]
    # One attempt stands half-way; five lie on sixths of the scale, so the third is half-way too.
    assert layer_colours([1])["rescued at attempt 1"] == "#958f78"
    assert layer_colours([1, 2, 3, 4, 5])["rescued at attempt 3"] == "#958f78"
    # Attempt 2 of 2 lies on a third of the scale, a third of the way from #666870 to #958f78.
    assert layer_colours([1, 2])["rescued at attempt 2"] == "#767573"


def test_an_attempt_has_one_colour_in_all_runs(tmp_path: Path) -> None:
    short = {"signal/difficult": 0.5, "rescue/1": 0.25, "rescue/lost": 0.25}
    runs = load_runs([write_run(tmp_path / "a", [ALL_RESCUED] * 2), write_run(tmp_path / "b", [short] * 2)])
    painted = [
        {trace["name"]: trace.get("fillcolor") for trace in plot.figure["data"]}
        for plot in outcome_plots(runs)
        if plot.figure is not None
    ]
    assert painted[0]["rescued at attempt 1"] == painted[1]["rescued at attempt 1"] == "#cab969"
    assert "rescued at attempt 2" not in painted[1]


def test_cost_is_a_share_of_the_step(tmp_path: Path) -> None:
    steps = [
        {"rescue/tokens": 300, "tokens/generated": 1200, "time/rescue": 2.0, "step_time": 5.0},
        {"rescue/tokens": 0, "tokens/generated": 0},
        {"tokens/generated": 900, "step_time": 4.0},
    ]
    plot = curve_plot(CURVES["rescue-cost"], [one_run(tmp_path / "ghpo", steps)])
    assert plot.figure is not None
    assert [(trace["x"], trace["y"]) for trace in plot.figure["data"]] == [([1], [0.25]), ([1], [0.4])]
    assert plot.key == "solid: tokens, dashed: seconds"


def test_the_solid_line_of_a_ladder_run_is_its_first_sampling(tmp_path: Path) -> None:
    rewards = {"reward/first": 0.1, "reward/unguided": 0.4, "reward/guided": 0.3}
    runs = load_runs([write_run(tmp_path / "grpo", [rewards]), write_run(tmp_path / "ghpo", [rewards | ALL_RESCUED])])
    plot = curve_plot(CURVES["accuracy"], runs)
    assert plot.figure is not None
    shown = {trace["name"]: (trace["y"], trace["line"]["dash"]) for trace in plot.figure["data"]}
    assert shown["grpo · unguided"] == ([0.4], "solid")
    assert shown["ghpo · first sampling"] == ([0.1], "solid")
    assert shown["ghpo · guided"] == ([0.3], "dash")
    assert plot.key == "solid: unguided or first sampling, dashed: guided"
    assert any(note.startswith("Runs with a rescue ladder: the solid line is reward/first") for note in plot.notes)


def test_without_a_ladder_the_page_has_no_section_on_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "grpo", [COLD_START | {"grad_norm": 1.0, "signal/zero_groups": 0.5}] * 3)
    text = build_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Were hopeless groups rescued?" not in text
    assert '<ul class="warnings"' not in text
    assert list(figures_of(text)) == ["plot-zero-groups", "plot-difficult", "plot-gradient"]
    assert text.index('id="gradient"') > text.index("Was training healthy?")


def test_with_a_ladder_both_curves_of_the_paper_stand_in_its_section(tmp_path: Path) -> None:
    common = {"grad_norm": 1.0, "signal/zero_groups": 0.5}
    plain = write_run(tmp_path / "grpo", [COLD_START | common] * 3)
    ladder = write_run(tmp_path / "<b>ghpo", [COLD_START | common, *[SOME_LOST | common] * 2])
    text = build_report([plain, ladder], tmp_path / "report.html").read_text(encoding="utf-8")
    section = text[text.index("Were hopeless groups rescued?") : text.index("Where do rewards come from?")]
    cards = [attributes["id"] for _, attributes in Elements(section).found if "id" in attributes]
    assert [card for card in cards if not str(card).startswith("plot-")] == [
        "outcomes-1",
        "zero-groups",
        "gradient",
        "omega",
        "rescue-cost",
    ]
    assert "&lt;b&gt;ghpo: what became of its groups" in section
    figures = figures_of(text)
    assert {trace["meta"]["run"] for trace in figures["plot-gradient"]["data"]} == {0, 1}
    assert "Left out: no run records rescue/omega." in section
    assert text.count('id="gradient"') == text.count('id="zero-groups"') == 1


def test_warnings_are_shown_escaped_and_in_order(tmp_path: Path) -> None:
    warnings: list[dict[str, Any]] = [
        {"step": 40, "warning": "hint-collapse", "message": "first"},
        {"step": 20, "warning": "<b>", "message": EVIL},
        {"step": 40, "warning": "hint-collapse", "message": "after the resume"},
        {"message": "a row without the rest"},
    ]
    run = one_run(tmp_path / "ghpo", [ALL_RESCUED], warnings=warnings)
    html = warning_list([run])
    items = re.findall(r"</strong>(.*?)</li>", html)
    assert items[0] == ", at no known step: <code></code> a row without the rest"
    assert items[1].startswith(", step 20: <code>&lt;b&gt;</code> &lt;script&gt;document.title=&#x27;owned&#x27;")
    assert items[2:] == [", step 40: <code>hint-collapse</code> after the resume"]
    assert "<script" not in html
    text = build_report([tmp_path / "ghpo"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.encode("utf-8", "replace").decode() in text
    assert not [tag for tag, _ in Elements(text).found if tag == "img"]


def test_many_warnings_do_not_bury_the_table(tmp_path: Path) -> None:
    warnings = [{"step": step, "warning": "hint-collapse", "message": "m"} for step in range(1, 13)]
    html = warning_list([one_run(tmp_path / "ghpo", [ALL_RESCUED], warnings=warnings)])
    assert html.count("<li") == 6
    assert ": 7 more, up to step 12</li>" in html


def test_the_summary_has_a_column_only_where_a_run_fills_it(tmp_path: Path) -> None:
    ghpo = {"grad_norm_mean": 0.3214, "grad_norm_variance": 0.00851, "zero_groups": 0.165, "difficult_groups": 0.294}
    ghpo |= {"rescue_tokens": 50, "tokens_generated": 200}
    runs = [write_run(tmp_path / "ghpo", [ALL_RESCUED], summary=ghpo), write_run(tmp_path / "old", [{}], summary={})]
    html = summary_table(load_runs(runs)).replace("\u00a0", " ")
    assert '<td class="number" data-label="Gradient norm"><span>0.321<br><small>variance 0.0085</small>' in html
    assert 'data-label="Difficult groups"><span>29.4 %<br><small>16.5 % without a signal</small>' in html
    assert 'data-label="Rescue tokens"><span>25.0 %</span>' in html
    assert html.count('data-label="Rescue tokens"><span>–</span>') == 1
    old = write_run(tmp_path / "grpo", [{}], summary={"grad_norm_mean": 0.5, "difficult_groups": None})
    html = summary_table(load_runs([old]))
    assert 'data-label="Gradient norm"><span>0.5</span>' in html
    assert "Rescue tokens" not in html
    assert "Difficult groups" not in html


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "[]", "summary.json: [] is no JSON object"),
        ("summary.json", '{"grad_norm_mean": "big"}', "summary.json: field 'grad_norm_mean': 'big' is not a number"),
        ("warnings.jsonl", '{"step": "x"}\n', "warnings.jsonl:1: field 'step': 'x' is not a number"),
        ("metrics.jsonl", '{"rescue/4": "x"}\n', "metrics.jsonl:1: field 'rescue/4': 'x' is not a number"),
        ("rollouts.jsonl", '{"step": 1, "rollouts": [{"omega": "x"}]}\n', "rollouts.jsonl:1: field 'omega': 'x'"),
    ],
)
def test_damaged_files_name_the_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    run = write_run(tmp_path / "run", [ALL_RESCUED])
    (run / name).write_text(content)
    with pytest.raises(InputError) as caught:
        load_runs([run])
    assert message in str(caught.value)


def test_a_hint_stands_apart_from_the_answer(tmp_path: Path) -> None:
    def rollout(**fields: object) -> dict[str, Any]:
        return {"arm": "guided", "generated": "-5=4;", "rewards": {"accuracy": 1.0}, **fields}

    groups = [
        [rollout(guidance="<i>+3=7;", stage=2, omega=0.5, placement="hint")],
        [rollout(guidance="+3=7;", stage=1, omega=0.25, placement="prefix")],
        [rollout(arm="unguided", guidance="", stage=0, omega=None, placement="hint")],
    ]
    rows = [{"step": 1, "group": place, "prompt": "p", "rollouts": group} for place, group in enumerate(groups)]
    html = rollouts_section([one_run(tmp_path / "ghpo", [ALL_RESCUED], rollouts=rows)])
    hinted, prefixed, first = html.split("<article")[1:]
    assert '<span class="chip">hint in the prompt, stage 2, ω = 0.5</span>' in hinted
    mark = '<div class="text"><mark class="guidance">&lt;i&gt;+3=7;</mark></div></div>'
    assert f'<div class="hint"><div class="role">hint</div>{mark}<div class="text"><span class="generated">' in hinted
    assert '<span class="chip">start of the answer given, stage 1, ω = 0.25</span>' in prefixed
    assert '<mark class="guidance">+3=7;</mark><span class="generated">-5=4;' in prefixed
    assert "stage" not in first
    assert "hint" not in first


@pytest.mark.slow
def test_a_browser_draws_the_ladder_and_hides_it(tmp_path: Path) -> None:
    """Stacked layers of two ladder runs beside a plain one, on a phone; a click hides the first ladder."""
    runs = [make_run(tmp_path / name, guided=False, steps=30, seed=seed) for seed, name in enumerate(("a", "b", "c"))]
    for place, run in enumerate(runs):
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for step, record in enumerate(records):
            known = COLD_START if place == 2 or step < 5 else (ALL_RESCUED, SOME_LOST, NO_TRACE)[step % 3]
            cost = {"rescue/omega": 0.5, "rescue/tokens": 900, "time/rescue": 0.3} if "rescue/1" in known else {}
            record |= known | cost
        warnings = [{"step": 9, "warning": "hint-collapse", "message": EVIL}]
        write_run(run, records, warnings=warnings)
    build_report(runs, tmp_path / "report.html")
    (tmp_path / "probe.html").write_text(PROBE)
    dom, console = dump_dom(tmp_path / "probe.html", tmp_path / "profile")
    assert console == []
    match = re.search(r'<pre id="seen">(\{.*?\})</pre>', dom)
    assert match is not None, dom[-2000:]
    seen = json.loads(match[1])
    for view in seen.values():
        assert (view["drawn"], view["failure"], view["title"]) == ("true", "", "Guided GRPO: a, b, c")
    # The eight curves of any run; difficult groups, ω and cost; accuracy by tier; two stacks; two batches of each run.
    assert seen["shown"]["plots"] == 8 + 3 + 1 + 2 + 6
    assert (seen["shown"]["layers"], seen["hidden"]["layers"]) == (12, 6)
    assert seen["shown"]["right"] <= seen["shown"]["width"] <= 400
