"""What a teacher is asked, where, and which of its answers becomes the trace. Loads without the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated, Any

from annotated_types import Ge, Gt

from guided_grpo.errors import InputError
from guided_grpo.settings import OneOf, check, setting

Prompt = str | Sequence[Mapping[str, Any]]
CHOICES = ("shortest", "longest", "first")


@dataclass(frozen=True)
class RequestSettings:
    """What is sent with every question. None = not sent, the endpoint's own default holds."""

    model: str
    temperature: Annotated[float | None, Ge(0)] = setting(None, "unset = the endpoint's")
    top_p: Annotated[float | None, Gt(0)] = setting(None, "unset = the endpoint's")
    max_tokens: Annotated[int | None, Ge(1)] = setting(None, "of one answer, thinking included; unset = the endpoint's")
    system: str | None = setting(None, "system message, in front of every prompt")
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of the request's body
    seed: int | None = setting(0, "from which each sample's seed is made")  # None = none is sent

    def messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        """The chat that is asked: a plain prompt becomes the user's turn."""
        chat: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        # A table fills the keys that a message lacks with null.
        turns = [{key: value for key, value in message.items() if value is not None} for message in chat]
        return [{"role": "system", "content": self.system}, *turns] if self.system else turns

    def body(self, prompt: Prompt, row: str, sample: int) -> dict[str, Any]:
        """The request of one sample; the same for the same `row` (its key) and `sample`, wherever the row stands."""
        seed = None
        if self.seed is not None:
            digest = blake2b(f"{self.seed}:{row}:{sample}".encode(), digest_size=4).digest()
            seed = int.from_bytes(digest, "big") >> 1  # some servers take 31 bits only
        sampling = {name: getattr(self, name) for name in ("temperature", "top_p", "max_tokens")}
        options = {**sampling, "seed": seed, **self.extra}
        return {
            "model": self.model,
            "messages": self.messages(prompt),
            **{name: value for name, value in options.items() if value is not None},
        }


@dataclass(frozen=True)
class EndpointSettings:
    """Where questions go, and how fast. Raises InputError for an address that is none."""

    key: str  # sent as the bearer token, and shown nowhere
    base_url: str | None = setting(
        None, "such as http://localhost:8000/v1; unset = the client's (OPENAI_BASE_URL, or OpenAI)"
    )
    requests_per_minute: Annotated[float | None, Gt(0)] = setting(None, "evenly, retries included")
    tokens_per_minute: Annotated[float | None, Gt(0)] = setting(None, "prompts and answers; needs --max-tokens")
    retries: Annotated[int, Ge(0)] = setting(10, "of one request, with back-off")
    timeout: Annotated[float, Gt(0)] = setting(1800.0, "seconds for one answer")

    def __post_init__(self) -> None:
        check(self)
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            fix = "begin with http:// or https://"
            raise InputError("is no address", field="base_url", value=self.base_url, fix=fix)


@dataclass(frozen=True)
class ChoiceSettings:
    """How many answers a problem gets, which becomes its trace, and what may be spent. Raises InputError."""

    samples: Annotated[int, Ge(1)] = setting(1, "answers to each problem")
    choose: Annotated[str, OneOf(CHOICES)] = setting(
        "shortest", "which of the correct ones, by characters; first = no further sample after a correct one"
    )
    keep_unverified: bool = setting(False, "where none is correct, one that is not becomes the trace")
    again: bool = setting(False, "ask for rows that have guidance too; they keep it where no answer is correct")
    price_in: Annotated[float | None, Ge(0)] = setting(None, "of a million tokens of prompts, in any currency")
    price_out: Annotated[float | None, Ge(0)] = setting(None, "of a million tokens of answers, thinking included")
    max_cost: Annotated[float | None, Ge(0)] = setting(
        None, "stop asking once all answers of the journal cost so much; what is in flight still comes in"
    )

    def __post_init__(self) -> None:
        check(self)
        if self.max_cost is not None and self.price_in is None and self.price_out is None:
            raise InputError("needs prices", field="max_cost", fix="give --price-in and --price-out")
