"""Writing files so that a crash, a full disk or a second reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "bytes_hash",
    "file_hash",
    "mend_leftovers",
    "new_file_beside",
    "new_folder_beside",
    "present_folder",
    "replace_folder",
    "replacing_folder",
    "restore_folder",
    "sync_folder",
    "write_atomic",
]


_UNFINISHED = ".tmp"
_RANDOM = "[a-z0-9_]" * 8
"""What tempfile puts before the suffix: a user's own .NAME.tmp is no leftover."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` whole or not at all: a temporary file beside it, synced, then renamed over it."""
    raw = data.encode() if isinstance(data, str) else data
    new = new_file_beside(path)
    try:
        with new.open("wb") as out:
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def new_file_beside(final: Path) -> Path:
    """A new empty file on the same file system as ``final``, to be filled and then moved there."""
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.", suffix=_UNFINISHED)
    os.close(handle)
    try:
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes the file private; give it the usual mode
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def new_folder_beside(final: Path) -> Path:
    """A new empty folder on the same file system as ``final``, to be filled and then moved there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=_UNFINISHED))
    folder.chmod(0o777 & ~_umask())
    return folder


@contextlib.contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """A new folder to be filled: at the end of the block it takes the place of ``final``, after an error it is gone."""
    new = new_folder_beside(final)
    try:
        yield new
        replace_folder(new, final)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def replace_folder(new: Path, final: Path) -> None:
    """Put the finished folder ``new`` in the place of ``final``.

    A folder cannot be renamed over a full one, so the old one steps aside first. A crash between the two renames leaves
    the old content as ``.<name>.old``: ``present_folder`` finds it there, ``restore_folder`` puts it back.
    """
    sync_folder(new)
    restore_folder(final)
    old = _aside(final)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    try:
        os.replace(new, final)
    except OSError:
        restore_folder(final)
        raise
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(final: Path) -> None:
    """Mend what a crash in the middle of ``replace_folder`` left: the old content goes back to its place."""
    old = _aside(final)
    if old.exists() and not final.exists():
        os.replace(old, final)


def present_folder(final: Path) -> Path:
    """Where the content of ``final`` is, for readers, who must not rename: the writer may be at work this moment."""
    return final if final.exists() or not _aside(final).exists() else _aside(final)


def mend_leftovers(parent: Path, name: str) -> None:
    """After a crash: in ``parent``, what stepped aside goes back, what is unfinished goes away. ``name`` is a glob.

    Only for the one writer of ``name``: another one's unfinished files would go away, too.
    """
    for old in parent.glob(f".{name}.old"):
        restore_folder(parent / old.name.removeprefix(".").removesuffix(".old"))
    for leftover in [*parent.glob(f".{name}.old"), *parent.glob(f".{name}.{_RANDOM}{_UNFINISHED}")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def bytes_hash(content: bytes) -> str:
    """SHA-256 of bytes, as hex."""
    return hashlib.sha256(content).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
