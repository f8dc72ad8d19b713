"""From records of any published schema to rows.

records.py            raw records, one at a time, from wherever they lie
drafts.py             what a reader makes of one: the problem, its gold answer or tests, traces to choose from
readers.py            maths sets; gsm8k.py, code_readers.py; benchmark_readers.py: without guidance
benchmarks.py         benchmarks by name: where they are, how they are asked
rows.py               what a row must be before anything trains on it
"""
