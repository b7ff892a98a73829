"""The compiled attention of a step: its formulas, its types, factors that would overflow, and what is not a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freerun.models import compiled_attention as attention

SOURCES, ROWS, POSITIONS, HIDDEN, SIZE = 2, 6, 5, 7, 4
BY_VECTOR, BY_PRODUCT = "v . tanh(q + k)", "q . k"
each_score = pytest.mark.parametrize("score", [BY_VECTOR, BY_PRODUCT])


def numbers(*shape, seed=0, scale=1.0, dtype=np.float64):
    return (np.random.default_rng(seed).uniform(-scale, scale, shape)).astype(dtype)


class Step:
    """One step of three rows for each of two sources; the second source is shorter, with a gap."""

    def __init__(self, score, dtype=np.float64, scale=1.0, is_tanh=True):
        self.score, self.dtype, self.is_tanh = score, dtype, is_tanh or score == BY_PRODUCT
        self.h = numbers(ROWS, HIDDEN + SIZE, seed=1, scale=scale, dtype=dtype)
        width = (HIDDEN if score == BY_VECTOR else 0) + (SIZE if self.is_tanh else 0)
        self.products = numbers(ROWS, width, seed=2, scale=scale, dtype=dtype)
        self.keys = numbers(SOURCES, POSITIONS, HIDDEN, seed=3, scale=scale, dtype=dtype)
        self.values = numbers(SOURCES, POSITIONS, SIZE, seed=4, dtype=dtype)
        self.vector = numbers(HIDDEN, seed=5, dtype=dtype)
        self.real = np.array([[True] * POSITIONS, [True, True, False, True, False]])
        self.factors, self.small = np.empty_like(self.keys), np.empty(SOURCES, np.bool_)

    def run(self):
        """Return the weights and what is read."""
        self.weights = np.full((ROWS, POSITIONS), np.inf, self.dtype)  # memory that was never written
        self.inputs = numbers(ROWS, HIDDEN + SIZE, seed=6, dtype=self.dtype)
        before = self.inputs[:, :HIDDEN].copy()
        if self.score == BY_VECTOR:
            attention.factors(self.keys, self.real, self.factors, self.small)
            keys = (self.products, self.vector, self.keys, self.factors, self.small)
            attention.attend_by_sums(*keys, self.values, self.real, self.weights, self.inputs)
        else:
            given = (self.h, self.products, self.keys, self.values, self.real)
            attention.attend_by_products(*given, self.weights, self.inputs)
        assert np.array_equal(self.inputs[:, :HIDDEN], before)  # h is the cell's
        return self.weights, self.inputs[:, HIDDEN:]

    def operands(self):
        """Return what has a gradient, as tensors: queries, keys, values, v, what is added."""
        queries = self.products[:, :HIDDEN] if self.score == BY_VECTOR else self.h[:, :HIDDEN]
        added = self.products[:, -SIZE:] if self.is_tanh else np.zeros((ROWS, SIZE), self.dtype)
        given = (queries, self.keys, self.values, self.vector, added)
        return [torch.tensor(each.astype(np.float64), requires_grad=True) for each in given]

    def by_the_book(self, queries, keys, values, vector, added):
        """Return the weights and what is read, row by row."""
        weights, reads = [], []
        for row in range(ROWS):
            n = row // (ROWS // SOURCES)
            positions = [s for s in range(POSITIONS) if self.real[n, s]]
            if self.score == BY_VECTOR:
                scores = [vector @ torch.tanh(queries[row] + keys[n, s]) for s in positions]
            else:
                scores = [queries[row] @ keys[n, s] for s in positions]
            found = torch.softmax(torch.stack(scores), 0)
            mean = sum(weight * values[n, s] for weight, s in zip(found, positions, strict=True))
            weights.append(torch.zeros(POSITIONS, dtype=torch.float64).index_put((torch.tensor(positions),), found))
            reads.append(torch.tanh(mean + added[row]) if self.is_tanh else mean)
        return torch.stack(weights), torch.stack(reads)


KINDS = [(BY_VECTOR, True), (BY_VECTOR, False), (BY_PRODUCT, True)]


@pytest.mark.parametrize(("score", "is_tanh"), KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
@pytest.mark.parametrize("scale", [1.0, 15.0])
def test_weights_and_sums_are_those_of_the_formulas(score, is_tanh, dtype, tolerance, scale):
    step = Step(score, dtype, scale if score == BY_VECTOR else 1.0, is_tanh)
    weights, reads = step.run()
    expected_weights, expected_reads = step.by_the_book(*step.operands())
    assert np.abs(weights - expected_weights.detach().numpy()).max() < tolerance
    assert np.abs(reads - expected_reads.detach().numpy()).max() < tolerance
    assert (weights[3:][:, ~step.real[1]] == 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_queries_and_keys_beyond_every_factor_are_exact(dtype):
    """e^(2 q) is infinite and e^(2 k) is 0: their product says nothing about q + k."""
    far = 1000.0
    step = Step(BY_VECTOR, dtype, is_tanh=False)
    step.products[:, :HIDDEN] += far
    step.keys -= far
    expected, _ = step.by_the_book(*step.operands())
    assert np.abs(step.run()[0] - expected.detach().numpy()).max() < (1e-10 if dtype == np.float64 else 1e-3)
    assert not step.small.any()
    step.keys += far  # now the queries alone are too large
    expected, _ = step.by_the_book(*step.operands())
    assert np.abs(step.run()[0] - expected.detach().numpy()).max() < 1e-6
    assert step.small.all()


@pytest.mark.parametrize(
    ("dtype", "far"),
    [*((np.float64, far) for far in (169.0, 175.0, 360.0)), *((np.float32, far) for far in (20.0, 25.0, 45.0, 90.0))],
)
def test_factors_are_used_only_while_they_are_exact(dtype, far):
    """Up to a limit they and their product are finite; beyond it, where they no longer say anything, tanh is used."""
    step = Step(BY_VECTOR, dtype, is_tanh=False)
    step.products[:, :HIDDEN] += dtype(far)
    step.keys -= dtype(far)
    expected, _ = step.by_the_book(*step.operands())
    assert np.abs(step.run()[0] - expected.detach().numpy()).max() < (1e-10 if dtype == np.float64 else 5e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_softmax_of_large_scores_is_finite(sign):
    """Scores of dot products grow with the hidden size; e^1000 is infinite, and e^-1000 is 0 for every position."""
    step = Step(BY_PRODUCT)
    step.h[:] = sign * 400.0
    step.keys = np.abs(step.keys)
    expected, _ = step.by_the_book(*step.operands())
    assert np.abs(step.run()[0] - expected.detach().numpy()).max() < 1e-10


@pytest.mark.parametrize(("score", "is_tanh"), KINDS)
@pytest.mark.parametrize("far", [0.0, 500.0])
def test_gradients_are_those_of_the_formulas(score, is_tanh, far):
    step = Step(score, is_tanh=is_tanh)
    if score == BY_VECTOR:
        step.products[:, :HIDDEN] += far
        step.keys -= far
    step.run()
    d_inputs, d_given = numbers(ROWS, HIDDEN + SIZE, seed=7), numbers(ROWS, SIZE, seed=8)
    operands = step.operands()
    _, expected = step.by_the_book(*operands)
    (expected * torch.tensor(d_inputs[:, HIDDEN:] + d_given)).sum().backward()
    d_queries, d_keys, d_values, d_vector, d_added = (each.grad for each in operands)
    d_sums = np.empty((ROWS, SIZE))
    if score == BY_VECTOR:
        found_keys, found_vector = np.ones_like(step.keys), np.ones_like(step.vector)
        d_products = np.empty_like(step.products)
        attention.attend_by_sums_backward(
            *(d_inputs, d_given, step.inputs, step.products, step.vector, step.keys, step.factors, step.small),
            *(step.values, step.real, step.weights, d_products, d_sums, found_keys, found_vector),
        )
        assert np.abs(found_keys - 1 - d_keys.numpy()).max() < 1e-12  # added to what was there
        assert np.abs(found_vector - 1 - d_vector.numpy()).max() < 1e-12
        found_queries = d_products[:, :HIDDEN]
        if is_tanh:
            assert np.array_equal(d_products[:, HIDDEN:], d_sums)
    else:
        found_queries, d_scores = np.ones((ROWS, HIDDEN)), np.full((ROWS, POSITIONS), np.nan)
        attention.attend_by_products_backward(
            *(d_inputs, d_given, step.inputs, step.keys, step.values, step.real, step.weights),
            *(d_sums, d_scores, found_queries),
        )
        found_queries -= 1
        by_source = d_scores.reshape(SOURCES, -1, POSITIONS), step.h[:, :HIDDEN].reshape(SOURCES, -1, HIDDEN)
        assert np.abs(np.einsum("nks,nkh->nsh", *by_source) - d_keys.numpy()).max() < 1e-12
        assert (d_scores[3:][:, ~step.real[1]] == 0).all()
    assert np.abs(found_queries - d_queries.numpy()).max() < 1e-12
    if step.is_tanh:
        assert np.abs(d_sums - d_added.numpy()).max() < 1e-12
    by_source = step.weights.reshape(SOURCES, -1, POSITIONS), d_sums.reshape(SOURCES, -1, SIZE)
    assert np.abs(np.einsum("nks,nki->nsi", *by_source) - d_values.numpy()).max() < 1e-12


@each_score
def test_a_number_that_is_none_is_seen(score):
    """Training stops at a loss that is not finite; a comparison that swallowed NaN would hide it."""
    for name in ("products", "keys", "values"):
        step = Step(score)
        if name == "products" and score == BY_PRODUCT:
            name = "h"
        getattr(step, name)[0, 0] = np.nan
        assert np.isnan(step.run()[1][0]).any()


@each_score
def test_padding_is_not_read(score):
    """Whatever stands there, even NaN, and however much of it there is."""
    step = Step(score)
    expected = [each.copy() for each in step.run()]
    step.keys[1, ~step.real[1]] = np.nan
    step.values[1, ~step.real[1]] = np.nan
    assert all(map(np.array_equal, step.run(), expected))


@each_score
def test_bf16_operands_are_widened(score):
    """A step on 16 bits is the one on the same numbers in float32, rounded."""
    wide = Step(score, np.float32)
    for name in ("h", "products", "keys", "values"):
        setattr(wide, name, torch.tensor(getattr(wide, name)).bfloat16().float().numpy())
    weights, reads = (each.copy() for each in wide.run())
    bits = Step(score, np.float32)
    for name in ("h", "products", "keys", "values"):
        setattr(bits, name, torch.tensor(getattr(wide, name)).bfloat16().view(torch.uint16).numpy())
    bits.weights, bits.inputs = np.empty_like(weights), np.zeros((ROWS, HIDDEN + SIZE), np.uint16)
    if score == BY_VECTOR:
        attention.factors(bits.keys, bits.real, bits.factors, bits.small)
        keys = (bits.products, bits.vector, bits.keys, bits.factors, bits.small)
        attention.attend_by_sums(*keys, bits.values, bits.real, bits.weights, bits.inputs)
    else:
        attention.attend_by_products(
            bits.h, bits.products, bits.keys, bits.values, bits.real, bits.weights, bits.inputs
        )
    assert np.array_equal(bits.weights, weights)
    found = torch.tensor(bits.inputs[:, HIDDEN:]).view(torch.bfloat16)
    assert torch.equal(found, torch.tensor(reads).bfloat16())


@pytest.mark.parametrize("scaled", [False, True])
def test_maxout_and_its_gradient(scaled):
    rows, table = np.array([2, 0, 2]), numbers(3, 2 * SIZE, seed=1)
    products, bias = numbers(3, 2 * SIZE, seed=2), numbers(2 * SIZE, seed=3)
    scale = np.array([0.0, 1.0, 2.0]) if scaled else np.empty(0)
    features, is_second = np.empty((3, SIZE)), np.empty((3, SIZE), np.bool_)
    attention.maxout(products, bias, rows, table, scale, features, is_second)
    operands = [torch.tensor(each, requires_grad=True) for each in (products, bias, table)]
    factor = torch.tensor(scale if scaled else np.ones(3)).unsqueeze(1)
    sums = operands[0] + operands[1] + factor * operands[2][torch.tensor(rows)]
    expected = torch.maximum(sums[:, 0::2], sums[:, 1::2])
    assert np.abs(features - expected.detach().numpy()).max() < 1e-15
    d_features = numbers(3, SIZE, seed=4)
    (expected * torch.tensor(d_features)).sum().backward()
    d_products, d_table, d_bias = np.empty_like(products), np.ones_like(table), np.ones_like(bias)
    attention.maxout_backward(d_features, is_second, rows, scale, d_products, d_table, d_bias)
    for found, of in ((d_products, operands[0]), (d_bias - 1, operands[1]), (d_table - 1, operands[2])):
        assert np.abs(found - of.grad.numpy()).max() < 1e-14


@pytest.mark.parametrize("place", [0, 1])
def test_maxout_keeps_what_is_no_number(place):
    products = np.zeros((1, 2))
    products[0, place] = np.nan
    features, is_second = np.zeros((1, 1)), np.zeros((1, 1), np.bool_)
    attention.maxout(products, np.zeros(2), np.zeros(1, np.int64), np.zeros((1, 2)), np.empty(0), features, is_second)
    assert np.isnan(features).all()


def test_of_equal_values_the_first_is_taken():
    features, is_second = np.zeros((1, 1)), np.ones((1, 1), np.bool_)
    given = (np.zeros((1, 2)), np.zeros(2), np.zeros(1, np.int64), np.zeros((1, 2)), np.empty(0))
    attention.maxout(*given, features, is_second)
    assert not is_second.any()
