"""Teacher forcing through a stepper: the attention weights of given targets.

Shape suffixes: T target tokens, S memory entries: a source's positions, then its features if attention reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freerun.search.batches import ROWS, pad, pad_sources, similar_lengths
from freerun.search.forced_scoring import forced_steps
from freerun.search.stepper import AttendingStepper, Stepper, Weights
from freerun.symbols import source_length

__all__ = ["attention_weights", "in_reading_order"]


def attention_weights(
    stepper: Stepper, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], batch_size: int = ROWS
) -> list[Weights] | None:
    """Return the attention weights [T, S] with which each token of one target per source is predicted.

    The columns are in the order of the source's ids, its features last if attention reads them. A target ends with EOS,
    or is a truncated output without it. Sources of similar lengths are read together, at most ``batch_size``; beyond
    the result, memory does not grow with their number.

    Returns:
        None if the model has no attention or ``stepper`` cannot return its weights.

    Raises:
        ValueError: targets and sources differ in number.
    """
    if len(targets) != len(sources):
        raise ValueError(f"{len(targets)} targets for {len(sources)} sources")
    if not isinstance(stepper, AttendingStepper) or not stepper.attends:
        return None
    lengths, sizes = [source_length(source) for source in sources], [len(target) for target in targets]
    entries = [len(source) for source in sources] if stepper.attends_features else lengths
    result = [np.zeros(shape, np.float32) for shape in zip(sizes, entries, strict=True)]
    for batch in similar_lengths(lengths, sizes, batch_size):
        _fill(stepper, [sources[n] for n in batch], [targets[n] for n in batch], [result[n] for n in batch])
    return result


def _fill(
    stepper: AttendingStepper,
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    weights: Sequence[Weights],
) -> None:
    """Fill ``weights``, [T, S] for each source, in place."""
    fed, sizes = pad(targets)
    if not fed.size:
        return
    stepper.start(*pad_sources(sources))
    for step, active, _ in forced_steps(stepper, fed, sizes):
        for row, values in zip(active.tolist(), stepper.attention(), strict=True):
            weights[row][step] = values[: weights[row].shape[1]]


def in_reading_order(weights: Weights, length: int, reverse: bool) -> Weights:
    """Return weights [T, S] with the columns in the reading order of the source; EOS and the features stay last.

    length: the number of the source's ids with EOS (``source_length``). reverse: True if the codec reverses sources.
    """
    if not reverse:
        return weights
    tokens, rest = weights[:, : length - 1], weights[:, length - 1 :]
    return np.concatenate([tokens[:, ::-1], rest], 1)
