"""A snapshot of a bundle's files: opened at one moment, read later, whatever kind of file they are."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from freerun.errors import BundleError
from freerun.files import bytes_hash

__all__ = ["Identity", "Snapshot", "damaged", "identity_of", "missing"]

Identity = tuple[int, int, int]

# Without O_NONBLOCK, opening a named pipe waits for a writer. O_BINARY and O_CLOEXEC: Windows, and everything else.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Snapshot:
    """Files of a directory, opened on request and closed with the snapshot.

    A bundle is replaced by renaming directories. Files opened before that are the old bundle's, even after its removal.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[str, int] = {}
        weakref.finalize(self, _close, self._files)

    def open(self, names: Iterable[str]) -> None:
        """Open some files.

        Raises:
            BundleError: a file is missing, cannot be read, or is not a regular file (a directory, a pipe, a device).
        """
        for name in names:
            if name not in self._files:
                self._files[name] = self._opened(name)

    def identity(self, name: str) -> Identity:
        """Return the identity of an opened file, to check that its path still leads to it."""
        return identity_of(os.fstat(self._files[name]))

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of an opened file.

        Raises:
            BundleError: the file has more than ``limit`` bytes, or cannot be read.
        """
        handle = self._files[name]
        size = os.fstat(handle).st_size
        if size > limit:
            raise damaged(self.directory / name, f"{size:,} bytes; this model allows {limit:,} at most")
        parts: list[bytes] = []
        start = 0
        try:
            # pread: the file offset is shared with processes that were forked from this one
            while start < size and (part := os.pread(handle, size - start, start)):
                parts.append(part)
                start += len(part)
        except OSError as error:
            raise _unreadable(self.directory / name, error) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def checked(self, name: str, limit: int, hashes: Mapping[str, str]) -> bytes:
        """Open a file if it is not open yet, and return its content, whose SHA-256 must be that in ``hashes``.

        Raises:
            BundleError: as ``open`` and ``read``; or the file has no hash in ``hashes`` (of config.json), or another.
        """
        expected = hashes.get(name)
        if expected is None:
            raise damaged(self.directory / "config.json", f"no hash of {name}")
        self.open([name])
        content = self.read(name, limit)
        actual = bytes_hash(content)
        if actual != expected:
            raise BundleError(
                self.directory / name,
                f"the SHA-256 is {actual[:12]}..., but {expected[:12]}... in config.json: truncated, changed, or from "
                "another bundle",
                "Expected the file that was written with this bundle",
                "Copy the whole bundle again",
            )
        return content

    def _opened(self, name: str) -> int:
        path = self.directory / name
        try:
            handle = os.open(path, _FLAGS)
        except FileNotFoundError:
            raise missing(self.directory, name) from None
        except OSError as error:
            raise _unreadable(path, error) from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise BundleError(
                path, "this is not a regular file", "Expected a file as freerun wrote it", "Copy the whole bundle again"
            )
        return handle


def identity_of(status: os.stat_result) -> Identity:
    """Return the device, inode and time of a file: the inode alone is soon reused once a file is removed."""
    return status.st_dev, status.st_ino, status.st_mtime_ns


def missing(directory: Path, name: str) -> BundleError:
    """Return the error for a missing file."""
    return BundleError(
        directory,
        f"{name} is missing",
        "Expected a complete bundle",
        "Copy the whole directory again, or train the model again",
    )


def damaged(path: Path, what: str) -> BundleError:
    """Return the error for a file that freerun cannot have written in this form."""
    return BundleError(path, f"damaged: {what}", "Expected a file as freerun wrote it", "Copy the whole bundle again")


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        path,
        f"cannot be read ({error.strerror})",
        "Expected a readable file",
        "Fix the cause, or copy the bundle again",
    )


def _close(files: dict[str, int]) -> None:
    for handle in files.values():
        os.close(handle)
