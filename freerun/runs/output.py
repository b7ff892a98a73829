"""Where results go: standard output, or a file that appears only when it is complete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from freerun.errors import DataError
from freerun.files import new_file_beside

__all__ = ["open_output"]


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Standard output for None. A file replaces an older one when everything was written, else nothing changes.

    Raises:
        DataError: the file cannot be written.
    """
    if path is None:
        yield sys.stdout
        return
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise DataError(path, "this is a folder", "Expected a file to write to", "Name a file in it")
        with path.open("w", encoding="utf-8") as out:  # a device or a pipe: nothing to replace
            yield out
        return
    temporary = _temporary(path)
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as out:
            yield out
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    try:
        return new_file_beside(path)
    except OSError as error:
        raise DataError(
            path, f"cannot be written ({error.strerror})", "Expected a folder that exists and can be written"
        ) from None
