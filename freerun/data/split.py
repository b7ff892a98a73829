"""The split into training and held-out sources: by hash, with all pairs of a source on one side, the same in every run.

Sources that differ only in whitespace count as one, because most tokenizers read them as the same tokens. The split
precedes the codecs, which are built from its training side; ``encode_corpus`` removes training pairs that have the
source ids of a held-out source for any other reason.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.data.hash_sampling import hash_of, hashes_of
from freerun.data.normalisation import collapse_whitespace, is_collapsed
from freerun.errors import DataError

__all__ = ["HeldOut", "check_enough", "held_out_count", "held_out_hashes", "held_out_sources", "hold_out"]

_PURPOSE = "hold out"


def hold_out(source: str, fraction: float, seed: int = 0) -> bool:
    """Return True if a source is in the held-out ``fraction`` (0 to 1); a larger fraction holds out a superset."""
    return _hash(source, seed) < fraction * 2.0**64


@dataclass(frozen=True)
class HeldOut:
    """The held-out sources of a set: ``source in held_out``.

    Attributes:
        count: number of distinct held-out sources; those that differ only in whitespace count as one.
        total: number of distinct sources, counted in the same way.
        last: largest hash that is held out.
        seed: seed of the hash.
    """

    count: int
    total: int
    last: int
    seed: int

    def __contains__(self, source: str) -> bool:
        return _hash(source, self.seed) <= self.last


def held_out_sources(
    sources: Iterable[str], *, fraction: float = 0.05, limit: int = 2000, seed: int = 0, location: object = "pairs"
) -> HeldOut:
    """Hold out ``fraction`` of the distinct sources, at least 1 and at most ``limit``: those with the lowest hashes.

    ``sources`` may repeat. Memory: 8 bytes per item. Raises ``DataError`` at ``location`` if there are fewer than two
    distinct sources, because then one side would be empty.
    """
    # The fraction is exact (the lowest hashes, not all below a bound): a random 5 % of 40 sources may be none.
    hashes = np.unique(np.frombuffer(array("Q", (_hash(s, seed) for s in sources)), dtype=np.uint64))
    check_enough(len(hashes), location)
    count = held_out_count(len(hashes), fraction, limit)
    return HeldOut(count, len(hashes), int(hashes[count - 1]), seed)


def check_enough(sources: int, location: object) -> None:
    """Check that there are distinct sources for both sides.

    Raises:
        DataError: there are fewer than two.
    """
    if sources < 2:
        raise DataError(
            location,
            f"{sources} distinct source{'' if sources == 1 else 's'}, too few to hold any out",
            "Expected at least 2, one for training and one for evaluation",
            "Give the evaluation pairs with --dev",
        )


def held_out_hashes(sources: Iterable[str], seed: int = 0) -> npt.NDArray[np.uint64]:
    """Return the hashes that decide: those of held-out sources are the lowest."""
    texts = list(sources)
    if not is_collapsed("\n".join(texts)):
        texts = list(map(collapse_whitespace, texts))
    return hashes_of(texts, _PURPOSE, seed)


def held_out_count(sources: int, fraction: float, limit: int) -> int:
    """Return how many of so many distinct sources are held out; there are at least two."""
    return min(max(1, round(fraction * sources)), limit, sources - 1)


def _hash(source: str, seed: int) -> int:
    """Return the hash that decides: equal for sources that differ only in whitespace."""
    return hash_of(collapse_whitespace(source), _PURPOSE, seed)
