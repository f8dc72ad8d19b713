"""Traces from a teacher.

teacher.py    one question, one answer, of an OpenAI-compatible endpoint
journal.py    answers, kept the moment they arrive
verdicts.py   grades them beside asking
annotate.py   asks what is missing, chooses, writes
"""
