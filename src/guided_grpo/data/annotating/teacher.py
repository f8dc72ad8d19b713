"""A teacher behind an OpenAI-compatible endpoint: one question, one answer, within a rate, retried with back-off.

The `openai` client sends, waits (Retry-After, else 0.5 s doubling up to 8 s, with jitter) and sends again. Its HTTP
client carries two hooks of ours, so that every request counts, repeated ones too:

    before a request     wait for the rate, count it
    after an answer      one that cannot be read is an error like a dropped connection, and retried like it

Not known here: what became of a request whose answer never arrived. The endpoint may have worked on it, and billed it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2  # what the openai client sends with
import openai

from guided_grpo.data.annotating.teacher_settings import EndpointSettings
from guided_grpo.errors import InputError
from guided_grpo.grading.answers import THINK_CLOSE, THINK_OPEN

CHARS_PER_TOKEN = 3  # of a prompt, for the token rate: fewer than most tokenizers, so that the rate is not passed
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class TeacherAnswer:
    """What came back: thinking and content as one text, why it ended, tokens (None = the endpoint does not say)."""

    text: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None


class NoAnswer(Exception):
    """One question stays without an answer: its message says why.

    `refused` = the endpoint does not take this very request; else it failed until the retries were used up.
    """

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


class Pace:
    """At most `per_minute` units a minute, evenly: what was taken must have drained before more is let through.

    Any span of s seconds sees at most s·per_minute/60 units besides what was let through first in it.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0  # a unit; 0 = no limit
        self._free_at = 0.0
        self._turn = asyncio.Lock()

    async def take(self, amount: float = 1.0) -> None:
        """Wait for the turn, then take."""
        if not self._seconds:
            return
        async with self._turn:
            while (wait := self._free_at - time.monotonic()) > 0:
                await asyncio.sleep(min(wait, 1.0))  # something may be given back meanwhile
            self._free_at = time.monotonic() + amount * self._seconds

    def give_back(self, amount: float) -> None:
        """Return what was taken and not used."""
        self._free_at -= amount * self._seconds


class Teacher:
    """Asks one endpoint. Close it with `aclose`; `requests` and `retries` count what was sent.

    Retried is a question after a 408, 409, 429, 5xx, a dropped connection or an unreadable answer. For the rate of
    tokens it counts with its largest possible answer until the true one is known.
    """

    def __init__(self, endpoint: EndpointSettings) -> None:
        self.requests = self.retries = 0
        self._key = endpoint.key
        self._requests, self._tokens = Pace(endpoint.requests_per_minute), Pace(endpoint.tokens_per_minute)
        self._most_tokens = endpoint.tokens_per_minute or 0
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.key,
            base_url=endpoint.base_url,
            max_retries=endpoint.retries,
            timeout=httpx2.Timeout(endpoint.timeout, connect=CONNECT_SECONDS),
            http_client=openai.DefaultAsyncHttpxClient(
                limits=httpx2.Limits(max_connections=None),  # the caller decides how many ask at once
                event_hooks={"request": [self._before_request], "response": [self._after_response]},
            ),
        )

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def ask(self, body: Mapping[str, Any]) -> TeacherAnswer:
        """The answer to one request body.

        Raises:
            NoAnswer: this question stays without one.
            InputError: no question will get one: a wrong key, an unknown model, no money.
        """
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        reserved = min(most + len(json.dumps(body["messages"])) / CHARS_PER_TOKEN, self._most_tokens)
        await self._tokens.take(reserved)
        used = 0
        try:
            response = await self._client.post("/chat/completions", body=dict(body), cast_to=httpx2.Response)
            answer = read_answer(response.content)
            used = (answer.tokens_in or 0) + (answer.tokens_out or 0)
        except openai.APIError as error:
            raise self._failure(error) from None
        finally:
            self._tokens.give_back(reserved - used)
        return answer

    async def _before_request(self, request: httpx2.Request) -> None:
        await self._requests.take()
        self.requests += 1
        self.retries += request.headers.get("x-stainless-retry-count", "0") != "0"

    async def _after_response(self, response: httpx2.Response) -> None:
        if response.status_code == 200:
            await response.aread()
            try:
                read_answer(response.content)
            except ValueError as error:
                raise httpx2.DecodingError(f"unreadable answer: {error}", request=response.request) from None

    def _failure(self, error: openai.APIError) -> Exception:
        reason = self._text(error.__cause__ or error)
        if not isinstance(error, openai.APIStatusError):
            return NoAnswer(reason, refused=False)
        fixes = {
            401: "set the right key in the variable that --api-key-env names",
            402: "see to the account, then repeat the command",
            404: "check --model and --base-url (which usually ends in /v1)",
        }
        status = 402 if error.code == "insufficient_quota" else error.status_code
        if status in fixes:
            url = error.request.url
            return InputError(f"answers {error.status_code}: {reason}", file=f"{url.host}{url.path}", fix=fixes[status])
        return NoAnswer(reason, refused=400 <= status < 500 and status not in (408, 409, 429))

    def _text(self, error: BaseException) -> str:
        """In one line, without the key, which some endpoints repeat."""
        text = " ".join(str(error).split()) or type(error).__name__
        return text.replace(self._key, "[key]")[:300]


def read_answer(response: bytes) -> TeacherAnswer:
    """The answer in a response's body.

    Thinking that comes apart (`reasoning_content`, or `reasoning` as vLLM has called it since 2026) is put before the
    content as `<think>…</think>`.

    Raises ValueError that says what is missing.
    """
    try:
        body = json.loads(response)
    except ValueError:
        raise ValueError("it is not JSON") from None
    try:
        [choice, *_] = body["choices"]
        message = choice["message"]
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        content = (message.get("content") if thought else message["content"]) or ""
        usage = body.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError("it has no choices[0].message") from None
    if not isinstance(content, str) or not isinstance(thought, str):
        raise ValueError("its content is no text")
    tokens = [count if isinstance(count, int) else None for count in counts]
    text = f"{THINK_OPEN}\n{thought.strip()}\n{THINK_CLOSE}\n\n{content}" if thought.strip() else content
    text = text.encode(errors="replace").decode()  # half a surrogate pair could be written nowhere
    return TeacherAnswer(text, str(choice.get("finish_reason") or "stop"), *tokens)
