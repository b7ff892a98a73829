"""Ranges: what is inside, what is told, and what this machine can hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from freerun import memory
from freerun.bounds import BEAM_SIZE, SEED, TEMPERATURE, Range
from freerun.build import _COPIES, new_model
from freerun.config import parse_config
from freerun.errors import ConfigError
from freerun.forcing.registry import settings_of
from freerun.text import cut, shown
from tests.networks import architecture


@pytest.mark.parametrize("value", [1, 1000, np.int64(7)])
def test_a_range_holds_its_ends(value):
    assert value in BEAM_SIZE
    BEAM_SIZE.check("beam_size", value)


@pytest.mark.parametrize("value", [0, 1001, -1, 2.0, True, "3", None, float("nan")])
def test_a_range_of_whole_numbers_holds_nothing_else(value):
    assert value not in BEAM_SIZE
    with pytest.raises(ConfigError) as error:
        BEAM_SIZE.check("beam_size", value, "Use 1")
    assert (
        str(error.value) == f"beam_size: the value is {shown(value)}. Expected a whole number from 1 to 1,000. Use 1."
    )


def test_a_range_of_numbers_holds_whole_ones_too_but_not_nan():
    assert all(value in TEMPERATURE for value in (0, 0.0, 0.5, 1000, np.float32(3)))
    assert not any(value in TEMPERATURE for value in (-1e-9, 1000.1, float("nan"), float("inf"), False))
    assert str(TEMPERATURE) == "a number from 0 to 1000"
    assert str(Range(-1e38, 1e38, is_whole=False)) == "a number from -1e+38 to 1e+38"
    assert str(SEED).endswith(" to 9,223,372,036,854,775,807")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**4096, "a whole number of about 1,233 digits"),
        (-(16**5000), "a whole number of about 6,021 digits"),
        (2**4095, f"{2**4095}"[:77] + "..."),
        ("x" * 100, '"' + "x" * 76 + "..."),
    ],
    ids=["bits", "many", "digits", "text"],
)
def test_long_values_are_shown_in_short(value, expected):
    assert shown(value) == expected
    assert len(cut("x" * 100)) == 80 and cut("x" * 80) == "x" * 80


def test_a_value_that_is_nested_without_end_can_be_shown():
    value: list[object] = []
    value.append(value)
    assert shown(value) == "a value that is nested too deeply to be shown"


# -- memory -----------------------------------------------------------------------------------------------------------


def test_what_fits_exactly_is_taken_and_one_parameter_more_is_told(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 160)
    memory.check_fits("model", "a network", 10, 4, "Choose smaller sizes")
    with pytest.raises(ConfigError) as error:
        memory.check_fits("model", "a network", 11, 4, "Choose smaller sizes")
    assert str(error.value) == (
        "model: a network has 11 parameters, which take 0.0 GB in training. Expected at most 0.0 GB, the memory of "
        "this machine. Choose smaller sizes."
    )


def test_a_system_that_does_not_say_its_memory_is_not_asked_for_more(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    memory.check_fits("model", "a network", 10**15, 4, "")


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    whole = memory.machine_memory()
    assert whole is None or whole > 2**28
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(tmp_path / "memory.max"), "/no/such"))
    assert memory.machine_memory() == 1_000_000


SIZES = architecture(11, 13, embedding_size=5, hidden_size=7, num_layers=2)


MORE = (
    {},
    {"bidirectional": True, "attention": "bahdanau"},
    {"cell": "gru", "context": "every_step", "tied_output": True},
)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("more", MORE)
def test_the_parameters_are_counted_before_they_are_there(monkeypatch, optimizer, more):
    raw = {"data": {"train": "x"}, "training": {"optimizer": optimizer}}
    config, sizes = parse_config(raw, "x", settings_of), dataclasses.replace(SIZES, **more)
    model = new_model(config, sizes)
    needed = 4 * model.num_parameters() * {"sgd": 2, "adam": 4, "adamw": 4}[optimizer]
    assert _COPIES.keys() == {"sgd", "adam", "adamw"}
    monkeypatch.setattr(memory, "machine_memory", lambda: needed)
    new_model(config, sizes)
    monkeypatch.setattr(memory, "machine_memory", lambda: needed - 1)
    with pytest.raises(ConfigError, match=f"has {model.num_parameters():,} parameters"):
        new_model(config, sizes)
