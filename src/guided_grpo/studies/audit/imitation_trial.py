"""Whether to imitate the traces first: what a few steps of fine-tuning did to success on problems that were not taught.

    success rises                              auto         fine-tuning while it pays, then what the policy finishes
    it does not, and guidance raises success   auto-guide   guidance alone
    neither, by a trial four times as long     what the audit says without the trial
    it fell, and has come back since           auto, given time: a foreign form is being learned

A policy that has to learn a new rule shows nothing for the first hundred steps, hence the longer trial. One that learns
a foreign form forgets its own first; where the form cannot be learned, success does not come back.
Pure: figures in, advice out. docs/studies/when.md holds what the rules stand on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guided_grpo.evaluation.likelihood import FOREIGN
from guided_grpo.evaluation.stats import difference_interval
from guided_grpo.studies.audit.advice import Advice

LONGER = 4  # times the steps, where neither these nor guidance help


@dataclass(frozen=True)
class ImitationTrial:
    """Unguided success on problems that were not taught, before a few steps of fine-tuning and at its best after."""

    steps: int  # of the best
    problems: int
    before: float
    after: float
    gain: tuple[float, float]  # 95 %, paired over problems
    demonstrations: int  # traces that were taught
    wrong: int  # traces that were not, since they come to a wrong answer
    log_prob: float  # of a token of the traces before, in nats, the mean over traces
    regained: tuple[float, float] | None = None  # lowest and last success, where it clearly fell and clearly rose again

    @property
    def pays(self) -> bool:
        """Whether success rose beyond chance."""
        return self.gain[0] > 0

    @property
    def words(self) -> str:
        """For people."""
        low, high = self.gain
        return (
            f"{self.steps} steps of fine-tuning on {self.demonstrations} traces moved success on {self.problems} "
            f"problems that were not taught from {self.before:.1%} to {self.after:.1%} "
            f"(difference {low:+.1%} to {high:+.1%}). Before, a token of the traces had a log-probability of "
            f"{self.log_prob:.2f} nats; {self.wrong} traces come to a wrong answer and were not taught."
        )


def imitation_trial(
    rows: Sequence[Mapping[str, Any]], demonstrations: int, wrong: int, log_prob: float
) -> ImitationTrial:
    """The trial, from the evaluations of early stopping (step, accuracy, scores by problem), the first at step 0."""
    before, best = rows[0], max(rows[1:], key=lambda row: float(row["accuracy"]))
    gain = difference_interval(before["scores"], best["scores"])
    lowest, last = min(rows[1:], key=lambda row: float(row["accuracy"])), rows[-1]
    fell = difference_interval(before["scores"], lowest["scores"]).high < 0
    rose = difference_interval(lowest["scores"], last["scores"]).low > 0
    return ImitationTrial(
        steps=int(best["step"]),
        problems=len(before["scores"]),
        before=float(before["accuracy"]),
        after=float(best["accuracy"]),
        gain=(gain.low, gain.high),
        demonstrations=demonstrations,
        wrong=wrong,
        log_prob=log_prob,
        regained=(float(lowest["accuracy"]), float(last["accuracy"])) if fell and rose else None,
    )


def is_undecided(advice: Advice, trial: ImitationTrial) -> bool:
    """Whether nothing has helped so far, and there is something left to learn: time for a longer trial."""
    return not trial.pays and advice.method is None and advice.verdict != "solved"


def with_imitation(advice: Advice, trial: ImitationTrial, group: int) -> Advice:
    """The advice in the light of the trial.

    Args:
        advice: of the responses alone.
        trial: of fine-tuning.
        group: G where the advice names none.
    """
    size = advice.settings.get("num_generations", group)

    def train_with(method: str, headline: str, *reasons: str) -> Advice:
        settings = {"method": method, "num_generations": size}
        imitate: dict[str, Any] = {"verdict": "imitate", "cell": None} if method == "auto" else {}
        return replace(advice, headline=headline, reasons=(trial.words, *reasons), settings=settings, **imitate)

    if trial.pays:
        return train_with(
            "auto",
            "Imitate first: train with auto.",
            "Expected order on equal compute: auto, ahead of sft where problems have no whole right trace and level "
            "with it where all have one; then auto-guide, then grpo. auto begins with the same fine-tuning, ends it "
            "where held-out success falls, and has the policy finish the traces that are not whole.",
        )
    if advice.verdict == "guide":
        return train_with(
            "auto-guide",
            "Guide without imitating: train with auto-guide.",
            "Expected order on equal compute: auto-guide, then grpo, then sft: the policy can finish what these traces "
            "begin, and gains nothing from imitating them.",
            advice.reasons[0],  # the others explain settings that auto-guide does without
        )
    if trial.log_prob >= FOREIGN:
        return replace(advice, reasons=(*advice.reasons, trial.words))
    if trial.regained and is_undecided(advice, trial):
        low, last = trial.regained
        return train_with(
            "auto",
            "Imitate, and give it time: train with auto.",
            f"Success fell to {low:.1%} and came back to {last:.1%}: the policy is learning the form of these traces, "
            f"which is foreign to it. This pays late: plan for several times {trial.steps} steps of fine-tuning, or "
            "none.",
        )
    form = (
        f"These traces have a form that the policy does not write ({trial.log_prob:.1f} nats a token). A trial of "
        f"{trial.steps} steps is too short to learn one; where it can be learned, fine-tuning pays late. Try it with "
        f"--imitate {LONGER * trial.steps}."
    )
    return replace(advice, reasons=(*advice.reasons, trial.words, form))
