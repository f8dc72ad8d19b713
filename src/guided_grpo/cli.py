"""The command line. Exit codes: 0 success, 1 failure, 2 bad usage or bad input, 130 interrupted (and resumable)."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from importlib import import_module

from guided_grpo.errors import InfraLimitError, InputError

# Command → (module whose `main(arguments, as_json=...)` runs it, one line of help). Modules load when called: a report
# needs no torch.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("guided_grpo.commands.train", "train a policy: --config FILE [--field value …]"),
    "sft": ("guided_grpo.commands.sft", "fine-tune on the traces, the baseline: --config FILE [--field value …]"),
    "eval": ("guided_grpo.commands.eval", "unguided accuracy of a model: --model M --data D, or --benchmark NAME"),
    "audit": ("guided_grpo.commands.audit", "before training, can guidance help: --model M --data D"),
    "compare": ("guided_grpo.commands.compare", "methods × seeds on one budget: --config FILE"),
    "grade": ("guided_grpo.commands.grade", "verdicts for a JSONL of completions and answers: --data FILE"),
    "data": ("guided_grpo.commands.data", "check, prepare and annotate data sets: check FILE, prepare --config FILE"),
    "methods": ("guided_grpo.commands.methods", "the methods and the axes that they are points of: [NAME]"),
    "configs": ("guided_grpo.commands.configs", "the configs of the package, or the path of one: [NAME]"),
    "report": ("guided_grpo.commands.report", "run directories → one HTML page: RUN … [--output FILE]"),
}


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `guided-grpo`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        from guided_grpo import __version__

        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        print(f"guided-grpo: {words[0]!r} is not a command; fix: use one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    _quiet_libraries()
    try:
        command: Callable[..., int] = import_module(COMMANDS[words[0]][0]).main
        return command(words[1:], as_json=as_json)
    except InputError as error:
        print(f"guided-grpo {words[0]}: {error}", file=sys.stderr)
        return 2
    except InfraLimitError as error:
        print(f"guided-grpo {words[0]}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _is_cut_off():
            raise
        return 0
    except KeyboardInterrupt:
        print(f"\nguided-grpo {words[0]}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _is_cut_off() -> bool:
    """Whether nobody reads what is printed any more, as behind `| head`; what is left of it then goes nowhere."""
    printer = select.poll()
    printer.register(sys.stdout, 0)
    if not printer.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _usage() -> str:
    lines = ["usage: guided-grpo COMMAND [--json] …", ""]
    lines += [f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "guided-grpo COMMAND --help shows what a command takes."])


def _quiet_libraries() -> None:
    # Bars of weight loading and deprecation notices between libraries would drown our own lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


if __name__ == "__main__":
    sys.exit(main())
