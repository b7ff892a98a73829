"""Which sources are held out from training: by hash, all pairs of a source on one side, at every run.

Sources that differ only in whitespace count as one source here, because most tokenizers read them as the same tokens.
The split comes before the codecs, which are made from its training side; ``encode_corpus`` removes the training pairs
that turn out to have the same source ids as a held-out source for any other reason.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from freerun.data.hash_sampling import hash_of
from freerun.data.normalisation import collapse_whitespace
from freerun.errors import DataError

__all__ = ["HeldOut", "held_out_sources", "hold_out"]

_PURPOSE = "hold out"


def hold_out(source: str, share: float, seed: int = 0) -> bool:
    """Whether a source is among the ``share`` (0 to 1) that is held out; true at a larger share if at a smaller one."""
    return _hash(source, seed) < share * 2.0**64


@dataclass(frozen=True)
class HeldOut:
    """The held-out ones of a set of sources: ``source in held_out``.

    Attributes:
        count: number of distinct held-out sources; those that differ only in whitespace are one.
        total: number of distinct sources, counted in the same way.
        last: largest hash that is held out.
        seed: of the hash.
    """

    count: int
    total: int
    last: int
    seed: int

    def __contains__(self, source: str) -> bool:
        return _hash(source, self.seed) <= self.last


def held_out_sources(
    sources: Iterable[str], *, share: float = 0.05, most: int = 2000, seed: int = 0, where: object = "pairs"
) -> HeldOut:
    """Hold out ``share`` of the distinct sources, rounded, but at least 1 and at most ``most``: those of lowest hash.

    ``sources`` may repeat. Memory: 8 bytes an item. Raises ``DataError`` at ``where`` when there are not two distinct
    sources, for then one side would be empty.
    """
    # The share is exact (the lowest hashes, not all below a bound), for 5 % of 40 sources by chance may be none.
    hashes = np.unique(np.frombuffer(array("Q", (_hash(s, seed) for s in sources)), dtype=np.uint64))
    if len(hashes) < 2:
        raise DataError(
            where,
            f"{len(hashes)} distinct source{'' if len(hashes) == 1 else 's'}, too few to hold any out",
            "Expected at least 2, one for training and one for evaluation",
            "Give the evaluation pairs with --dev",
        )
    count = min(max(1, round(share * len(hashes))), most, len(hashes) - 1)
    return HeldOut(count, len(hashes), int(hashes[count - 1]), seed)


def _hash(source: str, seed: int) -> int:
    """The hash that decides: the same for sources that differ only in whitespace."""
    return hash_of(collapse_whitespace(source), _PURPOSE, seed)
