"""Stage 3a, who samples a generation call: this process (sampling.py), TRL, or an engine that TRL asks.

Continuous batching (Transformers 5.23) holds its cache and one dense attention mask, tokens of a pass × tokens that can
be read, as static tensors. On a CPU TRL lets it take half of the machine's memory for them, of which nearly all is the
mask, and writes the mask from end to end before each call. `room_for` asks for what a batch needs instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import GuidancePlan
from guided_grpo.train.checks import check_room
from guided_grpo.train.rollout import completions_for_training, logprobs_for_training, prompts_for_sampling

if TYPE_CHECKING:
    from guided_grpo.train.config import GuidedGRPOConfig
    from guided_grpo.train.flops import Meter

Ids = list[list[int]]
Here = Callable[[Ids], Ids]  # prompts → responses
Ask = Callable[[Ids, int], tuple[Ids, Any]]  # the same with log-probs or None, n responses to every n-th prompt

PAGE = 16  # tokens of a page of the cache: prompts share whole pages
PASS = 512  # tokens read in one pass, more where there are more rollouts
_SPARE = 1.25  # of the pages: below 15 % of free ones no further rollout begins


@dataclass(frozen=True)
class Sampler:
    """Samples the calls of a run, guidance behind the prompts, and hands back completions that begin with it.

    Args:
        config: of the run.
        room: tokens of context for prompt and guidance.
        ends: ids that end a response.
        engine: whether TRL asks an engine; what one reads is counted by the call.
        meter: counts it.
    """

    config: GuidedGRPOConfig
    room: float
    ends: set[int]
    engine: bool
    meter: Meter

    def sample(
        self, prompts: Ids, plan: GuidancePlan, *, guided: bool, number: int, here: Here | None, ask: Ask
    ) -> tuple[Ids, Any]:
        """Completions and their log-probs, None where who samples gives none.

        Args:
            prompts: ids of each rollout's prompt.
            plan: of the same rollouts; empty = an evaluation.
            guided: whether any rank's plan may give guidance: all must ask an engine in one and the same way.
            number: responses that an engine may draw at once, where there is no guidance.
            here: samples in this process; None = `ask`.
            ask: TRL's own.
        """
        if guided:  # rollouts of a group differ: an engine must not draw n of them from the first one's prompt
            prompts, number = prompts_for_sampling(prompts, plan), 1
            check_room(prompts, plan, self.config, self.room)
        whole = [assignment.slice.whole for assignment in plan]  # nothing is left to sample of these
        logprobs = None
        if here is not None:
            sampled = iter(here([ids for ids, all_there in zip(prompts, whole, strict=True) if not all_there]))
            generated = [[] if all_there else next(sampled) for all_there in whole]
        else:
            generated, logprobs = self._asked(prompts, number, ask)
            if any(whole):  # engines are asked for equally many on all ranks
                generated = _without(generated, whole)
                logprobs = None if logprobs is None else _without(logprobs, whole)
        if self.engine:
            self.meter.add_sampled(prompts, generated)
        if guided:
            return completions_for_training(generated, plan), logprobs_for_training(logprobs, plan)
        return generated, logprobs

    def _asked(self, prompts: Ids, number: int, ask: Ask) -> tuple[Ids, Any]:
        batching = self.config.use_transformers_continuous_batching
        with one_line(self.config), self.meter.paused() if batching else nullcontext():
            generated, logprobs = ask(prompts, number)
        if batching:
            check_whole(generated, len(prompts), self.ends, int(self.config.max_completion_length or 0))
        return generated, logprobs


def samples_here(config: GuidedGRPOConfig, *, shared: bool, engine: bool, sharded: bool, device: str) -> bool:
    """Whether `sample_rollouts` samples: on a CPU, where each rank holds the whole policy.

    Args:
        config: of the run.
        shared: whether the policy can read shared prefixes.
        engine: whether TRL asks an engine.
        sharded: whether ranks hold parts of the policy.
        device: type of the device.
    """
    settings = config.generation_kwargs or config.cache_implementation or config.repetition_penalty != 1
    return shared and device == "cpu" and not (engine or sharded or settings or config.bf16 or config.fp16)


def _without(values: list[Any], whole: Sequence[bool]) -> list[Any]:
    return [[] if all_there else value for value, all_there in zip(values, whole, strict=True)]


def room_for(prompts: Sequence[Sequence[int]], most: int, asked: dict[str, Any]) -> dict[str, Any]:
    """Fields of `ContinuousBatchingConfig` that size it to a batch.

    Args:
        prompts: token ids, guidance behind them.
        most: tokens of a response.
        asked: what the user set; it is kept.

    Raises `InputError` where the cache that the user sized holds no whole rollout.
    """
    page, longest = int(asked.get("page_size", PAGE)), max(map(len, prompts))
    pages = [-(-(len(ids) + most) // page) for ids in prompts]
    blocks = asked.get("num_blocks")
    if blocks is not None and max(pages) > blocks:
        raise InputError(
            f"blocks of {page} tokens hold no rollout of {longest} tokens of prompt and guidance + "
            f"max_completion_length {most}",
            field="transformers_continuous_batching_config: num_blocks",
            value=blocks,
            fix=f"use at least {max(pages)}, or leave it out",
        )
    return {
        "page_size": page,
        "num_blocks": int(_SPARE * sum(pages)) + 1,
        "max_batch_tokens": max(PASS, len(prompts)),
        **asked,
    }


def check_whole(generated: Sequence[Sequence[int]], prompts: int, ends: Collection[int], most: int) -> None:
    """Raise `InputError` where continuous batching, which goes on without what failed, returned less than was asked.

    Args:
        generated: token ids of what it returned.
        prompts: number of rollouts asked for.
        ends: tokens that end a rollout.
        most: tokens that a rollout has otherwise.
    """
    whole = sum(len(ids) == most or (bool(ids) and ids[-1] in ends) for ids in generated)
    if whole < prompts:
        raise InputError(
            f"gave {whole} of {prompts} rollouts whole; Transformers' own message stands above",
            field="use_transformers_continuous_batching",
            value=True,
            fix="give it room (transformers_continuous_batching_config), or leave it off",
        )


@contextmanager
def one_line(args: GuidedGRPOConfig) -> Iterator[None]:
    """What stops an engine becomes an `InputError`: a server that is gone or refuses, no GPU, too little memory."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # TRL's client raises bare ones
        told = (_of_server if _served(args) else _of_batching)(error, args)
        if told is None:
            raise
        raise told from error


def server_of(args: GuidedGRPOConfig) -> str:
    """Address of the vLLM server."""
    return str(args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}")


def _served(args: GuidedGRPOConfig) -> bool:
    return bool(args.use_vllm) and args.vllm_mode == "server"


def _of_server(error: Exception, args: GuidedGRPOConfig) -> InputError | None:
    named: dict[str, Any] = {"field": "vllm_server_base_url", "value": server_of(args)}
    if isinstance(error, ConnectionError) or type(error).__module__ == "requests.exceptions":
        again = "start the vLLM server and give the same command again: a run goes on from its last checkpoint"
        return InputError(f"does not answer ({type(error).__name__})", **named, fix=again)
    if isinstance(error, NotImplementedError) and "NCCL" in str(error):
        problem = "takes weights from a CUDA device alone (TRL's client sends them over NCCL)"
        return InputError(problem, **named, fix="train on a GPU, or use vllm_mode: colocate")
    if type(error) is Exception and str(error).startswith("Request failed"):
        fix = "start the server as docs/gpus.md says, with a max-model-len that prompt, guidance and response fit in"
        return InputError(f"refuses: {str(error)[:300]}", **named, fix=fix)
    return None


def _of_batching(error: Exception, args: GuidedGRPOConfig) -> InputError | None:
    if not args.use_transformers_continuous_batching or not isinstance(error, MemoryError):
        return None
    return InputError(
        f"leaves too little memory: {error}",
        field="transformers_continuous_batching_config",
        value=args.transformers_continuous_batching_config,
        fix="raise max_memory_percent, or lower num_blocks or max_batch_tokens",
    )
