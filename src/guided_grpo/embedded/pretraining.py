"""From a recipe to an embedded policy: a small Qwen3 over single characters, pre-trained to be good at single steps of
its domain and poor at long problems.

Phases, as `BaseRecipe` names them: learn the rule from short, then longer demonstrations with little noise, then become
unreliable on demonstrations with much noise. The folder that results is an ordinary checkpoint: `AutoModelForCausalLM`
and `AutoTokenizer` load it, and nothing downstream knows that it is not from a hub.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import Dataset
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)

from guided_grpo.data.domains.chains import ALPHABET
from guided_grpo.embedded.recipes import DOMAINS, LOSSES, RECIPE, BaseRecipe
from guided_grpo.store import rundir

MAX_POSITIONS = 256


def character_tokenizer(alphabet: str = ALPHABET) -> PreTrainedTokenizerFast:
    """One token a character of `alphabet` (the chain domain's); `<pad>` and `<eos>` are two different tokens."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    any_character = r"[\s\S]" if "\n" in alphabet else "."  # a dot is no line break
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(any_character), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def new_policy(recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained policy of the recipe's size, seeded."""
    set_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden_size // recipe.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


class _Demonstrations(Dataset[dict[str, list[int]]]):
    """Demonstrations of all phases in order; item i is a pure function of the seed and i."""

    def __init__(self, recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer, self.domain = recipe, tokenizer, DOMAINS[recipe.domain]
        self.phases = [phase for phase in recipe.phases for _ in range(phase.steps * recipe.batch_size)]

    def __len__(self) -> int:
        return len(self.phases)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        phase, rng = self.phases[index], random.Random(f"base/{self.recipe.seed}/{index}")
        row = self.domain.demonstrate(rng.randint(phase.low, phase.high), rng, phase.noise)
        prompt = self.tokenizer(str(row["prompt"]))["input_ids"]
        response = [*self.tokenizer(self.domain.solution(row))["input_ids"], self.tokenizer.eos_token_id]
        return {"input_ids": [*prompt, *response], "labels": [-100] * len(prompt) + response}


class _InOrderTrainer(Trainer):
    """The phases are a curriculum: the order of the demonstrations is kept."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


def _collate(pad_token_id: int, items: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(item["input_ids"]) for item in items)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([item[key] + [value] * (width - len(item[key])) for item in items])

    mask = torch.tensor([[1] * len(item["input_ids"]) + [0] * (width - len(item["input_ids"])) for item in items])
    return {"input_ids": padded("input_ids", pad_token_id), "attention_mask": mask, "labels": padded("labels", -100)}


def build_base(folder: Path, recipe: BaseRecipe, *, bars: bool = False) -> Path:
    """Pre-train a base policy into `folder`: weights in float32, tokenizer, recipe, and the losses on the way (step →
    nats a token, mean of the 50 steps before). Returns the folder.
    """
    tokenizer = character_tokenizer(DOMAINS[recipe.domain].alphabet)
    model = new_policy(recipe, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _InOrderTrainer(
            model=model,
            args=_pretraining_arguments(scratch, recipe, bars=bars),
            train_dataset=_Demonstrations(recipe, tokenizer),
            data_collator=lambda items: _collate(tokenizer.pad_token_id, items),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rundir.write_json(folder / RECIPE, recipe.to_json())
    losses = {str(row["step"]): row["loss"] for row in trainer.state.log_history if "loss" in row}
    rundir.write_json(folder / LOSSES, losses)
    return folder


def held_out_loss(folder: Path, recipe: BaseRecipe, count: int = 256) -> float:
    """How well the policy in `folder` knows its last phase: nats a token of demonstrations that it was not trained on.

    Args:
        folder: of the policy.
        recipe: what the demonstrations are like; its seed is not used.
        count: of the demonstrations.
    """
    tokenizer = character_tokenizer(DOMAINS[recipe.domain].alphabet)
    held_out = replace(recipe, seed=-1, batch_size=count, phases=(replace(recipe.phases[-1], steps=1),))
    rows = _Demonstrations(held_out, tokenizer)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        loss = model(**_collate(tokenizer.pad_token_id, [rows[index] for index in range(count)])).loss
    return float(loss)


def _pretraining_arguments(scratch: str, recipe: BaseRecipe, *, bars: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=30,
        save_strategy="no",
        logging_steps=50,
        report_to="none",
        seed=recipe.seed,
        disable_tqdm=not bars,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
    )
