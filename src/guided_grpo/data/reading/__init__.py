"""From records of any published schema to rows.

streams.py     raw records, one at a time, from wherever they lie
drafts.py      what a reader makes of one: the problem, its gold answer or tests, traces to choose from
readers.py     the readers by name, and which one knows a record; code_readers.py: those of code sets
benchmarks.py  benchmarks by name: where they are, how they are asked; rows without guidance
rows.py        what a row must be before anything trains on it
"""
