"""The special ids that every vocabulary begins with."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BOS", "EOS", "NEVER_WRITTEN", "NUM_SPECIAL", "PAD", "UNK", "source_length"]

PAD, BOS, EOS, UNK = 0, 1, 2, 3
NUM_SPECIAL = 4
NEVER_WRITTEN = (PAD, BOS, UNK)
"""Ids that no strategy samples and no search outputs."""


def source_length(encoded: Sequence[int]) -> int:
    """Return the number of a source's token ids, EOS included; the ids after it are those of its features."""
    return len(encoded) if encoded[-1] == EOS else list(encoded).index(EOS) + 1
