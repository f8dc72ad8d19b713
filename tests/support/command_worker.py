"""FILE, then the words of `guided-grpo train` or `sft`, as each rank runs them: FILE gets what the ranks hold."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from guided_grpo.cli import COMMANDS, main


def held(parameter: Any) -> int:
    """Numbers of it in the memory of this rank."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().numel()
    return parameter.numel() + (parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else 0)


def watch(command: Any, file: Path) -> None:
    """Let the command write what its ranks hold once it has trained."""
    parse, save = command.parse, command.save_model

    def settle(arguments: list[str]) -> Any:
        settings = parse(arguments)
        if (plugin := settings.training.deepspeed_plugin) is not None:  # it would keep small parameters whole
            plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return settings

    def note(trainer: Any, *rest: Any) -> None:
        parameters = list(trainer.model.parameters())
        whole = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)
        engine = trainer.accelerator.distributed_type.value
        ranks = gather_object([{"engine": engine, "held": sum(map(held, parameters)), "all": whole}])
        if trainer.accelerator.is_main_process:
            file.write_text(json.dumps(ranks))
        save(trainer, *rest)

    command.parse, command.save_model = settle, note


if __name__ == "__main__":
    watch(import_module(COMMANDS[sys.argv[2]][0]), Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
