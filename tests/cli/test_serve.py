"""``freerun serve``: predictions and scores over HTTP are those of the other commands."""

from __future__ import annotations

import json
import random

import pytest

from freerun.loading import load

MODELS = {"characters": "abcd", "words": ["A", "b", "C", "d"], "summary": "abcd", "sequence": "abcd"}
FEATURES = ["", "UP", "REV;UP", "É; REV", "unheard"]
OPTIONS = {
    "beam_size": [1, 2, 5],
    "num_hypotheses": [1, 2, 4],
    "length_penalty": [0.0, 0.7],
    "early_stop": [False, True],
    "max_length": [1, 3, 20],
    "prefix": [""],
    "sample": [None, {}, {"seed": 7}, {"temperature": 0.5, "top_k": 3}, {"top_p": 0.8, "seed": -1}],
}


def texts_for(draw, model, count):
    """Random texts; some are empty, and some have a token that the model does not know."""
    joint = " " if model == "words" else ""
    return [joint.join(draw.choices(MODELS[model], k=draw.choice([0, 1, 2, 3, 5, 9]))) for _ in range(count)]


def options_for(draw, model):
    """Random options, some of them left out; those that exclude each other are not combined."""
    options = {key: draw.choice(values) for key, values in OPTIONS.items() if draw.random() < 0.5}
    if model == "words" and draw.random() < 0.3:
        options["prefix"] = "b"
    if options.get("sample") is not None:
        for key in ("beam_size", "length_penalty", "early_stop"):
            options.pop(key, None)
    if not options.get("length_penalty"):
        options.pop("early_stop", None)
    if options.get("max_length", 20) < 3:
        options.pop("prefix", None)
    return options


def arguments_for(options):
    """The same options as arguments of ``freerun predict``."""
    arguments = ["--json"]
    for key, value in {**options, **(options.get("sample") or {})}.items():
        if key == "sample":
            arguments += ["--sample"] * (value is not None)
        elif value is True:
            arguments += [f"--{key.replace('_', '-')}"]
        elif value is not False:
            arguments += [f"--{key.replace('_', '-')}={value}"]
    return arguments


def agree(served, printed):
    """Compare predictions: texts and tokens exactly, scores to 1e-6."""
    assert len(served) == len(printed)
    for one, other in zip(served, printed, strict=True):
        one = {key: value for key, value in one.items() if not key.startswith("unknown")}
        assert one.keys() == other.keys()
        assert one["source"] == other["source"]
        assert one.get("features") == other.get("features")
        for mine, theirs in zip(one["hypotheses"], other["hypotheses"], strict=True):
            for key in ("text", "tokens", "truncated"):
                assert mine[key] == theirs[key]
            for key in ("score", "rank_score", "token_scores"):
                assert mine[key] == pytest.approx(theirs[key], abs=1e-6)


def compared(service, freerun, bundles, tmp_path, model, seed, count):
    draw = random.Random(f"{model} {seed}")
    texts, options = texts_for(draw, model, count), options_for(draw, model)
    features = [draw.choice(FEATURES) for _ in texts] if model in ("summary", "sequence") else None
    lines = texts
    if features is not None:  # a text without anything is an empty line
        lines = [f"{text}\t{each}" if text or each else "" for text, each in zip(texts, features, strict=True)]
    (tmp_path / "texts").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    result = freerun("predict", bundles[model], "--input", tmp_path / "texts", *arguments_for(options))
    assert result.code == 0, result.err
    given = {} if features is None else {"features": features}
    agree(service.predict(model, texts, **options, **given), list(map(json.loads, result.out.splitlines())))


@pytest.mark.parametrize("model", MODELS)
def test_predictions_are_those_of_freerun_predict(service, freerun, bundles, tmp_path, model):
    for seed, count in enumerate([1, 2, 3, 10, 40, 70]):
        compared(service, freerun, bundles, tmp_path, model, seed, count)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_many_predictions_are_those_of_freerun_predict(service, freerun, bundles, tmp_path, model):
    draw = random.Random(1)
    for seed in range(60):
        compared(service, freerun, bundles, tmp_path, model, 100 + seed, draw.choice([1, 5, 20, 100, 400]))


# -------------------------------------------------------------------------------------------------------------- predict


def test_a_prediction_has_what_the_model_did_not_know(service):
    known, unknown = service.predict("words", ["a b", "a x y"])
    assert "unknown" not in known
    assert unknown["unknown"] == ["x", "y"]
    [prediction] = service.predict("summary", ["ab"], features=["UP;nonsense"])
    assert prediction["unknown_features"] == ["nonsense"]


@pytest.mark.parametrize("form", ["REV;UP", ["REV", "UP"]])
def test_features_are_a_text_or_a_list(service, form):
    [prediction] = service.predict("sequence", ["ab"], features=[form])
    assert prediction["features"] == form
    assert prediction["hypotheses"] == service.predict("sequence", ["ab"], features=["REV;UP"])[0]["hypotheses"]


def test_token_scores_can_be_left_out(service):
    [with_them], [without] = service.predict("words", ["a"]), service.predict("words", ["a"], token_scores=False)
    assert {*with_them["hypotheses"][0]} - {*without["hypotheses"][0]} == {"token_scores"}


def test_attention_is_that_of_the_predictor(service, bundles):
    texts = ["a b c", "c"]
    expected = load(bundles["words"], threads=1).predict_batch(texts, attention=True)
    for one, other in zip(service.predict("words", texts, attention=True), expected, strict=True):
        [hypothesis] = one["hypotheses"]
        assert one["source_tokens"] == list(other.attention.source_tokens)
        assert len(hypothesis["attention"]) == len(hypothesis["token_scores"])
        for mine, theirs in zip(hypothesis["attention"], other.attention.weights[0], strict=True):
            assert mine == pytest.approx(theirs, abs=1e-6)


def test_outputs_begin_with_the_prefix(service):
    for prediction in service.predict("words", ["a b", "c", "b b"], prefix="cb", num_hypotheses=3):
        assert all(each["text"].startswith("cb") for each in prediction["hypotheses"])


def test_an_empty_text_has_an_empty_output(service):
    [first, second] = service.predict("characters", ["", "a"])
    assert first["hypotheses"][0]["text"] == ""
    assert second["hypotheses"][0]["text"]
    [only] = service.predict("summary", [""], features=[""])
    assert (only["hypotheses"][0]["text"], only["features"]) == ("", "")


def test_samples_depend_on_the_seed_and_the_position_alone(service):
    texts = ["a b c"] * 20
    one = service.predict("words", texts, sample={"seed": 3, "temperature": 2.0})
    assert service.predict("words", texts, sample={"seed": 3, "temperature": 2.0}) == one
    assert service.predict("words", texts[:5], sample={"seed": 3, "temperature": 2.0}) == one[:5]
    assert service.predict("words", texts, sample={"seed": 4, "temperature": 2.0}) != one
    assert len({each["hypotheses"][0]["text"] for each in one}) > 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "texts: it is missing."),
        ({"texts": []}, "texts: expected at least 1 item."),
        ({"texts": "a"}, "texts: expected an array."),
        ({"texts": [1]}, "texts/0: expected a string."),
        ({"text": ["a"]}, "text: there is no such key. Did you mean texts?"),
        ({"texts": ["a"], "beam_size": "3"}, "beam_size: expected an integer."),
        ({"texts": ["a"], "beam_size": True}, "beam_size: expected an integer."),
        ({"texts": ["a"], "length_penalty": -1}, "length_penalty: expected at least 0."),
        ({"texts": ["a"], "sample": {"top_p": 0}}, "sample/top_p: expected more than 0."),
        ({"texts": ["a"], "sample": {}, "beam_size": 2}, "sample cannot be combined with beam_size"),
        ({"texts": ["a"], "early_stop": True}, "early_stop needs a length_penalty above 0."),
        ({"texts": ["a"], "features": ["UP"]}, "The model words was trained without features."),
        ({"texts": ["a"], "prefix": "x"}, "prefix"),
        ({"texts": ["a"], "prefix": "bb", "max_length": 1}, "the prefix has 2 already"),
        ({"texts": ["a\nb"]}, "text 1: contains a line feed."),
        ({"texts": ["a", "b\0"]}, "text 2: contains a NUL character."),
        ([], "body: expected an object."),
        (None, "body: expected an object."),
    ],
    ids=str,
)
def test_a_mistake_is_explained(service, body, message):
    answer = service.ask("POST", "/v1/models/words/predict", json.dumps(body), {"Content-Type": "application/json"})
    assert answer.status == 422
    assert message in answer.json["detail"]
    assert answer.json["error"] == answer.json["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_all_mistakes_are_listed_with_their_places(service):
    answer = service.post("/v1/models/words/predict", {"texts": ["a", 1], "beam_size": 0, "sample": {"seed": "x"}})
    assert [each["pointer"] for each in answer.json["errors"]] == ["/beam_size", "/sample/seed", "/texts/1"]


def test_a_mistake_does_not_repeat_what_was_sent(service):
    answer = service.post("/v1/models/words/predict", {"texts": [{"private": "my text"}]})
    assert "my text" not in answer.text


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (None, 'The model summary needs features for each text: "features": ["...", ...].'),
        ([], "There are 2 texts and features for 0."),
        (["UP"], "There are 2 texts and features for 1."),
    ],
)
def test_features_belong_to_texts(service, features, message):
    body = {"texts": ["a", "b"], **({} if features is None else {"features": features})}
    answer = service.post("/v1/models/summary/predict", body)
    assert answer.status == 422
    assert message in answer.json["detail"]


def test_attention_is_rejected_for_a_model_without(service):
    answer = service.post("/v1/models/characters/predict", {"texts": ["a"], "attention": True})
    assert (answer.status, "has no attention to show" in answer.json["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The body is not JSON"),
        (b"texts", "The body is not JSON"),
        (b'{"texts": ["a"]', "The body is not JSON"),
        (b'{"texts": ["\xff"]}', "The body is not JSON"),
        (b'{"texts": ["\\ud800"]}', "The body is not JSON"),
        (b'{"texts": ["a"]} {}', "The body is not JSON"),
    ],
)
def test_what_is_no_json_is_rejected(service, content, message):
    answer = service.ask("POST", "/v1/models/words/predict", content, {"Content-Type": "application/json"})
    assert (answer.status, answer.json["detail"][: len(message)]) == (400, message)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"texts": ' + b"[" * 70 + b"]" * 70 + b"}", b'{"a":' * 5000])
def test_deep_json_is_rejected(service, content):
    answer = service.ask("POST", "/v1/models/words/predict", content, {"Content-Type": "application/json"})
    assert answer.status in (400, 422)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize("what", ["predict", "score"])
def test_only_json_is_read(service, what, kind):
    answer = service.ask("POST", f"/v1/models/words/{what}", b'{"texts": ["a"]}', {"Content-Type": kind})
    assert (answer.status, "Content-Type: application/json" in answer.json["detail"]) == (415, True)


def test_the_type_may_have_parameters_and_capitals(service):
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert service.ask("POST", "/v1/models/words/predict", b'{"texts": ["a"]}', headers).status == 200


# ---------------------------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_those_of_predictions(service, model):
    features = ["REV;UP", "UP"] if model in ("summary", "sequence") else None
    texts = ["A B", "c b a"] if model == "words" else ["ab", "cba"]
    predictions = service.predict(model, texts, **({"features": features} if features else {}))
    pairs = [
        {"source": each["source"], "target": each["hypotheses"][0]["text"]}
        | ({"features": each["features"]} if features else {})
        for each in predictions
    ]
    answer = service.post(f"/v1/models/{model}/score", {"pairs": pairs})
    for scored, prediction in zip(answer.json["scores"], predictions, strict=True):
        best = prediction["hypotheses"][0]
        assert scored["score"] == pytest.approx(best["score"], abs=1e-5)
        assert scored["token_scores"] == pytest.approx(best["token_scores"], abs=1e-5)


def test_a_target_that_cannot_be_written_has_no_score(service):
    answer = service.post("/v1/models/words/score", {"pairs": [{"source": "a", "target": "bxé"}]})
    [scored] = answer.json["scores"]
    assert (scored["score"], scored["unknown"]) == (None, ["x"])
    assert [each is None for each in scored["token_scores"]] == [False, True, False, False]


@pytest.mark.parametrize(
    ("model", "pair", "message"),
    [
        ("words", {"source": "a"}, "pairs/0/target: it is missing."),
        ("words", {"source": "a", "target": "b", "features": "UP"}, "trained without features"),
        ("summary", {"source": "a", "target": "b"}, "has no features"),
        ("words", {"source": "a\nb", "target": "b"}, "line feed"),
        ("words", {"source": "a", "target": "b\nc"}, "line feed"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_explained(service, model, pair, message):
    answer = service.post(f"/v1/models/{model}/score", {"pairs": [pair]})
    assert answer.status == 422
    assert message in answer.json["detail"]


# ----------------------------------------------------------------------------------------------- models, probes, counts


def test_models_are_listed(service):
    assert service.get("/v1/models").json["models"] == [
        {"name": "characters", "features": False, "attention": False},
        {"name": "words", "features": False, "attention": True},
        {"name": "summary", "features": True, "attention": False},
        {"name": "sequence", "features": True, "attention": True},
    ]


def test_a_model_is_described(service, bundles):
    details = service.get("/v1/models/summary").json
    assert details["name"] == "summary"
    assert details["languages"] == {"source": "from-summary", "target": "to-summary"}
    assert details["features"]["symbols"] == ["REV", "UP", "É"]
    assert len(details["digest"]) == 64
    assert details["limits"]["max_texts"] == 1000
    assert str(bundles["summary"]) not in json.dumps(details)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_model_is_named(service, method):
    path = "/v1/models/klingon" + ("/predict" if method == "POST" else "")
    answer = service.ask(method, path, b'{"texts": ["a"]}', {"Content-Type": "application/json"})
    assert answer.status == 404
    assert answer.json["detail"] == "There is no model 'klingon' here. GET /v1/models lists the models."


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/live", {"status": "live"}),
        ("/ready", {"status": "ready"}),
        ("/health", {"status": "ok"}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
    ],
)
def test_probes_answer(service, path, body):
    answer = service.get(path)
    assert (answer.status, answer.json) == (200, body)
    assert service.ask("HEAD", path).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/words/predict", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/words", 405),
        ("OPTIONS", "/v1/models", 405),
        ("GET", "/page/../../__init__.py", 404),
        ("GET", "/page/%2e%2e/%2e%2e/__init__.py", 404),
        ("GET", "/page/..%2f__init__.py", 404),
        ("GET", "/page/none.mjs", 404),
        ("GET", "//live", 404),
    ],
)
def test_what_is_not_there_is_rejected(service, method, path, status):
    answer = service.ask(method, path)
    assert answer.status == status
    assert answer.json["status"] == status


def test_documents_are_sent_once(service):
    answer = service.get("/openapi.json")
    assert service.get("/openapi.json", If_None_Match=answer.headers["etag"]).status == 304
    compressed = service.get("/openapi.json", Accept_Encoding="gzip")
    assert compressed.headers["content-encoding"] == "gzip"
    assert len(compressed.content) < len(answer.content) / 3


def test_what_was_done_is_counted(service):
    before = service.counts()
    service.predict("words", ["a b", "x", ""], num_hypotheses=2)
    service.post("/v1/models/words/score", {"pairs": [{"source": "a", "target": "b"}] * 3})
    service.get("/v1/models/none")
    after = service.counts()

    def more(*key):
        return after[key] - before.get(key, 0)

    model = ("model", "words")
    assert more("freerun_texts_total", model) == 2 + 3
    assert more("freerun_unknown_tokens_total", model) == 1
    assert more("freerun_requests_total", ("endpoint", "predict"), ("status", "200")) == 1
    assert more("freerun_requests_total", ("endpoint", "score"), ("status", "200")) == 1
    assert more("freerun_requests_total", ("endpoint", "models"), ("status", "404")) == 1
    assert more("freerun_batch_seconds_count", model) >= 2
    assert after["freerun_connections",] >= 1
