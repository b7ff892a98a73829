"""The files of a bundle as they were at one moment, however late they are read, and however odd they are."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from freerun.errors import BundleError

__all__ = ["Identity", "Snapshot", "damaged", "identity_of", "missing"]

Identity = tuple[int, int, int]

# Without O_NONBLOCK, opening a named pipe waits for a writer. O_BINARY and O_CLOEXEC: Windows, and everything else.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Snapshot:
    """Files of a folder, opened when this is made and closed when it is no longer used.

    A bundle is replaced by renaming folders. What was opened before stays the old bundle's, even after that is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, int] = {}
        weakref.finalize(self, _close, self._files)

    def open(self, names: Iterable[str]) -> None:
        """Open some files.

        Raises:
            BundleError: a file is missing, cannot be read, or is no regular file (a folder, a pipe, a device).
        """
        for name in names:
            if name not in self._files:
                self._files[name] = self._opened(name)

    def identity(self, name: str) -> Identity:
        """Which file was opened: whether a path still leads to it."""
        return identity_of(os.fstat(self._files[name]))

    def read(self, name: str, most: int) -> bytes:
        """The content of an opened file.

        Raises:
            BundleError: it has more than ``most`` bytes, or cannot be read.
        """
        handle = self._files[name]
        size = os.fstat(handle).st_size
        if size > most:
            raise damaged(self.folder / name, f"it has {size:,} bytes, and this model allows {most:,} at most")
        parts: list[bytes] = []
        start = 0
        try:
            # pread: the place in a file is shared with processes that were forked from this one
            while start < size and (part := os.pread(handle, size - start, start)):
                parts.append(part)
                start += len(part)
        except OSError as error:
            raise _unreadable(self.folder / name, error) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _opened(self, name: str) -> int:
        path = self.folder / name
        try:
            handle = os.open(path, _FLAGS)
        except FileNotFoundError:
            raise missing(self.folder, name) from None
        except OSError as error:
            raise _unreadable(path, error) from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise BundleError(
                path, "this is not a regular file", "Expected a file as freerun wrote it", "Copy the whole bundle again"
            )
        return handle


def identity_of(found: os.stat_result) -> Identity:
    """Which file it is: device, inode and time, for the inode of a file that is gone is soon another one's."""
    return found.st_dev, found.st_ino, found.st_mtime_ns


def missing(folder: Path, name: str) -> BundleError:
    """The error for a file that is not there."""
    return BundleError(
        folder,
        f"{name} is missing",
        "Expected a complete bundle",
        "Copy the whole folder again, or train the model again",
    )


def damaged(path: Path, what: str) -> BundleError:
    """The error for a file that freerun did not write so."""
    return BundleError(path, f"damaged: {what}", "Expected a file as freerun wrote it", "Copy the whole bundle again")


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        path,
        f"it cannot be read ({error.strerror})",
        "Expected a readable file",
        "Fix the cause, or copy the bundle again",
    )


def _close(files: dict[str, int]) -> None:
    for handle in files.values():
        os.close(handle)
