"""Which sources are held out from training: by hash, all pairs of a source on one side, at every run."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from freerun.data.sampling import hash_of
from freerun.errors import DataError

__all__ = ["HeldOut", "held_out_sources", "hold_out"]

_PURPOSE = "hold out"


def hold_out(source: str, share: float, seed: int = 0) -> bool:
    """Whether a source is among the ``share`` (0 to 1) that is held out; true at a larger share if at a smaller one."""
    return hash_of(source, _PURPOSE, seed) < share * 2.0**64


@dataclass(frozen=True)
class HeldOut:
    """The held-out ones of a set of sources: ``source in held_out``.

    Attributes:
        count: number of distinct held-out sources.
        total: number of distinct sources.
        last: largest hash that is held out.
        seed: of the hash.
    """

    count: int
    total: int
    last: int
    seed: int

    def __contains__(self, source: str) -> bool:
        return hash_of(source, _PURPOSE, self.seed) <= self.last


def held_out_sources(
    sources: Iterable[str], *, share: float = 0.05, most: int = 2000, seed: int = 0, where: object = "pairs"
) -> HeldOut:
    """Hold out ``share`` of the distinct sources, rounded, but at least 1 and at most ``most``: those of lowest hash.

    ``sources`` may repeat. Memory: 8 bytes an item. Raises ``DataError`` at ``where`` when there are not two distinct
    sources, for then one side would be empty.
    """
    # The share is exact (the lowest hashes, not all below a bound), for 5 % of 40 sources by chance may be none.
    hashes = np.unique(np.frombuffer(array("Q", (hash_of(s, _PURPOSE, seed) for s in sources)), dtype=np.uint64))
    if len(hashes) < 2:
        raise DataError(
            where,
            f"{len(hashes)} distinct source{'' if len(hashes) == 1 else 's'}, too few to hold any out",
            "Expected at least 2, one for training and one for evaluation",
            "Give the evaluation pairs with --dev",
        )
    count = min(max(1, round(share * len(hashes))), most, len(hashes) - 1)
    return HeldOut(count, len(hashes), int(hashes[count - 1]), seed)
