"""The policy of a command: where it is, its weights and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers.utils.logging import disable_progress_bar

from guided_grpo.commands.parsing import tell
from guided_grpo.data.reading.hub import seek
from guided_grpo.data.reading.streams import first_line
from guided_grpo.embedded.recipes import POLICIES, SHIPPED, embedded_folder
from guided_grpo.errors import InputError
from guided_grpo.store import rundir

MODEL_HELP = f"hub id, checkpoint folder, run directory (its model), or one of {', '.join(POLICIES)}"

disable_progress_bar()  # of loading and saving weights: ours are enough


def policy_source(model: str, *, field: str = "model") -> str:
    """Where the policy is that the user named `model`: hub id or folder.

    An embedded policy is in the package, and a run directory holds the policy that it trained. `field` is where the
    name stood. Raises InputError for an unknown embedded policy.
    """
    folder = embedded_folder(model, field=field)
    return rundir.model_of(model) if folder is None else str(folder)


def load_tokenizer(source: str, *, field: str = "model") -> PreTrainedTokenizerBase:
    """The policy's tokenizer, padding on the left; `field` is where the user named the policy.

    Raises `InputError` where it cannot end or pad a sequence.
    """
    try:
        seek(source)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", truncation_side="left")
    except (OSError, ValueError) as error:
        raise _refusal(f"has no tokenizer that loads ({first_line(error)})", source, field) from error
    if tokenizer.eos_token_id is None:
        fix = "set eos_token in its tokenizer_config.json"
        raise _refusal("has a tokenizer without an eos token: no response would ever end", source, field, fix)
    if tokenizer.pad_token_id is None:
        # Masks come from lengths, never from comparing ids with the pad id, so sharing the id is harmless.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_prompts(rows: Dataset, tokenizer: PreTrainedTokenizerBase, model: str, *, field: str = "model") -> None:
    """Raise `InputError` where prompts are chats and the policy has no template; say where it does not know the text.

    Args:
        rows: have one form of prompt, chats or text.
        tokenizer: of the policy.
        model: the policy as the user named it.
        field: where that stood.
    """
    prompts = rows[:100]["prompt"]
    if not all(isinstance(prompt, str) for prompt in prompts):
        if not tokenizer.chat_template:
            fix = "use a policy with one, or name the columns: --map prompt=YOURS keeps them plain text"
            raise InputError("has no chat template, and the prompts are chats", field=field, value=model, fix=fix)
        return
    warn_of_unknown(prompts, tokenizer, model)


def warn_of_unknown(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Say how much of these a policy does not know: an embedded one knows the characters of its domain alone."""
    ids = [token for one in tokenizer(prompts, add_special_tokens=False)["input_ids"] for token in one]
    unknown = sum(token == tokenizer.unk_token_id for token in ids)
    if unknown:
        tell(f"warning: {model} does not know {unknown / len(ids):.0%} of the characters or words of the prompts")


def load_policy(source: str, dtype: str = "auto", *, field: str = "model", **options: Any) -> PreTrainedModel:
    """The weights at `source`, where Transformers puts them.

    Args:
        source: hub id or folder.
        dtype: of the weights; "auto" = as they are stored.
        field: where the user named it, for the message.
        options: further arguments of `from_pretrained`.

    Raises InputError where they do not load.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise _refusal(f"does not load ({first_line(error)})", source, field) from error


def _refusal(problem: str, source: str, field: str, fix: str = "check the path or id") -> InputError:
    return InputError(problem, field=field, value=source, fix=fix)


def load_for_sampling(source: str, dtype: str = "auto") -> PreTrainedModel:
    """`load_policy` on this machine's accelerator as the weights are stored, or in float32 on its CPU; says which."""
    device = PartialState().device
    if dtype == "auto" and device.type == "cpu":
        dtype = "float32"  # half precision is slow there
    model = load_policy(source, dtype).to(device)
    name = Path(source).name if Path(source).parent == SHIPPED else source
    tell(f"{name}: {str(model.dtype).removeprefix('torch.')} on {device.type}")
    return model


def tell_precision(trainer: Trainer) -> None:
    """Say where and how a policy is trained: device, weights, autocast."""
    accelerator = trainer.accelerator
    if accelerator.is_main_process:
        weights = str(next(trainer.model.parameters()).dtype).removeprefix("torch.")
        mixed = "" if accelerator.mixed_precision == "no" else f", computed in {accelerator.mixed_precision}"
        tell(f"training on {accelerator.num_processes} × {accelerator.device.type}: {weights} weights{mixed}")


def load_model(source: str, settings: Any) -> PreTrainedModel:
    """The policy of a run's settings, in float32 unless `dtype` says otherwise (as TRL loads it)."""
    model = settings.model
    attention = {} if model.attn_implementation is None else {"attn_implementation": model.attn_implementation}
    return load_policy(
        source,
        model.dtype or "float32",
        field="model_name_or_path",
        revision=model.model_revision,
        trust_remote_code=bool(getattr(settings.training, "trust_remote_code", False)),
        **attention,
    )


def context_of(source: str) -> int | None:
    """Tokens that the policy at `source` can see; None = its config does not say."""
    config = AutoConfig.from_pretrained(source)
    return getattr(config.get_text_config(), "max_position_embeddings", None)
