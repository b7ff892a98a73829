"""Lines of sources for a model with features: ``source<TAB>features``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from freerun.data.features import FeatureCodec
from freerun.data.known_features import missing_features
from freerun.data.opening import Say
from freerun.data.readers import read_texts
from freerun.errors import DataError

__all__ = ["SourceLine", "read_sources", "split_line"]

SourceLine = str | tuple[str, str]
"""A source and its features; an empty str for an empty line."""


def read_sources(
    path: Path | BinaryIO, name: str, codec: FeatureCodec, on_wait: Say | None = None
) -> Iterator[SourceLine]:
    """Stream the sources of a file or of an open binary stream, as ``read_texts`` does for texts."""
    lines = enumerate(read_texts(path, name, on_wait, tabs=True), start=1)
    return (split_line(line, f"{name}:{number}", codec) for number, line in lines)


ADD_FEATURES: Final = "Add a tab and the features; after the tab, there may be none"


def split_line(line: str, location: str, codec: FeatureCodec, fix: str = ADD_FEATURES) -> SourceLine:
    """Return the source and the features of a line at ``location``; ``fix`` is for a line without features.

    Raises:
        DataError: there is no tab, or more than one.
    """
    if not line:
        return ""
    fields = line.split("\t")
    if len(fields) == 1:
        raise missing_features(location, line, codec, fix)
    if len(fields) > 2:
        raise DataError(
            location,
            f"{len(fields)} tab-separated fields",
            "Expected 2: a source and its features",
            "Remove the extra tab; cut -f1,3 makes such lines from source<TAB>target<TAB>features",
        )
    return fields[0], fields[1]
