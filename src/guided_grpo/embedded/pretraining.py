"""From a recipe to an embedded policy: a small Qwen3 over single characters, pre-trained to be good at single steps of
its domain and poor at long problems.

Phases, as `BaseRecipe` names them: learn the rule from short, then longer demonstrations with little noise, then become
unreliable on demonstrations with much noise. The folder that results is an ordinary checkpoint: `AutoModelForCausalLM`
and `AutoTokenizer` load it, and nothing downstream knows that it is not from a hub.
"""

from __future__ import annotations

import random
import shutil
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
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from guided_grpo.data.domains.chains import ALPHABET
from guided_grpo.embedded.recipes import DOMAINS, BaseRecipe
from guided_grpo.store import rundir

MAX_POSITIONS = 256
_RECIPE = "recipe.json"


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


class _MarkWhole(TrainerCallback):
    """Marks each checkpoint once it is whole, so that a kill in its middle is not resumed from."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        rundir.mark_complete(Path(args.output_dir) / f"{rundir.CHECKPOINT_PREFIX}{state.global_step}")


def build_base(folder: Path, recipe: BaseRecipe, *, bars: bool = False, save_every: int = 100) -> Path:
    """Pre-train the base policy into `folder` unless a whole one of the same recipe is there already.

    The folder appears by one rename at the end: an interrupted pre-training leaves nothing that looks finished, and
    goes on from its last checkpoint, `save_every` steps apart.
    """
    wanted = recipe.to_json()
    if rundir.read_json(folder / _RECIPE) == wanted:
        return folder
    scratch = folder.with_name(folder.name + ".partial")
    if rundir.read_json(scratch / _RECIPE) != wanted:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        rundir.write_json(scratch / _RECIPE, wanted)
    rundir.drop_partial_checkpoints(scratch)
    tokenizer = character_tokenizer(DOMAINS[recipe.domain].alphabet)
    model = new_policy(recipe, tokenizer)
    trainer = _InOrderTrainer(
        model=model,
        args=_pretraining_arguments(scratch, recipe, bars=bars, save_every=save_every),
        train_dataset=_Demonstrations(recipe, tokenizer),
        data_collator=lambda items: _collate(tokenizer.pad_token_id, items),
        callbacks=[_MarkWhole()],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = rundir.last_checkpoint(scratch)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    final = scratch / "final"
    model.save_pretrained(final)
    tokenizer.save_pretrained(final)
    rundir.write_json(final / _RECIPE, wanted)
    shutil.rmtree(folder, ignore_errors=True)
    final.rename(folder)
    shutil.rmtree(scratch)
    return folder


def _pretraining_arguments(scratch: Path, recipe: BaseRecipe, *, bars: bool, save_every: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=30,
        save_strategy="steps",
        save_steps=save_every,
        logging_steps=50,
        report_to="none",
        seed=recipe.seed,
        disable_tqdm=not bars,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
    )
