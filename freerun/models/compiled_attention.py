"""The attention of one decoder step, forward and backward, compiled by Numba: scores, softmax and weighted sum.

What a step's matmuls leave to do is little arithmetic on much memory, so a row's scores, weights and sums are computed
while its keys and values are in the cache. Notation: q the query, k_j and m_j key and value of source position j, a the
weights, r what the next layer reads; dx the gradient of x.

    e_j = q . k_j (Luong et al. 2015)   or   e_j = v . tanh(q + k_j) (Bahdanau et al. 2015; Luong's concat)
    a = softmax(e);   z = sum_j a_j m_j;   r = z (Bahdanau)   or   r = tanh(z + W_o h) (Luong, input feeding)

    dz = dr [* (1 - r^2)];   da_j = dz . m_j;   de_j = a_j (da_j - sum_i a_i da_i)
    dq = sum_j de_j k_j   or   dq = sum_j de_j v * (1 - tanh^2(q + k_j)) = sum_j dk_j,   dv = sum_j de_j tanh(q + k_j)

tanh(q + k) = 1 - 2 s with s = 1 / (1 + e^(2 q) e^(2 k)): the factors e^(2 k) are computed once per source and e^(2 q)
once per step, so a pair of query and key costs a division and no exponential, and 1 - tanh^2 = 4 s (1 - s). A source
with a key whose factor might overflow, or be 0, computes tanh itself; an infinite factor of a query gives the right
limit. tanh is computed again in the backward pass: keeping it would take H numbers for each pair of target and source
position.

The features of Bahdanau's attention, and ties go to the first of a pair:

    t_j = max(p_2j, p_2j+1),   p = [s'; c] W + b + row of the token

A source may have several decoder rows, one after the other, which share its keys and values.

Over 350 lines, because each step is a loop over rows in two kinds of score, forward and backward, one line per array.

Shape suffixes: N sources, B decoder rows, S source positions, H hidden, I what the next step reads, P the product of h
with the weights that attention multiplies it with (the query, then W_o h), X the first layer's h and what it reads; of
a maxout layer R rows (steps of decoder rows), V tokens, O = 2 H.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from freerun.models.compiled_numbers import (
    ONE,
    TWO,
    Numbers,
    Rows,
    compiled,
    compiled_sum,
    downcast,
    exponential,
    tanh,
    upcast,
)

__all__ = [
    "attend_by_products",
    "attend_by_products_backward",
    "attend_by_sums",
    "attend_by_sums_backward",
    "factors",
    "maxout",
    "maxout_backward",
]

_FOUR = np.float32(4.0)
_WIDE_32, _WIDE_64 = np.float32(21.0), 170.0
"""e^(4 x) is finite up to here, and so is e^(-4 x) above zero."""


def _largest(x: Any) -> Any:
    """Return the largest |x| for which factors are used, in the type of x."""


@overload(_largest, inline="always", strict=False)
def _largest_of(x: Any) -> Any:
    if x == types.float32:
        return lambda x: _WIDE_32
    return lambda x: _WIDE_64


@compiled
def _are_small(values_H: Numbers) -> bool:
    """Return True if the factors of these values cannot overflow; False if one is no number."""
    for j in range(len(values_H)):  # noqa: SIM110 (compiled)
        if not abs(upcast(values_H[j])) <= _largest(upcast(values_H[j])):
            return False
    return True


@compiled
def factors(keys_NSH: Numbers, real_NS: Numbers, factors_NSH: Numbers, small_N: Numbers) -> None:
    """Write ``e^(2 k)`` of each key, and for each source whether its factors can be used."""
    for n in range(len(keys_NSH)):
        small_N[n] = True
        for s in range(keys_NSH.shape[1]):
            if not real_NS[n, s]:
                continue
            keys, out = keys_NSH[n, s], factors_NSH[n, s]
            if not _are_small(keys):
                small_N[n] = False
            for j in range(len(out)):
                out[j] = exponential(TWO * upcast(keys[j]))


@compiled
def _query(product_P: Numbers, queries_H: Numbers, factors_H: Numbers) -> None:
    """Write a row's query, with which its products begin, and its factors ``e^(2 q)``."""
    for j in range(len(queries_H)):
        queries_H[j] = upcast(product_P[j])
    for j in range(len(queries_H)):
        factors_H[j] = exponential(TWO * queries_H[j])


# -- parts of a row, forward -------------------------------------------------------------------------------------------


@compiled_sum
def _dot(left: Numbers, right: Numbers, zero: Any) -> Any:
    total = zero
    for j in range(len(left)):
        total += upcast(left[j]) * upcast(right[j])
    return total


@compiled_sum
def _score_of_factors(vector_H: Numbers, query_factors_H: Numbers, key_factors_H: Numbers, zero: Any) -> Any:
    total = zero
    for j in range(len(vector_H)):
        total += vector_H[j] * (ONE - TWO / (ONE + query_factors_H[j] * key_factors_H[j]))
    return total


@compiled_sum
def _score_of_values(vector_H: Numbers, queries_H: Numbers, keys_H: Numbers, zero: Any) -> Any:
    total = zero
    for j in range(len(vector_H)):
        total += vector_H[j] * tanh(queries_H[j] + upcast(keys_H[j]))
    return total


@compiled
def _softmax(scores_S: Numbers, real_S: Numbers) -> None:
    """Turn scores into weights, in place; 0 on padding. Padding does not change the sum."""
    highest = -scores_S.dtype.type(np.inf)
    for s in range(len(scores_S)):
        if real_S[s] and scores_S[s] > highest:
            highest = scores_S[s]
    total = scores_S.dtype.type(0)
    for s in range(len(scores_S)):
        scores_S[s] = exponential(scores_S[s] - highest) if real_S[s] else scores_S.dtype.type(0)
        total += scores_S[s]
    for s in range(len(scores_S)):
        scores_S[s] /= total


@compiled
def _read(
    weights_S: Numbers, values_SI: Numbers, real_S: Numbers, added_I: Numbers, sums_I: Numbers, read_I: Numbers
) -> None:
    """Write what the next layer reads: the weighted sum, or tanh of it and of what is added."""
    sums_I[:] = 0
    for s in range(len(weights_S)):
        if real_S[s]:
            weight, values = weights_S[s], values_SI[s]
            for i in range(len(sums_I)):
                sums_I[i] += weight * upcast(values[i])
    if len(added_I):
        for i in range(len(sums_I)):
            sums_I[i] = tanh(sums_I[i] + upcast(added_I[i]))
    for i in range(len(sums_I)):
        read_I[i] = downcast(sums_I[i], read_I[i])


# -- forward -----------------------------------------------------------------------------------------------------------


@compiled
def attend_by_sums(
    products_BP: Numbers,
    vector_H: Numbers,
    keys_NSH: Numbers,
    factors_NSH: Numbers,
    small_N: Numbers,
    values_NSI: Numbers,
    real_NS: Numbers,
    weights_BS: Numbers,
    inputs_BX: Numbers,
) -> None:
    """Write the weights, and what the first layer reads into the end of its inputs: scores v . tanh(q + k)."""
    hidden, zero = len(vector_H), weights_BS.dtype.type(0)
    rows_per_source = len(products_BP) // len(keys_NSH)
    queries, query_factors = np.empty_like(vector_H), np.empty_like(vector_H)
    sums = np.empty(values_NSI.shape[2], vector_H.dtype)
    first = inputs_BX.shape[1] - len(sums)
    for row in range(len(products_BP)):
        n = row // rows_per_source
        product, scores, real = products_BP[row], weights_BS[row], real_NS[n]
        _query(product, queries, query_factors)
        small = small_N[n]
        for s in range(len(scores)):
            if not real[s]:
                continue
            if small:
                scores[s] = _score_of_factors(vector_H, query_factors, factors_NSH[n, s], zero)
            else:
                scores[s] = _score_of_values(vector_H, queries, keys_NSH[n, s], zero)
        _softmax(scores, real)
        _read(scores, values_NSI[n], real, product[hidden:], sums, inputs_BX[row][first:])


@compiled
def attend_by_products(
    h_BX: Numbers,
    added_BI: Numbers,
    keys_NSH: Numbers,
    values_NSI: Numbers,
    real_NS: Numbers,
    weights_BS: Numbers,
    inputs_BX: Numbers,
) -> None:
    """The same with scores q . k, where h is the query."""
    hidden, zero = keys_NSH.shape[2], weights_BS.dtype.type(0)
    rows_per_source = len(h_BX) // len(keys_NSH)
    sums = np.empty(values_NSI.shape[2], weights_BS.dtype)
    first = inputs_BX.shape[1] - len(sums)
    for row in range(len(h_BX)):
        n = row // rows_per_source
        query, scores, real = h_BX[row][:hidden], weights_BS[row], real_NS[n]
        for s in range(len(scores)):
            if real[s]:
                scores[s] = _dot(query, keys_NSH[n, s], zero)
        _softmax(scores, real)
        _read(scores, values_NSI[n], real, added_BI[row], sums, inputs_BX[row][first:])


# -- parts of a row, backward ------------------------------------------------------------------------------------------


@compiled
def _read_backward(
    d_read_I: Numbers, d_given_I: Numbers, read_I: Numbers, is_tanh: bool, dz_I: Numbers, d_sum_I: Numbers
) -> None:
    """Write dz, in the type of sums and in that of matmuls, from the gradients of the step after and of the output."""
    for i in range(len(dz_I)):
        dz_I[i] = upcast(d_read_I[i]) + d_given_I[i]
    if is_tanh:
        for i in range(len(dz_I)):
            dz_I[i] *= ONE - upcast(read_I[i]) * upcast(read_I[i])
    for i in range(len(dz_I)):
        d_sum_I[i] = downcast(dz_I[i], d_sum_I[i])


@compiled
def _softmax_backward(
    dz_I: Numbers, values_SI: Numbers, weights_S: Numbers, real_S: Numbers, d_scores_S: Numbers
) -> None:
    total = d_scores_S.dtype.type(0)
    for s in range(len(weights_S)):
        d_scores_S[s] = 0
        if real_S[s]:
            d_scores_S[s] = _dot(dz_I, values_SI[s], d_scores_S.dtype.type(0))
            total += weights_S[s] * d_scores_S[s]
    for s in range(len(weights_S)):
        if real_S[s]:
            d_scores_S[s] = weights_S[s] * (d_scores_S[s] - total)


# -- backward ----------------------------------------------------------------------------------------------------------


@compiled
def attend_by_sums_backward(
    d_inputs_BX: Numbers,
    d_given_BI: Numbers,
    inputs_BX: Numbers,
    products_BP: Numbers,
    vector_H: Numbers,
    keys_NSH: Numbers,
    factors_NSH: Numbers,
    small_N: Numbers,
    values_NSI: Numbers,
    real_NS: Numbers,
    weights_BS: Numbers,
    d_products_BP: Numbers,
    d_sums_BI: Numbers,
    d_keys_NSH: Numbers,
    d_vector_H: Numbers,
) -> None:
    """Write the gradients of the products and of the weighted sum, and add to those of the keys and of v."""
    hidden, size = len(vector_H), d_given_BI.shape[1]
    rows_per_source = len(products_BP) // len(keys_NSH)
    queries, query_factors = np.empty_like(vector_H), np.empty_like(vector_H)
    d_query, each = np.empty_like(vector_H), np.empty_like(vector_H)
    dz, d_scores = np.empty(size, vector_H.dtype), np.empty(weights_BS.shape[1], vector_H.dtype)
    first, is_tanh = inputs_BX.shape[1] - size, products_BP.shape[1] > hidden
    for row in range(len(products_BP)):
        n = row // rows_per_source
        product, weights, real, d_product = products_BP[row], weights_BS[row], real_NS[n], d_products_BP[row]
        _read_backward(d_inputs_BX[row][first:], d_given_BI[row], inputs_BX[row][first:], is_tanh, dz, d_sums_BI[row])
        _softmax_backward(dz, values_NSI[n], weights, real, d_scores)
        _query(product, queries, query_factors)
        small = small_N[n]
        d_query[:] = 0
        for s in range(len(weights)):
            if not real[s]:
                continue
            d_score, d_key = d_scores[s], d_keys_NSH[n, s]
            if small:
                key_factors = factors_NSH[n, s]
                for j in range(hidden):
                    each[j] = ONE / (ONE + query_factors[j] * key_factors[j])
                for j in range(hidden):
                    d_vector_H[j] += d_score * (ONE - TWO * each[j])
                for j in range(hidden):
                    each[j] = d_score * vector_H[j] * _FOUR * each[j] * (ONE - each[j])
            else:
                keys = keys_NSH[n, s]
                for j in range(hidden):
                    each[j] = tanh(queries[j] + upcast(keys[j]))
                for j in range(hidden):
                    d_vector_H[j] += d_score * each[j]
                for j in range(hidden):
                    each[j] = d_score * vector_H[j] * (ONE - each[j] * each[j])
            for j in range(hidden):
                d_key[j] += each[j]
            for j in range(hidden):
                d_query[j] += each[j]
        for j in range(hidden):
            d_product[j] = downcast(d_query[j], d_product[j])
        if is_tanh:
            d_added = d_product[hidden:]
            for i in range(size):
                d_added[i] = downcast(dz[i], d_added[i])


@compiled
def attend_by_products_backward(
    d_inputs_BX: Numbers,
    d_given_BI: Numbers,
    inputs_BX: Numbers,
    keys_NSH: Numbers,
    values_NSI: Numbers,
    real_NS: Numbers,
    weights_BS: Numbers,
    d_sums_BI: Numbers,
    d_scores_BS: Numbers,
    dh_BH: Numbers,
) -> None:
    """Write the gradients of the weighted sum (which is that of W_o h, too) and of the scores, and add to that of h."""
    hidden, size = keys_NSH.shape[2], d_given_BI.shape[1]
    rows_per_source = len(weights_BS) // len(keys_NSH)
    dz, first = np.empty(size, weights_BS.dtype), inputs_BX.shape[1] - size
    for row in range(len(weights_BS)):
        n = row // rows_per_source
        weights, real, dh, d_scores = weights_BS[row], real_NS[n], dh_BH[row], d_scores_BS[row]
        _read_backward(d_inputs_BX[row][first:], d_given_BI[row], inputs_BX[row][first:], True, dz, d_sums_BI[row])
        _softmax_backward(dz, values_NSI[n], weights, real, d_scores)
        for s in range(len(weights)):
            if real[s]:
                d_score, keys = d_scores[s], keys_NSH[n, s]
                for j in range(hidden):
                    dh[j] += d_score * upcast(keys[j])


# -- maxout ------------------------------------------------------------------------------------------------------------


@compiled
def maxout(
    products_RO: Numbers,
    bias_O: Numbers,
    rows_R: Rows,
    table_VO: Numbers,
    scale_R: Numbers,
    features_RH: Numbers,
    is_second_RH: Numbers,
) -> None:
    """Write the larger of each pair, and which one it is; ``scale_R`` multiplies a token's row, if it is not empty."""
    sums = np.empty_like(bias_O)
    for row in range(len(products_RO)):
        product, token = products_RO[row], table_VO[rows_R[row]]
        features, is_second = features_RH[row], is_second_RH[row]
        scale = scale_R[row] if len(scale_R) else bias_O.dtype.type(1)
        for j in range(len(sums)):
            sums[j] = upcast(product[j]) + bias_O[j] + scale * token[j]
        for j in range(len(features)):
            # a value that is no number is the larger one
            is_second[j] = sums[2 * j + 1] > sums[2 * j] or sums[2 * j + 1] != sums[2 * j + 1]
        for j in range(len(features)):
            features[j] = downcast(sums[2 * j + 1] if is_second[j] else sums[2 * j], features[j])


@compiled
def maxout_backward(
    d_features_RH: Numbers,
    is_second_RH: Numbers,
    rows_R: Rows,
    scale_R: Numbers,
    d_products_RO: Numbers,
    d_table_VO: Numbers,
    d_bias_O: Numbers,
) -> None:
    """Write the gradients of the products, and add to those of the tokens' rows and of the bias."""
    sums = np.empty_like(d_bias_O)
    for row in range(len(d_features_RH)):
        d_features, is_second = d_features_RH[row], is_second_RH[row]
        d_product, d_token = d_products_RO[row], d_table_VO[rows_R[row]]
        scale = scale_R[row] if len(scale_R) else d_bias_O.dtype.type(1)
        for j in range(len(d_features)):
            each = upcast(d_features[j])
            sums[2 * j] = d_bias_O.dtype.type(0) if is_second[j] else each
            sums[2 * j + 1] = each if is_second[j] else d_bias_O.dtype.type(0)
        for j in range(len(sums)):
            d_product[j] = downcast(sums[j], d_product[j])
        for j in range(len(sums)):
            d_bias_O[j] += sums[j]
        for j in range(len(sums)):
            d_token[j] += scale * sums[j]
