"""Run directories → one self-contained HTML page. Loads without torch.

The way of the data: `logs` (what a run directory holds) → `curves`, `plots`, `ladder` (figures), `texts` (HTML) →
`page` (all of it in order).
"""
