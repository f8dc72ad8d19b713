"""How much guidance, where every problem has a length of its own: drawn at each visit, or moved by its own success.

t is the share of the run that is done, U(a, b) a uniform draw, ℓ0 `guidance_length`, ℓ_f `guidance_final`, τ and p* are
`guidance_target`, η is `guidance_gain`, k of G rollouts succeeded.

    binomial-cosine  l/L of the trace, l ~ Binomial(L, p_t), L = min(5, steps of the trace);
                     p_t = ℓ_f + ½ (ℓ0 − ℓ_f)(1 + cos πt/T_h) for t < T_h, then nothing
    uniform          U(low_t, ℓ0), low_t = ℓ_f + ½ (ℓ0 − ℓ_f)(1 + cos πt)
    random-cut       one of three cuts of the problem, each U(ℓ_f, ℓ0) and fixed for the run; no guidance in every
                     fourth visit, on average
    bisect           ρ ~ U(lo, hi), bounds of the problem; k/G < τ: lo ← ρ, else hi ← ρ and lo ← 0, so hi never grows;
                     a problem that was never seen has M, M ← .8 M + .2 (mean of the bounds of a batch's problems)
    withdraw         the share s of the problem: p̄ ← .7 p̄ + .3 k/G, s ← clip(s + η (p* − p̄), 0, cap_t);
                     cap_t = 1 until t = 2/3, then falls linearly to 0 at t = .9

    rule             from                                    its values: p or ℓ
    binomial-cosine  UFT, arXiv 2505.16984 (its code)        .95 → .05, T_h = .6 (300 of 500 steps)
    uniform          Prefix-RFT, arXiv 2507.01679            ℓ0 = .95, ℓ_f = .05
    random-cut       PrefixRL, arXiv 2601.18795              [.4, .8]
                     R3, arXiv 2402.05808 (its data)         [0, 1) in whole steps; no cut is fixed, no visit plain
    bisect           AdaBack, arXiv 2506.18110               [0, .98], τ = .5
    withdraw         AdaPrefix-GRPO, arXiv 2607.07674        η = .2, p* = .5: our reconstruction

A draw is a hash of the run's seed, the problem and the number of the batch. So it is the same for the rollouts of a
group, on all ranks and after a resume, and feedback finds again what was given: it asks the state it was drawn from.

Deviations. All: t may be of a budget of tokens or seconds in place of steps; a visit is the batch in which a problem
comes. binomial-cosine: the code gives a hint in step T_h still. uniform: the guided rollouts of a group share one draw.
random-cut: PrefixRL has three rows with a cut and one without for every problem, R3 one row an end, all mixed; here a
visit draws one of these rows, so that each comes equally often only on average. With `ratio-steps` a cut is rounded
down to a whole step, which draws R3's rows alike. bisect: tokens where the code counts words; ρ is never set to 0 (the
paper does so with chance .1, the code does not); problems come in the order of the curriculum, where the code draws
those with low rewards more often. By the rule itself a problem that succeeds at .1 and then fails never gets more than
.1 again. withdraw: the abstract says success near .5 by feedback of each problem, then a withdrawal; update formula,
gain and timing are ours, also that p̄ starts at p* and s at ℓ0, and that a problem never seen starts where the same rule
stands that is fed the mean success of whole batches. bisect and withdraw take a problem without a trace for one whose
guidance does not help.
"""

from __future__ import annotations

import math
from dataclasses import replace
from hashlib import blake2b

from guided_grpo.guidance.keys import problem_key
from guided_grpo.guidance.lengths import LengthSettings, Pair, State
from guided_grpo.guidance.slicing import step_ends
from guided_grpo.types import Row, StepFeedback

UNSEEN = "unseen"  # what stands for a problem that was never seen
HINT_END = 0.6  # T_h of binomial-cosine
WITHDRAWAL_END = 0.9
BOUNDS_MEMORY = 0.8  # of M
SUCCESS_MEMORY = 0.7  # of p̄
_ROUNDING = 1e-9  # 0.7 of 10 is 7, whatever floats say


def draw(settings: LengthSettings, *parts: int | str) -> float:
    """A number in [0, 1) that the run's seed and `parts` determine; 0 is the seed of settings that have none."""
    text = ":".join(map(str, (getattr(settings, "seed", 0), *parts)))
    return (int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 11) / 2**53


def cosine(start: float, end: float, done: float) -> float:
    """From `start` at 0 to `end` at 1, by half a period."""
    return end + (start - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def binomial_cosine(settings: LengthSettings, state: State, row: Row) -> float:
    """A share of the trace; of no row its mean, as in all of these rules."""
    hint_end = HINT_END if settings.guidance_end is None else settings.guidance_end
    if state.progress >= hint_end:
        return 0.0
    chance = cosine(settings.guidance_length, settings.guidance_final, state.progress / hint_end)
    if not row:
        return chance
    segments, problem = _segments(settings, row), problem_key(row)
    given = sum(draw(settings, problem, state.updates, segment) < chance for segment in range(segments))
    return given / segments


def _segments(settings: LengthSettings, row: Row) -> int:
    trace = row.get("guidance")
    return min(settings.guidance_segments, len(step_ends(trace))) if trace else settings.guidance_segments


def uniform(settings: LengthSettings, state: State, row: Row) -> float:
    """Between a falling lower end and ℓ0."""
    low = cosine(settings.guidance_length, settings.guidance_final, state.progress)
    place = draw(settings, problem_key(row), state.updates) if row else 0.5
    return _between((low, settings.guidance_length), place)


def random_cut(settings: LengthSettings, state: State, row: Row) -> float:
    """One of the problem's cuts, or nothing."""
    ends = (settings.guidance_final, settings.guidance_length)
    if not row:
        return (1 - settings.guidance_plain) * _between(ends, 0.5)
    problem = problem_key(row)
    if draw(settings, problem, state.updates, "plain") < settings.guidance_plain:
        return 0.0
    place = draw(settings, problem, state.updates, "cut")
    if settings.guidance_cuts:
        place = draw(settings, problem, "cut", math.floor(place * settings.guidance_cuts))
    length, trace = _between(ends, place), row.get("guidance")
    if settings.guidance_unit == "ratio-steps" and trace:
        steps = len(step_ends(trace))
        return math.floor(length * steps + _ROUNDING) / steps
    return length


def bisect(settings: LengthSettings, state: State, row: Row) -> float:
    """ρ, between the bounds of the problem."""
    if not row:
        return _between(_bounds(settings, state, UNSEEN), 0.5)
    return _given(settings, state, problem_key(row))


def _given(settings: LengthSettings, state: State, problem: int) -> float:
    return _between(_bounds(settings, state, str(problem)), draw(settings, problem, state.updates))


def _bounds(settings: LengthSettings, state: State, key: str) -> Pair:
    return state.problems.get(key, state.problems.get(UNSEEN, (0.0, settings.guidance_length)))


def observe_bisect(settings: LengthSettings, state: State, feedback: StepFeedback) -> State:
    """The bounds of a batch's problems after it, and M."""
    moved = {}
    for problem, rate in success_rates(feedback).items():
        given, failed = _given(settings, state, problem), rate < settings.guidance_target
        moved[str(problem)] = cut_down(_bounds(settings, state, str(problem)), given, failed=failed)
    if not moved:
        return state
    means = [
        BOUNDS_MEMORY * mean + (1 - BOUNDS_MEMORY) * sum(bounds) / len(moved)
        for mean, bounds in zip(_bounds(settings, state, UNSEEN), zip(*moved.values(), strict=True), strict=True)
    ]
    return replace(state, problems={**state.problems, **moved, UNSEEN: (means[0], means[1])})


def cut_down(bounds: Pair, given: float, *, failed: bool) -> Pair:
    """The bounds of a problem that failed, or succeeded, with `given` of its trace."""
    return (given, bounds[1]) if failed else (0.0, given)


def withdraw(settings: LengthSettings, state: State, row: Row) -> float:
    """s of the problem, below the cap."""
    _, share = _standing(settings, state, str(problem_key(row)) if row else UNSEEN)
    return min(share, cap(settings, state.progress))


def _standing(settings: LengthSettings, state: State, key: str) -> Pair:
    start = (settings.guidance_target, settings.guidance_length)
    return state.problems.get(key, state.problems.get(UNSEEN, start))


def cap(settings: LengthSettings, progress: float) -> float:
    """The most that withdraw gives: cap_t, or `guidance_max` where that is less."""
    start, end = settings.guidance_hold, WITHDRAWAL_END if settings.guidance_end is None else settings.guidance_end
    most = 1.0 if settings.guidance_max is None else min(settings.guidance_max, 1.0)
    if progress >= end:
        return 0.0
    return most if progress <= start else min(most, (end - progress) / (end - start))


def observe_withdraw(settings: LengthSettings, state: State, feedback: StepFeedback) -> State:
    """p̄ and s of a batch's problems after it, and of the problem that was never seen."""
    rates = success_rates(feedback)
    if not rates:
        return state
    observed = {**{str(problem): rate for problem, rate in rates.items()}, UNSEEN: sum(rates.values()) / len(rates)}
    top, moved = cap(settings, feedback.progress), {}
    for key, rate in observed.items():
        success, share = _standing(settings, state, key)
        success = SUCCESS_MEMORY * success + (1 - SUCCESS_MEMORY) * rate
        share += settings.guidance_gain * (settings.guidance_target - success)
        moved[key] = (success, min(max(share, 0.0), top))
    return replace(state, problems={**state.problems, **moved})


def success_rates(feedback: StepFeedback) -> dict[int, float]:
    """k/G of each problem of a batch, of all its groups; without those of which no rollout was graded."""
    counts: dict[int, list[int]] = {}
    for group in feedback.problems:
        count = counts.setdefault(group.problem, [0, 0])
        count[0] += group.successes
        count[1] += group.rollouts
    return {problem: successes / rollouts for problem, (successes, rollouts) in counts.items() if rollouts}


def _between(ends: Pair, place: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * place
