from __future__ import annotations

import pytest
import torch

from freerun.errors import ConfigError
from freerun.training import precision
from freerun.training.precision import autocast, bf16_is_fast, choose_precision


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_only_where_it_is_fast(monkeypatch, able, expected):
    monkeypatch.setattr(precision, "bf16_is_fast", lambda device: able)
    assert choose_precision("auto", 128) == expected
    assert choose_precision("auto", 127) == "fp32"
    assert choose_precision("fp32", 512) == "fp32"


def test_bf16_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(precision, "bf16_is_fast", lambda device: False)
    with pytest.raises(ConfigError, match=r"training\.precision: bf16 is requested, but this CPU cannot") as error:
        choose_precision("bf16", 512)
    assert 'Set training.precision = "auto"' in str(error.value)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("instructions", [True, False])
def test_bf16_needs_the_instructions_and_not_only_avx512(monkeypatch, onednn, instructions):
    class Mkldnn:
        _is_mkldnn_bf16_supported = staticmethod(lambda: onednn)

    monkeypatch.setattr(torch.ops, "mkldnn", Mkldnn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert bf16_is_fast() == (onednn and instructions)


def test_autocast_makes_products_in_bf16_and_leaves_weights_alone():
    weight = torch.ones(4, 4)
    with autocast("bf16"):
        assert (weight @ weight).dtype == torch.bfloat16
    with autocast("fp32"):
        assert (weight @ weight).dtype == torch.float32
    assert weight.dtype == torch.float32
