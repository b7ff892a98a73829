"""Ctrl-C during a prediction that would go on for minutes: the command ends soon, with 130 and without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from freerun.onnx_export.graph_files import graph_files
from freerun.search.bound import LengthBound
from freerun.symbols import EOS
from tests.exported import write_model
from tests.networks import network
from tests.unit.test_export import put

ROOT = Path(__file__).parents[2]
# the command, which says when it runs a graph
COMMAND = """
import os
import sys
from freerun.cli import main
from freerun.runtime import compiled_model
from freerun.runtime.compiled_stepper import CompiledStepper
from freerun.runtime.session import Session

def telling(run):
    def told(self, *arguments, **named):
        if sys.argv[1] == self.location.name:
            sys.argv[1] = ""
            print("running", file=sys.stderr, flush=True)
        return run(self, *arguments, **named)
    return told

Session.run, Session.run_with_ort_values = telling(Session.run), telling(Session.run_with_ort_values)

def compiled(call, stop, interruptible=compiled_model.interruptible):
    os.write(2, b"running\\n")  # whole, though several threads say it
    return interruptible(call, stop)

def started(self, *arguments, start=CompiledStepper.start):
    start(self, *arguments)
    os.write(2, b"running\\n")

compiled_model.interruptible = compiled
CompiledStepper.start = started
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A bundle of a model that never writes EOS."""
    folder = tmp_path_factory.mktemp("endless") / "bundle"
    model = network(1, torch.float32, hidden_size=384, embedding_size=16, scale=0.05)
    with torch.no_grad():
        model.decoder.output_bias[EOS] = -1e6
    bundle = write_model(folder, model, bound=LengthBound(1, 1.0, 2**19))
    for name, content in graph_files(bundle, "fp32").items():
        put(folder, name, content)
    return folder


@pytest.mark.parametrize(
    ("graph", "options"),
    [
        ("greedy.onnx", ["--runtime", "onnx"]),
        ("step.onnx", ["--runtime", "onnx", "--beam-size", "4"]),
        ("step.onnx", ["--runtime", "onnx", "--sample"]),
        ("greedy.npz", ["--beam-size", "4"]),
        ("greedy.npz", [*["c"] * 60, "--beam-size", "4", "--threads", "2"]),
        ("greedy.npz", ["--sample"]),
        ("greedy.npz", []),
        ("greedy.npz", ["c"] * 60),
        ("greedy.npz", [*["c"] * 60, "--threads", "2"]),
    ],
)
def test_ctrl_c_ends_a_prediction(endless, graph, options):
    command = [sys.executable, "-c", COMMAND, graph, "predict", str(endless), "a b c", "b", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, encoding="utf-8", **pipes) as process:
        try:
            assert process.stderr.readline() == "running\n"
            time.sleep(0.5)
            assert process.poll() is None
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            assert time.monotonic() - start < 5  # undisturbed: half a minute and more
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert set(err.split("\n")) <= {"", "interrupted", "running"}
