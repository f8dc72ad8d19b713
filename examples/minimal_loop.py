"""G²RPO-A and GHPO in one file of plain torch: the executable specification of the trainer.

Run it:   .venv/bin/python examples/minimal_loop.py --steps 30              guidance in front of half of each group
          .venv/bin/python examples/minimal_loop.py --steps 30 --ratio 0 --rescue    hints for the groups that fail

It is the method in the order of the paper, one sequence at a time, without padding, buffers, ranks or engines.
tests/train/test_minimal_loop.py feeds the trainer's batch to `guided_loss` and asks for the same loss and gradients,
and lets `rescue` make the same calls as the trainer's ladder.

Suffixes: _P problems, _G rollouts of a group, _B all rollouts of a step, _T tokens of one completion.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from guided_grpo.data.domains.chains import chain
from guided_grpo.embedded.recipes import EMBEDDED, SHIPPED


@dataclass
class Rollout:
    """One sampled completion. The ids that are trained on are the ids that were sampled."""

    prompt_ids: list[int]
    guidance_ids: list[int]  # empty = unguided
    generated_ids: list[int]  # sampled after prompt + guidance
    reward: float = 0.0
    advantage: float = 0.0
    old_logps_T: torch.Tensor | None = None  # of guidance + generated, under the policy that sampled
    ref_logps_T: torch.Tensor | None = None  # the same under the reference policy, where β > 0

    @property
    def completion_ids(self) -> list[int]:
        return [*self.guidance_ids, *self.generated_ids]


def guided_count(group_size: int, ratio: float) -> int:
    """α·G to the nearest whole number, halves up (Eq. 3)."""
    return int(ratio * group_size + 0.5)


def next_length(length: float, history: list[float], window: int, low: float, high: float) -> float:
    """Eq. 5 with its erratum: ℓ_{k+1} = ℓ_k · mean(r_{k−1} … r_{k−min(T,k)}) / r_k; `history` ends with r_k.

    Rewards up → shorter guidance. Where r_k or the mean is 0 there is nothing to compare, and ℓ stays.
    """
    past, now = history[:-1][-window:], history[-1]
    if not past or now == 0 or sum(past) == 0:
        return length
    return min(max(length * (sum(past) / len(past)) / now, low), high)


def group_advantages(rewards_G: list[float], epsilon: float = 1e-4) -> list[float]:
    """A_i = (r_i − mean(r)) / (std(r) + ε), with the sample standard deviation."""
    mean = sum(rewards_G) / len(rewards_G)
    variance = sum((reward - mean) ** 2 for reward in rewards_G) / (len(rewards_G) - 1)
    return [(reward - mean) / (variance**0.5 + epsilon) for reward in rewards_G]


def token_logps(model: PreTrainedModel, rollout: Rollout, temperature: float = 1.0) -> torch.Tensor:
    """log π(o_t | q, o_<t) of guidance and generated tokens. Shape (T,).

    Guidance tokens are completion here although they were prompt while sampling: same ids, same positions.
    """
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids], device=model.device)
    logits = model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1] / temperature
    chosen = torch.tensor(rollout.completion_ids, device=model.device).unsqueeze(1)
    return logits.log_softmax(dim=-1).gather(1, chosen).squeeze(1)


def guided_loss(
    model: PreTrainedModel,
    rollouts_B: list[Rollout],
    *,
    guidance_weight: float = 1.0,
    guidance_credit: str = "signed",
    clip: float = 0.2,
    beta: float = 0.0,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The loss of guided GRPO over one batch (Eq. 1 with the weights of §4.1).

        L = −1/Σ_i Σ_t w_{i,t} · Σ_i Σ_t w_{i,t} [ min(ρ A, clip(ρ, 1−ε, 1+ε) A) − β KL ],   ρ = π/π_old

    w is `guidance_weight` on guidance tokens and 1 on generated ones; with `guidance_credit` "positive" it is 0 on the
    guidance of rollouts with A ≤ 0, since a trace is right whatever the policy made of it. KL is the estimator
    e^d − d − 1 with d = log π_ref − log π, times ρ because the tokens were drawn from π_old (TRL's default).
    """
    total = torch.zeros((), device=model.device)
    weights = 0.0
    for rollout in rollouts_B:
        logps_T = token_logps(model, rollout, temperature)
        old_T = logps_T.detach() if rollout.old_logps_T is None else rollout.old_logps_T
        weight_T = torch.ones_like(logps_T)
        counts = guidance_credit == "signed" or rollout.advantage > 0
        weight_T[: len(rollout.guidance_ids)] = guidance_weight if counts else 0.0
        ratio_T = (logps_T - old_T).exp()
        clipped_T = ratio_T.clamp(1 - clip, 1 + clip)
        gain_T = torch.minimum(ratio_T * rollout.advantage, clipped_T * rollout.advantage)
        if beta:
            assert rollout.ref_logps_T is not None
            gap_T = rollout.ref_logps_T - logps_T
            gain_T = gain_T - beta * ratio_T * (gap_T.exp() - gap_T - 1)
        total = total - (weight_T * gain_T).sum()
        weights += float(weight_T.sum())
    return total / max(weights, 1.0)


@torch.no_grad()
def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rollouts_B: list[Rollout], max_tokens: int
) -> None:
    """Fill `generated_ids` from π(· | q, g_i), all rollouts at once."""
    model.eval()
    fronts = [rollout.prompt_ids + rollout.guidance_ids for rollout in rollouts_B]
    width = max(len(front) for front in fronts)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(front)) + front for front in fronts])
    mask = torch.tensor([[0] * (width - len(front)) + [1] * len(front) for front in fronts])
    output = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=max_tokens, pad_token_id=pad
    )
    for rollout, generated in zip(rollouts_B, output[:, width:].tolist(), strict=True):
        end = generated.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in generated else len(generated)
        rollout.generated_ids = generated[:end]
    model.train()


def rescue(
    groups: list[list[Rollout]],
    rows_P: Sequence[Any],
    stages: Sequence[float],
    encode: Callable[[str], list[int]],
    sample_and_grade: Callable[[list[list[Rollout]], list[Any]], None],
    *,
    search: bool = False,
    prefix: bool = False,
) -> None:
    """GHPO's ladder: groups without a success are sampled again, whole, with the first ω of the solution as a hint.

    One call a stage, with the groups that still fail. The new rollouts replace the old ones and keep the prompt they
    were sampled from; what the last stage gave stays. The hint is prompt: it is never in the loss.

    With `search` it is BREAD's: the middle stage first, then among the longer ones where nobody succeeded, among the
    shorter ones where all did, until some do and some do not. With `prefix` it is the beginning of the response.
    """
    failed = [i for i, group in enumerate(groups) if all(rollout.reward <= 0 for rollout in group)]
    left = {i: list(stages) for i in failed}
    while left:
        middle = {i: (len(omegas) - 1) // 2 if search else 0 for i, omegas in left.items()}
        for i, place in middle.items():
            trace = rows_P[i]["guidance"]
            given, problem = trace[: int(left[i][place] * len(trace))], rows_P[i]["prompt"]
            if prefix:
                groups[i] = [Rollout(encode(problem), encode(given), []) for _ in groups[i]]
            else:
                groups[i] = [Rollout(encode(problem + given), [], []) for _ in groups[i]]
        sample_and_grade([groups[i] for i in middle], [rows_P[i] for i in middle])
        for i, place in middle.items():
            right = sum(rollout.reward > 0 for rollout in groups[i])
            if right == 0:
                left[i] = left[i][place + 1 :]
            else:
                left[i] = left[i][:place] if search and right == len(groups[i]) else []
        left = {i: omegas for i, omegas in left.items() if omegas}


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace) -> None:
    """Sample guided groups, reward, rescue, advantage, loss, step, and set the next guidance length."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.0)
    rng = random.Random(options.seed)
    length, rewards_K = options.length, []

    def encode(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    def sample_and_grade(groups: list[list[Rollout]], rows_P: list[Any]) -> None:
        sample(model, tokenizer, [rollout for group in groups for rollout in group], options.max_tokens)
        for group, row in zip(groups, rows_P, strict=True):
            for rollout in group:  # the whole response: guidance + generated
                text = tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)
                rollout.reward = float(text.endswith(f"#### {row['answer']}"))

    for step in range(1, options.steps + 1):
        rows_P = [chain(rng.randint(10, 14), rng) for _ in range(options.problems)]
        guided = guided_count(options.group_size, options.ratio)
        groups: list[list[Rollout]] = []
        for row in rows_P:
            guidance = encode(row["guidance"])[: int(length)]  # a shorter trace gives what it has
            prompt = encode(row["prompt"])
            groups.append([Rollout(prompt, guidance if i < guided else [], []) for i in range(options.group_size)])
        sample_and_grade(groups, rows_P)
        if options.rescue:
            rescue(groups, rows_P, (0.25, 0.5, 0.75), encode, sample_and_grade)
        for group in groups:
            for rollout, advantage in zip(group, group_advantages([r.reward for r in group]), strict=True):
                rollout.advantage = advantage
        rollouts_B = [rollout for group in groups for rollout in group]
        loss = guided_loss(model, rollouts_B, guidance_weight=options.guidance_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rewards_K.append(sum(rollout.reward for rollout in rollouts_B) / len(rollouts_B))
        unguided = [rollout.reward for rollout in rollouts_B if not rollout.guidance_ids]
        print(
            f"step {step:3}  length {length:5.1f}  reward {rewards_K[-1]:.3f}  "
            f"unguided {sum(unguided) / max(1, len(unguided)):.3f}  loss {loss.item():+.4f}",
            flush=True,
        )
        length = next_length(length, rewards_K, options.window, 1.0, options.longest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=SHIPPED / EMBEDDED)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--problems", type=int, default=4, help="a step")
    parser.add_argument("--group_size", type=int, default=12, help="G")
    parser.add_argument("--ratio", type=float, default=0.5, help="α")
    parser.add_argument("--rescue", action="store_true", help="sample groups that fail again, with a hint")
    parser.add_argument("--length", type=float, default=45.0, help="ℓ0, tokens")
    parser.add_argument("--longest", type=float, default=75.0, help="upper clamp of ℓ")
    parser.add_argument("--window", type=int, default=2, help="T of Eq. 5")
    parser.add_argument("--guidance_weight", type=float, default=1.0, help="w_g")
    parser.add_argument("--max_tokens", type=int, default=96)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    train(AutoModelForCausalLM.from_pretrained(options.base), tokenizer, options)


if __name__ == "__main__":
    main()
