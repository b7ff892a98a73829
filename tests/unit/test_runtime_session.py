"""Running graphs: what they give is checked, what they raise is about the bundle, and signals end long runs."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from freerun.errors import BundleError
from freerun.onnx_export.graph import FLOAT, INT64, Graph, model_of
from freerun.runtime.interruptible import interruptible
from freerun.runtime.onnx_greedy import OnnxGreedy
from freerun.runtime.onnx_stepper import OnnxStepper
from freerun.runtime.session import Session, open_session
from freerun.symbols import NEVER_WRITTEN
from tests.exported import GraphsOf, sources
from tests.networks import network

SOURCES = [[4, 5, 2], [6, 2]]
BOUNDS = [4, 4]


class Giving:
    """A session that gives the arrays of the test."""

    def __init__(self, **arrays):
        self.arrays = arrays

    def get_outputs(self):
        return [type("Output", (), {"name": name}) for name in self.arrays]

    def run(self, names, _):
        return [self.arrays[name] for name in names]

    def run_with_ort_values(self, names, _):
        from onnxruntime import OrtValue

        return [OrtValue.ortvalue_from_numpy(self.arrays[name]) for name in names]


class GraphsGiving:
    """Stands for ``Graphs``: sessions that give arrays."""

    vocabulary_size = 9
    has_features = False

    def __init__(self, **arrays):
        self._arrays = arrays

    def session(self, name):
        return Session(Giving(**self._arrays[name]), 1, f"bundle/{name}.onnx")


def told(call):
    with pytest.raises(BundleError) as error:
        call()
    message = str(error.value)
    assert message.endswith(". Expected a graph that freerun exported. Export again: freerun export MODEL.")
    return message.split(". Expected")[0]


# -------------------------------------------------------------------------------------------------------------- greedy


def greedy(tokens, scores=None, bounds=BOUNDS):
    tokens = np.array(tokens, np.int64)
    scores = np.full(tokens.shape, -1, np.float32) if scores is None else np.array(scores, np.float32)
    return OnnxGreedy(GraphsGiving(greedy={"tokens": tokens, "scores": scores}))(SOURCES, bounds)


def test_outputs_end_where_they_say_or_at_the_bound():
    found = greedy([[4, 8, 2, 0], [5, 5, 5, 5]], [[-1, -2, -3, 0], [-1, -1, -1, -1]])
    assert [(h.ids, h.score, h.truncated) for h in found] == [((4, 8), -6, False), ((5, 5, 5, 5), -4, True)]
    assert [h.ids for h in greedy([[2], [2]])] == [(), ()]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([[4, 9, 2], [2, 0, 0]], "the graph wrote an id outside 0 to 8"),
        ([[4, -1, 2], [2, 0, 0]], "the graph wrote an id outside 0 to 8"),
        ([[2, 0, 0], [4, 2**62, 2]], "the graph wrote an id outside 0 to 8"),
        ([[4, 4, 4], [2, 0, 0]], "the graph wrote 3 ids without an end token, but the length bound is 4"),
        ([[], []], "the graph wrote 0 ids without an end token, but the length bound is 4"),
        ([[4, 2]], "the graph returned tokens int64 (1, 2) and scores float32 (1, 2) for 2 sources"),
        ([4, 2], "the graph returned tokens int64 (2,) and scores float32 (2,) for 2 sources"),
        ([[[4, 2]], [[4, 2]]], "the graph returned tokens int64 (2, 1, 2) and scores float32 (2, 1, 2) for 2 sources"),
    ],
)
def test_ids_that_are_no_output_are_told(tokens, expected):
    assert told(lambda: greedy(tokens)) == f"bundle/greedy.onnx: damaged: {expected}"


def test_scores_that_are_not_those_of_the_tokens_are_told():
    assert "tokens int64 (2, 2) and scores float32 (2, 1)" in told(lambda: greedy([[4, 2], [4, 2]], [[-1], [-1]]))
    arrays = {"tokens": np.array([[4, 2], [4, 2]], np.int32), "scores": np.zeros((2, 2), np.float32)}
    assert "tokens int32 (2, 2)" in told(lambda: OnnxGreedy(GraphsGiving(greedy=arrays))(SOURCES, BOUNDS))


@pytest.mark.parametrize("token", NEVER_WRITTEN)
def test_a_token_that_is_never_written_has_a_score_that_is_no_number(token):
    first, second = greedy([[4, token, 5, 2], [4, 2, 0, 0]])
    assert np.isnan([first.score, first.rank_score, *first.token_scores]).all()
    assert second.score == -2


def test_a_model_whose_numbers_overflow_gives_a_score_that_is_no_number():
    model = network(2, torch.float32, scale=1.5)
    with torch.no_grad():
        model.decoder.output_weight.fill_(3e38)
        model.decoder.output_bias.fill_(3e38)
    (found,) = OnnxGreedy(GraphsOf(model))([[4, 2]], [5])
    assert np.isnan(found.score)


# ------------------------------------------------------------------------------------------------------------- stepper

STATE = np.zeros((2, 3), np.float32)
ALL = np.arange(2)


def stepper(**arrays):
    rows = {
        "new_state": STATE,
        "log_probs": np.zeros((2, 9), np.float32),
        "ids": np.full((2, 1), 4),
        "best": np.zeros((2, 1), np.float32),
        **arrays,
    }
    made = OnnxStepper(GraphsGiving(encoder={"state": STATE}, step=rows))
    made.start(*sources(SOURCES))
    return made


def step(k=1, **arrays):
    return stepper(**arrays).step(np.array([1, 1]), ALL, k, NEVER_WRITTEN)


def test_a_step_gives_what_the_graph_gives():
    assert step()[0].tolist() == [[4], [4]]
    assert step(ids=np.array([[0], [8]]))[0].tolist() == [[0], [8]]


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"ids": np.array([[4], [9]])}, "the graph returned an id outside 0 to 8"),
        ({"ids": np.array([[-1], [4]])}, "the graph returned an id outside 0 to 8"),
        ({"ids": np.array([[4]])}, "the graph returned ids (1, 1) and scores (2, 1) for the 1 best of 2 rows"),
        (
            {"ids": np.array([[4, 5], [4, 5]])},
            "the graph returned ids (2, 2) and scores (2, 1) for the 1 best of 2 rows",
        ),
        (
            {"ids": np.array([[4, 5], [4, 5]]), "best": np.zeros((2, 2), np.float32)},
            "the graph returned ids (2, 2) and scores (2, 2) for the 1 best of 2 rows",
        ),
        (
            {"best": np.zeros((2, 2), np.float32)},
            "the graph returned ids (2, 1) and scores (2, 2) for the 1 best of 2 rows",
        ),
    ],
)
def test_ids_that_are_no_best_tokens_are_told(arrays, expected):
    assert told(lambda: step(**arrays)) == f"bundle/step.onnx: damaged: {expected}"


@pytest.mark.parametrize("shape", [(2, 8), (1, 9), (2, 9, 1)])
def test_log_probabilities_of_another_shape_are_told(shape):
    expected = f"bundle/step.onnx: damaged: the graph returned log-probabilities {shape} for 2 rows and 9 ids"
    assert told(lambda: step(k=None, log_probs=np.zeros(shape, np.float32))) == expected

    def scored():
        made = stepper(log_probs=np.zeros(shape, np.float32))
        made.step(np.array([1, 1]), ALL, 1, NEVER_WRITTEN)
        made.log_prob_of(np.array([4, 4]))

    assert told(scored) == expected


@pytest.mark.parametrize(("name", "value"), [("state", STATE[:1]), ("memory", STATE[:1]), ("memory", np.float32(1))])
def test_an_encoder_gives_a_row_for_each_source(name, value):
    made = OnnxStepper(GraphsGiving(encoder={"state": STATE, name: np.asarray(value)}))
    expected = f"bundle/encoder.onnx: damaged: the graph returned {name} {[*np.shape(value)]} for 2 sources"
    assert told(lambda: made.start(*sources(SOURCES))) == expected


# -------------------------------------------------------------------------------------------------------------- errors


def test_an_error_of_onnxruntime_is_about_the_bundle():
    message = told(lambda: OnnxGreedy(GraphsOf(network(1, torch.float32)))([[4, 99, 2]], [3]))
    assert (
        message.startswith("greedy: damaged: onnxruntime failed (") and "indices element out of data bounds" in message
    )
    assert "\n" not in message and len(message) < 300


def test_an_error_of_a_signals_handler_is_not(monkeypatch):
    def interrupted(*_, **__):
        raise TimeoutError("enough")

    made = Giving()
    made.run = interrupted
    with pytest.raises(TimeoutError, match="enough"):
        Session(made, 1, "x").run([], {})
    monkeypatch.setattr("onnxruntime.InferenceSession", interrupted)
    with pytest.raises(TimeoutError, match="enough"):
        open_session(b"", 1, "x")


def test_in_a_long_run_too(monkeypatch):
    monkeypatch.setattr("freerun.runtime.session._SHORT", 0)
    test_an_error_of_onnxruntime_is_about_the_bundle()


# ------------------------------------------------------------------------------------------------------------- signals


def endless():
    """A graph whose loop takes as many steps as it is told."""
    graph = Graph("endless")
    steps = graph.input("steps", INT64, [])
    x = graph.input("x", FLOAT, [64, 64])
    body = graph.inside("body")
    body.input("iteration", INT64, [])
    go = body.input("go", 9, [])
    before = body.input("before", FLOAT, [64, 64])
    body.output(body.op("Identity", go), 9, [])
    body.output(body.op("Tanh", body.op("MatMul", before, before)), FLOAT, [64, 64])
    (after,) = graph.ops("Loop", steps, "", x, count=1, attributes={"body": body.finished()})
    graph.output(after, FLOAT, [64, 64], "y")
    return open_session(model_of(graph, {}), 1, "endless.onnx")


MANY = 3 * 10**6
"""Steps that take a quarter of a minute and more."""


def feeds(steps):
    return {"steps": np.array(steps), "x": np.zeros((64, 64), np.float32)}


def after(seconds, act):
    timer = threading.Timer(seconds, act)
    timer.start()
    return timer


@pytest.fixture
def interrupt():
    """Sends SIGINT to this process soon."""
    timers = []
    yield lambda: timers.append(after(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    for timer in timers:
        timer.join()


def test_ctrl_c_ends_a_long_run(interrupt):
    session = endless()
    threads = threading.active_count()
    interrupt()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        session.run(["y"], feeds(MANY), steps=MANY)
    assert time.monotonic() - start < 5
    time.sleep(0.5)  # the timer's thread, too
    assert threading.active_count() <= threads
    assert session.run(["y"], feeds(3), steps=MANY)[0].shape == (64, 64)  # and leaves the graph as it was


def test_the_hosts_own_handler_runs_during_a_long_run(interrupt):
    seen = []

    def handler(*_):
        seen.append(time.monotonic())
        raise TimeoutError("enough")

    session = endless()
    before = signal.signal(signal.SIGINT, handler)
    try:
        interrupt()
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="enough"):
            session.run(["y"], feeds(MANY), steps=MANY)
        assert time.monotonic() - start < 5
        assert len(seen) == 1 and signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_short_runs_and_other_threads_need_no_thread_of_their_own(monkeypatch):
    monkeypatch.setattr(threading, "Thread", lambda **_: pytest.fail("a thread was started"))
    session = endless()
    assert session.run(None, feeds(2))[0].shape == (64, 64)
    monkeypatch.undo()
    found = []
    thread = threading.Thread(target=lambda: found.append(interruptible(threading.current_thread, lambda: None)))
    thread.start()
    thread.join()
    assert found == [thread]


class Telling(Giving):
    """A session that says whether it runs in the main thread, and with how many arguments."""

    def run(self, *arguments):
        return [threading.current_thread() is threading.main_thread(), len(arguments)]

    run_with_ort_values = run


@pytest.mark.parametrize("method", ["run", "run_with_ort_values"])
@pytest.mark.parametrize(
    ("rows", "steps", "alone"), [(1, 1, True), (1, 10**4, False), (10**6, 1, False), (1, 300, True), (0, 10**6, False)]
)
def test_what_may_take_long_has_a_thread_of_its_own(method, rows, steps, alone):
    """For a graph of 5 MB: 1,000 reads of all weights take about half a second."""
    session = Session(Telling(), 5_000_000, "x")
    assert getattr(session, method)([], {}, rows, steps) == [alone, 2 if alone else 3]


def test_greedy_decoding_and_the_encoder_say_how_long_they_may_take(monkeypatch):
    """Rows, and steps: source positions, and for greedy decoding the tokens of the longest output, with its end."""
    seen = []
    monkeypatch.setattr(Session, "run", lambda *arguments, **named: seen.append(named) or 1 / 0)
    monkeypatch.setattr(Session, "run_with_ort_values", lambda *arguments: seen.append(arguments[3:]) or 1 / 0)
    graphs = GraphsOf(network(1, torch.float32))
    with pytest.raises(ZeroDivisionError):
        OnnxGreedy(graphs)(SOURCES, [7, 900])
    with pytest.raises(ZeroDivisionError):
        OnnxStepper(graphs).start(*sources(SOURCES))
    assert seen == [{"rows": 2, "steps": 3 + 901}, (2, 3)]


def test_results_and_errors_come_back():
    assert interruptible(lambda: 7, lambda: pytest.fail("stopped")) == 7
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0, lambda: pytest.fail("stopped"))


def test_a_call_that_does_not_stop_is_left_to_itself(monkeypatch, interrupt):
    monkeypatch.setattr("freerun.runtime.interruptible._MAX_WAIT", 0.1)
    released, stopped = threading.Event(), []
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        interruptible(released.wait, lambda: stopped.append(True))
    released.set()
    assert stopped == [True]


def test_a_call_has_ended_when_the_interrupt_is_raised(interrupt):
    stop, ended = threading.Event(), []

    def call():
        stop.wait()
        time.sleep(0.2)
        ended.append(True)

    interrupt()
    with pytest.raises(KeyboardInterrupt):
        interruptible(call, stop.set)
    assert ended == [True]
