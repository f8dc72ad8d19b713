"""What samples responses: Transformers, or vLLM where it is installed. Prompts are token ids here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from guided_grpo.errors import InputError
from guided_grpo.evaluation.decoding import Decoding

_WEIGHTS = ("*.safetensors", "*.bin")
_EDGE = 1 << 20  # bytes at either end of a weight file that tell it from another


@dataclass(frozen=True)
class Response:
    """What the policy wrote."""

    ids: list[int]
    text: str  # without the stop that ended it
    ended: bool  # False = cut off at max_tokens


class TransformersEngine:
    """`generate` of Transformers.

    Args:
        model: on its device; put into evaluation mode.
        tokenizer: of the model.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        declared = getattr(model.generation_config, "eos_token_id", None)
        declared = declared if isinstance(declared, list) else [declared]
        self.ends = {tokenizer.eos_token_id, *(end for end in declared if end is not None)}

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        seed: int | None,
        seeds: Sequence[int] = (),
        stop: Sequence[str] = (),
    ) -> list[Response]:
        """One response a prompt, in order; the same for the same arguments on the same machine.

        Args:
            prompts: ids of all that stands before the first generated token.
            decoding: all of it but `samples` and `seed`.
            seed: of the batch, which shares one random stream and is repeated as a whole; None = torch's own goes on.
            seeds: one a prompt, for an engine that samples each by itself.
            stop: texts that end a response.
        """
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with nullcontext() if seed is None else torch.random.fork_rng(devices=devices), torch.no_grad():
            if seed is not None:
                torch.manual_seed(seed)
            rows = self._generate(prompts, decoding, stop)
        return [self._response(ids, stop) for ids in rows]

    def _generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding, stop: Sequence[str]) -> list[list[int]]:
        width, pad = max(map(len, prompts)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        warm = decoding.temperature > 0
        settings = GenerationConfig(
            do_sample=warm,
            temperature=decoding.temperature if warm else None,
            top_p=decoding.top_p if warm else None,
            top_k=decoding.top_k if warm else None,
            max_new_tokens=decoding.max_tokens,
            pad_token_id=pad,
            eos_token_id=sorted(self.ends),
            disable_compile=True,
        )
        stopping = {"stopping_criteria": [_Stop(stop, self.tokenizer, width)]} if stop else {}
        device = self.model.device
        output = self.model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings, **stopping
        )
        return output[:, width:].tolist()  # type: ignore[no-any-return]  # lists of ids

    def _response(self, ids: list[int], stop: Sequence[str]) -> Response:
        """Without the padding behind the end."""
        end = next((n for n, token in enumerate(ids) if token in self.ends), None)
        ids = ids if end is None else ids[: end + 1]
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        cut = min((text.find(word) for word in stop if word in text), default=None)
        if cut is not None and end is None:  # what follows a stop is padding
            pad = self.tokenizer.pad_token_id
            ids = ids[: max((n + 1 for n, token in enumerate(ids) if token != pad), default=0)]
        return Response(ids, text if cut is None else text[:cut], end is not None or cut is not None)


class _Stop(StoppingCriteria):
    """Ends a response that has written one of some texts; unlike Transformers' own, for any tokenizer."""

    def __init__(self, stop: Sequence[str], tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        self.stop, self.tokenizer, self.start = stop, tokenizer, start
        self.window = 1 + max(len(word.encode()) for word in stop)  # tokens: none is shorter than a byte

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        tails = input_ids[:, max(self.start, input_ids.size(1) - self.window) :].tolist()
        texts = [self.tokenizer.decode(tail, skip_special_tokens=True) for tail in tails]
        ends = [any(word in text for word in self.stop) for text in texts]
        return torch.tensor(ends, dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


class VLLMEngine:
    """vLLM in this process.

    Args:
        model: hub id or folder.
        tokenizer: of the model.
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
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        seeds: Sequence[int],
        stop: Sequence[str],
        **_: Any,
    ) -> list[Response]:
        """As `TransformersEngine.sample`; every prompt has a seed of its own."""
        parameters = [
            self.parameters(
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k or -1,
                max_tokens=decoding.max_tokens,
                stop=list(stop) or None,
                seed=own,
            )
            for own in seeds
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = [each.outputs[0] for each in self.engine.generate(inputs, parameters, use_tqdm=False)]
        return [Response(list(each.token_ids), each.text, each.finish_reason == "stop") for each in outputs]


Engine = TransformersEngine | VLLMEngine


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
