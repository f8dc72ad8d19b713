"""How answers are sampled, and how the papers sampled theirs, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Interval

from guided_grpo.settings import setting


@dataclass(frozen=True)
class Decoding:
    """The defaults are those of G²RPO-A §5.1."""

    samples: Annotated[int, Ge(1)] = setting(4, "responses a problem")
    temperature: Annotated[float, Ge(0)] = setting(0.6, "0 = greedy")
    top_p: Annotated[float, Interval(gt=0, le=1)] = setting(0.95, "1 = off")
    top_k: Annotated[int, Ge(0)] = setting(20, "0 = off")
    max_tokens: Annotated[int, Ge(1)] = setting(512, "of a response")
    batch_size: Annotated[int, Ge(1)] = setting(128, "responses at a time")
    seed: int = setting(0, "of the random streams")


# Name → fields of Decoding.
DECODINGS: dict[str, dict[str, Any]] = {
    # G²RPO-A §5.1. Between 1,024 and 25,000 tokens, "based on each model's context window": max_tokens is left open.
    "g2rpo-a": {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "batch_size": 128},
    # The paper does not say; this is the lighteval command in the README of its code. Close to greedy.
    "ghpo": {"temperature": 0.01, "top_p": 0.95, "top_k": 0, "max_tokens": 8192},
}

# Name → system text, as the command in the README of GHPO's code has it. It asks for the answer between <answer> tags;
# what is graded is still the \boxed that the benchmarks' own instruction asks for.
SYSTEMS: dict[str, str] = {
    "ghpo": "You are a helpful AI Assistant that provides well-reasoned and detailed responses. You first think about "
    "the reasoning process as an internal monologue and then provide the user with the answer. Respond in the "
    "following format: <think>\n...\n</think>\n<answer>\n...\n</answer>",
}

PLAIN = "Question: {problem}\nAnswer:"  # of a benchmark, for a model without a chat template
PLAIN_STOP = "\nQuestion:"  # a base model goes on with a question of its own
