"""Figures and tables of a comparison. Loads without torch.

The way of the data: `measured` (what each run says) → `summary` (means, intervals, tests, tokens to an accuracy) →
`table` (for people).
"""
