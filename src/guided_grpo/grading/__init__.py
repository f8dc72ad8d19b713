"""The graders, for training and evaluation alike, and one flat table of reward functions.

A response goes `rewards.py → grader.py → answers.py → maths.py (exact.py, symbolic.py) or strict.py`, and a program
`grader.py → code.py → code_forms.py, code_tests.py, code_runs.py → sandbox`; `worth.py` says what the verdict is worth.
"""

from __future__ import annotations

from guided_grpo.grading.grader import Grader
from guided_grpo.grading.rewards import REWARDS, Accuracy, RewardFunction, accuracy, reward_functions
from guided_grpo.grading.worth import GradingSettings

__all__ = ["REWARDS", "Accuracy", "Grader", "GradingSettings", "RewardFunction", "accuracy", "reward_functions"]
