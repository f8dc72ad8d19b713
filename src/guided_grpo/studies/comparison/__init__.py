"""Figures and tables of a comparison. Loads without torch.

The way of the data: `runs` (what each run measured) → `figures` (means, intervals, tests), `reach` (tokens to an
accuracy) → `table` (for people).
"""

from guided_grpo.studies.comparison.runs import read_tiers
from guided_grpo.studies.comparison.summary import summarise
from guided_grpo.studies.comparison.table import table

__all__ = ["read_tiers", "summarise", "table"]
