"""Recurrent layers: the cell equations, all backends and torch.nn are one thing, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from freerun import architecture
from freerun.models.cells import CELL_FUNCTIONS
from freerun.models.recurrence import BACKENDS
from tests.networks import BACKENDS as BACKEND_NAMES
from tests.networks import CELLS, TORCH, close, draw, gradients, layer, some_of
from tests.oracle import run_layer

each_cell = pytest.mark.parametrize("cell", CELLS)
each_backend = pytest.mark.parametrize("backend", BACKEND_NAMES)
# torch's kernels for the two types are different code: in float32 they are oneDNN's
each_type = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
LENGTHS = torch.tensor([5, 1, 6, 3])


def initial(cell, rows=4, size=4, dtype=torch.float64):
    h, c = draw(rows, size, seed=1, dtype=dtype), draw(rows, size, seed=2, dtype=dtype)
    return (h, c) if cell == "lstm" else (h,)


def torch_module(cell, of):
    module = TORCH[cell](of.input_size, of.hidden_size, dtype=torch.float64)
    module.load_state_dict({f"{name}_l0": value for name, value in of.state_dict().items()})
    return module


def run(of, inputs, state=(), lengths=None, real_only=False):
    """Values and gradients of everything that comes out, for everything that goes in."""
    outputs, *last = of.sequence(inputs, *state, **({} if lengths is None else {"lengths_B": lengths}))
    last = [value for value in last if value is not None]
    if real_only:
        outputs = outputs[torch.arange(len(inputs)).unsqueeze(1) < lengths]
    results = [outputs, *last]
    return results, gradients(some_of(*results), inputs, *state, *of.parameters())


@each_backend
@pytest.mark.parametrize("cell", TORCH)
def test_a_layer_is_that_of_torch(cell, backend):
    ours, inputs, state = layer(cell, backend=backend), draw(6, 4, 3), initial(cell)
    theirs = torch_module(cell, ours)
    given = tuple(value.unsqueeze(0) for value in state)
    outputs, last = theirs(inputs, given if cell == "lstm" else given[0])
    results = [outputs, *(value.squeeze(0) for value in (last if cell == "lstm" else [last]))]
    expected = results, gradients(some_of(*results), inputs, *state, *theirs.parameters())
    close(run(ours, inputs, state), expected)


@each_backend
@each_cell
def test_the_state_before_the_first_step_is_zero_unless_given(cell, backend):
    of, inputs = layer(cell, backend=backend), draw(3, 4, 3)
    zeros = [torch.zeros_like(value) for value in initial(cell)]
    close(
        list(filter(torch.is_tensor, of.sequence(inputs))), list(filter(torch.is_tensor, of.sequence(inputs, *zeros)))
    )


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("backend", ["fused", "auto"])
@each_type
@each_cell
def test_the_reference_loop_is_every_backend(cell, dtype, tolerance, backend, lengths, with_state):
    inputs = draw(6, 4, 3, dtype=dtype)
    state = initial(cell, dtype=dtype) if with_state else ()
    loop, other = (
        run(layer(cell, backend=each, dtype=dtype), inputs, state, lengths, lengths is not None)
        for each in ("reference", backend)
    )
    close(other, loop, tolerance)


@each_backend
@each_type
@each_cell
def test_padding_changes_nothing(cell, dtype, tolerance, backend):
    of, inputs, state = (
        layer(cell, backend=backend, dtype=dtype),
        draw(6, 4, 3, dtype=dtype),
        initial(cell, dtype=dtype),
    )
    outputs, *last = of.sequence(inputs, *state, lengths_B=LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = of.sequence(inputs[:length, [row]], *(value[[row]] for value in state))
        close(outputs[:length, [row]], alone[0], tolerance)
        close([value[[row]] for value in last if value is not None], [v for v in alone[1:] if v is not None], tolerance)


@each_backend
@each_type
@each_cell
def test_what_stands_on_padding_is_without_effect(cell, dtype, tolerance, backend):
    of, state = layer(cell, backend=backend, dtype=dtype), initial(cell, dtype=dtype)
    inputs = draw(6, 4, 3, dtype=dtype).detach()
    padding = torch.arange(6).unsqueeze(1) >= LENGTHS
    wild = inputs.masked_fill(padding.unsqueeze(2), -50.0)
    tame = run(of, inputs.requires_grad_(), state, LENGTHS, real_only=True)
    disturbed = run(of, wild.requires_grad_(), state, LENGTHS, real_only=True)
    close(disturbed, tame, tolerance)
    assert disturbed[1][0][padding].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@each_backend
@each_cell
def test_a_long_padding_carries_the_very_state(cell, backend, dtype):
    of, inputs = layer(cell, backend=backend, dtype=dtype), 20 * draw(200, 2, 3, dtype=dtype).detach()
    lengths = torch.tensor([2, 200])
    outputs, h, c = of.sequence(inputs, lengths_B=lengths)
    # the input projection of fewer steps may round differently, which only saturated gates hide
    steps = 3 if cell in TORCH else 200
    short = of.sequence(inputs[:steps], lengths_B=torch.tensor([2, 3]))
    assert outputs.isfinite().all()
    assert h[0].equal(short[1][0])
    assert cell != "lstm" or c[0].equal(short[2][0])


@each_backend
@each_cell
def test_steps_are_the_sequence(cell, backend):
    of, inputs, state = layer(cell, backend=backend), draw(6, 4, 3), initial(cell)
    (outputs, *last), expected = run(of, inputs, state)
    h, c = state[0], state[1] if cell == "lstm" else None
    hs = []
    for values in inputs:
        h, c = of.step(of.input_gates(values), h, c)
        hs.append(h)
    results = [torch.stack(hs), h, *([] if c is None else [c])]
    close(results, [outputs, *last])
    close(gradients(some_of(*results), inputs, *state, *of.parameters()), expected)


@each_cell
@each_backend
def test_a_layer_is_the_equations(cell, backend):
    of, inputs, state = layer(cell, backend=backend), draw(5, 1, 3), [value[:1] for value in initial("lstm")]
    outputs, h, c = of.sequence(inputs, *state[: 2 if cell == "lstm" else 1])
    weights = {f"layer.{name}": parameter for name, parameter in of.named_parameters()}
    start = state[0][0], state[1][0] if cell == "lstm" else None
    expected, (last_h, last_c) = run_layer(cell, weights, "layer", inputs[:, 0], start)
    results = [outputs[:, 0], h[0], *([] if c is None else [c[0]])]
    by_the_book = [torch.stack(expected), last_h, *([] if last_c is None else [last_c])]
    close(results, by_the_book)
    wanted = [inputs, *state[: 2 if cell == "lstm" else 1], *of.parameters()]
    close(gradients(some_of(*results), *wanted), gradients(some_of(*by_the_book), *wanted))


@each_cell
def test_the_reference_loop_calls_no_recurrent_kernel_of_torch(cell, monkeypatch):
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"):
        monkeypatch.delattr(torch, name)
    run(layer(cell), draw(6, 4, 3), initial(cell), LENGTHS)
    if cell not in TORCH:
        return
    with pytest.raises(AttributeError):
        run(layer(cell, backend="fused"), draw(6, 4, 3), initial(cell), LENGTHS)


# ------------------------------------------------------------------------------------------- modes of the fused kernels


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@each_type
@each_cell
def test_gradients_flow_in_both_modes_of_a_module(cell, dtype, tolerance, lengths):
    of, inputs, state = (
        layer(cell, backend="fused", dtype=dtype),
        draw(6, 4, 3, dtype=dtype),
        initial(cell, dtype=dtype),
    )
    expected = run(layer(cell, dtype=dtype), inputs, state, lengths, lengths is not None)
    for mode in (True, False):
        close(run(of.train(mode), inputs, state, lengths, lengths is not None), expected, tolerance)


@pytest.mark.parametrize("cell", TORCH)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_kernel_is_told_to_train_when_gradients_are_wanted(cell, training, wanted, monkeypatch):
    """On a CPU it does not matter, but a GPU's kernel has no backward pass otherwise."""
    name, told = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}[cell], []
    kernel = getattr(torch, name)
    monkeypatch.setattr(torch, name, lambda *given: told.append(given[6]) or kernel(*given))
    with torch.set_grad_enabled(wanted):
        layer(cell, backend="fused").train(training).sequence(draw(6, 4, 3))
    assert told == [wanted]


@each_type
@each_cell
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@each_backend
def test_values_do_not_depend_on_whether_gradients_are_wanted(
    cell, dtype, tolerance, training, context, lengths, backend
):
    of, inputs = layer(cell, backend=backend, dtype=dtype).train(training), draw(6, 4, 3, dtype=dtype)
    wanted = [value for value in of.sequence(inputs, lengths_B=lengths) if value is not None]
    with context():
        unwanted = [value for value in of.sequence(inputs, lengths_B=lengths) if value is not None]
    assert not any(value.requires_grad for value in unwanted)
    close([value.clone() for value in unwanted], [value.detach() for value in wanted], tolerance)


def test_every_backend_is_tested():
    assert set(BACKENDS) == set(BACKEND_NAMES)


# ------------------------------------------------------------------------------------------------------ parallel scans

SCANNED = [name for name, functions in CELL_FUNCTIONS.items() if functions.scan is not None]


@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.parametrize("cell", SCANNED)
def test_a_scan_is_the_loop_over_steps(cell, steps):
    """Values and gradients, from a state of either sign: a bridge makes negative ones, which have no logarithm."""
    inputs, state = draw(steps, 4, 3), initial(cell)
    assert (state[0] < 0).any() and (state[0] > 0).any()
    scanned, looped = (run(layer(cell, backend=backend), inputs, state) for backend in ("auto", "reference"))
    close(scanned, looped)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e3])
@pytest.mark.parametrize("cell", SCANNED)
def test_a_scan_is_finite_where_gates_are_open_or_shut(cell, scale):
    gates, h = scale * draw(50, 4, 8).detach(), draw(4, 4, seed=1)
    outputs = CELL_FUNCTIONS[cell].scan(gates.requires_grad_(), h)
    assert outputs.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(some_of(outputs), gates, h))
    expected = []
    for each in gates:
        h = CELL_FUNCTIONS[cell].step(each, each, h, None)[0]
        expected.append(h)
    close(outputs, torch.stack(expected), 1e-8 * max(1.0, scale))


def test_a_cell_whose_gates_do_not_read_the_state_has_a_scan():
    assert [name for name, spec in architecture.CELLS.items() if not spec.is_recurrent] == SCANNED


@pytest.mark.parametrize("value", [-0.5, 0.0, -80.0])
@pytest.mark.parametrize("cell", SCANNED)
def test_a_scan_has_the_gradients_of_the_loop_where_a_logarithm_has_a_pole(cell, value):
    gates, h = torch.full((3, 2, 8), value, dtype=torch.float64, requires_grad=True), draw(2, 4, seed=1)
    scanned = CELL_FUNCTIONS[cell].scan(gates, h)
    state, looped = h, []
    for each in gates:
        state = CELL_FUNCTIONS[cell].step(each, each, state, None)[0]
        looped.append(state)
    close(gradients(some_of(scanned), gates, h), gradients(some_of(torch.stack(looped)), gates, h))


@pytest.mark.parametrize("cell", SCANNED)
def test_a_scan_adds_up_in_full_precision_whatever_that_of_its_gates(cell):
    gates, h = draw(200, 4, 8).detach().bfloat16(), draw(4, 4, seed=1).detach().float()
    outputs = CELL_FUNCTIONS[cell].scan(gates, h)
    assert outputs.dtype == torch.float32
    close(outputs, CELL_FUNCTIONS[cell].scan(gates.float(), h), 0.0)
