"""Writing files so that a crash, a full disk or a second reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "bytes_hash",
    "file_hash",
    "naming",
    "new_sibling_dir",
    "readable_dir",
    "real_path",
    "remove_leftovers",
    "replace_dir",
    "replacing_dir",
    "replacing_file",
    "restore_dir",
    "sync_dir",
    "write_atomic",
]


_UNFINISHED = ".tmp"
_RANDOM = "[a-z0-9_]" * 8
"""What an unfinished file has before the suffix: a user's own .NAME.tmp is no leftover."""
_LONGEST = 230
"""Bytes of a name that an unfinished file keeps: file systems take 255."""
_OPEN_FILE = "/proc/self/fd/{}"
_DESCRIPTORS = re.compile(r"/proc/(\d+)(/task/\d+)?/fd")
"""The directory that a process's open files are found in; /dev/stdout and /dev/fd lead there."""


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Let an OSError of the block say that it is about ``path``, unless it names another file that a user knows."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(_UNFINISHED):
            error.filename = str(path)
        raise


def real_path(path: Path) -> Path:
    """Where a path leads, whatever is there: links are followed, "." and ".." are gone."""
    return Path(os.path.realpath(path))  # unlike Path.resolve it does not give up on links in a circle


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` whole or not at all, as ``replacing_file`` does."""
    with replacing_file(path) as out:
        out.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to be written: at the end of the block it is synced and takes the place of ``path``, whole.

    After an error it is gone and ``path`` is what it was. Links are followed, and an older file's mode and owner are
    kept. What is no regular file (a pipe, a device, /dev/stdout) has no place to take: it is written to directly.

    Raises:
        OSError: about ``path``, or about the temporary file beside it.
    """
    with naming(path):
        direct = _opened_directly(path)
        if direct is not None:
            with direct:
                yield direct
            return
        final = real_path(path)
        new = _unfinished(final)
        out, named = _new_file(new)
        try:
            with out:
                yield out
                out.flush()
                _keep_mode(final, out.fileno())
                os.fsync(out.fileno())
                if not named:
                    # Python follows links only with a directory, which an absolute path makes no use of
                    os.link(_OPEN_FILE.format(out.fileno()), new, src_dir_fd=out.fileno())
            os.replace(new, final)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def _opened_directly(path: Path) -> BinaryIO | None:
    """What cannot be replaced, open for writing; None for a regular file, or where there is none yet."""
    descriptor = _descriptor(path)
    if descriptor is not None:
        return os.fdopen(os.dup(descriptor), "wb")  # opened by its path, a redirected file would lose what it has
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) else path.open("wb")


def _descriptor(path: Path) -> int | None:
    """The open file of this process that a path such as /dev/stdout, or a link to it, leads to."""
    for _ in range(40):  # what the kernel follows
        folder = _DESCRIPTORS.fullmatch(str(real_path(path.parent)))
        if folder and int(folder[1]) == os.getpid() and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _new_file(new: Path) -> tuple[BinaryIO, bool]:
    """A new file in the directory of ``new``, with the usual mode and open for writing; and whether it is ``new``.

    Where the system can, the file has no name yet: nothing is left of it if the process is killed.
    """
    if hasattr(os, "O_TMPFILE") and Path(_OPEN_FILE).parent.exists():
        # some file systems cannot; and what is wrong with the directory, the other way will say
        with contextlib.suppress(OSError):
            return os.fdopen(os.open(new.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o666), "wb"), False
    return os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb"), True


def _keep_mode(old: Path, new: int) -> None:
    """Give an open file the mode and, where that is allowed, the owner of the file that it will replace."""
    try:
        found = old.stat()
    except FileNotFoundError:
        return
    with contextlib.suppress(PermissionError):
        os.fchown(new, found.st_uid, found.st_gid)
    os.fchmod(new, stat.S_IMODE(found.st_mode))


def new_sibling_dir(final: Path) -> Path:
    """A new empty folder on the same file system as ``final``, to be filled and then moved there."""
    final = real_path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = _unfinished(final)
    folder.mkdir()
    return folder


def _unfinished(final: Path) -> Path:
    """A name beside ``final`` that nobody uses, also where the name is as long as names may be."""
    name = os.fsdecode(os.fsencode(final.name)[:_LONGEST])
    return final.with_name(f".{name}.{secrets.token_hex(4)}{_UNFINISHED}")


@contextlib.contextmanager
def replacing_dir(final: Path) -> Iterator[Path]:
    """A new folder to be filled: at the end of the block it takes the place of ``final``, after an error it is gone.

    Raises:
        OSError: about ``final``, or about a file in the new folder.
    """
    with naming(final):
        new = new_sibling_dir(final)
        try:
            yield new
            replace_dir(new, final)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def replace_dir(new: Path, final: Path) -> None:
    """Put the finished folder ``new`` in the place of ``final``; of a link, in the place of what it leads to.

    A folder cannot be renamed over a full one, so the old one steps aside first. A crash between the two renames leaves
    the old content as ``.<name>.old``: ``readable_dir`` finds it there, ``restore_dir`` puts it back.
    """
    final = real_path(final)
    sync_dir(new)
    restore_dir(final)
    old = _aside(final)
    _remove(old)
    if final.exists():
        os.replace(final, old)
    try:
        os.replace(new, final)
    except OSError:
        restore_dir(final)
        raise
    sync_dir(final.parent)
    _remove(old)


def restore_dir(final: Path) -> None:
    """After a crash in the middle of ``replace_dir``: put the old content back in its place."""
    final = real_path(final)
    old = _aside(final)
    if old.exists() and not final.exists():
        os.replace(old, final)


def readable_dir(final: Path) -> Path:
    """Where the content of ``final`` is, for readers, who must not rename: the writer may be at work this moment."""
    if final.exists():
        return final
    old = _aside(real_path(final))
    return old if old.exists() else final


def remove_leftovers(parent: Path, name: str) -> None:
    """After a crash: in ``parent``, what stepped aside goes back, what is unfinished goes away. ``name`` is a glob.

    Only for the one writer of ``name``: another one's unfinished files would go away, too.
    """
    for old in parent.glob(f".{name}.old"):
        restore_dir(parent / old.name.removeprefix(".").removesuffix(".old"))
    for leftover in [*parent.glob(f".{name}.old"), *parent.glob(f".{name}.{_RANDOM}{_UNFINISHED}")]:
        _remove(leftover)


def _remove(path: Path) -> None:
    """Remove what is there, whatever it is; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_dir(folder: Path) -> None:
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
