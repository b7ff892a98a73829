"""``freerun serve`` under load while processes are killed, models replaced, and clients and disks misbehave.

Real processes, threads as clients. Nothing here depends on how fast the machine is: what is awaited has a minute.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from freerun.cli import main
from freerun.runtime.bundle import read_bundle
from tests.http_load import PATIENCE, Load
from tests.trained import CHARACTERS, once
from tests.trained import exported as export_trained

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
MANY = [letters * 8 for letters in ("abc", "cab", "bca", "acb")] * 250
LONG = {"texts": MANY * 20, "beam_size": 100}
"""A request that takes seconds, for a service with these options: """
FOR_LONG = ("--max-texts", len(LONG["texts"]), "--queue", 4 * len(LONG["texts"]))

CLOSED = {"RemoteDisconnected", "ConnectionResetError", "BrokenPipeError", "IncompleteRead"}
"""What a client finds if its connection is closed before or within an answer."""


class Service:
    """``freerun serve`` as a process; its log is JSON Lines, unless ``stderr`` is something else."""

    def __init__(self, model, directory, *options, stderr=None, port=None, **settings):
        self.port = port or free_port()
        self._log, self._has_log = directory / f"serve-{self.port}.log", stderr is None
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "freerun", "serve", f"m={model}", "--port", str(self.port), "--log-json"]
            self.process = subprocess.Popen([*command, *options], stderr=stderr or log, env=ENVIRONMENT, **settings)
        self.workers = []

    @property
    def log(self):
        """The events so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]

    def events(self, part):
        """The logged events whose name contains this text."""
        return [event for event in self.log if part in event["event"]]

    def look(self):
        """Look up the processes of the workers; returns those that have not ended."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.workers = [int(each) for each in path.read_text().split() if state_of(int(each)) not in ("", "Z")]
        return self.workers

    def ask(self, path, body=None, timeout=PATIENCE):
        """The answer to GET, or to POST with JSON."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()

    def predict(self, *texts, **options):
        """The best output for each text."""
        answer = json.loads(self.ask("/v1/models/m/predict", {"texts": texts, **options}))
        return [each["hypotheses"][0]["text"] for each in answer["predictions"]]

    @property
    def digest(self):
        return json.loads(self.ask("/v1/models/m"))["digest"]

    def metric(self, name):
        """The sum of a metric over the labels that are not in ``name``."""
        lines = self.ask("/metrics").decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"freerun_{name}"))

    def is_ready(self):
        """Return True if all workers answer; if the log cannot be read: at least one."""
        return bool(self.events("serving ")) if self._has_log else self.answers()

    def answers(self):
        """Return True if a worker answers."""
        with contextlib.suppress(OSError):
            return self.ask("/ready") == b'{"status":"ready"}'
        return False

    def stop(self):
        """End it with SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def until(condition):
    """Wait until a condition holds; returns its value."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def state_of(process):
    """R, S, T, Z and so on; empty for a process that has been reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def clients_of(process, port):
    """The ports of the clients whose connections a process holds."""
    inodes = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes |= set(re.findall(r"socket:\[(\d+)]", str(entry.readlink())))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in rows if row[9] in inodes and row[1].endswith(f":{port:04X}")]
    return {int(row[2].rpartition(":")[2], 16) for row in ours} - {0}


def stopped(process):
    """Stop a process where it is."""
    os.kill(process, signal.SIGSTOP)
    until(lambda: state_of(process) == "T")


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def request_of(body, path="/v1/models/m/predict"):
    kind = "Content-Type: application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer_to(connection):
    """The status of the next answer, which is read to its end."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def rest_of(connection):
    """All bytes until the service closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with a run and its bundle; read-only."""
    return once(tmp_path_factory, "characters", lambda directory: export_trained(directory, **CHARACTERS))


@pytest.fixture
def bundle(trained, tmp_path):
    """A copy of the bundle."""
    return shutil.copytree(trained / "bundle", tmp_path / "bundle")


@pytest.fixture
def serve(bundle, tmp_path):
    """Start services of the bundle, ready to answer; they are killed in the end."""
    started = []

    def start(*options, **settings):
        service = Service(bundle, tmp_path, *map(str, options), **settings)
        started.append(service)
        until(lambda: service.is_ready() or service.process.poll() is not None)
        assert service.process.poll() is None
        service.look()
        return service

    yield start
    for service in started:
        with contextlib.suppress(OSError):
            service.look()
        for process in [*service.workers, service.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        service.process.wait()


# ---------------------------------------------------------------------------------------------------- workers that die


def test_a_killed_worker_loses_only_the_requests_that_it_held(serve):
    service = serve("--workers", 2)
    with Load(service.port) as load:
        load.wait()
        victim = max(service.workers, key=lambda each: len(clients_of(each, service.port)))
        stopped(victim)
        held = clients_of(victim, service.port)
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in service.look() and len(service.workers) == 2)
        load.wait(200)
    assert held
    assert {each.port for each in load.lost} <= held
    assert len({each.port for each in load.lost}) == len(load.lost)
    assert {each.error for each in load.lost} <= CLOSED
    assert load.rejected == 0
    assert load.wrong == []
    assert [event["event"] for event in service.events("died")] == [
        f"worker {victim} died (signal 9); starting another"
    ]
    assert service.metric("replaced_workers_total") == 1


def test_a_client_that_no_worker_has_accepted_is_answered_by_the_next_one(serve):
    service = serve()
    (victim,) = service.workers
    stopped(victim)
    with connected(service.port) as client:
        client.sendall(request_of(b'{"texts":["abc"]}'))
        os.kill(victim, signal.SIGKILL)
        assert answer_to(client) == 200
    assert victim not in service.look()


@pytest.mark.slow
def test_workers_that_die_at_once_are_replaced_after_longer_and_longer_pauses(serve):
    service = serve()
    killed, end = set(), time.monotonic() + 5
    while time.monotonic() < end:
        for process in set(service.look()) - killed:
            killed.add(process)
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
    # pauses of 0.05, 0.1, 0.2 ... 1.6 seconds: the seventh ends after 6.35
    assert 2 <= len(killed) <= 8
    until(service.answers)
    assert service.predict("abc")
    assert len(service.events("died")) == len(killed)
    assert service.stop() == 0


@pytest.mark.slow
def test_sighup_while_workers_wait_to_be_replaced_serves_on(serve):
    service = serve()
    for _ in range(6):
        os.kill(until(service.look)[0], signal.SIGKILL)
        until(lambda: not service.look())
    service.process.send_signal(signal.SIGHUP)
    until(lambda: service.metric("reloads_total") == 1)
    assert service.predict("abc")
    assert len(until(service.look)) == 1


def test_the_workers_end_when_the_supervisor_is_killed_and_the_port_is_free(serve):
    service = serve("--workers", 2)
    workers = service.workers
    with Load(service.port) as load:
        load.wait()
        service.process.kill()
        service.process.wait()
        until(lambda: all(state_of(each) in ("", "Z") for each in workers))
    assert load.lost == []
    assert load.wrong == []
    service.workers = []
    again = serve(port=service.port)
    assert again.predict("abc")


# ------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("keeps", [True, False], ids=["kept connections", "new connections"])
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_nothing(serve, workers, keeps):
    service = serve("--workers", workers)
    with Load(service.port, clients=16, keeps=keeps) as load:
        load.wait(200)
        assert service.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            connected(service.port)
    assert load.lost == []
    assert load.wrong == []
    assert load.rejected
    assert service.events("ended before") == []
    assert {state_of(each) for each in service.workers} <= {"", "Z"}


def test_ctrl_c_reaches_all_processes_and_loses_nothing(serve):
    service = serve("--workers", 2, start_new_session=True)
    with Load(service.port) as load:
        load.wait()
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(PATIENCE) == 130
    assert load.lost == []
    assert load.wrong == []


def test_sigterm_while_workers_start_is_obeyed(bundle, tmp_path):
    service = Service(bundle, tmp_path, "--workers", "4")
    with service.process:
        until(service.answers)  # the first one
        service.look()
        assert service.stop() == 0
    assert not [event for event in service.log if event["level"] == "error"]
    assert {state_of(each) for each in service.workers} <= {"", "Z"}


@pytest.mark.parametrize("workers", [2, 6])
def test_sigterm_while_models_are_loaded_again_loses_nothing(serve, workers):
    """The new workers accept clients as soon as they are there, and have to finish what they have begun, too."""
    service = serve("--workers", workers)
    with Load(service.port, keeps=False) as load:
        load.wait()
        service.process.send_signal(signal.SIGHUP)
        until(lambda: len(service.look()) > workers)
        assert service.stop() == 0
    assert load.lost == []
    assert load.wrong == []
    assert service.events("reload failed") == []
    assert {state_of(each) for each in service.workers} <= {"", "Z"}


@pytest.mark.slow
def test_sigterm_waits_for_a_long_request(serve):
    service = serve(*FOR_LONG)
    with connected(service.port) as client:
        client.sendall(request_of(json.dumps(LONG).encode()))
        until(lambda: service.metric("batch_texts_count"))
        service.process.send_signal(signal.SIGTERM)
        answer = rest_of(client)
    assert service.process.wait(PATIENCE) == 0
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in head.lower()
    assert len(json.loads(content)["predictions"]) == len(LONG["texts"])


def test_a_request_that_arrives_with_sigterm_is_answered(serve):
    service = serve()
    (worker,) = service.workers
    with connected(service.port) as client:
        client.sendall(request_of(b'{"texts":["abc"]}'))
        assert answer_to(client) == 200
        stopped(worker)
        client.sendall(request_of(b'{"texts":["abc"]}'))
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.events("stopping"))
        os.kill(worker, signal.SIGCONT)
        answer = rest_of(client)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert service.process.wait(PATIENCE) == 0


def test_drain_bounds_the_time_to_the_end(serve):
    service = serve("--drain", 0.2, *FOR_LONG)
    with connected(service.port) as client:
        client.sendall(request_of(json.dumps(LONG).encode()))
        until(lambda: service.metric("batch_texts_count"))
        assert service.stop() == 0
        assert rest_of(client) == b""
    assert service.events("ended before")[0]["requests"] == 1


# ---------------------------------------------------------------------------------------------------------- new models


def test_sighup_under_load_loses_nothing(serve):
    service = serve("--workers", 2)
    before = set(service.workers)
    with Load(service.port) as load:
        load.wait()
        service.process.send_signal(signal.SIGHUP)
        until(lambda: len(set(service.look()) - before) == 2 and not set(service.workers) & before)
        load.wait()
    assert load.lost == []
    assert load.wrong == []
    assert load.rejected == 0
    assert service.metric('reloads_total{outcome="loaded"}') == 1
    assert service.events("new models took over")[0]["m"] == service.digest[:12]


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [True, False], ids=["kept connections", "new connections"])
def test_twenty_generations_lose_nothing(serve, keeps):
    """A worker that ends has just accepted clients, now and then."""
    service = serve()
    with Load(service.port, keeps=keeps) as load:
        for _ in range(20):
            before = service.look()
            service.process.send_signal(signal.SIGHUP)
            until(lambda before=before: len(service.look()) == 1 and service.workers != before)
        load.wait()
    assert load.lost == []
    assert load.wrong == []
    assert load.rejected == 0


@pytest.mark.slow
def test_several_sighups_in_a_row_lose_nothing(serve):
    service = serve("--workers", 2)
    before = set(service.workers)
    with Load(service.port) as load:
        for _ in range(6):
            load.wait(20)
            service.process.send_signal(signal.SIGHUP)
        until(lambda: len(service.look()) == 2 and not set(service.workers) & before)
        load.wait()
        loaded = until(lambda: service.metric('reloads_total{outcome="loaded"}'))
    assert 1 <= loaded <= 6
    assert load.lost == []
    assert load.wrong == []
    assert load.rejected == 0
    assert service.stop() == 0


@pytest.mark.parametrize("name", ["greedy.npz", "config.json", "source_vocabulary.json"])
def test_a_damaged_bundle_leaves_the_old_model(serve, bundle, name):
    service = serve()
    workers, digest, whole = service.workers, service.digest, (bundle / name).read_bytes()
    with Load(service.port) as load:
        load.wait()
        (bundle / name).write_bytes(whole[: len(whole) // 2])
        service.process.send_signal(signal.SIGHUP)
        until(lambda: service.metric('reloads_total{outcome="failed"}'))
        load.wait()
        assert service.look() == workers
        assert service.digest == digest
        failure = until(lambda: service.events("reload failed"))[0]
        assert failure["level"] == "error"
        assert name in failure["error"]
        assert "traceback" not in failure
        (bundle / name).write_bytes(whole)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: service.metric('reloads_total{outcome="loaded"}'))
        load.wait()
    assert load.lost == []
    assert load.wrong == []
    assert service.digest == digest


@pytest.mark.slow
def test_a_bundle_that_export_replaces_under_load_is_served(serve, bundle, trained):
    shutil.rmtree(bundle)
    assert main(["export", str(trained / "run"), "--out", str(bundle)]) == 0
    service = serve()
    digest = service.digest
    with Load(service.port) as load:
        load.wait()
        assert main(["export", str(trained / "run"), "--out", str(bundle), *CHARACTERS["options"]]) == 0
        new = read_bundle(bundle).digest
        assert new != digest
        until(lambda: service.digest == new)
        load.wait()
    assert load.lost == []
    assert load.wrong == []
    assert load.rejected == 0


# ------------------------------------------------------------------------------------------------- clients that are bad


def test_texts_of_clients_that_close_mid_request_are_skipped(serve):
    service = serve("--queue", 4 * len(MANY), "--timeout", 3600)
    # a large penalty makes outputs as long as they may be, so this takes minutes
    request = {"texts": MANY, "beam_size": 100, "length_penalty": 10.0, "max_length": 500}
    clients = [connected(service.port) for _ in range(3)]
    for client in clients:
        client.sendall(request_of(json.dumps(request).encode()))
    until(lambda: service.metric("queue_texts"))
    for client in clients:
        client.close()
    until(lambda: service.metric('requests_total{endpoint="predict",status="499"}') == 3)
    assert service.predict("abc")
    skipped, decoded = service.metric("skipped_texts_total"), service.metric("texts_total") - 1
    assert decoded < len(MANY)
    assert skipped + decoded == 3 * len(MANY)
    until(lambda: service.metric("queue_texts") == 0)


def test_a_client_that_closes_while_its_large_body_is_parsed_is_not_computed_for(serve):
    service = serve()
    body = json.dumps({"texts": ["abc" * 22] * len(MANY)})
    for _ in range(3):
        with connected(service.port) as client:
            client.sendall(request_of(body.encode()))
    until(lambda: service.metric('requests_total{endpoint="predict",status="499"}') == 3)
    assert service.metric("texts_total") < len(MANY)


def test_clients_that_close_at_any_moment_harm_no_others(serve):
    service = serve()
    request = request_of(b'{"texts":["abc"]}')
    with Load(service.port, clients=4) as load:
        load.wait(20)
        for length in range(0, len(request) + 1, 3):
            with connected(service.port) as client:
                client.sendall(request[:length])
                if length % 2:  # close with a reset
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        load.wait()
    assert load.lost == []
    assert load.wrong == []
    assert service.events("failed") == []
    assert service.metric('requests_total{endpoint="predict",status="500"}') == 0


@pytest.mark.parametrize(
    "start",
    [b"POST /v1/models/m/predict HTTP/1.1\r\nHost: localhost\r\n", request_of(b" " * 5000)[:-5000]],
    ids=["headers", "body"],
)
def test_slowloris_is_cut_off(serve, start):
    service = serve("--read-timeout", 1)
    with Load(service.port, clients=2) as load, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(service.port)) for _ in range(50)]
        for client in clients:
            client.sendall(start)
        end, is_open = time.monotonic() + PATIENCE, True
        while is_open and time.monotonic() < end:
            is_open = False
            for client in clients:
                with contextlib.suppress(OSError):  # some are cut off before others
                    client.sendall(b"x")
            time.sleep(0.2)
            is_open = service.metric("cut_off_connections_total") < len(clients)
        assert not is_open
        load.wait()
    assert load.lost == []


def test_half_open_connections_are_closed(serve):
    service = serve("--read-timeout", 1, "--keep-alive", 1)
    with Load(service.port, clients=2) as load, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(service.port)) for _ in range(100)]
        half = [stack.enter_context(connected(service.port)) for _ in range(50)]
        for client in half:
            client.sendall(request_of(b'{"texts":["abc"]}')[:-5])
        until(lambda: service.metric("connections ") >= 150)
        assert all(rest_of(client) == b"" for client in silent)
        assert all(rest_of(client).startswith(b"HTTP/1.1 408 ") for client in half)
        until(lambda: service.metric("connections ") <= 4)
        load.wait()
    assert load.lost == []
    assert service.metric("cut_off_connections_total") == 50


def test_clients_that_do_not_read_are_cut_off(serve):
    service = serve("--read-timeout", 1)
    body = json.dumps({"texts": MANY, "beam_size": 20, "num_hypotheses": 20}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", service.port))
    with client, Load(service.port, clients=2) as load:
        client.sendall(request_of(body))
        until(lambda: service.metric("cut_off_connections_total") == 1)
        load.wait()
    assert load.lost == []


def test_connections_beyond_the_limit_are_rejected(serve):
    service = serve("--max-connections", 20)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(service.port)) for _ in range(20)]
        with connected(service.port) as one_more:
            assert rest_of(one_more).startswith(b"HTTP/1.1 503 ")
        clients[0].sendall(request_of(b'{"texts":["abc"]}'))
        assert answer_to(clients[0]) == 200
    until(service.answers)
    assert service.metric("rejected_connections_total") >= 1


# ------------------------------------------------------------------------------------- a log that cannot be written to


def test_a_full_disk_for_the_log_changes_nothing(serve):
    with Path("/dev/full").open("wb") as full:
        service = serve("--log-requests", stderr=full)
    with Load(service.port, clients=4) as load:
        load.wait()
        (victim,) = service.workers
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in service.look() and service.answers())
        load.wait()
        assert service.metric("lost_log_lines_total") > 50
        assert service.stop() == 0
    assert load.wrong == []


def test_a_log_that_is_not_read_changes_nothing(serve):
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    service = serve("--log-requests", stderr=into)
    os.close(into)
    with Load(service.port, clients=4) as load:
        load.wait(300)  # their lines have more than 4096 bytes
        (victim,) = service.workers
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in service.look() and service.answers())
        load.wait(300)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: service.metric('reloads_total{outcome="loaded"}'))
        load.wait(300)
        assert service.stop() == 0
    os.close(out)
    assert load.wrong == []
