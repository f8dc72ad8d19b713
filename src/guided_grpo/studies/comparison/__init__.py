"""Figures and tables of a comparison. Loads without torch.

The way of the data: `search` (settings of each variant) → `measured` (what each run says) → `summary` (means,
intervals, tests, tokens to an accuracy) → `table` (for people).
"""
