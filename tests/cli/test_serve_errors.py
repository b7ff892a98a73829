"""``freerun serve`` that cannot start: one line that says why, and exit code 2."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.serving import ROOT, Service


def rejected(freerun, *arguments):
    """Return the message of a command that cannot start."""
    result = freerun("serve", *arguments)
    assert result.code == 2, result.err
    assert result.out == ""
    [line] = [each for each in result.err.splitlines() if each.startswith("error: ")]
    assert "Traceback" not in result.err
    return line


def test_a_port_that_is_taken(freerun, bundles):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rejected(freerun, bundles["words"], "--port", port)
    assert f"--port: 127.0.0.1:{port}: Address already in use" in message
    assert "Choose another --port" in message


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine(freerun, bundles, host):
    message = rejected(freerun, bundles["words"], "--host", host, "--port", 0)
    assert f"--host: {host}:0: " in message
    assert "Expected an address of this machine" in message


def test_no_model_at_all(freerun):
    result = freerun("serve")
    assert result.code == 2
    assert "MODEL" in result.err


def test_a_model_that_is_not_there(freerun, tmp_path):
    assert str(tmp_path / "none") in rejected(freerun, f"en={tmp_path / 'none'}", "--port", 0)


def test_a_damaged_bundle(freerun, bundles, tmp_path):
    bundle = shutil.copytree(bundles["words"], tmp_path / "bundle")
    for path in [*bundle.glob("*.npz"), *bundle.glob("*.onnx"), *bundle.glob("*.safetensors")]:
        path.write_bytes(b"damaged")
    assert str(bundle) in rejected(freerun, bundle, "--port", 0)


def test_one_damaged_bundle_of_two(freerun, bundles, tmp_path):
    bundle = shutil.copytree(bundles["words"], tmp_path / "bundle")
    (bundle / "config.json").write_text("{")
    assert str(bundle) in rejected(freerun, bundles["characters"], f"b={bundle}", "--port", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["en=a", "en=b"], "two models have the name"),
        (["e n=a"], "cannot be the name of a model"),
        (["en=a", "--languages", "en=en"], "is not a pair of codes"),
        (["en=a", "--languages", "fr=en:ja"], "no model has the name"),
        (["en=a", "--languages", "en=auto:ja"], "has the source auto"),
        (["en=a", "b", "--languages", "en=b:b"], "Give one of them other codes"),
        (["en="], "en=: the path is empty. Expected NAME=MODEL"),
        (["en=a", "--cors", "example.org"], "is not an origin"),
        (["en=a", "--host-name", "https://example.org"], "is not the name of a host"),
        (["en=a", "--host-name", "example.org:80"], "is not the name of a host"),
        (["en=a", "--queue", "10"], "it has room for 10 texts, but a request may have 1,000"),
        (["en=a", "--queue", "10", "--max-texts", "11"], "Use --queue 11 or more, or a smaller --max-texts"),
    ],
)
def test_options_that_do_not_fit(freerun, arguments, message):
    assert message in rejected(freerun, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--workers", "0"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--queue", "0"],
        ["--read-timeout", "x"],
        ["--precision", "fp16"],
    ],
)
def test_options_out_of_their_range(freerun, arguments):
    result = freerun("serve", "en=a", *arguments)
    assert result.code == 2
    assert arguments[0] in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), ("", "there is no key in it"), ("# none\n", "there is no key"), ("short\n", "not a key")],
)
def test_a_file_of_keys_that_cannot_be_used(freerun, bundles, tmp_path, content, message):
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    line = rejected(freerun, bundles["words"], "--port", 0, "--api-key-file", path)
    assert str(path) in line
    assert message in line


WITHOUT = "import sys; sys.modules[sys.argv[1]] = None; from freerun.cli import main; sys.exit(main(sys.argv[2:]))"


@pytest.mark.parametrize("module", ["httptools", "prometheus_client", "starlette", "uvicorn"])
def test_the_extra_is_named_if_it_is_not_installed(bundles, module):
    command = [sys.executable, "-c", WITHOUT, module, "serve", str(bundles["words"]), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2, done.stderr
    assert module in done.stderr
    assert "freerun[serve]" in done.stderr


# ------------------------------------------------------------------------------------------------- warnings and the end


def test_keys_that_others_can_read_and_open_doors_are_warned_of(bundles, tmp_path):
    path = tmp_path / "keys"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o644)
    with Service(bundles["words"], "--api-key-file", path, log=tmp_path / "log") as service:
        assert f"warning: other users of this machine can read the keys: chmod 600 {path}" in service.log_text
    with Service(bundles["words"], "--host", "0.0.0.0", log=tmp_path / "log") as service:
        assert (
            "warning: listening on 0.0.0.0 without keys: anyone who can connect can use this service."
            in service.log_text
        )
        service.host = "127.0.0.1"
        assert service.get("/live").status == 200


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_of_ipv6(bundles, tmp_path):
    with Service(bundles["words"], "--host", "::1", log=tmp_path / "log") as service:
        assert f"http://[::1]:{service.port}" in service.log_text
        assert service.get("/live").status == 200


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it(bundles, tmp_path, how, code):
    with Service(f"x={bundles['words']}", "--log-json", log=tmp_path / "log") as service:
        workers = service.workers
        assert service.predict("x", ["a"])
        assert service.stop(how) == code
    assert workers
    assert '"event": "stopping: finishing running requests"' in service.log_text
    assert '"level": "error"' not in service.log_text
