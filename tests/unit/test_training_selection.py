"""Which of two models is better: the metric, then nll.teacher, then the earlier one."""

from __future__ import annotations

import pytest

from freerun.training.selection import Selection

LOWER = Selection("symbol_error_rate.free")
HIGHER = Selection("bleu.free", higher_is_better=True)


def metrics(value, nll=1.0):
    return {"symbol_error_rate.free": value, "bleu.free": value, "nll.teacher": nll}


def test_anything_is_better_than_nothing():
    assert LOWER.better(metrics(9.0), None)
    assert LOWER.better(metrics(None, None), None)


@pytest.mark.parametrize(("selection", "good", "bad"), [(LOWER, 0.1, 0.2), (HIGHER, 20.0, 10.0)])
def test_the_metric_decides_in_its_own_direction(selection, good, bad):
    assert selection.better(metrics(good, nll=9.0), metrics(bad, nll=1.0))
    assert not selection.better(metrics(bad, nll=1.0), metrics(good, nll=9.0))


@pytest.mark.parametrize("selection", [LOWER, HIGHER])
def test_ties_are_decided_by_nll_and_then_by_the_earlier(selection):
    assert selection.better(metrics(0.5, nll=0.9), metrics(0.5, nll=1.0))
    assert not selection.better(metrics(0.5, nll=1.1), metrics(0.5, nll=1.0))
    assert not selection.better(metrics(0.5), metrics(0.5))


@pytest.mark.parametrize("selection", [LOWER, HIGHER])
@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_an_undefined_figure_is_worse_than_any_other(selection, undefined):
    assert not selection.better(metrics(undefined), metrics(0.5))
    assert selection.better(metrics(0.5), metrics(undefined))
    assert not selection.better(metrics(undefined), metrics(undefined))
    assert selection.better(metrics(0.5, 1.0), metrics(0.5, undefined))


def test_nll_itself_can_be_the_metric():
    assert Selection("nll.teacher").better(metrics(9.0, 0.5), metrics(0.0, 0.6))
    assert not Selection("nll.teacher").better(metrics(0.0, 0.6), metrics(0.0, 0.6))
