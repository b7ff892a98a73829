"""What a notebook shows of a result: HTML in which text of the data stays text."""

from __future__ import annotations

import pytest

from freerun.diagnostics.diagnosis import diagnose
from freerun.diagnostics.record import EncodedPairs
from freerun.evaluation.predictor_evaluation import ModelEvaluation
from freerun.evaluation.searcher_evaluation import evaluate
from freerun.html_table import html_table
from freerun.runtime.prediction import PredictedHypothesis, Prediction
from freerun.search.searcher import StepperSearcher
from tests.planted import BOUND, SOURCE, TARGET, Planted, errs_at_random, items_of, words

ATTACK = "<script>alert(1)</script>"


def test_a_prediction_lists_its_hypotheses_with_scores_and_everything_is_escaped():
    hypotheses = (
        PredictedHypothesis(ATTACK, (ATTACK,), -1.5, -1.5, (-1.5,), False),
        PredictedHypothesis("b & c", ("b",), -2.25, -2.25, (-2.25,), True),
    )
    html = Prediction(f"source {ATTACK}", hypotheses)._repr_html_()
    assert "<script>" not in html and html.count("&lt;script&gt;") == 2
    assert "b &amp; c (truncated)" in html and "-1.5000" in html and "-2.2500" in html
    assert html.startswith("<table>") and html.endswith("</table>")


def test_a_diagnosis_shows_its_summary_and_both_error_rates():
    items = items_of(*words(30))
    stepper = Planted(EncodedPairs.of(items, SOURCE, TARGET), errs_at_random(0.25))
    diagnosis = diagnose(stepper, items, SOURCE, TARGET, bound=BOUND)
    html = diagnosis._repr_html_()
    assert html.count("<li>") == len(diagnosis.summary) == 6
    excess = diagnosis.measures.excess_error
    for name, estimate in (("free-running", excess.free), ("teacher-forced", excess.teacher)):
        row = f"<td>{name}</td><td>{estimate.value:.4f}</td><td>{estimate.low:.4f} to {estimate.high:.4f}</td>"
        assert row in html


def test_results_have_short_reprs_and_an_evaluation_is_a_table():
    items = items_of(*words(30))
    stepper = Planted(EncodedPairs.of(items, SOURCE, TARGET), errs_at_random(0.25))
    diagnosis = diagnose(stepper, items, SOURCE, TARGET, bound=BOUND)
    assert repr(diagnosis) == f"Diagnosis({diagnosis.summary[0]})"
    evaluation = ModelEvaluation(evaluate(StepperSearcher(lambda: stepper), items, SOURCE, TARGET, bound=BOUND), SOURCE)
    rate = evaluation.metrics["symbol_error_rate.free"]
    assert repr(evaluation).startswith("ModelEvaluation(sources=30, nll.teacher=")
    assert f"symbol_error_rate.free={rate}, sequence_accuracy.free=" in repr(evaluation) and len(repr(evaluation)) < 200
    html = evaluation._repr_html_()
    assert "<caption>30 sources</caption>" in html and "<th>copy</th>" in html
    assert f"<td>symbol_error_rate.free</td><td>{rate:.4f}</td>" in html and ".low" not in html


@pytest.mark.parametrize("cell", [ATTACK, '"><img src=x onerror=alert(1)>', "a&b"])
def test_cells_header_and_caption_are_escaped(cell):
    html = html_table([cell], [[cell]], caption=cell)
    assert cell not in html and html.count("&amp;" if "&" in cell else "&gt;") >= 3
