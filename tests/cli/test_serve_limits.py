"""Limits, keys and headers of ``freerun serve``."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

import pytest

from tests.serving import Service

KEY = "0123456789abcdef-secret"
TEXTS = {"texts": ["a b"]}
PREDICT, SCORE = "/v1/models/words/predict", "/v1/models/words/score"
NDJSON = "application/x-ndjson"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, bundles):
    """A service with a key, small limits, two workers, CORS and a log of requests."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "keys").write_text(f"{KEY}\n")
    (directory / "keys").chmod(0o600)
    limits = {
        "max-texts": 5,
        "max-characters": 50,
        "max-tokens": 8,
        "max-bytes": 2000,
        "max-beam-size": 4,
        "max-length": 30,
        "max-output-tokens": 300,
        "max-cost": 120,
        "max-weights": 200,
    }
    arguments = [f"--{name}={value}" for name, value in limits.items()]
    others = ["--workers=2", "--api-key-file", directory / "keys", "--cors=https://example.org", "--log-requests"]
    with Service(f"words={bundles['words']}", *arguments, *others, log=directory / "log") as service:
        yield service


def ask(guarded, path, body=None, headers=(), key=KEY):
    method = "GET" if body is None else "POST"
    return guarded.ask(method, path, body, {**({"Authorization": f"Bearer {key}"} if key else {}), **dict(headers)})


# --------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("path", "body", "status", "limit", "maximum"),
    [
        (PREDICT, {"texts": ["a"] * 6}, 413, "max-texts", 5),
        (SCORE, {"pairs": [{"source": "a", "target": "b"}] * 6}, 413, "max-texts", 5),
        (PREDICT, {"texts": ["a", "b" * 51]}, 413, "max-characters", 50),
        (PREDICT, {"texts": ["a"], "prefix": "b" * 51}, 413, "max-characters", 50),
        (SCORE, {"pairs": [{"source": "a" * 51, "target": "b"}]}, 413, "max-characters", 50),
        (SCORE, {"pairs": [{"source": "a", "target": "b" * 51}]}, 413, "max-characters", 50),
        (PREDICT, {"texts": ["a " * 9]}, 413, "max-tokens", 8),
        (SCORE, {"pairs": [{"source": "a " * 9, "target": "b"}]}, 413, "max-tokens", 8),
        (SCORE, {"pairs": [{"source": "a", "target": "b" * 9}]}, 413, "max-tokens", 8),
        (PREDICT, {"texts": ["a"], "prefix": " " * 3000}, 413, "max-bytes", 2000),
        (PREDICT, {"texts": ["a"], "beam_size": 5}, 422, "max-beam-size", 4),
        (PREDICT, {"texts": ["a"], "num_hypotheses": 5}, 422, "max-beam-size", 4),
        (PREDICT, {"texts": ["a"], "sample": {}, "num_hypotheses": 5}, 422, "max-beam-size", 4),
        (PREDICT, {"texts": ["a"], "max_length": 31}, 422, "max-length", 30),
        (PREDICT, {"texts": ["a"] * 5, "max_length": 30, "num_hypotheses": 2}, 413, "max-output-tokens", 300),
        (PREDICT, {"texts": ["a"] * 5, "max_length": 20, "attention": True}, 413, "max-weights", 200),
        (PREDICT, {"texts": ["a"], "max_length": 30, "beam_size": 4}, 422, "max-cost", 120),
        ("/translate", {"q": ["a\nb\nc", "d\ne\nf"], "source": "words", "target": "words"}, 413, "max-texts", 5),
        ("/translate", {"q": "b" * 51, "source": "words", "target": "words"}, 413, "max-characters", 50),
        ("/translate", {"q": "b", "source": "words", "target": "words", "alternatives": 4}, 422, "max-beam-size", 4),
        ("/detect", {"q": ["b"] * 6}, 413, "max-texts", 5),
    ],
)
def test_an_exceeded_limit_is_named(guarded, path, body, status, limit, maximum):
    answer = ask(guarded, path, body)
    assert (answer.status, answer.json["limit"], answer.json["maximum"]) == (status, limit, maximum)
    assert re.search(rf"\b{maximum:,}\b", answer.json["detail"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PREDICT, {"texts": ["a"] * 5, "beam_size": 4, "num_hypotheses": 2, "max_length": 29}),
        (PREDICT, {"texts": ["a " * 8, "b" * 50], "max_length": 5}),
        (PREDICT, {"texts": ["a"] * 5, "max_length": 19, "attention": True}),
        (SCORE, {"pairs": [{"source": "a " * 8, "target": "b" * 8}] * 5}),
    ],
)
def test_what_just_fits_is_answered(guarded, path, body):
    assert ask(guarded, path, body).status == 200


def test_a_line_of_a_stream_has_the_same_limits_and_the_stream_has_none(guarded):
    content = "\n".join(["a"] * 3000 + ["b" * 51, "c"])
    answer = ask(guarded, PREDICT, content, {"Accept": NDJSON, "Content-Type": "text/plain"})
    *_, wrong, last = answer.lines
    assert len(answer.lines) == 3002
    assert (wrong["error"]["limit"], wrong["error"]["line"]) == ("max-characters", 3001)
    assert last["source"] == "c"


def test_a_full_queue_and_the_time_are_answered_with_503(tmp_path, bundles):
    options = ["--queue", "1000", "--timeout", "0.1", "--max-beam-size", "1000"]
    with Service(f"words={bundles['words']}", *options, log=tmp_path / "log") as service:
        slow = {"texts": ["a b c d e f g h"] * 1000, "beam_size": 500, "max_length": 300}
        answer = service.post(PREDICT, slow)
        assert answer.status == 503
        assert answer.json["limit"] in ("timeout", "queue")
        assert int(answer.headers["retry-after"]) >= 1
        deadline = time.monotonic() + 30
        while service.post(PREDICT, TEXTS).status != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert service.post(PREDICT, TEXTS).status == 200
        assert service.counts()["freerun_skipped_texts_total", ("model", "words")] > 0


# ----------------------------------------------------------------------------------------------------------------- keys

OPEN = ["/", "/live", "/ready", "/health", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"]
OPEN += ["/frontend/settings"]
CLOSED = ["/v1/models", "/v1/models/words", "/languages", "/metrics", "/nothing", "/v1/models/none", "/live%0A"]


@pytest.mark.parametrize("path", OPEN)
def test_these_addresses_need_no_key(guarded, path):
    assert ask(guarded, path, key=None).status == 200


@pytest.mark.parametrize("path", CLOSED)
def test_these_addresses_need_a_key(guarded, path):
    answer = ask(guarded, path, key=None)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer KEY" in answer.json["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PREDICT, TEXTS),
        (SCORE, {"pairs": [{"source": "a", "target": "b"}]}),
        ("/translate", {"q": "a", "source": "words", "target": "words"}),
        ("/detect", {"q": "a"}),
    ],
)
def test_questions_need_a_key(guarded, path, body):
    assert ask(guarded, path, body, key=None).status == 401
    assert ask(guarded, path, body, key="wrong-key-0123456789").status == 401
    assert ask(guarded, path, body).status == 200
    if path in ("/translate", "/detect"):
        assert ask(guarded, path, {**body, "api_key": KEY}, key=None).status == 200
        assert ask(guarded, path, {**body, "api_key": KEY[:-1]}, key=None).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer   {KEY} "}, 200),
        ({"X-API-Key": KEY}, 200),
        ({"Authorization": KEY}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Bearer {KEY}x"}, 401),
        ({"Authorization": f"Bearer {KEY.upper()}"}, 401),
        ({"X-API-Key": f"Bearer {KEY}"}, 401),
        ({"Authorization": "Bearer \xe9" + "a" * 20}, 401),
        ({"Cookie": f"api_key={KEY}"}, 401),
    ],
)
def test_a_key_is_sent_in_one_of_two_headers(guarded, headers, status):
    assert ask(guarded, "/v1/models", headers=headers, key=None).status == status


@pytest.fixture(scope="module")
def locked(tmp_path_factory, bundles):
    """A service with a key and the usual limits."""
    directory = tmp_path_factory.mktemp("locked")
    (directory / "keys").write_text(f"{KEY}\n")
    (directory / "keys").chmod(0o600)
    arguments = [f"words={bundles['words']}", "--api-key-file", directory / "keys"]
    with Service(*arguments, log=directory / "log") as service:
        yield service


def test_a_large_body_needs_its_key_in_the_headers(locked):
    """Otherwise a client without a key could make the service parse and hold large bodies."""
    body = {"q": ["a " * 4000] * 10, "source": "words", "target": "words", "api_key": KEY}
    answer = locked.post("/translate", body)
    assert answer.status == 401
    assert "key in the headers" in answer.json["detail"]
    assert locked.post("/translate", {**body, "q": "a"}).status == 200
    large = locked.ask("POST", "/translate", {**body, "q": ["a " * 4000] * 10}, {"X-API-Key": KEY})
    assert large.status == 413  # a text has 1,000 tokens at most
    assert large.json["limit"] in ("max-tokens", "max-characters")


def test_bodies_without_an_end_do_not_hold_up_others(locked):
    head = "POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with ExitStack() as stack:
        for _ in range(70):
            client = stack.enter_context(locked.socket())
            client.sendall(f"{head}Content-Length: 60000\r\n\r\n".encode() + b" " * 59_999)
        answer = locked.ask("POST", PREDICT, TEXTS, {"X-API-Key": KEY}, timeout=10)
        assert answer.status == 200


def test_a_key_in_an_address_is_no_key(guarded):
    assert ask(guarded, f"/v1/models?api_key={KEY}", key=None).status == 401


def test_no_key_and_no_text_is_ever_logged(guarded):
    ask(guarded, PREDICT, {"texts": ["private"]})
    ask(guarded, f"/v1/models?api_key={KEY}", key=None)
    ask(guarded, "/translate", {"q": "private", "source": "words", "target": "words", "api_key": KEY}, key=None)
    ask(guarded, "/v1/models", key="wrong-" + KEY)
    time.sleep(0.2)
    log = guarded.log_text
    assert f"method=POST path={PREDICT} status=200" in log
    assert "status=401" in log
    assert KEY not in log
    assert "private" not in log


# ----------------------------------------------------------------------------------------------------- CORS and headers


def preflight(service, origin):
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return service.ask(
        "OPTIONS", PREDICT, headers={**headers, "Access-Control-Request-Headers": "content-type,x-api-key"}
    )


def test_no_other_page_can_read_answers_unless_it_is_named(service, guarded):
    assert preflight(service, "https://example.org").status == 405
    answer = service.get("/v1/models", Origin="https://example.org")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = ask(guarded, "/v1/models", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_that_is_named_can_read_answers(guarded):
    answer = preflight(guarded, "https://example.org")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    assert "POST" in answer.headers["access-control-allow-methods"]
    for path, key in (("/v1/models", KEY), ("/v1/models", None), ("/nothing", KEY)):
        answer = ask(guarded, path, headers={"Origin": "https://example.org"}, key=key)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert "access-control-allow-credentials" not in answer.headers


def test_a_page_that_is_not_named_gets_no_permission(guarded):
    assert preflight(guarded, "https://example.com").status == 400


REQUESTS = {
    "predict": ("POST", PREDICT, TEXTS),
    "stream": ("POST", PREDICT, '"a"\n"\n'),
    "models": ("GET", "/v1/models", None),
    "page": ("GET", "/", None),
    "docs": ("GET", "/docs", None),
    "openapi": ("GET", "/openapi.json", None),
    "live": ("GET", "/live", None),
    "metrics": ("GET", "/metrics", None),
    "languages": ("GET", "/languages", None),
    "400": ("POST", "/translate", {"q": "a", "source": "x", "target": "y"}),
    "404": ("GET", "/nothing", None),
    "405": ("PUT", "/live", None),
    "413": ("POST", PREDICT, {"texts": ["a"] * 2000}),
    "415": ("POST", PREDICT, "q"),
    "422": ("POST", PREDICT, {"text": "a"}),
    "bad path": ("GET", "/%00%ff%0d%0aX:%20y", None),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_answer_has_its_headers_and_no_answer_shows_internals(service, name):
    method, path, body = REQUESTS[name]
    answer = service.ask(method, path, body, {"Accept": NDJSON, "Content-Type": NDJSON} if name == "stream" else {})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    if name != "stream":
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] in ("no-store", "no-cache")
    text = str(answer.headers) + answer.text
    for inner in ("Traceback", "site-packages", ".py", "uvicorn", "starlette", "Starlette", "pydantic"):
        assert inner not in text or name in ("docs", "openapi", "page")
    if name.isdigit():
        assert answer.status == int(name)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json.keys() >= {"type", "title", "status", "detail", "error"}


def test_the_page_allows_no_foreign_code(service):
    policy = service.get("/").headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


# ------------------------------------------------------------------------------------------------------ several workers


def test_counts_of_two_workers_are_sums(guarded):
    before = guarded.counts(KEY)
    for _ in range(40):  # each over a connection of its own, so that both workers get some
        answer = guarded.ask("POST", PREDICT, {"texts": ["a", "b"]}, {"X-API-Key": KEY}, keep=False)
        assert answer.status == 200
    for _ in range(6):
        headers = {"X-API-Key": KEY}
        text = guarded.ask("GET", "/metrics", headers=headers, keep=False).text
        [number] = re.findall(r'^freerun_texts_total\{model="words"\} (\S+)', text, re.MULTILINE)
        assert float(number) - before["freerun_texts_total", ("model", "words")] == 80
    assert len(guarded.workers) == 2
