"""Embedded policies: small Qwen3s over single characters, pre-trained on first use, for trials without a hub or a GPU.

recipes.py      the named policies: size, domain, phases
pretraining.py  from a recipe to a checkpoint folder
"""
