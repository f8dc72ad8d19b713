"""Traces from a teacher.

teacher_settings.py   what is asked, where, how often; which answer becomes the trace
teacher.py            one question, one answer, of an OpenAI-compatible endpoint
answer_journal.py     answers, stored the moment they arrive
verdicts.py           grades them beside asking
annotate.py           asks what is missing, chooses, writes
"""
