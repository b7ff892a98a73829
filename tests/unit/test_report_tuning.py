"""The page of a tuning."""

from __future__ import annotations

import re

import pytest

from freerun.report.tuning_page import tuning_page
from freerun.studies.trials import Trial

START = {"model.dropout": 0.3, "model.attention": "bahdanau", "training.learning_rate": 0.002}
SETTINGS = [
    {},
    {"model.dropout": 0.2, "model.attention": "luong", "training.learning_rate": 0.004},
    {"model.dropout": 0.4, "model.attention": "bahdanau", "training.learning_rate": 0.001},
]


def page_of(values, metric="symbol_error_rate.free", title="tuning", importances=None, settings=SETTINGS):
    trials = [
        Trial(
            number=number, settings=each, value=value, failed=None if value else "loss is nan", updates=1000, seconds=90
        )
        for number, (each, value) in enumerate(zip(settings, values, strict=True))
    ]
    return tuning_page(title, metric, trials, ["<found>"], START, importances or {})


def order(page):
    return re.findall(r'<tr><td class="number">(\d+)</td>', page)


def test_the_best_trial_is_first_and_failures_are_last():
    page = page_of([0.2, 0.1, None])
    assert order(page) == ["1", "0", "2"]
    assert re.findall(r"<td class=\"number\">(failed|0\.\d{4})</td>", page) == ["0.1000", "0.2000", "failed"]
    assert order(page_of([0.2, 0.9, 0.4], "sequence_accuracy.free")) == ["1", "2", "0"]


def test_every_trial_shows_its_settings_and_the_first_those_of_the_recipe():
    page = page_of([0.2, 0.1, 0.3])
    rows = re.findall(r"<tr><td.*?</tr>", page, re.DOTALL)
    cells = [re.findall(r'<td class="number">(.*?)</td>', row) for row in rows]
    assert cells == [
        ["1", "0.1000", "1,000", "1.5", "0.2", "luong", "0.004"],
        ["0", "0.2000", "1,000", "1.5", "0.3", "bahdanau", "0.002"],
        ["2", "0.3000", "1,000", "1.5", "0.4", "bahdanau", "0.001"],
    ]


def test_a_plot_for_each_setting_that_varied_and_for_importances_if_there_are_any():
    assert page_of([0.2, 0.1, 0.3]).count("<figure>") == 1 + len(START)
    importances = {"model.dropout": 0.7, "model.attention": 0.2, "training.learning_rate": 0.1}
    page = page_of([0.2, 0.1, 0.3], importances=importances)
    assert page.count("<figure>") == 2 + len(START) and "Importance: how much" in page
    same = [{}, {"model.dropout": 0.2}, {"model.dropout": 0.4}]
    assert page_of([0.2, 0.1, 0.3], settings=same).count("<figure>") == 2


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.1, 100.0, None], [0.5, 0.5, 0.5]])
def test_any_values_can_be_drawn(values):
    assert page_of(values).startswith("<!doctype html>")


def test_what_others_wrote_is_escaped_and_the_bytes_repeat():
    page = page_of([0.2, 0.1, 0.3], title="<script>alert(1)</script>")
    assert "<script>alert(1)</script>" not in page and "&lt;found&gt;" in page
    assert page == page_of([0.2, 0.1, 0.3], title="<script>alert(1)</script>")
