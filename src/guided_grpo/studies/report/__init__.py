"""Run directories → one self-contained HTML page. Loads without torch.

The way of the data: `records` (lines of JSON) → `runs`, `samples` (what a run directory holds) → `curves`, `figures`,
`ladder`,
`rollouts` (plots and texts) → `page` (HTML, with the style and script of `assets`).
"""

from guided_grpo.studies.report.page import build_report

__all__ = ["build_report"]
