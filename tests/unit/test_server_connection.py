"""Clients that are slow, silent, greedy or confused, on real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests.serving import Service, answer_from, answers_in, exchange, received

PREDICT = "/v1/models/words/predict"
JSON = {"Content-Type": "application/json"}


def request(path="/live", *headers, method="GET", body=b"", version="1.1"):
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def predicted(*headers, body=b'{"texts": ["a b"]}', length=None):
    length = len(body) if length is None else length
    return request(
        PREDICT, "Content-Type: application/json", f"Content-Length: {length}", *headers, method="POST", body=body
    )


CLOSE = "Connection: close"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory, bundles):
    """A service that waits a second for its clients, and has few connections."""
    options = ["--read-timeout", "1", "--keep-alive", "1", "--max-connections", "30"]
    with Service(f"words={bundles['words']}", *options, log=tmp_path_factory.mktemp("impatient") / "log") as service:
        yield service


# --------------------------------------------------------------------------------------------------------- slow clients


def trickle(service, content, pause=0.2, longest=8.0):
    """Send the last 50 bytes one at a time; return what comes back, and when the service closed the connection."""
    began = time.monotonic()
    with service.socket() as connection:
        connection.settimeout(pause)
        connection.sendall(content[:-50])
        content, back = content[-50:], b""
        for number in range(round(longest / pause)):
            try:
                connection.sendall(content[number : number + 1])
                part = connection.recv(65536)
                if not part:
                    return back, time.monotonic() - began
                back += part
            except TimeoutError:
                pass
            except ConnectionError:
                return back, time.monotonic() - began
    return back, float("inf")


def silent_after(service, content):
    """Send bytes and nothing more; return what comes back and the seconds until the connection is closed."""
    began = time.monotonic()
    return service.raw(content, timeout=8.0), time.monotonic() - began


def empty_lines_between(service, _):
    """Ask, read the answer, and send the empty lines that a parser skips."""
    began = time.monotonic()
    with service.socket(8.0) as connection:
        connection.sendall(request())
        answer_from(connection)
        connection.sendall(b"\r\n")
        return received(connection), time.monotonic() - began


def idle_after_an_answer(service, _):
    began = time.monotonic()
    with service.socket(8.0) as connection:
        connection.sendall(request())
        return received(connection), time.monotonic() - began


def never_reads(service, _):
    """Ask for far more than buffers hold, and do not read it."""
    began = time.monotonic()
    line = json.dumps("a b c " * 30).encode() + b"\n"
    head = request(
        PREDICT,
        "Content-Type: application/x-ndjson",
        "Accept: application/x-ndjson",
        "Transfer-Encoding: chunked",
        method="POST",
    )
    chunk = line * 100
    chunk = f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(8.0)
        connection.connect((service.host, service.port))
        try:
            connection.sendall(head)
            while time.monotonic() - began < 20:
                connection.sendall(chunk)
        except ConnectionError:
            return b"", time.monotonic() - began
    return b"", float("inf")


SLOW = {
    "header": (trickle, request("/live", "X: " + "a" * 100)),
    "body": (trickle, predicted(body=b"[" * 50, length=500)),
    "half a header": (silent_after, b"GET /live HTTP/1.1\r\nHo"),
    "half a body": (silent_after, predicted(length=100)),
    "half a chunk": (
        silent_after,
        request(
            "/detect", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST", body=b"ff\r\nabc"
        ),
    ),
    "nothing": (silent_after, b""),
    "empty lines": (empty_lines_between, b""),
    "idle": (idle_after_an_answer, b""),
    "never reads": (never_reads, b""),
}


def act_to_the_end(service, act, content):
    try:
        return act(service, content)
    except TimeoutError:  # the service still waits
        return b"", float("inf")


@pytest.fixture(scope="module")
def slow(impatient):
    """What happens to each slow client; all of them are there at the same time."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        futures = {name: pool.submit(act_to_the_end, impatient, *each) for name, each in SLOW.items()}
        return {name: future.result() for name, future in futures.items()}


@pytest.mark.parametrize("name", ["header", "body", "half a header", "half a body", "half a chunk"])
def test_a_request_that_does_not_arrive_in_time_is_rejected(slow, name):
    content, seconds = slow[name]
    [answer] = answers_in(content)
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert 0.9 < seconds < 5


@pytest.mark.parametrize("name", ["nothing", "idle", "empty lines", "never reads"])
def test_a_client_that_only_occupies_a_connection_loses_it(slow, name):
    content, seconds = slow[name]
    assert len(answers_in(content)) <= 1
    assert seconds < 8


def test_slow_clients_are_counted_and_leave_nothing_behind(impatient, slow):
    deadline = time.monotonic() + 10
    counts = impatient.counts()
    while (counts["freerun_connections",] > 1 or counts["freerun_queue_texts",]) and time.monotonic() < deadline:
        time.sleep(0.2)
        counts = impatient.counts()
    assert counts["freerun_cut_off_connections_total",] >= 5
    requests = {key[1:]: value for key, value in counts.items() if key[0] == "freerun_requests_total"}
    slow_ones = [requests[("endpoint", endpoint), ("status", "408")] for endpoint in ("predict", "other")]
    assert slow_ones[0] >= 2  # those whose headers had arrived, each counted once
    assert slow_ones[1] >= 2
    assert not requests.get((("endpoint", "predict"), ("status", "499")))
    assert counts["freerun_queue_texts",] == 0
    assert counts["freerun_connections",] == 1


def test_a_slow_body_that_makes_progress_is_waited_for(impatient):
    body = json.dumps({"texts": ["a"] * 300}).encode()
    with impatient.socket() as connection:
        connection.sendall(predicted(CLOSE, body=b"", length=len(body)))
        for start in range(0, len(body), 400):
            time.sleep(0.5)
            connection.sendall(body[start : start + 400])
        [answer] = answers_in(received(connection))
    assert answer.status == 200


# ------------------------------------------------------------------------------------------------- too much of anything


def test_headers_have_a_limit(service):
    [answer] = answers_in(service.raw(b"GET /live HTTP/1.1\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 20_000))
    assert answer.status == 431
    assert answer.json["detail"] == "The headers have more than 64,000 bytes."


@pytest.mark.parametrize("begin", [b"GET /live HTTP/1.1\r\nX: ", b"GET /", b"GET /live HTTP/1.1\r\n"])
def test_headers_without_an_end_are_rejected(service, begin):
    with service.socket() as connection:
        connection.sendall(begin + b"a" * 100_000)
        assert answer_from(connection).status == 431
        deadline = time.monotonic() + 10
        with suppress(ConnectionError):  # what it sends is dropped for two seconds
            while time.monotonic() < deadline:
                connection.sendall(b"a" * 10_000)
                time.sleep(0.01)
        assert time.monotonic() < deadline


def test_many_headers_that_are_small_are_fine(service):
    [answer] = answers_in(service.raw(request("/live", CLOSE, *[f"X-{n}: a" for n in range(2000)])))
    assert answer.status == 200


def test_one_connection_too_many_is_rejected_and_the_others_go_on(tmp_path, bundles):
    options = ["--max-connections", "3"]
    with Service(f"words={bundles['words']}", *options, log=tmp_path / "log") as service:
        clients = [http.client.HTTPConnection(service.host, service.port, timeout=10) for _ in range(3)]
        assert {exchange(client, "GET", "/live").status for client in clients} == {200}
        with ExitStack() as stack:
            rejected = [stack.enter_context(service.socket()) for _ in range(5)]
            for connection in rejected:
                answer = answer_from(connection)
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            clients.pop().close()
            deadline = time.monotonic() + 1  # those that were rejected are connected for two seconds, and take no place
            while (statuses := [answer.status for answer in answers_in(service.raw(request("/live", CLOSE)))]) != [200]:
                assert statuses == [503]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            clients.append(http.client.HTTPConnection(service.host, service.port, timeout=10))
            time.sleep(0.2)
            assert exchange(clients[-1], "GET", "/live").status == 200
            [answer] = answers_in(service.raw(request()))
            assert answer.status == 503
        time.sleep(0.2)
        [answer] = answers_in(service.raw(request()))  # nor do they leave one behind
        assert answer.status == 503
        counts = exchange(clients[1], "GET", "/metrics").text
        assert "freerun_rejected_connections_total 0.0" not in counts
        assert 'status="503"' not in counts  # no request was read
        for client in clients:
            client.close()


# -------------------------------------------------------------------------------------------------------- HTTP as it is


def test_a_connection_is_kept_for_several_requests(service):
    with service.client() as client:
        answers = [exchange(client, "POST", PREDICT, b'{"texts": ["a"]}', JSON) for _ in range(3)]
        port = client.sock.getsockname()
        assert exchange(client, "GET", "/live").status == 200
        assert client.sock.getsockname() == port
    assert len({answer.content for answer in answers}) == 1


def test_pipelined_requests_are_answered_in_their_order(service):
    content = predicted() + request("/ready") + predicted() + request("/nothing") + request("/live", CLOSE)
    answers = answers_in(service.raw(content))
    assert [answer.status for answer in answers] == [200, 200, 200, 404, 200]
    assert [b"predictions" in answer.content for answer in answers] == [True, False, True, False, False]
    assert answers[-1].json == {"status": "live"}


def test_garbage_after_pipelined_requests_is_no_answer_to_them(service):
    answers = answers_in(service.raw(predicted() + request() + b"\0\0garbage\r\n\r\n"))
    assert [answer.status for answer in answers] == [200, 200, 400]


def test_a_client_that_never_stops_asking_is_answered_in_part(service):
    """It may send a number of requests ahead; the others it has to send again, as well as answers that it missed."""
    answers = answers_in(service.raw(request() * 5000))
    assert 1 <= len(answers) < 5000
    assert {answer.status for answer in answers} == {200}


def test_all_answers_reach_a_client_that_is_still_sending(service):
    """A reset would discard what the client has not taken yet, which is most, because its buffer is small."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    with connection:
        connection.connect((service.host, service.port))
        connection.sendall(request() * 100 + b"garbage\r\n\r\n" + b"a" * 2_000_000)
        time.sleep(0.5)  # in which it reads nothing
        [*answers, last] = answers_in(received(connection))
    assert [answer.status for answer in answers] == [200] * 100
    assert (last.status, last.headers["connection"]) == (400, "close")


def test_clients_that_reset_their_connections_while_these_end_do_not_end_a_worker(impatient):
    """Nothing is written to those whose streams have begun, so nothing says that they are gone."""
    workers, kinds = impatient.workers, ("Content-Type: text/plain", "Accept: application/x-ndjson")
    line = request(PREDICT, *kinds, "Transfer-Encoding: chunked", method="POST", body=b"2\r\na\n\r\n")
    with ExitStack() as stack:
        clients = [stack.enter_context(impatient.socket()) for _ in range(8)]
        for client in clients:
            client.sendall(line)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        cut_off = impatient.counts()["freerun_cut_off_connections_total",]
        deadline = time.monotonic() + 20
        while impatient.counts()["freerun_cut_off_connections_total",] == cut_off and time.monotonic() < deadline:
            time.sleep(0.01)
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    time.sleep(1.5)
    assert impatient.workers == workers


def test_a_rejected_body_does_not_hide_the_answer_to_a_client_that_asks_to_close(service):
    content = predicted(CLOSE, body=b'{"texts": ["' + b"a" * 3_000_000, length=200_000_000)
    [answer] = answers_in(service.raw(content))
    assert (answer.status, answer.json["limit"]) == (413, "max-bytes")


def test_a_large_header_in_one_packet_is_noticed(service):
    [answer] = answers_in(service.raw(request("/live", "X: " + "a" * 100_000)))
    assert (answer.status, answer.json["limit"]) == (431, "headers")


def test_a_request_for_a_tunnel_is_no_request(service):
    for where in ("example.org:443", "/live"):
        answers = answers_in(service.raw(request(where, method="CONNECT") + request()))
        assert [answer.status for answer in answers] == [400]


def test_http_1_0_closes_the_connection(service):
    [answer] = answers_in(service.raw(request(version="1.0")))
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_a_client_that_asks_to_close_is_obeyed(service):
    [answer] = answers_in(service.raw(request("/live", CLOSE)))
    assert answer.headers["connection"] == "close"


def test_a_client_may_ask_whether_to_send_its_body(service):
    with service.socket() as connection:
        connection.sendall(predicted("Expect: 100-continue", CLOSE, body=b"", length=16))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b'{"texts": ["a"]}')
        [answer] = answers_in(received(connection))
    assert answer.status == 200


def test_a_body_that_is_too_large_is_rejected_before_it_is_sent(service):
    with service.socket() as connection:
        connection.sendall(predicted("Expect: 100-continue", body=b"", length=10**12))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_rejected_body_is_read_for_a_while_so_that_its_client_sees_the_answer(service):
    with service.client() as client:
        answer = exchange(client, "POST", PREDICT, b"x" * 6_000_000, JSON)
    assert (answer.status, answer.json["limit"]) == (413, "max-bytes")


def test_a_body_in_chunks_is_too_large_when_it_is(service):
    """Its length is not known before."""
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    head = request(PREDICT, "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
    [answer] = answers_in(service.raw(head + chunk * 20))
    assert (answer.status, answer.json["limit"]) == (413, "max-bytes")


def test_bodies_in_chunks_are_read(service):
    chunks = b'5\r\n{"tex\r\n1;a=b\r\nt\r\n00a\r\ns": ["a"]}\r\n0\r\nTrailer: x\r\n\r\n'
    head = request(PREDICT, "Content-Type: application/json", "Transfer-Encoding: chunked", CLOSE, method="POST")
    assert [answer.status for answer in answers_in(service.raw(head + chunks))] == [200]


H2C = (
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Connection: Upgrade, HTTP2-Settings",
)
"""What Java's client adds to its first request."""


def test_a_request_to_change_the_protocol_is_answered_as_usual(service):
    with service.socket() as connection:
        connection.sendall(request("/live", *H2C))
        assert answer_from(connection).json == {"status": "live"}
        connection.sendall(predicted())
        assert answer_from(connection).status == 200


@pytest.mark.parametrize("pause", [0, 10, 180, -16, -5])
def test_a_body_is_read_although_its_request_offers_another_protocol(service, pause):
    content = predicted(*H2C)
    with service.socket() as connection:
        connection.sendall(content[:pause])
        time.sleep(0.1)
        connection.sendall(content[pause:])
        assert len(answer_from(connection).json["predictions"]) == 1


def test_several_requests_that_offer_another_protocol_are_answered_in_their_order(service):
    answers = answers_in(service.raw(predicted(*H2C) + request("/ready", *H2C) + predicted(*H2C, CLOSE)))
    assert [b"predictions" in answer.content for answer in answers] == [True, False, True]


def test_the_headers_of_a_request_that_offers_another_protocol_have_a_limit(service):
    [answer] = answers_in(service.raw(request("/live", *H2C, "X: " + "a" * 100_000)))
    assert answer.status == 431


GARBAGE = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "zeros": bytes(100),
    "a word": b"hello\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": request(version="3.1"),
    "a bad header": request("/live", "no colon"),
    "a space before the colon": request("/live", "Host : a"),
    "a NUL in a header": request("/live", "X: a\0b"),
    "a path beyond ASCII": b"GET /\xff HTTP/1.1\r\n\r\n",
    "no path": b"GET ?a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two lengths": predicted("Content-Length: 3"),
    "a length and chunks": predicted("Transfer-Encoding: chunked"),
    "a negative length": request("/live", "Content-Length: -1"),
    "an endless length": request("/live", f"Content-Length: {'9' * 100}"),
    "a bad chunk": request("/translate", "Transfer-Encoding: chunked", method="POST", body=b"zz\r\n"),
    "an endless chunk size": request("/translate", "Transfer-Encoding: chunked", method="POST", body=b"f" * 100),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_not_http_is_rejected_with_a_problem(service, name):
    answers = answers_in(service.raw(GARBAGE[name]))
    assert answers[-1].status == 400
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert answers[-1].headers["x-content-type-options"] == "nosniff"


def test_a_client_that_goes_away_disturbs_no_others(service):
    before = service.workers
    for cut in range(10, len(predicted()), 7):
        with service.socket() as connection:
            connection.sendall(predicted()[:cut])
    with service.socket() as connection:
        connection.sendall(predicted() * 20)
    assert service.predict("words", ["a b"])
    assert service.workers == before
