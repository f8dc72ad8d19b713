"""The report: tolerant reading, figures, escaping, and that a real browser draws it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import yaml

from guided_grpo.errors import InputError
from guided_grpo.studies.report.curves import CURVES, curve_plot, running_mean
from guided_grpo.studies.report.logs import load_runs
from guided_grpo.studies.report.page import build_report
from guided_grpo.studies.report.plots import batch_summary, heatmap, tiers_plot
from guided_grpo.studies.report.texts import rollouts_section
from report_runs import EVIL, PROBE, Elements, dump_dom, figures_of, make_run, write_lines


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / "guided", seed=0), make_run(folder / "grpo", guided=False, seed=1, text=EVIL)]


@pytest.fixture(scope="module")
def page(two_runs: list[Path]) -> Path:
    return build_report(two_runs, two_runs[0].parent / "out" / "report.html")


def test_page_is_self_contained(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    elements = Elements(text).found
    for tag, attributes in elements:
        assert not {"src", "href", "srcset", "data", "action", "poster"} & attributes.keys(), (tag, attributes)
    assert "@import" not in text.split("</style>")[0]
    assert "url(" not in text.split("</style>")[0]
    assert [tag for tag, _ in elements].count("script") == 3  # data, plotly.js, the page's own
    assert text.count("plotly.js v") == 1
    policy = next(attributes["content"] for tag, attributes in elements if tag == "meta" and "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_every_figure_is_valid_plotly_and_has_its_box(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    figures = figures_of(text)
    boxes = [attributes["id"] for tag, attributes in Elements(text).found if attributes.get("class") == "plot"]
    assert boxes == list(figures)
    curves = ["accuracy", "tokens", "zero-groups", "advantage", "guidance", "gradient", "length", "truncated"]
    batches = [f"batch-{run}-{place}" for run in (0, 1) for place in ("first", "last")]
    assert set(boxes) == {f"plot-{name}" for name in ["tiers", *curves, *batches]}
    for figure in figures.values():
        go.Figure(figure)  # refuses unknown properties and values


def test_a_run_has_one_colour_in_every_plot(page: Path) -> None:
    figures = figures_of(page.read_text(encoding="utf-8"))
    for name in ("plot-accuracy", "plot-gradient", "plot-tokens"):
        colours = {(trace["meta"]["run"], trace["line"]["color"]) for trace in figures[name]["data"]}
        assert colours == {(0, "#0072b2"), (1, "#d55e00")}
    after = [trace for trace in figures["plot-tiers"]["data"] if trace["name"].endswith("after")]
    assert [trace["marker"]["color"] for trace in after] == ["#0072b2", "#d55e00"]


def test_accuracy_is_solid_unguided_and_dashed_guided(page: Path) -> None:
    traces = figures_of(page.read_text(encoding="utf-8"))["plot-accuracy"]["data"]
    named = {trace["name"]: trace["line"]["dash"] for trace in traces if trace.get("hoverinfo") != "skip"}
    assert named == {"guided · unguided": "solid", "guided · guided": "dash", "grpo · unguided": "solid"}


def test_hostile_text_is_inert(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    body = text[text.index("<body>") : text.index('<script type="application/json"')]
    assert "<script" not in body
    assert not [tag for tag, _ in Elements(text).found if tag == "img"]
    assert "&lt;script&gt;document.title=&#x27;owned&#x27;&lt;/script&gt;" in body
    assert "&amp;amp; ?" in body  # an entity stays as it was written; a lone surrogate cannot be


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<img src=x onerror=alert(1)>", steps=3)
    (run / "config.yaml").write_text(yaml.safe_dump({"method": "</td><script>1</script>", "seed": 0}))
    text = build_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert not [tag for tag, _ in Elements(text).found if tag == "img"]
    assert [tag for tag, _ in Elements(text).found].count("script") == 3
    names = {trace["name"] for trace in figures_of(text)["plot-gradient"]["data"]}
    assert names == {"&lt;img src=x onerror=alert(1)&gt;"}


def test_summary_and_settings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<span>0.750 <small>[0.710, 0.790]</small></span>" in text
    assert "<span>+0.700</span>" in text
    assert f"<span>{sum(5000 + step for step in range(1, 61)):,}</span>" in text
    assert "<code>guidance_ratio</code></td><td>0.5</td><td>0.0</td>" in text
    assert "<code>learning_rate</code>" not in text  # the same in both
    assert "hf_private" not in text


def test_guidance_is_set_apart_and_whitespace_kept(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert '<mark class="guidance">+3=7;\n*7=9;</mark><span class="generated">-5=4;\n  *3=2;' in text
    assert "white-space: pre-wrap" in text


def test_rollouts_show_best_and_worst_of_each_arm(tmp_path: Path) -> None:
    def rollout(arm: str, word: str, reward: float) -> dict[str, Any]:
        return {"arm": arm, "guidance": "", "generated": word, "rewards": {"accuracy": reward}, "advantage": reward}

    run = make_run(tmp_path / "run", steps=2)
    rollouts = [rollout("guided", "middling", 0.5), rollout("guided", "worst", 0.0), rollout("guided", "best", 1.0)]
    rollouts += [rollout("unguided", "x" * 4010, 0.0)]
    write_lines(run / "rollouts.jsonl", [{"step": 1, "group": 0, "prompt": "p", "answer": "a", "rollouts": rollouts}])
    html = rollouts_section(load_runs([run]))
    assert html.index("best") < html.index("worst</span>")
    assert "middling" not in html
    assert "3 of 4 rollouts" in html
    assert "… 10 characters left out …" in html


def test_heatmap_puts_guided_left_of_a_gap(tmp_path: Path) -> None:
    def rollout(arm: str, reward: float | None) -> dict[str, Any]:
        return {"arm": arm, "rewards": {"accuracy": reward}}

    run = make_run(tmp_path / "run", steps=2)
    groups = [
        [rollout("unguided", 0), rollout("guided", 1), rollout("guided", 0), rollout("unguided", 1)],
        [rollout("unguided", 0), rollout("unguided", 0), rollout("unguided", None), rollout("guided", 0)],
    ]
    write_lines(
        run / "rollouts.jsonl",
        [{"step": 4, "group": 7 + index, "prompt": "p", "rollouts": group} for index, group in enumerate(groups)],
    )
    loaded = load_runs([run])[0]
    (sample,) = loaded.samples  # first and last sampled step are the same
    figure = heatmap(loaded, sample, (0.0, 1.0))
    guided, unguided = figure["data"]
    assert guided["z"] == [[1, 0], [0, None]]
    assert unguided["z"] == [[0, 1, None], [0, 0, None]]
    assert (guided["x0"], unguided["x0"]) == (0, 2.5)
    assert figure["layout"]["yaxis"]["ticktext"] == ["7", "8"]
    assert batch_summary(sample) == "mean reward 0.33 guided, 0.25 unguided · 1 of 2 groups carry a signal"


def test_tiers_have_asymmetric_intervals(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    hard = {"accuracy": 0.2, "interval": [0.15, 0.3], "problems": 50}
    after = {"accuracy": 0.5, "interval": None, "problems": 100, "tiers": {"hard": hard}}
    (run / "eval.json").write_text(json.dumps({"before": None, "after": after}))
    plot = tiers_plot(load_runs([run]))
    assert plot.figure is not None
    (bars,) = plot.figure["data"]
    assert bars["x"] == ["all problems", "hard"]
    assert bars["y"] == [0.5, 0.2]
    assert bars["error_y"]["array"] == pytest.approx([0.0, 0.1])
    assert bars["error_y"]["arrayminus"] == pytest.approx([0.0, 0.05])
    assert plot.notes == ["No evaluation before training: run."]


def test_running_mean_is_centred_and_short_series_stay() -> None:
    assert running_mean([1.0, 5.0, 3.0]) == [1.0, 5.0, 3.0]
    values = [0.0] * 10 + [10.0] + [0.0] * 9
    assert running_mean(values) == [0.0] * 8 + [2.0] * 5 + [0.0] * 7
    assert running_mean([6.0, 0.0, 0.0, *[0.0] * 17])[:3] == [2.0, 1.5, 1.2]  # fewer values at the end


def test_tokens_axis_cumulates_or_takes_the_total(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    steps = [{"step": step, "reward/unguided": 0.5, "tokens/generated": 10 * step} for step in (1, 2, 3)]
    write_lines(run / "metrics.jsonl", steps)
    assert load_runs([run])[0].points_by_tokens("reward/unguided").x == [10, 30, 60]
    write_lines(run / "metrics.jsonl", [{**steps[0], "tokens/generated_total": 1000}])
    assert load_runs([run])[0].points_by_tokens("reward/unguided").x == [1000]
    (run / "metrics.jsonl").write_text('{"reward/unguided": 0.5, "tokens/generated": Infinity}\n')
    assert load_runs([run])[0].points_by_tokens("reward/unguided").x == []
    build_report([run], tmp_path / "report.html")


def test_a_long_trace_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    write_lines(run / "metrics.jsonl", [{"step": step, "advantage/std": 0.5} for step in range(1, 4001)])
    plot = curve_plot(CURVES["advantage"], load_runs([run]))
    assert plot.figure is not None
    x = plot.figure["data"][0]["x"]
    assert len(x) <= 1501
    assert (x[0], x[-1]) == (1, 4000)


def test_a_gradient_spike_makes_the_axis_logarithmic(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    write_lines(run / "metrics.jsonl", [{"step": step, "grad_norm": 900 if step == 5 else 1} for step in range(1, 9)])
    plot = curve_plot(CURVES["gradient"], load_runs([run]))
    assert plot.figure is not None
    assert plot.figure["layout"]["yaxis"]["type"] == "log"
    assert plot.notes == ["The axis is logarithmic, because single values stand far above the rest."]


def test_values_that_are_not_finite_are_left_out_with_a_note(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    (run / "metrics.jsonl").write_text('{"step": 1, "grad_norm": NaN}\n{"step": 2, "grad_norm": 1.5}\n')
    plot = curve_plot(CURVES["gradient"], load_runs([run]))
    assert plot.figure is not None
    assert plot.figure["data"][0]["y"] == [1.5]
    assert plot.notes == ["run: 1 values of grad_norm are not finite and left out."]


def test_a_foreign_run_is_shown_with_notes(tmp_path: Path) -> None:
    run = tmp_path / "foreign"
    run.mkdir()
    write_lines(run / "metrics.jsonl", [{"loss": 0.1, "reward/accuracy": 0.2}, {"loss": None, "epoch": "one"}])
    text = build_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    figures = figures_of(text)
    assert list(figures) == ["plot-accuracy"]
    assert figures["plot-accuracy"]["data"][0]["line"]["dash"] == "dot"
    for note in (
        "foreign does not tell guided from unguided rollouts: reward/accuracy is shown.",
        "Left out: no run records guidance/length.",
        "Left out: no run records tokens/generated.",
        "Left out: no run holds an evaluation.",
        "foreign: There is no eval.json: the run was not evaluated.",
    ):
        assert note in text


def test_an_empty_run_is_shown_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    text = build_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "metrics.jsonl holds no complete step yet." in text


def test_a_killed_run_loses_only_its_last_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=4)
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole[:-20])
    loaded = load_runs([run])[0]
    assert [record["step"] for record in loaded.metrics] == [1, 2, 3]
    assert any("metrics.jsonl is incomplete" in note for note in loaded.notes)


def test_a_resumed_run_counts_a_repeated_step_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=2)
    steps = [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.7), (3, 0.8)]
    write_lines(run / "metrics.jsonl", [{"step": step, "reward/unguided": reward} for step, reward in steps])
    assert load_runs([run])[0].points("reward/unguided").y == [0.1, 0.7, 0.8]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metrics.jsonl",
            '{"step": 1}\n{"step": 2\n{"step": 3}\n',
            "metrics.jsonl:2: '{\"step\": 2' is no JSON object",
        ),
        ("metrics.jsonl", '[1]\n{"step": 3}\n', "metrics.jsonl:1: '[1]' is no JSON object"),
        ("metrics.jsonl", '{"grad_norm": "big"}\n', "metrics.jsonl:1: field 'grad_norm': 'big' is not a number"),
        ("metrics.jsonl", '{"step": NaN}\n', "metrics.jsonl:1: field 'step': nan is no step"),
        ("rollouts.jsonl", '{"step": 1}\n', "rollouts.jsonl:1: field 'rollouts': is no list of objects"),
        ("rollouts.jsonl", '{"rollouts": []}\n', "rollouts.jsonl:1: field 'step': is missing"),
        ("config.yaml", "method: [\n", "config.yaml:2: is no YAML"),
        ("config.yaml", "grpo\n", "config.yaml: 'grpo' is no mapping of settings"),
        ("eval.json", '{"after": {"accuracy": 0.5}\n', "eval.json:2: is no JSON"),
        ("eval.json", '{"after": {"problems": 3}}', "eval.json: field 'after': has no finite accuracy"),
        ("eval.json", '{"after": {"accuracy": NaN}}', "eval.json: field 'after': has no finite accuracy"),
        (
            "eval.json",
            '{"after": {"accuracy": 1, "tiers": {"hard": {"accuracy": 1, "interval": 2}}}}',
            "eval.json: field 'after.tiers.hard.interval': 2 is no pair",
        ),
    ],
)
def test_damaged_files_name_the_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    run = make_run(tmp_path / "run", steps=2)
    (run / name).write_text(content)
    with pytest.raises(InputError) as caught:
        build_report([run], tmp_path / "report.html")
    assert message in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_path_that_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no metrics\.jsonl.*fix: give the output_dir"):
        build_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(InputError, match="missing: is no directory"):
        build_report([tmp_path / "missing"], tmp_path / "report.html")
    with pytest.raises(InputError, match="field 'runs'"):
        build_report([], tmp_path / "report.html")
    with pytest.raises(InputError, match="fix: give the name of an HTML file"):
        build_report([make_run(tmp_path / "run", steps=2)], tmp_path)


def test_names_tell_runs_apart_and_a_run_counts_once(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "seed0" / "grpo", steps=2), make_run(tmp_path / "seed1" / "grpo", steps=2)
    assert [run.name for run in load_runs([first, second, first])] == ["seed0/grpo", "seed1/grpo"]


def test_the_page_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", steps=2)
    output = tmp_path / "report.html"
    output.write_text("old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        build_report([run], output)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_the_same_runs_give_the_same_page(two_runs: list[Path], page: Path, tmp_path: Path) -> None:
    assert build_report(two_runs, tmp_path / "report.html").read_bytes() == page.read_bytes()


def test_reports_load_without_torch() -> None:
    code = "import sys, guided_grpo.studies.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_browser_draws_every_plot(page: Path, tmp_path: Path) -> None:
    dom, console = dump_dom(page, tmp_path / "profile")
    assert console == []
    assert 'data-drawn="true"' in dom
    elements = Elements(dom[dom.index("<body") :]).found
    classes = [(attributes.get("class") or "").split() for _, attributes in elements]
    assert sum("js-plotly-plot" in names for names in classes) == 13
    assert "<title>Guided GRPO: guided, grpo</title>" in dom


@pytest.mark.slow
def test_a_browser_fits_it_to_a_phone_and_hides_runs(page: Path, tmp_path: Path) -> None:
    probe = page.with_name("probe.html")
    probe.write_text(PROBE)
    dom, console = dump_dom(probe, tmp_path / "profile")
    assert console == []
    match = re.search(r'<pre id="seen">(\{.*?\})</pre>', dom)
    assert match is not None, dom[-2000:]
    seen = json.loads(match[1])
    for view in seen.values():
        assert (view["drawn"], view["failure"], view["title"]) == ("true", "", "Guided GRPO: guided, grpo")
        assert (view["plots"], view["scripts"], view["images"]) == (13, 3, 0)
    # Three lines over their raw values; before and after of two runs on three tiers; guided and unguided, or one arm.
    assert (seen["shown"]["accuracy"], seen["shown"]["bars"], seen["shown"]["maps"]) == (6, 12, 6)
    assert seen["shown"]["right"] <= seen["shown"]["width"] <= 400  # nothing sticks out sideways
    assert (seen["hidden"]["accuracy"], seen["hidden"]["bars"]) == (2, 6)
