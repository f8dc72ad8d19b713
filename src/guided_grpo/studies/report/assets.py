"""The page's style and script. The script draws the figures, follows the colour scheme, and shows and hides runs."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --muted: #566173;
  --line: #dde2e9; --grid: #e8ebf0; --given: #ffe9a8; --given-line: #b98900; --good: #d8f0e4; --warn: #fde0d2; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1a2028; --ink: #e7ebf1; --muted: #a3afbf;
  --line: #303946; --grid: #2a323d; --given: #4d3d0c; --given-line: #e0b341; --good: #17402f; --warn: #55291a; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header { max-width: 1240px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { margin: 0 0 4px; font-size: 28px; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 40px 0 4px; font-size: 21px; letter-spacing: -0.005em; }
h3 { margin: 0 0 4px; font-size: 16px; }
h4 { margin: 0 0 8px; font-size: 15px; }
h5 { margin: 0 0 6px; font-size: 14px; }
h4 small, h3 small { font-weight: 400; color: var(--muted); }
p { margin: 0 0 10px; max-width: 78ch; }
.lead, .note, .card > p { color: var(--muted); }
.card > p { font-size: 14px; }
.note { font-size: 13px; }
code { overflow-wrap: anywhere; }
#legend { position: sticky; top: 0; z-index: 5; background: var(--page); border-bottom: 1px solid var(--line);
  margin-top: 8px; }
#legend div { max-width: 1240px; margin: 0 auto; padding: 8px 20px; display: flex; gap: 8px; flex-wrap: wrap;
  align-items: center; max-height: min(30vh, 116px); overflow-y: auto; }
#legend button { font: inherit; font-size: 14px; color: var(--ink); background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 999px; padding: 3px 12px 3px 9px; display: inline-flex; gap: 7px;
  align-items: center; white-space: nowrap; }
#legend button[aria-pressed="false"] { opacity: 0.45; text-decoration: line-through; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; flex: none; margin-right: 7px; }
#legend .swatch { margin: 0; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
  margin-top: 14px; }
.grid.three { grid-template-columns: repeat(auto-fit, minmax(min(100%, 350px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; min-width: 0; }
.wide { grid-column: 1 / -1; }
.grid > .card { display: flex; flex-direction: column; }
.grid > .card > .plot { margin-top: auto; }
.pair { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); }
.pair > div { min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 600; font-size: 13px; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td small { color: var(--muted); white-space: nowrap; }
td.name { font-weight: 600; overflow-wrap: anywhere; min-width: 120px; }
td.name > span { display: flex; align-items: baseline; }
.settings td { overflow-wrap: anywhere; min-width: 90px; }
ul.notes { margin: 6px 0 0; padding-left: 18px; color: var(--muted); font-size: 13px; }
.warnings { list-style: none; margin: 0 0 14px; padding: 8px 12px; background: var(--warn); border-radius: 8px; }
.warnings li { font-size: 14px; padding: 2px 0; overflow-wrap: anywhere; }
.key { margin: 10px 0 0; max-width: none; }
.key span.item { display: inline-block; margin-right: 16px; }
.scale { display: inline-block; width: 110px; height: 10px; border-radius: 3px; margin: 0 6px; }
details.run { margin-top: 12px; }
summary { cursor: pointer; font-weight: 600; }
details.run .pair { margin-top: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.group { border-top: 1px solid var(--line); padding: 12px 0 4px; }
.prompt { border-left: 3px solid var(--line); padding-left: 10px; }
.role { color: var(--muted); font-size: 12px; text-transform: uppercase; letter-spacing: 0.05em; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; max-height: 340px; overflow-y: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 10px; margin: 8px 0; font-size: 13px; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.rollout { background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: 8px 10px;
  margin: 0 0 8px; }
.chips { display: flex; flex-wrap: wrap; gap: 5px 6px; align-items: center; margin-bottom: 5px; }
.chip { font-size: 12px; border: 1px solid var(--line); border-radius: 999px; padding: 0 8px; background: var(--card); }
.chip.good { background: var(--good); }
.chip.warn { background: var(--warn); }
.chip.arm-guided { background: var(--given); }
.guidance { background: var(--given); color: inherit; border-bottom: 2px dotted var(--given-line); }
.hint { border-left: 3px solid var(--given-line); padding-left: 8px; margin: 0 0 8px; }
.cut { color: var(--muted); font-style: italic; }
footer { max-width: 1240px; margin: 36px auto 0; padding: 14px 20px 40px; color: var(--muted); font-size: 13px; }
#failure { display: none; background: var(--warn); padding: 10px 14px; border-radius: 8px; margin: 12px 0; }
@media (max-width: 640px) {
  main, header, #legend div, footer { padding-left: 12px; padding-right: 12px; }
  h1 { font-size: 23px; }
  .card { padding: 12px; }
  #legend div { flex-wrap: nowrap; overflow-x: auto; }
  .stacked thead { display: none; }
  .stacked tr { display: block; padding: 8px 0; border-bottom: 1px solid var(--line); }
  .stacked tr:last-child { border-bottom: 0; }
  .stacked td, .stacked td.number { display: flex; justify-content: space-between; gap: 12px; text-align: right;
    border: 0; padding: 2px 0; }
  .stacked td.name { justify-content: flex-start; text-align: left; }
  .stacked td:not(.name)::before { content: attr(data-label); color: var(--muted); flex: none; }
}
"""

SCRIPT = """
(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // A finger that scrolls the page must not zoom the plot under it.
  const canHover = window.matchMedia("(hover: hover)").matches;
  const hidden = new Set();

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function axis(given) {
    const line = { gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    return Object.assign({ automargin: true }, line, given);
  }

  function themed(figure) {
    const given = figure.layout;
    const layout = Object.assign({ dragmode: canHover ? "zoom" : false }, given, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--ink") },
      margin: Object.assign({ l: 12, r: 10, t: 10, b: 12 }, given.margin),
      xaxis: axis(given.xaxis),
      yaxis: axis(given.yaxis),
      showlegend: false,
      uirevision: "keep",
    });
    const data = figure.data.map(function (trace) {
      const copy = Object.assign({}, trace, { visible: !hidden.has(trace.meta.run) });
      if (trace.meta.edge) copy.line = Object.assign({ color: colour(trace.meta.edge) }, trace.line);
      if (trace.error_y) copy.error_y = Object.assign({ color: colour("--ink") }, trace.error_y);
      return copy;
    });
    return { data: data, layout: layout };
  }

  // The page has one legend for all plots; a picture of a single plot needs its own.
  const download = {
    name: "download",
    title: "Download as SVG",
    icon: Plotly.Icons.camera,
    click: function (plot) {
      const legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };
      const layout = Object.assign({}, plot.layout, {
        paper_bgcolor: colour("--card"), showlegend: true, legend: legend,
        margin: Object.assign({}, plot.layout.margin, { t: 60 }),
      });
      const size = { format: "svg", filename: plot.id, width: plot.clientWidth, height: plot.clientHeight + 60 };
      Plotly.downloadImage({ data: plot.data, layout: layout }, size);
    },
  };
  const config = {
    displayModeBar: canHover ? "hover" : false,
    displaylogo: false,
    modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d", "autoScale2d"],
    modeBarButtonsToAdd: [download],
  };

  // Also catches what no window event reports: a run shown again, a print layout.
  const resized = new ResizeObserver(function (entries) {
    entries.forEach(function (entry) {
      const layout = entry.target._fullLayout;
      if (layout && entry.contentRect.width > 0 && Math.abs(layout.width - entry.contentRect.width) >= 1) {
        Plotly.Plots.resize(entry.target).catch(fail);
      }
    });
  });

  function drawAll() {
    return Promise.all(Object.keys(figures).map(function (id) {
      const figure = themed(figures[id]);
      return Plotly.react(id, figure.data, figure.layout, config);
    }));
  }

  function toggle(button) {
    const runs = button.dataset.run.split(" ").map(Number);
    const show = hidden.has(runs[0]);
    runs.forEach(function (run) { if (show) hidden.delete(run); else hidden.add(run); });
    button.setAttribute("aria-pressed", String(show));
    document.querySelectorAll(".run[data-run]").forEach(function (block) {
      block.hidden = hidden.has(Number(block.dataset.run));
    });
    return drawAll();
  }

  function fail(error) {
    const box = document.getElementById("failure");
    box.textContent = "The plots could not be drawn: " + error;
    box.style.display = "block";
  }

  document.querySelectorAll("#legend button").forEach(function (button) {
    button.addEventListener("click", function () { toggle(button).catch(fail); });
  });
  dark.addEventListener("change", function () { drawAll().catch(fail); });
  drawAll().then(function () {
    document.querySelectorAll(".plot").forEach(function (plot) { resized.observe(plot); });
    document.documentElement.dataset.drawn = "true";
  }).catch(fail);
})();
"""
