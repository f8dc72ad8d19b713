"""Figures and tables of a comparison. Loads without torch.

The way of the data: `measured` (what each run says) → `summary` (means, intervals, tests, tokens to an accuracy) →
`table` (for people).
"""

from guided_grpo.studies.comparison.measured import read_tiers
from guided_grpo.studies.comparison.summary import summarise
from guided_grpo.studies.comparison.table import table

__all__ = ["read_tiers", "summarise", "table"]
