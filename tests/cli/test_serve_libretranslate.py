"""``freerun serve`` for clients of LibreTranslate."""

from __future__ import annotations

import json
import urllib.error
from urllib.parse import urlencode

import pytest
from libretranslatepy import LibreTranslateAPI

from tests.serving import Service

KEY = "0123456789abcdef-key"
FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=edge"


@pytest.fixture(scope="module")
def translator(tmp_path_factory, bundles):
    """A service with a key, of two models that have codes of languages."""
    directory = tmp_path_factory.mktemp("translator")
    (directory / "keys").write_text(f"{KEY}\n")
    models = [f"{name}={bundles[name]}" for name in ("words", "characters", "summary")]
    languages = ["words=en:fr", "characters=de:fr", "summary=en:de"]
    options = [part for each in languages for part in ("--languages", each)]
    with Service(*models, *options, "--api-key-file", directory / "keys", log=directory / "log") as service:
        yield service


@pytest.fixture
def client(translator):
    return LibreTranslateAPI(translator.url, KEY)


def best(service, model, text, **options):
    answer = service.ask(
        "POST", f"/v1/models/{model}/predict", {"texts": [text], **options}, {"Authorization": f"Bearer {KEY}"}
    )
    return [each["text"] for each in answer.json["predictions"][0]["hypotheses"]]


# ------------------------------------------------------------------------------------------------- the client of others


def test_the_client_of_libretranslate_translates(client, translator):
    assert client.translate("a b", "en", "fr") == best(translator, "words", "a b")[0]
    assert client.translate("ab", "de", "fr") == best(translator, "characters", "ab")[0]


def test_the_client_of_libretranslate_detects(client):
    assert {each["language"] for each in client.detect("abc")} == {"de", "en"}
    assert all(0 <= each["confidence"] <= 100 for each in client.detect("a b x x"))


def test_the_client_of_libretranslate_lists_languages(client):
    assert client.languages() == [
        {"code": "en", "name": "en", "targets": ["fr", "de"]},
        {"code": "de", "name": "de", "targets": ["fr"]},
    ]


@pytest.mark.parametrize("key", [None, "", "wrong-key-0123456789"])
def test_the_client_of_libretranslate_needs_the_key(translator, key):
    client = LibreTranslateAPI(translator.url, key)
    for call in (lambda: client.translate("a", "en", "fr"), lambda: client.detect("a"), client.languages):
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            call()
        assert json.loads(caught.value.read())["error"].startswith("This service needs a key")


def test_without_keys_the_client_of_libretranslate_needs_none(service):
    client = LibreTranslateAPI(service.url)
    assert (
        client.translate("a b", "from-words", "to-words")
        == service.predict("words", ["a b"])[0]["hypotheses"][0]["text"]
    )
    assert {each["code"] for each in client.languages()} == {
        f"from-{name}" for name in ("characters", "words", "summary", "sequence")
    }
    assert len(client.detect("abc")) == 4


# ----------------------------------------------------------------------------------------------------------- /translate


def translate(service, form=None, **values):
    values = {"source": "from-words", "target": "to-words", **values}
    if form is None:
        return service.post("/translate", values)
    content = urlencode(values, doseq=True) if form == FORM else in_parts(values)
    return service.ask("POST", "/translate", content, {"Content-Type": form})


def in_parts(values):
    """A form as browsers and PHP's curl send it."""
    fields = [
        (name, each) for name, value in values.items() for each in (value if isinstance(value, list) else [value])
    ]
    return b"".join(part(f'name="{name}"', str(value).encode()) for name, value in fields) + b"--edge--\r\n"


def part(disposition, content, *headers):
    lines = ["--edge", f"Content-Disposition: form-data; {disposition}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content + b"\r\n"


def output(service, text, model="words"):
    features = {"features": [""]} if model in ("summary", "sequence") else {}
    return service.predict(model, [text], **features)[0]["hypotheses"][0]["text"]


@pytest.mark.parametrize("form", [None, FORM, PARTS])
def test_a_text_is_translated_into_a_text_and_a_list_into_a_list(service, form):
    expected = output(service, "a b"), output(service, "c")
    assert translate(service, form, q="a b").json == {"translatedText": expected[0]}
    assert translate(service, form, q=["a b", "c"]).json == {"translatedText": list(expected)}


def test_each_line_is_an_input(service):
    expected = "\n".join([output(service, "a b"), "", output(service, "c")])
    assert translate(service, q="a b\n\nc").json["translatedText"] == expected
    assert translate(service, q="a b\r\n\r\nc").json["translatedText"] == expected


def test_alternatives_are_the_next_outputs(service):
    best_one, *others = [each["text"] for each in service.predict("words", ["a b"], num_hypotheses=3)[0]["hypotheses"]]
    for form in (None, FORM, PARTS):
        answer = translate(service, form, q="a b", alternatives=2).json
        assert answer == {"translatedText": best_one, "alternatives": others}
    answer = translate(service, q=["a b"], alternatives=2).json
    assert answer == {"translatedText": [best_one], "alternatives": [others]}


def test_the_language_is_detected_if_that_is_asked_for(service):
    answer = translate(service, q="a b c", source="auto").json
    assert answer["detectedLanguage"] == {"confidence": 100.0, "language": "from-words"}
    assert answer["translatedText"] == output(service, "a b c")
    answer = translate(service, q=["a", "b"], source="auto").json
    assert [each["language"] for each in answer["detectedLanguage"]] == ["from-words"] * 2


def test_a_model_with_features_translates_without_any(service):
    answer = translate(service, q="ab", source="from-summary", target="to-summary").json
    assert answer["translatedText"] == output(service, "ab", "summary")


@pytest.mark.parametrize("q", ["", "\n\n"])
def test_nothing_is_translated_into_nothing(service, q):
    assert translate(service, q=q).json == {"translatedText": q}
    assert translate(service, q=[]).json == {"translatedText": []}


def test_keys_of_other_versions_are_ignored(service):
    assert translate(service, q="a b", format="text", more=1).json == {"translatedText": output(service, "a b")}


@pytest.mark.parametrize(
    ("values", "status", "message"),
    [
        ({"q": "a", "format": "html"}, 422, 'format: expected "text": a model would translate'),
        ({"q": "a", "source": "to-words"}, 400, "to-words to to-words is not supported. GET /languages lists what is."),
        ({"q": "a", "target": "xx"}, 400, "from-words to xx is not supported."),
        ({"q": "a", "source": "auto", "target": "xx"}, 400, "auto to xx is not supported."),
        ({"q": 1}, 422, "q"),
        ({"q": "a", "alternatives": -1}, 422, "alternatives: expected at least 0."),
        ({"q": "a", "alternatives": 100}, 422, "alternatives is 100, and at most 99 is allowed."),
        ({}, 422, "q: it is missing."),
        ({"q": "a\tb"}, 422, "text 1: contains a tab."),
    ],
)
def test_what_cannot_be_translated_is_explained_in_the_key_that_clients_show(service, values, status, message):
    answer = translate(service, **values)
    assert answer.status == status
    assert message in answer.json["error"]
    if values.get("q") != 1:
        assert translate(service, FORM, **values).status == status
        assert translate(service, PARTS, **values).status == status


END = b"--edge--\r\n"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (FORM, b"q=\xff"),
        (FORM, b"a=1&" * 10_001),
        (PARTS, part('name="q"', b"\xff") + END),
        (PARTS, part('name="a"', b"1") * 2001 + END),
        (PARTS, b"q=a"),
        (PARTS, b"--edge\r\nno header\r\n\r\na\r\n" + END),
        (PARTS, part('filename="q"', b"a") + END),
        ("multipart/form-data", part('name="q"', b"a") + END),
    ],
)
def test_a_form_that_cannot_be_read_is_rejected(service, kind, content):
    answer = service.ask("POST", "/translate", content, {"Content-Type": kind})
    assert answer.status == 400
    assert answer.json["detail"] == "The form cannot be read: it has to be UTF-8, and have 2,000 fields at most."


def test_a_form_in_parts_may_encode_them_and_carries_the_key(translator):
    content = part('name="q"', b"YSBi", "Content-Transfer-Encoding: base64")
    content += in_parts({"source": "en", "target": "fr", "api_key": KEY})
    answer = translator.ask("POST", "/translate", content, {"Content-Type": PARTS})
    assert answer.json == {"translatedText": best(translator, "words", "a b")[0]}
    assert translator.ask("POST", "/detect", in_parts({"q": "a"}), {"Content-Type": PARTS}).status == 401


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_files_are_not_translated(service, size):
    content = part('name="q"; filename="q.txt"', b"a" * size, "Content-Type: text/plain") + END
    answer = service.ask("POST", "/translate", content, {"Content-Type": PARTS})
    assert (answer.status, answer.json["detail"]) == (
        400,
        "A form must not contain files. Send the text itself as q.",
    )


def test_a_form_whose_end_is_missing_has_only_what_arrived(service):
    content = in_parts({"source": "from-words", "target": "to-words"})[: -len(END)] + part('name="q"', b"a b")[:-4]
    assert service.ask("POST", "/translate", content, {"Content-Type": PARTS}).status == 422


@pytest.mark.parametrize("path", ["/translate", "/detect"])
def test_other_types_than_json_and_forms_are_rejected(service, path):
    assert service.ask("POST", path, b"q=a", {"Content-Type": "text/plain"}).status == 415


# ----------------------------------------------------------------------------------------------------- detect, settings


def test_a_language_is_detected_by_the_tokens_that_its_model_knows(service):
    answer = service.post("/detect", {"q": "a b c"}).json
    assert answer[0] == {"confidence": 100.0, "language": "from-words"}
    assert [each["confidence"] for each in answer] == sorted((each["confidence"] for each in answer), reverse=True)
    assert {each["confidence"] for each in service.post("/detect", {"q": "1 2"}).json} == {0.0}
    assert len(service.post("/detect", {"q": ["a", "b"]}).json) == 8
    assert service.ask("POST", "/detect", b"q=a+b+c", {"Content-Type": FORM}).json == answer


def test_settings_say_whether_a_key_is_needed(service, translator):
    assert service.get("/frontend/settings").json["keyRequired"] is False
    settings = translator.get("/frontend/settings").json
    assert settings["keyRequired"] is True
    assert settings["charLimit"] == 10_000
    assert settings["language"]["source"]["code"] == "en"
    assert settings["language"]["target"]["code"] == "fr"
