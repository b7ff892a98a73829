"""Paths and glob patterns in lists of files: ``["a.tsv", "b/*.tsv"]``."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from freerun.files import real_path

__all__ = ["absolute_pattern", "is_pattern", "matches_of"]


def is_pattern(entry: str) -> bool:
    """Return True for an entry with ``*``, ``?`` or ``[``, unless a file has this name."""
    return glob.has_magic(entry) and not os.path.lexists(entry)


def absolute_pattern(pattern: str, directory: Path) -> str:
    """Return a pattern whose part without special characters is an absolute path; it is the same if repeated."""
    parts = Path(pattern).expanduser().parts
    plain = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(glob.escape(str(real_path(directory.joinpath(*parts[:plain])))), *parts[plain:]))


def matches_of(pattern: str) -> list[Path]:
    """Return the files that match a pattern, sorted; ``**`` also matches directories at any depth.

    Hidden files match only a pattern that begins with a dot, as in a shell. Directories are left out.
    """
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [Path(name) for name in sorted(set(names)) if not Path(name).is_dir()]
