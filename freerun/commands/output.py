"""Where results go: standard output, or a file that appears only when it is complete."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from freerun.errors import DataError
from freerun.files import naming, replacing_file

__all__ = ["open_output"]


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Standard output for None. A file replaces an older one when everything was written, else nothing changes.

    Pipes, devices and open descriptors such as /dev/stdout are written to directly (``replacing_file``).

    Raises:
        DataError: the file cannot be written.
        OSError: writing failed.
    """
    if path is None:
        with naming("standard output"):
            yield sys.stdout
            sys.stdout.flush()
        return
    with ExitStack() as stack:
        try:
            if path.is_dir():
                raise DataError(path, "this is a directory", "Expected a file to write to", "Name a file in it")
            raw = stack.enter_context(replacing_file(path))
        except OSError as error:
            what = f"cannot be written ({error.strerror})"
            raise DataError(path, what, "Expected a directory that exists and can be written") from None
        out = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
        try:
            yield out
        finally:
            out.detach()  # which writes the rest; the file is closed by its owner
