"""The files that a list of paths and patterns names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from freerun.config.path_patterns import is_pattern, matches_of
from freerun.data.opening import is_read_once
from freerun.errors import DataError

__all__ = ["find_files"]


def find_files(entries: Sequence[str]) -> tuple[Path, ...]:
    """Return the files in the order of ``entries``; those that a pattern matches are sorted.

    Raises:
        DataError: a pattern matches no file, a file is named twice, or it can be read only once.
    """
    files: dict[str, tuple[Path, str]] = {}
    for entry in entries:
        for file in _files_of_entry(entry):
            if is_read_once(file):
                raise DataError(
                    file,
                    "this is a pipe, or an open file of one process, in a list of files",
                    "Expected regular files in a list",
                    "Write the pairs to a file first, or name the pipe alone",
                )
            identity = os.path.realpath(file)
            if identity in files:
                raise _named_twice(*files[identity], file, entry)
            files[identity] = file, entry
    return tuple(file for file, _ in files.values())


def _files_of_entry(entry: str) -> list[Path]:
    if not is_pattern(entry):
        return [Path(entry)]
    files = matches_of(entry)
    if not files:
        raise DataError(
            entry,
            "no file matches this pattern",
            "Expected at least one file of pairs",
            "Check the directory and the pattern, in which *, ? and [...] have a meaning",
        )
    return files


def _named_twice(former: Path, former_entry: str, file: Path, entry: str) -> DataError:
    entries = f"{former_entry!r} and {entry!r}" if former_entry != entry else f"{entry!r} twice"
    what = f"named by {entries}" if former == file else f"the same file as {former} (named by {entries})"
    return DataError(
        file,
        f"this file is {what}",
        "Expected each file once in a list, because its pairs would count twice",
        "Remove an entry, or make a pattern narrower",
    )
