"""Sampling from the model, with temperature, top-k (Fan et al. 2018) and top-p (Holtzman et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from freerun.randomness import numpy_generator
from freerun.search.beam import beam_search
from freerun.search.hypothesis import Hypothesis
from freerun.search.loop import Rows, decode, writable
from freerun.search.methods import Sampling
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.trellis import Choice

__all__ = ["SamplingChooser", "sample"]

Floats = npt.NDArray[np.float64]


def sample(
    stepper: Stepper,
    source_ids: Ids,
    lengths: Ids,
    settings: Sampling = Sampling(),
    *,
    max_lengths: Ids,
    rows: Ids | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Return ``num_hypotheses`` independent samples for each source, in the order of sampling.

    source_ids [B, S] padded with PAD, lengths [B], max_lengths [B] in tokens without EOS. Probabilities are raised to
    1 / ``temperature`` (0 is greedy search), truncated to the ``top_k`` best tokens, then to the fewest best tokens
    whose probability reaches ``top_p``, and renormalised each time. Scores stay those of the model: untempered, over
    the whole vocabulary. A sample is a pure function of (seed, row, hypothesis, step), so it does not depend on
    ``num_hypotheses``: ``rows`` [B] numbers the sources globally (default: their positions in the batch). ``prefixes``
    are the ids that each source's outputs begin with. Raises ConfigError for negative bounds and impossible prefixes.
    """
    # Dividing by 0 is impossible, and all samples would be the same.
    if settings.temperature == 0:
        best = beam_search(stepper, source_ids, lengths, max_lengths=max_lengths, prefixes=prefixes)
        return [hypotheses * settings.num_hypotheses for hypotheses in best]
    numbers = np.arange(len(lengths)) if rows is None else rows
    copies = settings.num_hypotheses
    uniforms = _uniforms(settings.seed, numbers, copies, int(max_lengths.max(initial=0)) + 1)
    samples = decode(
        stepper,
        source_ids,
        lengths,
        SamplingChooser(settings, uniforms, stepper.vocabulary_size),
        max_lengths=max_lengths,
        copies=copies,
        prefixes=prefixes,
    )
    starts = range(0, len(samples), copies)
    return [[only for (only,) in samples[start : start + copies]] for start in starts]


def _uniforms(seed: int, rows: Ids, num_hypotheses: int, steps: int) -> Floats:
    """Return numbers in [0, 1) for each start and step [B * num_hypotheses, steps]: a stream per (row, hypothesis)."""
    # A whole stream at once: creating a generator costs as much as drawing some thousand numbers from it.
    result = np.empty((len(rows) * num_hypotheses, steps))
    for start in range(len(result)):
        row, hypothesis = divmod(start, num_hypotheses)
        result[start] = numpy_generator(seed, "sampling", int(rows[row]), hypothesis).random(steps)
    return result


class SamplingChooser:
    """Samples one token for every row by inverting its cumulative distribution (N rows, C candidates).

    ``uniforms`` [starts, steps] are random numbers in [0, 1).
    """

    def __init__(self, settings: Sampling, uniforms: Floats, vocabulary_size: int) -> None:
        # With top_k the stepper sorts; otherwise cumulating in the order of ids needs no sort at all.
        self.width = None if settings.top_k is None else min(settings.top_k, writable(vocabulary_size))
        self._uniforms, self._temperature, self._top_p = uniforms, settings.temperature, settings.top_p

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """See ``Chooser``."""
        every = np.arange(len(ids))
        weights = self._weights(log_probs)
        cumulative = np.cumsum(weights, axis=1)
        thresholds = self._uniforms[rows.starts, step] * cumulative[:, -1]
        # The first token above the threshold: never one of weight 0. There is one because uniforms are below 1.
        sampled = np.count_nonzero(cumulative <= thresholds[:, None], axis=1)
        return Choice(every, ids[every, sampled], log_probs[every, sampled])

    def _weights(self, log_probs: LogProbs) -> Floats:
        """Return unnormalised probabilities [N, C] to sample by."""
        # The largest weight becomes 1: at low temperatures all of them would underflow.
        tempered = log_probs.astype(np.float64) / self._temperature
        weights: Floats = np.exp(tempered - tempered.max(axis=1, keepdims=True))
        if self._top_p is not None and self._top_p < 1:
            weights[~_nucleus(weights, self._top_p)] = 0.0
        return weights


def _nucleus(weights: Floats, top_p: float) -> npt.NDArray[np.bool_]:
    """Return a mask of the fewest largest weights [N, C] whose sum reaches ``top_p`` of the total.

    Ties go to the lowest column.
    """
    order = np.argsort(-weights, axis=1, kind="stable")
    before = np.cumsum(np.take_along_axis(weights, order, 1), axis=1)
    enough = top_p * before[:, -1:]
    # A token is inside if those before it do not yet reach the sum; the best one therefore always is.
    before = np.roll(before, 1, axis=1)
    before[:, 0] = 0.0
    inside = np.empty(weights.shape, np.bool_)
    np.put_along_axis(inside, order, before < enough, 1)
    return inside
