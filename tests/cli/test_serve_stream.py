"""Streams of ``freerun serve``: lines in, lines out, of any number."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.serving import Answer

NDJSON = "application/x-ndjson"
PREDICT = "/v1/models/{}/predict"


def streamed(service, content, model="words", kind=NDJSON, query=""):
    headers = {"Accept": NDJSON, "Content-Type": kind}
    return service.ask("POST", PREDICT.format(model) + query, content, headers)


def outputs(answer):
    assert answer.status == 200
    return [line["hypotheses"][0]["text"] if "hypotheses" in line else line["error"]["status"] for line in answer.lines]


def expected(service, texts, model="words", **options):
    return [each["hypotheses"][0]["text"] for each in service.predict(model, texts, **options)]


TEXTS = ["a b", "c", "b b c", "x", "a"]


def test_each_line_is_answered_with_a_line(service):
    content = "".join(json.dumps(text) + "\n" for text in TEXTS)
    answer = streamed(service, content)
    assert answer.headers["content-type"] == NDJSON
    assert answer.lines == service.predict("words", TEXTS)


@pytest.mark.parametrize("content", ["a b\nc\n", "a b\nc", "a b\r\nc\r\n"])
def test_lines_of_plain_text_are_texts(service, content):
    assert outputs(streamed(service, content, kind="text/plain; charset=utf-8")) == expected(service, ["a b", "c"])


def test_objects_have_features(service):
    content = '{"text": "ab", "features": "UP"}\n{"features": ["REV", "UP"], "text": "ab"}\n"ab"\n'
    first, second, third = streamed(service, content, "summary").lines
    assert [first, second] == service.predict("summary", ["ab", "ab"], features=["UP", ["REV", "UP"]])
    assert "needs features" in third["error"]["detail"]


def test_features_follow_a_tab_in_plain_text(service):
    answer = streamed(service, "ab\tREV;UP\nab\t\nab\n", "sequence", "text/plain")
    first, second, third = answer.lines
    assert [first, second] == service.predict("sequence", ["ab", "ab"], features=["REV;UP", ""])
    assert third["error"]["status"] == 422


def test_an_empty_line_has_an_empty_output(service):
    assert outputs(streamed(service, "\na\n\n", kind="text/plain")) == ["", *expected(service, ["a"]), ""]
    assert outputs(streamed(service, '\n"a"\n""\n')) == ["", *expected(service, ["a"]), ""]


def test_an_empty_body_has_an_empty_answer(service):
    answer = streamed(service, "")
    assert (answer.status, answer.content) == (200, b"")


BAD = {
    b"\xff": "The line is not valid UTF-8.",
    b"nonsense": "The line is not JSON",
    b'"\\ud800"': "not JSON",
    b'"a", "text": "b"': "not JSON",
    b"[1]": "",
    b'{"text": 1}': "text: expected a string.",
    b'{"text": "a", "more": 1}': "more",
    b'{"text": "a", "features": "UP"}': "trained without features",
    b'{"text": "a\\nb"}': "line feed",
    b"[" * 100: "",
    b'"' + b"a" * 10_001 + b'"': "10,001 characters",
    b'"' + b"a " * 1001 + b'"': "1,001 tokens",
    b'"' + b"a" * 300_000 + b'"': "The line has more than 241,000 bytes, and a text may have 10,000 characters.",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:20].decode(errors="replace"))
def test_a_wrong_line_is_answered_with_what_is_wrong_and_the_others_go_on(service, line):
    first, wrong, last = streamed(service, b'"a"\n' + line + b'\n"c"\n').lines
    assert BAD[line] in wrong["error"]["detail"]
    assert wrong["error"]["line"] == 2
    assert [first, last] == service.predict("words", ["a", "c"])


@pytest.mark.parametrize("end", [b"", b'"\n', b'"\n"c"\n'])
def test_a_line_of_any_length_is_dropped_until_its_end(service, end):
    answer = streamed(service, b'"a"\n"' + b"b" * 9_000_000 + end)
    first, long, *others = answer.lines
    assert first["source"] == "a"
    assert [long["error"][name] for name in ("status", "limit", "maximum", "line")] == [
        413,
        "max-characters",
        10_000,
        2,
    ]
    assert [each["source"] for each in others] == (["c"] if b"c" in end else [])


def test_what_came_before_a_line_without_an_end_is_answered(service):
    """Though it was not decoded yet: such outputs take a while."""
    content = b'"a"\n' * 30 + b'"' + b"b" * 9_000_000
    answer = streamed(service, content, query="?beam_size=100&length_penalty=10&max_length=500")
    *before, last = answer.lines
    assert [line["source"] for line in before] == ["a"] * 30
    assert last["error"]["status"] == 413


def test_options_are_in_the_query(service):
    content = "".join(json.dumps(text) + "\n" for text in TEXTS)
    query = "?beam_size=3&num_hypotheses=2&length_penalty=0.5&early_stop=true&token_scores=false&prefix=b&max_length=9"
    options = {"beam_size": 3, "num_hypotheses": 2, "length_penalty": 0.5, "early_stop": True, "token_scores": False}
    found = streamed(service, content, query=query).lines
    assert found == service.predict("words", TEXTS, prefix="b", max_length=9, **options)
    query = "?sample.seed=5&sample.temperature=2&sample.top_k=4&sample.top_p=0.9&attention=true"
    sample = {"seed": 5, "temperature": 2.0, "top_k": 4, "top_p": 0.9}
    found = streamed(service, content, query=query).lines
    assert found == service.predict("words", TEXTS, sample=sample, attention=True)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?beam_size=x", "beam_size: expected an integer"),
        ("?beam_size=", "beam_size: expected an integer"),
        ("?beams=3", "beams"),
        ("?texts=a", "texts"),
        ("?sample.seed=x", "sample/seed: expected an integer"),
        ("?sample.nothing=x", "sample/nothing"),
        ("?sample=1", "sample: "),
        ("?sample=x&sample.seed=1", ""),
        ("?sample.seed=1&sample=x", "sample: "),
        ("?sample.seed=1&beam_size=2", "sample cannot be combined"),
        ("?beam_size=101", "beam_size is 101, and at most 100 is allowed."),
        ("?beam_size=" + "9" * 5000, "beam_size"),
    ],
)
def test_wrong_options_are_rejected_before_anything_is_read(service, query, message):
    answer = streamed(service, '"a"\n', query=query)
    assert answer.status == 422
    assert message in answer.json["detail"]


def test_a_query_has_few_fields(service):
    answer = streamed(service, '"a"\n', query="?" + "a=1&" * 60)
    assert (answer.status, answer.json["detail"]) == (400, "The query has more than 50 fields.")


def test_a_stream_has_a_type(service):
    answer = streamed(service, '"a"\n', kind="application/json")
    assert answer.status == 415
    assert "application/x-ndjson, application/jsonl, text/plain" in answer.json["detail"]


# --------------------------------------------------------------------------------------------------------- long streams


def upload(connection, lines, sent):
    """Send a chunked body of lines, as far as the service reads it."""
    with connection.makefile("wb") as file:
        for number in range(0, lines, 500):
            part = "".join(f"a b {'c ' * (n % 5)}\n" for n in range(number, min(lines, number + 500))).encode()
            file.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            file.flush()
            sent.append(number)
        file.write(b"0\r\n\r\n")


def head(service):
    lines = [f"POST {PREDICT.format('words')} HTTP/1.1", f"Host: {service.host}", "Transfer-Encoding: chunked"]
    return "\r\n".join([*lines, f"Accept: {NDJSON}", "Content-Type: text/plain", "Connection: close", "", ""]).encode()


def megabytes(process):
    with Path(f"/proc/{process}/status").open() as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def test_a_long_stream_needs_little_memory_and_is_answered_in_order(service):
    service.predict("words", ["a b"])
    [worker] = service.workers
    before, peak, numbers = megabytes(worker), 0.0, []
    with service.socket() as connection:
        connection.sendall(head(service))
        thread = threading.Thread(target=upload, args=(connection, 20_000, []))
        thread.start()
        with connection.makefile("rb") as file:
            while line := file.readline():
                if line.startswith(b"{"):
                    numbers.append(json.loads(line)["source"].count("c"))
                    if len(numbers) % 2000 == 0:
                        peak = max(peak, megabytes(worker))
        thread.join()
    assert numbers == [n % 5 for n in range(20_000)]
    assert peak - before < 25


def test_answers_come_before_the_stream_is_complete(service):
    with service.socket(2.0) as connection:
        connection.sendall(head(service) + b"4\r\na b\n\r\n")
        with connection.makefile("rb") as file:
            while not (line := file.readline()).startswith(b"{"):
                pass
            assert json.loads(line)["source"] == "a b"
            connection.sendall(b"2\r\nc\n\r\n0\r\n\r\n")
            assert b'"source":"c"' in file.read()


def test_a_client_that_does_not_read_is_not_read_from(service):
    [worker] = service.workers
    before = megabytes(worker)
    part = b"a b c\n" * 20_000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1.0)
        connection.connect((service.host, service.port))
        connection.sendall(head(service))
        with pytest.raises(TimeoutError):
            connection.sendall((f"{len(part):x}\r\n".encode() + part + b"\r\n") * 400)  # 48 MB
        assert service.predict("words", ["a b"])  # others are answered meanwhile
        assert megabytes(worker) - before < 25


def test_texts_of_a_client_that_went_away_are_not_decoded(service):
    before = service.counts()
    with service.socket() as connection:
        connection.sendall(head(service))
        part = b"a b c\n" * 100_000
        connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        connection.recv(1000)
    time.sleep(0.5)  # what it has read already is decoded
    after = service.counts()
    model = ("model", "words")
    assert after["freerun_queue_texts",] == 0
    assert after["freerun_texts_total", model] - before["freerun_texts_total", model] < 50_000
    assert after["freerun_requests_total", ("endpoint", "stream"), ("status", "499")] >= 1


def test_open_files_return_to_what_they_were(service):
    [worker] = service.workers
    count = len(os.listdir(f"/proc/{worker}/fd"))
    for _ in range(20):
        assert isinstance(streamed(service, '"a"\n'), Answer)
    assert len(os.listdir(f"/proc/{worker}/fd")) <= count + 2
