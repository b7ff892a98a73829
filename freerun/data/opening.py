"""Opening of input files: regular files, and pipes, which are read once. Everything else is rejected by its type.

A device such as ``/dev/zero`` has no end, and a pipe into which nothing is written blocks its reader. So a file is
opened without waiting and checked before its first byte is read, and waiting for a pipe is reported.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from freerun.errors import DataError

__all__ = ["Say", "is_pipe", "is_read_once", "open_file", "reject_read_once"]

Say = Callable[[str], None]

PATIENCE_SECONDS: Final = 2.0
"""Waiting for a pipe is reported after this time."""
# Do not wait for a writer, and do not make a terminal the controlling terminal. Windows has neither flag.
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
# Names of a process's open files: they mean another file, or none, to the next process.
_DESCRIPTOR: Final = re.compile(r"/dev/(fd/\d+|stdin)|/proc/(self|\d+)/(task/\d+/)?fd/\d+")


def open_file(path: Path, name: str, on_wait: Say | None = None) -> BinaryIO:
    """Open a file of pairs or texts for reading; a pipe once it has data or has ended.

    Messages call the file ``name``. ``on_wait`` is called once, with a sentence, if a pipe has no data for
    ``PATIENCE_SECONDS``.

    Raises:
        DataError: a socket, a terminal, or another device; the null device is an empty file.
        OSError: the file cannot be opened, or is a directory.
    """
    try:
        handle = os.open(path, _FLAGS)
    except OSError as error:
        # A socket, and a device without its hardware, cannot even be opened.
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP):
            _check_kind(path.stat(), name)
        raise
    try:
        status = os.fstat(handle)
        _check_kind(status, name, os.isatty(handle))
        if stat.S_ISFIFO(status.st_mode):
            _wait(handle, name, on_wait)
            os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def is_pipe(path: Path) -> bool:
    """Return True for a pipe, named or anonymous; False also if there is no such file."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return False


def is_read_once(path: Path) -> bool:
    """Return True for a file that cannot be opened again later: a pipe, or the path of this process's open file."""
    return is_pipe(path) or _DESCRIPTOR.fullmatch(str(path)) is not None


def reject_read_once(path: Path) -> None:
    """Reject a pipe, or the path of an open file, as a file that is read several times.

    Raises:
        DataError: the file can be read only once.
    """
    if is_read_once(path):
        what = "a pipe, which" if is_pipe(path) else "an open file of one process, which"
        raise DataError(
            path,
            f"this is {what} can be read only once",
            "Expected a regular file, because it is read several times",
            "Write the pairs to a file first",
        )


def _check_kind(status: os.stat_result, name: str, is_terminal: bool = False) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or _is_null_device(status):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if stat.S_ISSOCK(mode):
        kind, fix = "socket", "Save its content to a file first"
    elif is_terminal:
        kind, fix = "terminal", "Save the lines to a file first, or pass them through a pipe"
    else:
        kind, fix = "device, which may have no end", "Check the path"
    raise DataError(name, f"this is a {kind}", "Expected a file or a pipe", fix)


def _is_null_device(status: os.stat_result) -> bool:
    if not stat.S_ISCHR(status.st_mode):
        return False
    if sys.platform == "win32":
        return True  # it has no other character devices
    return status.st_rdev == Path(os.devnull).stat().st_rdev


def _wait(handle: int, name: str, on_wait: Say | None) -> None:
    """Wait until a pipe has data, or its last writer has closed it."""
    if sys.platform == "win32":
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    if poll.poll(1000 * PATIENCE_SECONDS):
        return
    if on_wait is not None:
        on_wait(f"{name}: this is a pipe, and nothing has been written into it yet; waiting for its first line.")
    poll.poll()
