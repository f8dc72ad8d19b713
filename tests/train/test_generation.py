"""What stops vLLM's server or its client, as one line."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from guided_grpo.errors import InputError
from guided_grpo.train.generation import one_line, server_of


def arguments(**changes: Any) -> Any:
    values = {
        "use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": None, "vllm_server_host": "127.0.0.1",
        "vllm_server_port": 8000, "use_transformers_continuous_batching": False,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_gone() -> None:
    """A port where nobody listens, asked as TRL's client asks."""
    args = arguments(vllm_server_port=closed_port())
    with pytest.raises(InputError) as told, one_line(args):
        requests.Session().post(f"{server_of(args)}/v1/completions", json={})
    line = str(told.value)
    assert line.startswith(
        f"field 'vllm_server_base_url': '{server_of(args)}' does not answer (ConnectionError); fix: "
    )
    assert "the same command again" in line and "\n" not in line
    with pytest.raises(InputError, match="does not answer"), one_line(args):
        raise ConnectionError("as TRL says when a run begins")


def test_a_server_that_refuses_and_a_trainer_without_cuda() -> None:
    with pytest.raises(InputError, match=r"http://a:1.*refuses: Request failed: 400, too long"), one_line(
        arguments(vllm_server_base_url="http://a:1")
    ):  # fmt: skip
        raise Exception("Request failed: 400, too long")
    with pytest.raises(InputError, match="from a CUDA device alone"), one_line(arguments()):
        raise NotImplementedError("Weight synchronization runs on vLLM's NCCL weight-transfer engine")


def test_everything_else_stays_what_it_is() -> None:
    for args, error in (
        (arguments(), OSError("no such model")),
        (arguments(), NotImplementedError("something else")),
        (arguments(vllm_mode="colocate"), ConnectionError("the hub")),
        (arguments(vllm_mode="colocate"), MemoryError("no cache of ours")),
    ):
        with pytest.raises(type(error)) as raised, one_line(args):
            raise error
        assert raised.value is error
