"""Unguided evaluation, by type: a question is prompt and answer, so there is nothing to guide with.

Several samples a problem, mean accuracy with the problem as the unit of the interval, and the same by difficulty tier.
The graders are those of training.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from guided_grpo.evaluation.scoring import tier_order
from guided_grpo.evaluation.stats import mean_interval
from guided_grpo.guidance.placement import render
from guided_grpo.types import Status

RewardFunction = Callable[..., Sequence[float | None]]


@dataclass(frozen=True)
class Question:
    """One held-out problem: what the policy sees, what the grader needs, and its tier. No trace."""

    prompt: str | list[dict[str, Any]]
    grading: Mapping[str, Any]  # columns for the reward function, such as answer
    tier: str = "all"


@dataclass(frozen=True)
class Decoding:
    """How answers are sampled. The defaults are the papers' (G²RPO-A §5.1)."""

    samples: int = 4  # a problem
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20  # 0 = off
    max_tokens: int = 512
    batch_size: int = 128  # responses at a time
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Accuracy with its 95 % interval, over all problems and by tier, and what it cost."""

    accuracy: float
    interval: tuple[float, float]
    problems: int
    tokens: int
    seconds: float
    truncated: float  # share of responses that reached max_tokens
    decoding: Decoding
    tiers: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)  # how many responses ended in each; {} = a reward without
    scores: tuple[float | None, ...] = ()  # mean accuracy of each problem, in the data's order; None = not graded
    difficulty: tuple[str, ...] = ()  # the tier of each problem, in the data's order

    def to_json(self) -> dict[str, Any]:
        """The form of eval.json; the decoding settings stand beside the figures."""
        data = asdict(self)
        return {**{k: v for k, v in data.items() if k != "decoding"}, **data["decoding"]}


def questions(rows: Iterable[Mapping[str, Any]]) -> list[Question]:
    """Rows of a data set as questions: the trace stays behind, `difficulty` becomes the tier."""
    kept = []
    for row in rows:
        hidden = ("prompt", "guidance", "guidance_limit")
        tier = row.get("difficulty")
        grading = {key: value for key, value in row.items() if key not in hidden}
        kept.append(Question(row["prompt"], grading, "all" if tier is None else str(tier)))
    return kept


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Question],
    reward: RewardFunction,
    decoding: Decoding,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    label: str = "eval",
    bars: bool = False,
) -> Evaluation:
    """Sample `decoding.samples` responses a problem and grade them.

    Leaves the caller's random state, training mode and cache settings as they were. Responses that could not be graded
    (the reward function returned None) are left out; a problem with none left counts in no figure.
    """
    started = time.perf_counter()
    rendered = [render(problem.prompt, tokenizer, template_kwargs or {}) for problem in problems]
    jobs = sorted(range(len(problems)), key=lambda i: len(rendered[i]))
    scores: list[list[float]] = [[] for _ in problems]
    tokens = cut = 0
    was_training, devices = model.training, [model.device] if model.device.type == "cuda" else []
    model.eval()
    per_batch = max(1, decoding.batch_size // decoding.samples)
    counted = _statuses(reward)
    grading: deque[tuple[list[int], Future[Sequence[float | None]]]] = deque()

    def collect(at_most: int) -> None:
        while len(grading) > at_most:
            places, grades = grading.popleft()
            for place, grade in zip(places, grades.result(), strict=True):
                if grade is not None:
                    scores[place].append(float(grade))

    # Graded in a thread of its own while the next batch is sampled.
    with ThreadPoolExecutor(1) as grader, torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(decoding.seed)
        for start in tqdm(range(0, len(jobs), per_batch), desc=label, unit="batch", disable=not bars):
            chosen = [i for i in jobs[start : start + per_batch] for _ in range(decoding.samples)]
            # A rendered chat carries its special tokens already; a plain text gets the tokenizer's, as in training.
            special = isinstance(problems[chosen[0]].prompt, str)
            texts, lengths, ended = sample(model, tokenizer, [rendered[i] for i in chosen], decoding, special)
            tokens += sum(lengths)
            cut += len(ended) - sum(ended)
            grading.append((chosen, grader.submit(_grade, reward, [problems[i] for i in chosen], texts)))
            collect(at_most=1)
        collect(at_most=0)
    model.train(was_training)
    means = {i: sum(grades) / len(grades) for i, grades in enumerate(scores) if grades}
    by_tier: dict[str, list[float]] = defaultdict(list)
    for i, mean in means.items():
        by_tier[problems[i].tier].append(mean)
    overall = mean_interval(list(means.values()))
    return Evaluation(
        accuracy=overall.mean,
        interval=(overall.low, overall.high),
        problems=len(means),
        tokens=tokens,
        seconds=time.perf_counter() - started,
        truncated=cut / (len(problems) * decoding.samples),
        decoding=decoding,
        tiers={tier: _tier(by_tier[tier]) for tier in sorted(by_tier, key=tier_order)},
        scores=tuple(means.get(i) for i in range(len(problems))),
        difficulty=tuple(problem.tier for problem in problems),
        verdicts={status.value: count for status, count in sorted((_statuses(reward) - counted).items())},
    )


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    decoding: Decoding,
    special: bool,
    stop: Sequence[str] = (),
) -> tuple[list[str], list[int], list[bool]]:
    """One response a prompt, their lengths in tokens, and whether each ended by itself.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        prompts: rendered.
        decoding: all of it but `samples` and `seed`: torch's own random state is used.
        special: whether the tokenizer adds its special tokens: yes for a plain text, no for a rendered chat.
        stop: texts that end a response; they and what follows are cut off.
    """
    batch = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=special)
    ends = {tokenizer.eos_token_id}
    declared = getattr(model.generation_config, "eos_token_id", None)
    ends |= set(declared if isinstance(declared, list) else [declared] if declared is not None else [])
    settings = GenerationConfig(
        do_sample=decoding.temperature > 0,
        temperature=decoding.temperature or None,
        top_p=decoding.top_p if decoding.temperature else None,
        top_k=decoding.top_k if decoding.temperature else None,
        max_new_tokens=decoding.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(ends),
        disable_compile=True,
    )
    inputs = {key: batch[key].to(model.device) for key in ("input_ids", "attention_mask")}
    start = inputs["input_ids"].size(1)
    stopping = {"stopping_criteria": [_Stop(stop, tokenizer, start)]} if stop else {}
    generated = model.generate(**inputs, generation_config=settings, **stopping)[:, start:]
    responses, lengths, ended = [], [], []
    for ids in generated.tolist():
        end = next((n for n, token in enumerate(ids) if token in ends), None)
        kept = ids if end is None else ids[: end + 1]
        text = tokenizer.decode(kept, skip_special_tokens=True)
        cut = min((text.find(word) for word in stop if word in text), default=None)
        if cut is not None and end is None:  # what follows a stop is padding
            kept = kept[: max((n + 1 for n, token in enumerate(kept) if token != tokenizer.pad_token_id), default=0)]
        responses.append(text if cut is None else text[:cut])
        lengths.append(len(kept))
        ended.append(end is not None or cut is not None)
    return responses, lengths, ended


class _Stop(StoppingCriteria):
    """Ends a response that has written one of some texts; unlike Transformers' own, for any tokenizer."""

    def __init__(self, stop: Sequence[str], tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        self.stop, self.tokenizer, self.start = stop, tokenizer, start
        self.window = 1 + max(len(word.encode()) for word in stop)  # tokens: none is shorter than a byte

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        tails = input_ids[:, max(self.start, input_ids.size(1) - self.window) :].tolist()
        texts = [self.tokenizer.decode(tail, skip_special_tokens=True) for tail in tails]
        found = [any(word in text for word in self.stop) for text in texts]
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


def _statuses(reward: RewardFunction) -> Counter[Status]:
    """What a reward function of ours has counted so far."""
    grader = getattr(reward, "grader", None)
    return Counter(grader.counts) if grader is not None else Counter()


def _grade(reward: RewardFunction, problems: Sequence[Question], texts: Sequence[str]) -> Sequence[float | None]:
    chat = not isinstance(problems[0].prompt, str)
    completions: list[Any] = [[{"role": "assistant", "content": text}] for text in texts] if chat else list(texts)
    columns = {key: [problem.grading.get(key) for problem in problems] for key in problems[0].grading}
    return reward(prompts=[problem.prompt for problem in problems], completions=completions, **columns)


def _tier(means: Sequence[float]) -> dict[str, Any]:
    interval = mean_interval(means)
    return {"accuracy": interval.mean, "interval": (interval.low, interval.high), "problems": interval.problems}
