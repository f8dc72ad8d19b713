"""What samples responses for an evaluation: Transformers, or vLLM where it is installed. Prompts are ids here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from guided_grpo.errors import InputError
from guided_grpo.evaluation.evaluate import Decoding, sample

_WEIGHTS = ("*.safetensors", "*.bin")
_EDGE = 1 << 20  # bytes at either end of a weight file that tell it from another


@dataclass(frozen=True)
class Request:
    """One response that is wanted."""

    prompt: str  # rendered
    special: bool  # whether the tokenizer adds its special tokens: a rendered chat has them
    seed: int  # of this response, for engines that sample each by itself


@dataclass(frozen=True)
class Response:
    """What came back."""

    text: str
    tokens: int
    ended: bool  # False = cut off at max_tokens


class Engine(Protocol):
    """Samples a batch of requests."""

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, *, seed: int, stop: Sequence[str]
    ) -> list[Response]:
        """One response a request, in order; the same for the same arguments on the same machine."""


class TransformersEngine:
    """`generate` of Transformers, on the first GPU or the CPU.

    Args:
        model: hub id or folder.
        tokenizer: of the model, padding on the left.
    """

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = tokenizer
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype="auto").to(device).eval()

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, *, seed: int, stop: Sequence[str]
    ) -> list[Response]:
        """As `Engine.sample`; the batch shares one random stream, so it is repeated as a whole."""
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            found = sample(
                self.model, self.tokenizer, [each.prompt for each in requests], decoding, requests[0].special, stop
            )
        return [Response(*each) for each in zip(*found, strict=True)]


class VLLMEngine:
    """vLLM in this process.

    Args:
        model: hub id or folder.
        tokenizer: of the model: prompts are tokenised as for Transformers.
        options: further arguments of `vllm.LLM`, such as tensor_parallel_size, max_model_len, gpu_memory_utilization.

    Raises InputError where vLLM is not installed.
    """

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> None:
        try:
            import vllm  # type: ignore[import-not-found]  # an extra
        except ImportError:
            raise InputError(
                "is not installed", field="engine", value="vllm",
                fix="pip install 'guided-grpo[vllm]', or leave out --engine",
            ) from None  # fmt: skip
        self.tokenizer, self.parameters = tokenizer, vllm.SamplingParams
        self.engine = vllm.LLM(model=model, **options)

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, *, seed: int, stop: Sequence[str]
    ) -> list[Response]:
        """As `Engine.sample`; every request has a seed of its own."""
        prompts = [
            {"prompt_token_ids": self.tokenizer(each.prompt, add_special_tokens=each.special)["input_ids"]}
            for each in requests
        ]
        parameters = [
            self.parameters(
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k or -1,
                max_tokens=decoding.max_tokens,
                stop=list(stop) or None,
                seed=each.seed,
            )
            for each in requests
        ]
        outputs = [each.outputs[0] for each in self.engine.generate(prompts, parameters, use_tqdm=False)]
        return [Response(each.text, len(each.token_ids), each.finish_reason == "stop") for each in outputs]


def seed_of(*parts: object) -> int:
    """31 bits that these parts decide."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=4).digest()) >> 1


def weights_of(model: str) -> str:
    """A short name of the weights in a local folder, by size and both ends of each file; "" for a hub id."""
    files = sorted(path for pattern in _WEIGHTS for path in Path(model).glob(pattern))
    digest = blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}\n".encode() + file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            digest.update(file.read())
    return digest.hexdigest() if files else ""
