"""A writer of pairs as TSV, which ``readers`` reads back unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from freerun.data.readers import Pair
from freerun.files import write_atomic

__all__ = ["tsv", "write_pairs"]


def tsv(rows: Iterable[Sequence[str]]) -> str:
    """Return one line of tab-separated fields per row. Raises ``ValueError`` for a field with a tab or a line end."""
    lines = []
    for row in rows:
        # An invariant of the readers' pairs; a field with a tab would come back as two.
        if any(character in field for field in row for character in "\t\n"):
            raise ValueError(f"a TSV field cannot hold a tab or line end: {row!r}")
        line = "\t".join(row)
        # readers take one "\r" before a line end, and a byte order mark at the beginning, for no part of the text
        lines.append(f"{line}\r\n" if line.endswith("\r") else f"{line}\n")
    text = "".join(lines)
    return f"\ufeff{text}" if text.startswith("\ufeff") else text


def write_pairs(path: Path, pairs: Iterable[Pair], feature_separator: str | None = None) -> None:
    """Write pairs to a file atomically: source, target and, with a separator, features."""
    write_atomic(path, tsv(_row(pair, feature_separator) for pair in pairs))


def _row(pair: Pair, separator: str | None) -> list[str]:
    if separator is None:
        return [pair.source, pair.target]
    features = pair.features or ""
    return [pair.source, pair.target, features if isinstance(features, str) else separator.join(features)]
