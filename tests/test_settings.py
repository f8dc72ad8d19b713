"""Settings that are stated once: ranges, options and what help shows, from one dataclass."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Annotated

import pytest
from annotated_types import Ge, Gt, Interval
from transformers import HfArgumentParser

from guided_grpo.errors import InputError
from guided_grpo.settings import OneOf, add_options, again, check, describe, read_options, setting

SHAPES = {"round": 1, "square": 2}


@dataclass
class Cake:
    shape: Annotated[str, OneOf(SHAPES)] = setting("round", "seen from above")
    share: Annotated[float, Interval(ge=0, le=1)] = setting(0.25, "of the guests")
    layers: Annotated[list[float], Gt(0)] = setting([1.0, 2.0], "from the bottom, cm")
    candles: Annotated[int | None, Ge(1)] = setting(None, "unset = as many as years")
    iced: bool = setting(False, "with icing")
    baker: str = "somebody"  # no meaning: no setting


@pytest.mark.parametrize(("field", "value", "words"), [
    ("shape", "flat", "'flat' is not known; fix: choose one of round, square"),
    ("share", 1.5, "1.5 is out of range; fix: use a number in [0, 1]"),
    ("share", float("nan"), "nan is out of range"),
    ("layers", [1.0, 0.0], "0.0 is out of range; fix: use a number more than 0"),
    ("candles", 0, "0 is out of range; fix: use a number 1 or more"),
])  # fmt: skip
def test_values_are_held_against_their_ranges(field: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check(Cake(**{field: value}))
    assert f"field '{field}'" in str(caught.value) and words in str(caught.value)
    check(Cake(**{field: value}), names={"iced"})  # others are not looked at


def test_defaults_are_in_range_and_not_shared() -> None:
    check(Cake())
    Cake().layers.append(3.0)
    assert Cake().layers == [1.0, 2.0]


def test_options_become_the_dataclass() -> None:
    parser = ArgumentParser()
    add_options(parser, Cake, without={"candles"}, share=0.5)
    words = ["--layers", "1", "3", "--iced", "--shape", "square"]
    cake = read_options(parser.parse_args(words), Cake, candles=7)
    assert cake == Cake("square", 0.5, [1.0, 3.0], 7, True)
    assert "--candles" not in parser.format_help() and "from the bottom, cm [1.0 2.0]" in parser.format_help()
    with pytest.raises(InputError, match="in .0, 1."):
        read_options(parser.parse_args(["--share", "2"]), Cake)


def test_the_parser_of_transformers_takes_the_same_dataclass() -> None:
    [cake] = HfArgumentParser(Cake).parse_args_into_dataclasses(["--share", "0.75", "--layers", "4", "--candles", "2"])
    assert cake == Cake(share=0.75, layers=[4.0], candles=2)


def test_what_help_shows() -> None:
    by_name = {item.name: item for item in describe(Cake)}
    assert list(by_name) == ["shape", "share", "layers", "candles", "iced"]
    assert by_name["shape"].range == "round, square" and by_name["layers"].range == "more than 0"
    assert by_name["candles"].type == int | None and by_name["layers"].default == [1.0, 2.0]


def test_a_setting_stated_elsewhere() -> None:
    @dataclass
    class Pie:
        pie_share: float = again(Cake, "share")
        pie_layers: list[float] = again(Cake, "layers", meaning="of fruit")

    assert Pie() == Pie(0.25, [1.0, 2.0])
    assert [item.metadata["help"] for item in Pie.__dataclass_fields__.values()] == ["of the guests", "of fruit"]
