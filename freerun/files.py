"""Writing files so that a crash, a full disk or a second reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["file_hash", "new_folder_beside", "replace_folder", "restore_folder", "sync_folder", "write_atomic"]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` whole or not at all: a temporary file beside it, synced, then renamed over it."""
    raw = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes the file private; give it the usual mode
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def new_folder_beside(final: Path) -> Path:
    """A new empty folder on the same file system as ``final``, to be filled and then moved there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    folder.chmod(0o777 & ~_umask())
    return folder


def replace_folder(new: Path, final: Path) -> None:
    """Put the finished folder ``new`` in the place of ``final``.

    A folder cannot be renamed over a full one, so the old one steps aside first. A crash between the two renames leaves
    the old content as ``.<name>.old``; ``new`` is complete by then.
    """
    sync_folder(new)
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(new, final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(final: Path) -> None:
    """Finish what a crash in the middle of ``replace_folder`` left: the old content goes back to its place."""
    old = final.with_name(f".{final.name}.old")
    if old.exists() and not final.exists():
        os.replace(old, final)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
