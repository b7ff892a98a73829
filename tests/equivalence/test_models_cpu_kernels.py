"""The CPU kernels are the loop over the cell equations: values and gradients, odd shapes, bf16, a step at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freerun.models import recurrence
from freerun.models.cpu_kernels import run_sequence
from freerun.models.recurrence import RecurrentLayer
from freerun.models.token_inputs import Tokens
from freerun.training.precision import autocast, bf16_is_fast
from tests.networks import COMPILED_CELLS, close, draw, gradients, layer, randomise, some_of

each_cell = pytest.mark.parametrize("cell", COMPILED_CELLS)
LENGTHS = torch.tensor([5, 1, 6, 3])


def state_of(cell, rows, size, dtype=torch.float64):
    h, c = draw(rows, size, seed=1, dtype=dtype), draw(rows, size, seed=2, dtype=dtype)
    return (h, c) if cell == "lstm" else (h,)


def run(of, inputs, state, lengths, wanted):
    outputs, *last = of.sequence(inputs, *state, lengths_B=lengths)
    steps = torch.arange(len(outputs)).unsqueeze(1)
    real = outputs if lengths is None else outputs[steps < lengths]
    results = [real, *(value for value in last if value is not None)]
    return results, gradients(some_of(*results), *wanted, *state, *of.parameters())


@given(
    cell=st.sampled_from(COMPILED_CELLS),
    steps=st.integers(1, 5),
    rows=st.integers(1, 4),
    inputs=st.integers(1, 3),
    size=st.integers(1, 5),
    data=st.data(),
)
def test_every_shape(cell, steps, rows, inputs, size, data):
    lengths = data.draw(st.none() | st.lists(st.integers(1, steps), min_size=rows, max_size=rows))
    lengths = None if lengths is None else torch.tensor(lengths)
    values, state = draw(steps, rows, inputs), state_of(cell, rows, size)
    core, loop = (layer(cell, inputs, size, backend) for backend in ("auto", "reference"))
    close(run(core, values, state, lengths, [values]), run(loop, values, state, lengths, [values]))


@each_cell
@pytest.mark.parametrize("part", ["outputs", "h", "c"])
def test_each_result_has_its_gradient_alone(cell, part):
    """What comes from above may be the outputs', the last state's, or both."""
    values, state, found = draw(6, 4, 3), state_of(cell, 4, 4), []
    for backend in ("auto", "reference"):
        of = layer(cell, backend=backend)
        results = dict(zip(("outputs", "h", "c"), of.sequence(values, *state, lengths_B=LENGTHS), strict=True))
        if results[part] is None:
            return
        chosen = results[part][torch.arange(6).unsqueeze(1) < LENGTHS] if part == "outputs" else results[part]
        wanted = [values, of.weight_ih, of.weight_hh, of.bias_ih, of.bias_hh]
        found.append(gradients(some_of(chosen), *wanted))
    close(*found)


@each_cell
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("summary", [0, 2])
@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("vocabulary", [7, 100])
def test_tokens_are_their_embeddings(cell, masked, summary, context, vocabulary):
    """By a table where the vocabulary is small, else written out; beside dropout, and inputs that are the same at every
    step, of these widths."""
    ids = torch.randint(0, vocabulary, (6, 4), generator=torch.Generator().manual_seed(0))
    embedding = draw(vocabulary, 3)
    mask = torch.tensor([0.0, 2.0], dtype=torch.float64)[torch.arange(24).reshape(6, 4, 1) % 2] if masked else None
    constants = [draw(4, size, seed=5 + size) if size else None for size in (summary, context)]
    wanted = [embedding, *(each for each in constants if each is not None)]
    of, loop = (layer(cell, 3 + summary + context, backend=backend) for backend in ("auto", "reference"))
    tokens, state = Tokens(ids, embedding, mask, *constants), state_of(cell, 4, 4)
    assert tokens.materialized().shape == (6, 4, 3 + summary + context)
    close(run(of, tokens, state, LENGTHS, wanted), run(loop, tokens.materialized(), state, LENGTHS, wanted))


@pytest.mark.parametrize(("vocabulary", "by_table"), [(24, True), (25, False)])
def test_a_table_is_made_only_while_it_has_no_more_rows_than_there_are_tokens(vocabulary, by_table, monkeypatch):
    given, run_sequence = [], recurrence.run_sequence
    monkeypatch.setattr(recurrence, "run_sequence", lambda *values: given.append(values) or run_sequence(*values))
    layer("lstm", backend="auto").sequence(Tokens(torch.zeros(6, 4, dtype=torch.int64), draw(vocabulary, 3)))
    ((_, gates, ids_TB, *_),) = given
    assert (gates.shape == (vocabulary, 16), ids_TB is not None) == (by_table, by_table)


@each_cell
@pytest.mark.parametrize("value", [1e4, -1e4])
def test_saturated_gates_have_finite_gradients(cell, value):
    of = layer(cell, backend="auto", dtype=torch.float32)
    values = torch.full((3, 2, 3), value, requires_grad=True)
    results, found = run(of, values, (), None, [values])
    assert all(tensor.isfinite().all() for tensor in [*results, *found])


@each_cell
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_lean_steps_are_the_sequence(cell, context):
    of, inputs, state = layer(cell, backend="auto"), draw(6, 4, 3), state_of(cell, 4, 4)
    expected = [value.detach() for value in of.sequence(inputs, *state) if value is not None]
    h, c = state[0], state[1] if cell == "lstm" else None
    with context():
        weights, hs = of.step_weights(), []
        assert weights is not None
        for values in inputs:
            before = [value.clone() for value in (h, c) if value is not None]
            given_gates = of.input_gates(values)
            kept = given_gates.clone()
            old, (h, c) = (h, c), of.step(given_gates, h, c, weights)
            close([value for value in old if value is not None], before, 0.0)
            close(given_gates, kept, 0.0)
            hs.append(h)
        close([torch.stack(hs), h, *([] if c is None else [c])], expected)


def test_steps_with_gradients_are_not_lean():
    of = layer("lstm", backend="auto")
    assert of.step_weights() is None
    with torch.no_grad():
        assert layer("lstm", backend="reference").step_weights() is None


@each_cell
def test_a_graph_can_be_gone_back_through_twice(cell):
    """Nothing that the backward pass needs is overwritten by it."""
    of, values = layer(cell, backend="auto"), draw(6, 4, 3)
    results = [value for value in of.sequence(values, lengths_B=LENGTHS) if value is not None]
    loss = some_of(*results)
    close(gradients(loss, values, *of.parameters()), gradients(loss, values, *of.parameters()), 0.0)


# --------------------------------------------------------------------------------------------------------------- bf16

needs_bf16 = pytest.mark.skipif(not bf16_is_fast(), reason="this processor has no bf16")


def large(cell, backend):
    return randomise(RecurrentLayer(cell, 32, 48, backend), scale=0.25, dtype=torch.float32)


@needs_bf16
@each_cell
def test_bf16_is_near_fp32(cell):
    values, state = draw(12, 8, 32, dtype=torch.float32), state_of(cell, 8, 48, torch.float32)
    lengths = torch.tensor([12, 1, 7, 12, 3, 9, 12, 5])
    exact, exact_gradients = run(large(cell, "reference"), values, state, lengths, [values])
    with autocast("bf16"):
        low, low_gradients = run(large(cell, "auto"), values, state, lengths, [values])
    assert low[0].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in low[1:])
    close([value.float() for value in low], exact, 0.03)
    for found, expected in zip(low_gradients, exact_gradients, strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.03 * expected.norm()


@needs_bf16
@each_cell
def test_lean_steps_in_bf16_are_the_sequence_in_bf16(cell):
    of, inputs, state = large(cell, "auto"), draw(12, 8, 32, dtype=torch.float32), state_of(cell, 8, 48, torch.float32)
    with torch.no_grad(), autocast("bf16"):
        expected, *_ = of.sequence(inputs, *state)
        weights, h, c = of.step_weights(), state[0], state[1] if cell == "lstm" else None
        for values, one in zip(inputs, expected, strict=True):
            h, c = of.step(of.input_gates(values), h, c, weights)
            assert h.dtype == torch.float32
            close(h, one.float(), 0.02)


@needs_bf16
def test_a_small_increment_is_not_lost_in_the_cell_state():
    """c is summed in fp32: in bf16 1 + 1/512 is 1."""
    of = RecurrentLayer("lstm", 1, 1, "auto")
    with torch.no_grad():
        for parameter in of.parameters():
            parameter.zero_()
        of.bias_ih.copy_(torch.tensor([30.0, 30.0, torch.atanh(torch.tensor(1 / 512)), 30.0]))
    with autocast("bf16"):
        _, _, c = of.sequence(torch.zeros(256, 1, 1), torch.zeros(1, 1), torch.ones(1, 1))
    assert c.item() == pytest.approx(1.5, abs=0.01)


@needs_bf16
def test_the_gradient_of_the_inputs_share_is_not_rounded():
    of = large("lstm", "auto")
    gates = draw(5, 3, 192, dtype=torch.float32)
    with autocast("bf16"):
        outputs, h, c = run_sequence("lstm", gates, None, of.weight_hh, None, None, None, None)
    (found,) = gradients(some_of(outputs, h, c), gates)
    assert (found != found.bfloat16().float()).any()


@needs_bf16
@each_cell
def test_the_gradient_of_a_token_is_summed_in_fp32(cell):
    """4,096 places of one token: in bf16 a sum stops growing at 256 times what is added."""
    ids, found = torch.zeros(64, 64, dtype=torch.int64), []
    for backend, kind in (("reference", "fp32"), ("auto", "bf16")):
        of, embedding = large(cell, backend), draw(2, 32, dtype=torch.float32)
        with autocast(kind):
            outputs, *_ = of.sequence(Tokens(ids, embedding))
        found.append(gradients(outputs.float().sum(), embedding)[0])
    assert (found[1] - found[0]).norm() < 0.03 * found[0].norm()
