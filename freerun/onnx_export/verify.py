"""The check after an export: two backends have to agree on random sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from freerun.errors import BundleError
from freerun.randomness import numpy_generator
from freerun.runtime.bundle import Bundle
from freerun.search.batches import pad_sources
from freerun.search.beam import beam_search
from freerun.search.forced_scoring import score_targets
from freerun.search.hypothesis import Hypothesis
from freerun.search.stepper import Stepper
from freerun.symbols import EOS, NUM_SPECIAL, UNK

__all__ = ["check_agreement", "decoded", "random_sources"]

MAX_DIFFERENCE: Final = {"fp32": 1e-3, "int8": 0.05}
"""The largest difference of a token's log-probability that rounding explains: sums are taken in another order, which
may tip an int8 number over to its next level."""


def random_sources(bundle: Bundle, number: int = 24) -> list[list[int]]:
    """Return encoded sources of 0 to 11 tokens in the vocabulary, each with 0 to 4 features if the model reads them."""
    generator = numpy_generator(0, "verify")
    size = len(bundle.source.vocabulary)
    tokens = range(NUM_SPECIAL, size) if size > NUM_SPECIAL else [UNK]
    sources = [[*generator.choice(tokens, row % 12).tolist(), EOS] for row in range(number)]
    return [[*source, *features] for source, features in zip(sources, _random_features(bundle, number), strict=True)]


def _random_features(bundle: Bundle, number: int) -> list[list[int]]:
    """Return the ids of each source's features, in ascending order; UNK is one of them."""
    if bundle.source.features is None:
        return [[]] * number
    generator = numpy_generator(0, "verify features")
    size = len(bundle.source.features.vocabulary)
    counts = [min(row % 5, size - UNK) for row in range(number)]
    return [sorted(generator.choice(range(UNK, size), count, replace=False).tolist()) for count in counts]


def decoded(bundle: Bundle, stepper: Stepper, sources: Sequence[Sequence[int]]) -> list[Hypothesis]:
    """Return the greedy output for each encoded source."""
    ids, lengths = pad_sources(sources)
    outputs = beam_search(stepper, ids, lengths, max_lengths=bundle.bound.of(lengths))
    return [best for (best,) in outputs]


def check_agreement(
    bundle: Bundle,
    names: str,
    outputs: Sequence[Hypothesis],
    stepper: Stepper,
    sources: Sequence[Sequence[int]],
    precision: str = "fp32",
) -> None:
    """Check that the ``outputs`` of one backend are those of ``stepper``; ``names`` are the names of both.

    If two tokens are equally likely within rounding, backends may differ, so the log-probability that ``stepper`` gives
    to the outputs is compared, token by token.

    Raises:
        BundleError: they differ.
    """
    targets = [[*hypothesis.ids, *([] if hypothesis.truncated else [EOS])] for hypothesis in outputs]
    forced = score_targets(stepper, *pad_sources(sources), targets).log_probs
    differences = [np.abs(np.asarray(h.token_scores) - scores) for h, scores in zip(outputs, forced, strict=True)]
    largest = max((float(each.max(initial=0)) for each in differences), default=0.0)
    if not largest <= MAX_DIFFERENCE[precision]:
        raise BundleError(
            bundle.directory,
            f"{names} differ by {largest:.2g} in a token's log-probability",
            f"Expected at most {MAX_DIFFERENCE[precision]:g}",
            "Nothing was written; please report this model's dimensions, CPU and version of onnxruntime as a bug",
        )
