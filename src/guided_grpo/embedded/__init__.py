"""Embedded policies: small Qwen3s over single characters, for trials without a hub or a GPU.

recipes.py      the named policies: size, domain, phases
pretraining.py  from a recipe to a checkpoint folder
weights/        the policies, ready to load; `make policies` makes them again and says how far they are from these
"""
