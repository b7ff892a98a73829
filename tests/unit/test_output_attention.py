"""The attention weights of predictions: whose they are, in which order, and that two runtimes agree."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

import freerun
from freerun import Beam, ConfigError
from freerun.cli import main
from freerun.runtime.prediction import END_NAME
from tests import trained
from tests.trained import once

REVERSED = {**trained.WORDS, "settings": {**trained.WORDS["settings"], "model.reverse_source": "true"}}
MODELS = {
    "words": trained.WORDS,
    "words-reversed": REVERSED,
    "sequence": trained.WITH_FEATURES["sequence"],
}
TEXTS = {
    "words": ["A B C", "C C", "B"],
    "words-reversed": ["A B C", "C C", "B"],
    "sequence": [("ab", "UP"), ("cab", "REV;UP"), ("bc", "")],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {
        name: once(tmp_path_factory, name, partial(trained.exported, **model))
        for name, model in {**MODELS, "characters": trained.CHARACTERS}.items()
    }
    return {name: directory / "run" for name, directory in made.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_library_and_torch_agree(runs, name):
    compiled, by_torch = (
        freerun.load(runs[name], runtime=runtime).predict_batch(TEXTS[name], Beam(3, 2), attention=True)
        for runtime in (None, "torch")
    )
    for one, other in zip(compiled, by_torch, strict=True):
        assert one.attention.source_tokens == other.attention.source_tokens
        for mine, theirs in zip(one.attention.weights, other.attention.weights, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_there_is_a_row_for_each_score_and_a_column_for_each_name(runs, name):
    for prediction in freerun.load(runs[name]).predict_batch(TEXTS[name], Beam(3, 2), attention=True):
        for hypothesis, weights in zip(prediction.hypotheses, prediction.attention.weights, strict=True):
            shape = len(hypothesis.token_scores), len(prediction.attention.source_tokens)
            assert np.shape(weights) == shape
            np.testing.assert_allclose(np.sum(weights, axis=1), 1, atol=1e-5)


def test_names_are_tokens_the_end_and_features_in_reading_order(runs):
    def names(name):
        predictions = freerun.load(runs[name]).predict_batch(TEXTS[name], attention=True)
        return [prediction.attention.source_tokens for prediction in predictions]

    assert names("words")[0] == names("words-reversed")[0] == ("a", "b", "c", END_NAME)
    assert [set(each) for each in names("sequence")] == [
        {"a", "b", END_NAME, "UP"},
        {"c", "a", "b", END_NAME, "REV", "UP"},
        {"b", "c", END_NAME},
    ]


def test_columns_of_a_reversed_source_are_turned_round(runs):
    """The weight that a token has does not depend on the side from which it is named."""
    predictor = freerun.load(runs["words-reversed"])
    [prediction] = predictor.predict_batch(["A B C"], attention=True)
    [text] = predictor.encode(["A B C"])
    [as_read] = predictor.searcher.attention([text.ids], [predictor.target.encode(prediction.text)])
    assert predictor.source.vocabulary.tokens(text.ids[:3]) == ["c", "b", "a"]
    expected = np.concatenate([as_read[:, 2::-1], as_read[:, 3:]], 1)
    np.testing.assert_allclose(prediction.attention.weights[0], expected, atol=1e-6)


def test_a_truncated_output_has_no_row_for_an_end_that_it_does_not_have(runs):
    [prediction] = freerun.load(runs["words"], max_length=1).predict_batch(["A B C"], attention=True)
    assert prediction.hypotheses[0].truncated
    assert len(prediction.attention.weights[0]) == 1


def test_predictions_have_none_unless_they_are_asked_for(runs):
    [prediction] = freerun.load(runs["words"]).predict_batch(["A B C"])
    assert prediction.attention is None
    assert "source_tokens" not in prediction.as_json()


@pytest.mark.parametrize(("name", "runtime"), [("characters", None), ("words", "onnx")])
def test_a_model_without_attention_and_onnxruntime_have_none(runs, tmp_path, name, runtime):
    model = runs[name] if runtime is None else freerun.export(runs[name], tmp_path / "bundle").directory
    predictor = freerun.load(model, runtime=runtime)
    assert not predictor.has_attention
    with pytest.raises(ConfigError, match="attention: this model has no attention weights to return"):
        predictor.predict_batch(["ab"], attention=True)


def test_json_has_the_weights_at_each_hypothesis(runs):
    [prediction] = freerun.load(runs["words"]).predict_batch(["A B"], Beam(2, 2), attention=True)
    values = prediction.as_json()
    assert values["source_tokens"] == ("a", "b", END_NAME)
    assert [each["attention"] for each in values["hypotheses"]] == list(prediction.attention.weights)


def test_the_command_prints_them(runs, capfd):
    assert main(["predict", str(runs["words"]), "A B", "--json", "--attention"]) == 0
    values = json.loads(capfd.readouterr().out)
    [expected] = freerun.load(runs["words"]).predict_batch(["A B"], attention=True)
    assert values == json.loads(json.dumps(expected.as_json()))


@pytest.mark.parametrize("name", [*MODELS, "characters"])
def test_texts_of_several_calls_are_decoded_together_as_if_alone(runs, name):
    predictor = freerun.load(runs[name])
    texts = TEXTS.get(name, ["ab", "cab", "b"])
    together = predictor.predict_encoded(
        [*predictor.encode(texts[:1]), *predictor.encode(texts[1:], max_length=2)], Beam(3, 2)
    )
    alone = predictor.predict_batch(texts[:1], Beam(3, 2))
    shorter = freerun.load(runs[name], max_length=2).predict_batch(texts[1:], Beam(3, 2))
    assert together == [*alone, *shorter]
