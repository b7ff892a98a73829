"""The special ids that every vocabulary begins with."""

from __future__ import annotations

__all__ = ["BOS", "EOS", "NEVER_WRITTEN", "NUM_SPECIAL", "PAD", "UNK"]

PAD, BOS, EOS, UNK = 0, 1, 2, 3
NUM_SPECIAL = 4
NEVER_WRITTEN = (PAD, BOS, UNK)
"""Ids that no strategy samples and no search outputs."""
