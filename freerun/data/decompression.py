"""Binary streams of text files: plain, or decompressed according to the suffix, with every error as a ``DataError``."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from freerun.data.opening import Say, open_file
from freerun.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["COMPRESSED", "as_data_error", "open_lines"]

COMPRESSED: Final = (".gz", ".xz", ".zst")
"""Suffixes of compressed files."""
_BUFFER_BYTES: Final = 1 << 16
_MAX_WINDOW_LOG: Final = 27
"""A .zst file may require a window of up to 2**31 bytes of memory; the zstd command, too, accepts 2**27."""


@contextlib.contextmanager
def open_lines(path: Path, name: str, on_wait: Say | None = None) -> Iterator[BinaryIO]:
    """Open a file of lines, and yield the stream of its bytes, decompressed if the suffix is one of ``COMPRESSED``.

    At most one buffer and the decompressor's window are in memory. A file may consist of several compressed streams.
    Only reading the stream raises ``DataError``, not what the caller does with its content.

    Args:
        path: a regular file, or a pipe.
        name: what messages call the file.
        on_wait: called with a sentence if a pipe has no data for a while.

    Raises:
        DataError: the file cannot be opened or read, or the compressed content is truncated or damaged.
        MissingExtraError: a ``.zst`` file, and the package that reads it is not installed.
    """
    with as_data_error(name):
        raw = open_file(path, name, on_wait)
    with raw:
        yield io.BufferedReader(_Decompressed(raw, path.suffix.lower(), name), _BUFFER_BYTES)


class _Decompressed(io.RawIOBase):
    """The decompressed bytes of a file; its errors are of type ``DataError``."""

    def __init__(self, raw: BinaryIO, suffix: str, name: str) -> None:
        self._name = name
        self._damage: type[Exception] = lzma.LZMAError
        self._stream: Any = raw
        if suffix == ".gz":
            self._stream = gzip.GzipFile(fileobj=raw)
        elif suffix == ".xz":
            self._stream = lzma.LZMAFile(raw)  # noqa: SIM115
        elif suffix == ".zst":
            self._stream, self._damage = _zstd_file(raw, name)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what is available, at least one byte: a pipe's first lines are processed before it has more."""
        try:
            with as_data_error(self._name):
                return cast(int, self._stream.readinto1(buffer))
        except self._damage as error:
            if "too much memory" in str(error):
                raise DataError(
                    self._name,
                    f"the compressed file requires a window of more than {2 ** (_MAX_WINDOW_LOG - 20)} MiB",
                    "Expected a .zst file that can be read with little memory",
                    f"Compress it again without --long, or with --long={_MAX_WINDOW_LOG}",
                ) from error
            raise _damage_error(self._name, f"is damaged: {error}") from error


def _zstd_file(raw: BinaryIO, name: str) -> tuple[Any, type[Exception]]:
    """Return the decompressed stream of a .zst file, and the exception that it raises if the file is damaged."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise MissingExtraError("backports.zstd", "zstd", f"reading {name}") from None
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    return zstd.ZstdFile(raw, options=options), zstd.ZstdError


@contextlib.contextmanager
def as_data_error(name: str) -> Iterator[None]:
    """Convert errors of the file system and of decompression to ``DataError``."""
    # From specific to general: most of these are OSErrors, BadGzipFile among them.
    try:
        yield
    except FileNotFoundError as error:
        pattern = ", or write a pattern in a list, data.train = [...]" if set("*?[") & set(name) else ""
        raise DataError(name, "no such file", "Expected a file that exists", f"Check the path{pattern}") from error
    except IsADirectoryError as error:
        raise DataError(name, "this is a directory", "Expected a file", "Name a file in the directory") from error
    except PermissionError as error:
        raise DataError(
            name, "no permission to read the file", "Expected a readable file", "Change its mode"
        ) from error
    except EOFError as error:
        raise _damage_error(name, "is truncated") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise _damage_error(name, f"is damaged: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(
            name, f"the file cannot be read: {reason}", "Expected a readable file", "Check the path"
        ) from error


def _damage_error(name: str, what: str) -> DataError:
    # Without a line number: decompression runs ahead of the lines, so it would name an undamaged one.
    suffixes = f"{', '.join(COMPRESSED[:-1])} or {COMPRESSED[-1]}"
    return DataError(
        name, f"the compressed file {what}", f"Expected a complete {suffixes} file", "Copy or compress the file again"
    )
