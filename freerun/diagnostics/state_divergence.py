"""State divergence: do the decoder's states on its own prefixes lie where those on right prefixes lie?

Before a run's first error both are the same, so only positions after it are compared: of each source that errs one
position, reached by both runs. Two tests: the maximum mean discrepancy (Gretton et al. 2012) with a permutation test,
and the accuracy of a linear classifier on sources that it was not made from (0.5: it cannot tell them apart).

Shape suffixes: M sources, H state size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.diagnostics.estimate import Estimate, Resampled
from freerun.diagnostics.record import Recorded, sampled
from freerun.randomness import numpy_generator
from freerun.search.batches import pad
from freerun.symbols import BOS

__all__ = ["StateDivergence", "States", "StatesOf", "mmd_test", "state_divergence", "states_after_errors"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
StatesOf = Callable[[Ids, Ids, Ids], npt.NDArray[np.float32]]
"""Source ids [B, S], their lengths [B] and the tokens fed [B, T] to the decoder's states [B, T, H]."""
MOST_SOURCES = 500
FEWEST_SOURCES = 20
PERMUTATIONS = 1000
_BATCH = 128


class States(NamedTuple):
    """States [M, H] of the same sources at the same positions, fed with right and with own tokens."""

    rows: Ids
    teacher_MH: Floats
    free_MH: Floats


class StateDivergence(NamedTuple):
    """``mmd``: squared maximum mean discrepancy, unbiased, so it may be below 0; ``p_value`` of no difference.

    ``classifier_accuracy``: share of held-out states whose origin is told right.
    """

    mmd: float
    p_value: float
    classifier_accuracy: Estimate
    sources: int


def states_after_errors(recorded: Recorded, states_of: StatesOf, most: int = MOST_SOURCES) -> States:
    """Read the states of at most ``most`` sources, a position after the first error drawn at random of each."""
    tau = recorded.first_errors
    both = np.minimum(recorded.free.errors.lengths, recorded.forced.errors.lengths[recorded.followed])
    rows = sampled(np.flatnonzero(tau + 1 < both), most, "state divergence")
    draws = numpy_generator(0, "positions of states").random(len(rows))
    places = tau[rows] + 1 + (draws * (both - tau - 1)[rows]).astype(np.int64)
    subjects = recorded.subjects
    right = [subjects.targets[row] for row in recorded.followed[rows]]
    own = [recorded.free.tokens[row] for row in rows]
    found: list[list[npt.NDArray[np.float32]]] = [[], []]
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        ids, lengths = pad([subjects.sources[row] for row in rows[part]])
        for side, outputs in zip(found, (right, own), strict=True):
            # what is fed is what was written before; later tokens change no state that is read
            fed, _ = pad([[BOS, *each[:place]] for each, place in zip(outputs[part], places[part], strict=True)])
            side.append(states_of(ids, lengths, fed)[np.arange(len(fed)), places[part]])
    teacher_MH, free_MH = (np.concatenate(side).astype(np.float64) if side else np.zeros((0, 0)) for side in found)
    return States(rows, teacher_MH, free_MH)


def state_divergence(states: States) -> StateDivergence | None:
    """Compare them; None with fewer than ``FEWEST_SOURCES`` sources, of which nothing can be said."""
    if len(states.rows) < FEWEST_SOURCES:
        return None
    mmd, p_value = mmd_test(states.teacher_MH, states.free_MH)
    return StateDivergence(mmd, p_value, _classifier_accuracy(states), len(states.rows))


def mmd_test(one_MH: Floats, other_MH: Floats, permutations: int = PERMUTATIONS) -> tuple[float, float]:
    """Squared MMD of paired samples under an RBF kernel (median distance as bandwidth), and its p-value.

    mean over i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j) (Gretton et al. 2012, eq. 4): unbiased,
    and no pair is compared with itself. Without a difference a pair's two states could be exchanged, which multiplies
    row and column i of these terms by -1.
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
    """Fisher's linear discriminant, made on half of the sources (their covariance shrunk), tried on the others."""
    order = numpy_generator(0, "halves of sources").permutation(len(states.rows))
    made, tried = order[: len(order) // 2], order[len(order) // 2 :]
    teacher, free = states.teacher_MH[made], states.free_MH[made]
    within = np.cov(np.concatenate([teacher - teacher.mean(0), free - free.mean(0)]).T).reshape(teacher.shape[1], -1)
    # as many sources as dimensions are no basis for a covariance of their own: a tenth of its mean variance is added
    ridge = 0.1 * max(float(np.trace(within)) / len(within), 1e-12)
    direction = np.linalg.solve(within + ridge * np.eye(len(within)), free.mean(0) - teacher.mean(0))
    middle = (free.mean(0) + teacher.mean(0)) / 2
    right = (((states.free_MH[tried] - middle) @ direction > 0).astype(np.float64)) + (
        (states.teacher_MH[tried] - middle) @ direction <= 0
    )
    return Resampled({"accuracy": (right, np.full(len(tried), 2.0))}).ratio("accuracy")
