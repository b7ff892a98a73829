"""A writer of pairs as TSV, which ``readers`` reads back unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from freerun.files import write_atomic

__all__ = ["tsv", "write_pairs"]


def tsv(pairs: Iterable[tuple[str, str]]) -> str:
    """Return one ``source<TAB>target`` line per pair. Raises ``ValueError`` for a field with a tab or a line end."""
    lines = []
    for source, target in pairs:
        # An invariant of the readers' pairs; a field with a tab would come back as two.
        if any(character in source or character in target for character in "\t\n"):
            raise ValueError(f"a TSV field cannot hold a tab or line end: {source!r}, {target!r}")
        lines.append(f"{source}\t{target}\n")
    return "".join(lines)


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Write pairs (source, target) to a file atomically."""
    write_atomic(path, tsv(pairs))
