"""Policies that an engine (FSDP, DeepSpeed) divides over the ranks: on a CPU too, how all ranks ask one together, and
how it gets other weights.

Accelerate takes a plugin for FSDP on accelerators alone; on a CPU it forgets the plugin without a word, and every rank
keeps the whole policy. Its own code shards there as well once its state says FSDP. Gradients are asked for as sums and
divided here: before torch 2.13, gloo adds up where it is asked for a mean (pytorch #162338).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainingArguments
from transformers.integrations import deepspeed as transformers_deepspeed
from trl.distributed import DistributedBackend
from trl.models.utils import unwrap_model_for_generation

from guided_grpo.errors import InputError


def take_fsdp_on_cpu(accelerator: Accelerator, plugin_args: dict[str, Any] | None) -> bool:
    """Let this accelerator shard where FSDP was asked for and Accelerate forgot it; whether it now does.

    Args:
        accelerator: new; nothing has been prepared by it.
        plugin_args: of the trainer's arguments; None = what `accelerate launch` says.

    Raises `InputError` for FSDP1, which needs a GPU.
    """
    state = accelerator.state
    asked = os.environ.get("ACCELERATE_USE_FSDP") == "true"  # Accelerate sets it for a plugin of the arguments too
    if not asked or state.device.type != "cpu" or state.num_processes == 1:
        return False
    plugin = FullyShardedDataParallelPlugin(**(plugin_args or {}))
    if plugin.fsdp_version != 2:
        raise _no_fsdp1(plugin.fsdp_version)
    state.fsdp_plugin = plugin
    state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    prepare = accelerator._prepare_fsdp2

    def prepare_summing(*objects: Any) -> Any:
        prepared = prepare(*objects)
        for model in prepared:
            for module in model.modules() if isinstance(model, torch.nn.Module) else ():
                if isinstance(module, FSDPModule):
                    module.set_force_sum_reduction_for_comms(True)
        return prepared

    accelerator._prepare_fsdp2 = prepare_summing
    return True


def check_fsdp() -> None:
    """Raise `InputError` for FSDP1 where there is no GPU, before Accelerate ends with a traceback."""
    asked = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if asked and os.environ.get("FSDP_VERSION", "1") == "1" and not torch.accelerator.is_available():
        raise _no_fsdp1(1)


def _no_fsdp1(version: int) -> InputError:
    return InputError("does not shard on a CPU", field="fsdp_version", value=version, fix="set it to 2, or use a GPU")


def engine_is_asked() -> bool:
    """Whether `accelerate launch`, or a plugin of the arguments, wants FSDP or DeepSpeed."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))


def has_engine(trainer: Trainer) -> bool:
    """Whether an engine takes over the policy as training begins; before that, some ranks may have no weights."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


@contextmanager
def whole_policies() -> Iterator[None]:
    """What `from_pretrained` loads meanwhile is whole on every rank, for who asks it without a trainer.

    ZeRO-3 alone would divide it; with FSDP every rank loads all weights, and the trainer divides them.
    """
    zero = transformers_deepspeed._hf_deepspeed_config_weak_ref
    transformers_deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        transformers_deepspeed._hf_deepspeed_config_weak_ref = zero


def use_engine_of(args: TrainingArguments) -> None:
    """Let `from_pretrained` and the next trainer take DeepSpeed's settings from these, not from the last trainer's.

    Accelerate refuses a second plugin in one process until its state is forgotten.
    """
    plugin = args.deepspeed_plugin
    if plugin is not None:
        AcceleratorState._reset_state()
        if args.deepspeed:
            transformers_deepspeed.set_hf_deepspeed_config(args.hf_deepspeed_config)
        else:
            plugin.set_deepspeed_weakref()


@torch.no_grad()
def give_weights(loaded: torch.nn.Module, model: torch.nn.Module) -> None:
    """Copy a policy that `from_pretrained` has loaded on all ranks into one that may lie in pieces.

    With FSDP only the first rank need have loaded anything, which is what Transformers does there; ZeRO-3 divides what
    is loaded as it divided the policy.
    """
    if isinstance(model, FSDPModule):
        for module in model.modules():  # behind a forward pass the outermost one stays whole
            if isinstance(module, FSDPModule):
                module.reshard()
        whole = loaded.state_dict() if PartialState().is_main_process else {}
        set_model_state_dict(model, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    elif any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        import deepspeed  # type: ignore[import-not-found]  # an extra

        for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
            with deepspeed.zero.GatheredParameters([ours, theirs], modifier_rank=0):
                if PartialState().is_main_process:
                    ours.copy_(theirs)
    else:
        model.load_state_dict(loaded.state_dict())


@contextmanager
def policy_that_answers(trainer: Any) -> Iterator[Any]:
    """The policy of a trainer for `generate`, as TRL samples from it. With an engine all ranks ask it together.

    FSDP2 fetches a layer when it is needed. ZeRO-3 keeps all parameters on every rank meanwhile, unless
    `ds3_gather_for_generation` is false.
    """
    accelerator, args = trainer.accelerator, trainer.args
    if not has_engine(trainer):
        yield accelerator.unwrap_model(trainer.model)
        return
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            accelerator,
            gather_deepspeed3_params=getattr(args, "ds3_gather_for_generation", True),
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as policy,
        DistributedBackend(accelerator).summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        yield policy
