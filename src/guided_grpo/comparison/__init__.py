"""Figures and tables of a comparison. Loads without torch.

The way of the data: `runs` (what each run measured) → `figures` (means, intervals, tests), `reach` (tokens to an
accuracy) → `table` (for people).
"""

from guided_grpo.comparison.figures import summarise
from guided_grpo.comparison.runs import read_tiers
from guided_grpo.comparison.table import table

__all__ = ["read_tiers", "summarise", "table"]
