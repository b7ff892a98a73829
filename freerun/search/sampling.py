"""Drawing outputs from the model, with temperature, top-k (Fan et al. 2018) and top-p (Holtzman et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from freerun.bounds import POSITIVE_TEMPERATURE, SAMPLES, SEED, TEMPERATURE, TOP_K
from freerun.errors import ConfigError
from freerun.randomness import numpy_generator
from freerun.search.beam import beam_search
from freerun.search.hypothesis import Hypothesis
from freerun.search.loop import Rows, decode, writable
from freerun.search.prefix import with_prefix
from freerun.search.stepper import Ids, LogProbs, Stepper
from freerun.search.trellis import Choice
from freerun.text import shown

__all__ = ["SamplingChooser", "check_sampling", "sample"]

Floats = npt.NDArray[np.float64]


def sample(
    stepper: Stepper,
    source_ids: Ids,
    lengths: Ids,
    *,
    max_lengths: Ids,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    num_hypotheses: int = 1,
    seed: int = 0,
    rows: Ids | None = None,
    prefix: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """``num_hypotheses`` independent draws for each source, in the order of drawing (none depends on their number).

    source_ids [B, S] padded with PAD, lengths [B], max_lengths [B] in tokens without EOS. Probabilities are raised to
    1 / ``temperature`` (0 is greedy search), cut to the ``top_k`` best tokens, then to the fewest best tokens whose
    share reaches ``top_p``, renormalised each time. Scores stay those of the model: untempered, over the whole
    vocabulary. A draw is a pure function of (seed, row, hypothesis, step): ``rows`` [B] numbers the sources globally
    (default: their place in the batch). Raises ConfigError for settings that ``check_sampling`` rejects.
    """
    check_sampling(temperature, top_k, top_p, num_hypotheses, seed)
    # Dividing by 0 is no option, and all draws would be the same.
    if temperature == 0:
        best = beam_search(stepper, source_ids, lengths, max_lengths=max_lengths, prefix=prefix)
        return [hypotheses * num_hypotheses for hypotheses in best]
    numbers = np.arange(len(lengths)) if rows is None else rows
    uniforms = _uniforms(seed, numbers, num_hypotheses, int(max_lengths.max(initial=0)) + 1)
    # With top_k the stepper sorts; otherwise cumulating in the order of ids needs no sort at all.
    width = None if top_k is None else min(top_k, writable(stepper.vocabulary_size))
    drawn = decode(
        with_prefix(stepper, prefix, max_lengths),
        source_ids,
        lengths,
        SamplingChooser(uniforms, temperature, width, top_p),
        max_lengths=max_lengths,
        copies=num_hypotheses,
    )
    starts = range(0, len(drawn), num_hypotheses)
    return [[only for (only,) in drawn[start : start + num_hypotheses]] for start in starts]


def check_sampling(temperature: float, top_k: int | None, top_p: float | None, num_hypotheses: int, seed: int) -> None:
    """Check the settings of sampling.

    Raises:
        ConfigError: one of them is out of its range.
    """
    TEMPERATURE.check("temperature", temperature, "Use 1 for the model's own distribution and 0 for greedy search")
    if 0 < temperature < POSITIVE_TEMPERATURE.low:
        expected = f"Expected 0, or {POSITIVE_TEMPERATURE}"
        raise ConfigError.single("temperature", f"it is {shown(temperature)}", expected, "Use 0 for greedy search")
    if top_k is not None:
        TOP_K.check("top_k", top_k, "Leave it out to sample from all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        fix = "Leave it out to sample from all tokens"
        raise ConfigError.single("top_p", f"it is {shown(top_p)}", "Expected a fraction above 0 and at most 1", fix)
    SAMPLES.check("num_hypotheses", num_hypotheses, "Use 1 for one sample")
    SEED.check("seed", seed)


def _uniforms(seed: int, rows: Ids, num_hypotheses: int, steps: int) -> Floats:
    """Numbers in [0, 1) for each start and step [B * num_hypotheses, steps]: a stream for each (row, hypothesis)."""
    # A whole stream at once: making a generator costs as much as drawing some thousand numbers from it.
    result = np.empty((len(rows) * num_hypotheses, steps))
    for start in range(len(result)):
        row, hypothesis = divmod(start, num_hypotheses)
        result[start] = numpy_generator(seed, "sampling", int(rows[row]), hypothesis).random(steps)
    return result


class SamplingChooser:
    """Draws one token for every row by inverting its cumulative distribution (legend: N rows, C candidates)."""

    def __init__(self, uniforms: Floats, temperature: float, width: int | None, top_p: float | None) -> None:
        self.width = width
        self._uniforms, self._temperature, self._top_p = uniforms, temperature, top_p

    def choose(self, step: int, rows: Rows, ids: Ids, log_probs: LogProbs) -> Choice:
        """See ``Chooser``."""
        every = np.arange(len(ids))
        weights = self._weights(log_probs)
        cumulative = np.cumsum(weights, axis=1)
        thresholds = self._uniforms[rows.starts, step] * cumulative[:, -1]
        # The first token above the threshold: never one of weight 0, and always there since uniforms are below 1.
        drawn = np.count_nonzero(cumulative <= thresholds[:, None], axis=1)
        return Choice(every, ids[every, drawn], log_probs[every, drawn])

    def _weights(self, log_probs: LogProbs) -> Floats:
        """Unnormalised probabilities [N, C] to draw by."""
        # The largest weight becomes 1: low temperatures would underflow all of them.
        tempered = log_probs.astype(np.float64) / self._temperature
        weights: Floats = np.exp(tempered - tempered.max(axis=1, keepdims=True))
        if self._top_p is not None and self._top_p < 1:
            weights[~_nucleus(weights, self._top_p)] = 0.0
        return weights


def _nucleus(weights: Floats, share: float) -> npt.NDArray[np.bool_]:
    """The fewest largest weights [N, C] whose sum reaches ``share`` of the total; ties to the lowest column."""
    order = np.argsort(-weights, axis=1, kind="stable")
    before = np.cumsum(np.take_along_axis(weights, order, 1), axis=1)
    enough = share * before[:, -1:]
    # A token is inside if those before it do not reach the share yet; the best one therefore always is.
    before = np.roll(before, 1, axis=1)
    before[:, 0] = 0.0
    inside = np.empty(weights.shape, np.bool_)
    np.put_along_axis(inside, order, before < enough, 1)
    return inside
