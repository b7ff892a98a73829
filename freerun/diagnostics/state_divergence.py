"""State divergence: do free-running and teacher-forced decoder states have the same distribution?

Before a run's first error both are equal, so only positions after it are compared: for each source with an error, one
position that both runs reach. Two tests: the maximum mean discrepancy (Gretton et al. 2012) with a permutation test,
and the accuracy of a linear classifier on held-out sources (0.5: the states cannot be distinguished).

Shape suffixes: M sources, H state size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.diagnostics.record import Recorded, sample_rows
from freerun.randomness import numpy_generator
from freerun.search.batches import pad, pad_sources
from freerun.symbols import BOS

__all__ = ["StateDivergence", "States", "StatesOf", "mmd_test", "state_divergence", "states_after_errors"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
StatesOf = Callable[[Ids, Ids, Ids], npt.NDArray[np.float32]]
"""Source ids [B, S], their lengths [B] and the tokens fed [B, T] to the decoder's states [B, T, H]."""
MAX_SOURCES = 500
MIN_SOURCES = 20
PERMUTATIONS = 1000
_BATCH = 128


class States(NamedTuple):
    """States [M, H] of the same sources at the same positions, teacher-forced and free-running."""

    rows: Ids
    teacher_MH: Floats
    free_MH: Floats


class StateDivergence(NamedTuple):
    """The two tests.

    Attributes:
        mmd: the squared maximum mean discrepancy; unbiased, so it may be below 0.
        p_value: of the hypothesis that there is no difference.
        classifier_accuracy: the fraction of held-out states whose origin is classified correctly.
        sources: the number of sources compared.
    """

    mmd: float
    p_value: float
    classifier_accuracy: Estimate
    sources: int


def states_after_errors(recorded: Recorded, states_of: StatesOf, limit: int = MAX_SOURCES) -> States:
    """Read the states of at most ``limit`` sources, each at a position sampled after its first error."""
    tau = recorded.first_errors
    both = np.minimum(recorded.free.errors.lengths, recorded.forced.errors.lengths[recorded.followed])
    rows = sample_rows(np.flatnonzero(tau + 1 < both), limit, "state divergence")
    draws = numpy_generator(0, "positions of states").random(len(rows))
    positions = tau[rows] + 1 + (draws * (both - tau - 1)[rows]).astype(np.int64)
    pairs = recorded.pairs
    reference = [pairs.targets[row] for row in recorded.followed[rows]]
    own = [recorded.free.tokens[row] for row in rows]
    states: list[list[npt.NDArray[np.float32]]] = [[], []]
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        ids, lengths = pad_sources([pairs.sources[row] for row in rows[part]])
        for side, outputs in zip(states, (reference, own), strict=True):
            # a state depends on the tokens before it only; later tokens are left out
            fed, _ = pad([[BOS, *each[:t]] for each, t in zip(outputs[part], positions[part], strict=True)])
            side.append(states_of(ids, lengths, fed)[np.arange(len(fed)), positions[part]])
    teacher_MH, free_MH = (np.concatenate(side).astype(np.float64) if side else np.zeros((0, 0)) for side in states)
    return States(rows, teacher_MH, free_MH)


def state_divergence(states: States) -> StateDivergence | None:
    """Compare the states; None with fewer than ``MIN_SOURCES`` sources."""
    if len(states.rows) < MIN_SOURCES:
        return None
    mmd, p_value = mmd_test(states.teacher_MH, states.free_MH)
    return StateDivergence(mmd, p_value, _classifier_accuracy(states), len(states.rows))


def mmd_test(one_MH: Floats, other_MH: Floats, permutations: int = PERMUTATIONS) -> tuple[float, float]:
    """Return the squared MMD of paired samples under an RBF kernel (bandwidth: median distance), and its p-value.

    The estimate is the mean over ``i != j`` of ``k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)`` (Gretton et
    al. 2012, eq. 4), which is unbiased. Under the null hypothesis the two states of a pair can be exchanged, which
    multiplies row and column i of these terms by -1.
    """
    size = len(one_MH)
    kernel = _rbf(np.concatenate([one_MH, other_MH]))
    terms = kernel[:size, :size] + kernel[size:, size:] - kernel[:size, size:] - kernel[size:, :size]
    np.fill_diagonal(terms, 0.0)
    value = terms.sum() / (size * (size - 1))
    signs = numpy_generator(0, "exchange").choice([-1.0, 1.0], (permutations, size))
    exchanged = ((signs @ terms) * signs).sum(1) / (size * (size - 1))
    return float(value), float((1 + np.count_nonzero(exchanged >= value)) / (1 + permutations))


def _rbf(points: Floats) -> Floats:
    squares = (points**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0)
    median = np.median(distances[np.triu_indices(len(points), 1)])
    result: Floats = np.exp(-distances / (2 * (median if median > 0 else 1.0)))
    return result


def _classifier_accuracy(states: States) -> Estimate:
    """Fit Fisher's linear discriminant (shrunk covariance) on half of the sources, and test it on the others."""
    order = numpy_generator(0, "halves of sources").permutation(len(states.rows))
    fitted, tested = order[: len(order) // 2], order[len(order) // 2 :]
    teacher, free = states.teacher_MH[fitted], states.free_MH[fitted]
    within = np.cov(np.concatenate([teacher - teacher.mean(0), free - free.mean(0)]).T).reshape(teacher.shape[1], -1)
    # with about as many sources as dimensions the covariance is near-singular: add a tenth of its mean variance
    ridge = 0.1 * max(float(np.trace(within)) / len(within), 1e-12)
    direction = np.linalg.solve(within + ridge * np.eye(len(within)), free.mean(0) - teacher.mean(0))
    middle = (free.mean(0) + teacher.mean(0)) / 2
    correct = (((states.free_MH[tested] - middle) @ direction > 0).astype(np.float64)) + (
        (states.teacher_MH[tested] - middle) @ direction <= 0
    )
    return Resampled({"accuracy": (correct, np.full(len(tested), 2.0))}).ratio("accuracy")
