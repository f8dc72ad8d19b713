"""The embedded policies, made again from their recipes, against those in the package.

    .venv/bin/python benchmarks/rebuild_policies.py --output build/policies

Weights differ in the last bits from one CPU to another, and training grows that. What should stay is what a policy
knows: the loss on demonstrations that it was not trained on, and its unguided accuracy on hard problems.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.pretraining import build_base, held_out_loss
from guided_grpo.embedded.recipes import POLICIES, SHIPPED, BaseRecipe
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.questions import evaluate, questions
from guided_grpo.grading import Grader

DECODING = Decoding(samples=4, temperature=1.0, top_p=1.0, top_k=0, max_tokens=112, batch_size=400)


def measured(folder: Path, recipe: BaseRecipe, grader: Grader) -> str:
    """Loss and accuracy of the policy in `folder`."""
    problems = questions(load_rows(f"{recipe.domain}:steps=10-14,count=200,seed=999"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    figures = evaluate(model, tokenizer, problems, grader, DECODING)
    low, high = figures["interval"]
    return f"loss {held_out_loss(folder, recipe):.4f}, unguided {figures['accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/policies"), help="folder, written over")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    options = parser.parse_args()
    with Grader() as grader:
        for name in options.policies:
            print(name, flush=True)
            shipped, rebuilt = SHIPPED / name, build_base(options.output / name, POLICIES[name], bars=True)
            for label, folder in (("shipped", shipped), ("rebuilt", rebuilt)):
                if folder.is_dir():  # a new policy is not shipped yet
                    print(f"  {label}  {measured(folder, POLICIES[name], grader)}", flush=True)


if __name__ == "__main__":
    main()
