"""The destination of results: standard output, or a file that appears only when it is complete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from freerun.files import naming, open_text_file

__all__ = ["open_output"]


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Open a file as ``open_text_file`` does, or standard output for None."""
    if path is None:
        with naming("standard output"):
            yield sys.stdout
            sys.stdout.flush()
        return
    with open_text_file(path) as out:
        yield out
