"""Run directories as training writes them, and what a test reads of their report: elements, figures, a browser."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp; \ud800"
GROUPS, GROUP_SIZE = 8, 8


def make_run(path: Path, guided: bool = True, steps: int = 60, seed: int = 0, text: str = "") -> Path:
    """A run directory as training writes it; `text` is added to what the policy generated."""
    path.mkdir(parents=True)
    source = random.Random(seed)
    gain = 0.7 if guided else 0.02
    config: dict[str, Any] = {"method": "g2rpo-a" if guided else "grpo", "seed": seed, "num_generations": GROUP_SIZE}
    config |= {"guidance_ratio": 0.5 if guided else 0.0, "learning_rate": 1e-4, "hub_token": "hf_private"}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    records = [_record(source, step, steps, gain, guided) for step in range(1, steps + 1)]
    write_lines(path / "metrics.jsonl", records)
    groups = [
        _group(source, step, group, 0.05 + gain * step / steps, guided, text)
        for step in (1, steps // 2, steps)
        for group in range(GROUPS)
    ]
    write_lines(path / "rollouts.jsonl", groups)
    (path / "eval.json").write_text(json.dumps({"before": _evaluation(0.05), "after": _evaluation(0.05 + gain)}))
    return path


def _record(source: random.Random, step: int, steps: int, gain: float, guided: bool) -> dict[str, Any]:
    alone = min(1.0, max(0.0, 0.03 + gain * step / steps + source.gauss(0, 0.04)))
    helped = min(1.0, alone + 0.35 * (1 - step / steps) + abs(source.gauss(0, 0.05)))
    return {
        "step": step,
        "loss": source.gauss(0, 0.02),
        "grad_norm": abs(source.gauss(0.4, 0.1)),
        "reward/accuracy": (alone + helped) / 2 if guided else alone,
        "reward/guided": helped if guided else None,
        "reward/unguided": alone,
        "advantage/std": 0.6 if guided else 0.2,
        "signal/zero_groups": 0.25 if guided else 0.85,
        "guidance/length": 45 * (1 - step / steps) if guided else 0,
        "tokens/generated": 5000 + step,
        "completions/generated_length": 60 + source.gauss(0, 3),
        "completions/truncated": 0.02,
        "step_time": 1.5,
    }


def _group(source: random.Random, step: int, group: int, chance: float, guided: bool, text: str) -> dict[str, Any]:
    rollouts = []
    for index in range(GROUP_SIZE):
        helped = guided and index < GROUP_SIZE // 2
        reward = float(source.random() < chance + 0.3 * helped)
        rollouts.append(
            {
                "arm": "guided" if helped else "unguided",
                "guidance": "+3=7;\n*7=9;" if helped else "",
                "generated": f"-5=4;\n  *3=2;#### {source.randrange(1000):03d}{text}",
                "guidance_tokens": 10 if helped else 0,
                "generated_tokens": 21,
                "rewards": {"accuracy": reward, "format": 1.0},
                "advantage": reward - chance,
                "truncated": index == 3,
            }
        )
    prompt = f"4+3*7-5*3={text}" if group % 2 else [{"role": "user", "content": f"4+3*7-5*3={text}"}]
    return {"step": step, "group": group, "prompt": prompt, "answer": "942", "difficulty": 12, "rollouts": rollouts}


def _evaluation(accuracy: float) -> dict[str, Any]:
    def score(value: float) -> dict[str, Any]:
        return {"accuracy": value, "interval": [max(0.0, value - 0.04), min(1.0, value + 0.04)], "problems": 200}

    tiers = {name: score(min(1.0, accuracy * factor)) for name, factor in (("3 steps", 1.3), ("12 steps", 0.9))}
    return {**score(accuracy), "samples": 4, "temperature": 1.0, "top_p": 1.0, "top_k": None, "tiers": tiers}


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(path: Path, records: list[dict[str, Any]], **files: object) -> Path:
    """A run directory of these metrics, steps counted from 1; `files` are JSON, a list of them JSON lines."""
    path.mkdir(parents=True, exist_ok=True)
    numbered: list[object] = [{"step": step, **record} for step, record in enumerate(records, start=1)]
    for name, content in {"metrics": numbered, **files}.items():
        if isinstance(content, list):
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            (path / f"{name}.json").write_text(json.dumps(content))
    return path


class Elements(HTMLParser):
    """The elements of a page with their attributes; script and style contents are no elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def figures_of(text: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = json.loads(match[1])
    return found


# A page around the report: it reads the report's elements as a script in it could not, for the report admits no script
# but its own. The frame is as wide as a phone; a click in the legend hides the first run.
PROBE = """<!DOCTYPE html><iframe id="frame" src="report.html" style="border:0;width:400px;height:900px"></iframe>
<pre id="seen"></pre><script>
const frame = document.getElementById("frame"), seen = {};
const wait = (time) => new Promise((done) => setTimeout(done, time));
function look() {
  const inside = frame.contentDocument, count = (query) => inside.querySelectorAll(query).length;
  const right = [...inside.querySelectorAll(".main-svg")].map((element) => element.getBoundingClientRect().right);
  return { drawn: inside.documentElement.dataset.drawn, title: inside.title, plots: count(".js-plotly-plot"),
    failure: inside.getElementById("failure").textContent, scripts: count("script"), images: count("img"),
    accuracy: count("#plot-accuracy .scatterlayer .trace"), bars: count("#plot-tiers .barlayer .point"),
    maps: count(".heatmaplayer .hm"), layers: count("[id^=plot-outcomes] .scatterlayer .js-fill"), right: Math.max(...right), width: inside.documentElement.scrollWidth };
}
frame.addEventListener("load", async () => {
  await wait(3000);
  seen.shown = look();
  frame.contentDocument.querySelector("#legend button").click();
  await wait(2000);
  seen.hidden = look();
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


def dump_dom(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The DOM after the page's scripts ran, and the lines of its console."""
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path: the page was not drawn")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update"]
    command += ["--disable-background-networking", "--disable-sync", "--enable-logging=stderr"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
    result = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=200)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]
