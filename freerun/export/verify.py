"""Before anybody uses exported graphs: do two ways of decoding agree on random sources?

Legend: B sources, S source tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from freerun.errors import BundleError
from freerun.randomness import numpy_generator
from freerun.runtime.bundle import Bundle
from freerun.search.batches import pad
from freerun.search.beam import beam_search
from freerun.search.hypothesis import Hypothesis
from freerun.search.score import score_targets
from freerun.search.stepper import Ids, Stepper
from freerun.symbols import EOS, NUM_SPECIAL, UNK

__all__ = ["check_agreement", "decoded", "random_sources"]

MOST: Final = {"fp32": 1e-3, "int8": 0.05}
"""Largest difference of a token's log-probability that rounding may explain, sums being taken in another order; in int8
that may tip a number over to its next level."""


def random_sources(bundle: Bundle, number: int = 24) -> tuple[Ids, Ids]:
    """Sources [B, S] of 0 to 11 tokens that the model knows, padded, and their lengths [B], with the end token."""
    generator = numpy_generator(0, "verify")
    size = len(bundle.source.vocabulary)
    tokens = range(NUM_SPECIAL, size) if size > NUM_SPECIAL else [UNK]
    return pad([[*generator.choice(tokens, row % 12).tolist(), EOS] for row in range(number)])


def decoded(bundle: Bundle, stepper: Stepper, sources: tuple[Ids, Ids]) -> list[Hypothesis]:
    """The greedy output for each source."""
    found = beam_search(stepper, *sources, max_lengths=bundle.bound.of(sources[1]))
    return [best for (best,) in found]


def check_agreement(
    bundle: Bundle,
    names: str,
    found: Sequence[Hypothesis],
    stepper: Stepper,
    sources: tuple[Ids, Ids],
    precision: str = "fp32",
) -> None:
    """Whether outputs that were ``found`` by one way are those of ``stepper``; ``names`` both.

    Where two tokens are equally likely within rounding the ways may part: what counts is the log-probability that
    ``stepper`` gives to what was found, token by token.

    Raises:
        BundleError: they are not.
    """
    targets = [[*hypothesis.ids, *([] if hypothesis.truncated else [EOS])] for hypothesis in found]
    forced = score_targets(stepper, *sources, targets).log_probs
    differences = [np.abs(np.asarray(h.token_scores) - scores) for h, scores in zip(found, forced, strict=True)]
    largest = max((float(each.max(initial=0)) for each in differences), default=0.0)
    if not largest <= MOST[precision]:
        raise BundleError(
            bundle.folder,
            f"{names} differ by {largest:.2g} in a token's log-probability",
            f"Expected {MOST[precision]:g} at most",
            "Nothing was written; please report this model's sizes, processor and version of onnxruntime as a bug",
        )
