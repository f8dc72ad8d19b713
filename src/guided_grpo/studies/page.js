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

  function axis(own) {
    const line = { gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    return Object.assign({ automargin: true }, line, own);
  }

  function themed(figure) {
    const own = figure.layout;
    const layout = Object.assign({ dragmode: canHover ? "zoom" : false }, own, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--ink") },
      margin: Object.assign({ l: 12, r: 10, t: 10, b: 12 }, own.margin),
      xaxis: axis(own.xaxis),
      yaxis: axis(own.yaxis),
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
