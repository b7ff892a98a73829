"""Atomic writes of files and directories: after a crash or on a full disk no reader sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from freerun.errors import DataError

__all__ = [
    "bytes_hash",
    "file_hash",
    "files_allowed",
    "naming",
    "new_sibling_dir",
    "open_text_file",
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


_PARTIAL = ".tmp"
_RANDOM = "[a-z0-9_]" * 8
"""A glob for the random part of a partial file's name: a user's own .NAME.tmp is not a leftover."""
_MAX_NAME_BYTES = 230
"""Bytes of the final name in a partial file's name: file systems allow 255 in all."""
_OPEN_FILE = "/proc/self/fd/{}"
_MOST_FILES = 16_384
"""Files that a process needs at most."""
_DESCRIPTORS = re.compile(r"/proc/(\d+)(/task/\d+)?/fd")
"""The directory of a process's open files; /dev/stdout and /dev/fd lead there."""


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Make an OSError of the block name ``path``, unless it names another file that the user has named."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(_PARTIAL):
            error.filename = str(path)
        raise


def real_path(path: Path) -> Path:
    """Resolve links, "." and ".." in a path, whether it exists or not."""
    return Path(os.path.realpath(path))  # unlike Path.resolve it does not fail on a circle of links


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` atomically, with ``replacing_file``."""
    with replacing_file(path) as out:
        out.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing, which is synced and replaces ``path`` at the end of the block.

    After an error the new file is removed and ``path`` is unchanged. Links are followed, and an existing file's mode
    and owner are kept. Anything but a regular file (a pipe, a device, /dev/stdout) cannot be replaced and is written to
    directly.

    Raises:
        OSError: about ``path``, or about the temporary file next to it.
    """
    with naming(path):
        direct = _open_directly(path)
        if direct is not None:
            with direct:
                yield direct
            return
        final = real_path(path)
        new = _partial_path(final)
        out, has_name = _new_file(new)
        try:
            with out:
                yield out
                out.flush()
                _keep_mode(final, out.fileno())
                os.fsync(out.fileno())
                if not has_name:
                    # Python follows links only if a directory is given, which an absolute path ignores
                    os.link(_OPEN_FILE.format(out.fileno()), new, src_dir_fd=out.fileno())
            os.replace(new, final)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def open_text_file(path: Path) -> Iterator[TextIO]:
    """Open a file for results: it replaces an older one when everything has been written, otherwise nothing changes.

    Pipes, devices and open descriptors such as /dev/stdout are written to directly (``replacing_file``).

    Raises:
        DataError: the file cannot be written.
        OSError: writing failed.
    """
    with contextlib.ExitStack() as stack:
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
            out.detach()  # writes the rest; the file is closed by its owner


def _open_directly(path: Path) -> BinaryIO | None:
    """Open a file that cannot be replaced; return None for a regular file, or if there is no file yet."""
    descriptor = _descriptor(path)
    if descriptor is not None:
        return os.fdopen(os.dup(descriptor), "wb")  # opened by its path, a redirected file would be truncated
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) else path.open("wb")


def _descriptor(path: Path) -> int | None:
    """Return the file descriptor of this process that a path such as /dev/stdout, or a link to it, leads to."""
    for _ in range(40):  # the kernel's limit
        match = _DESCRIPTORS.fullmatch(str(real_path(path.parent)))
        if match and int(match[1]) == os.getpid() and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _new_file(new: Path) -> tuple[BinaryIO, bool]:
    """Open a new file in the directory of ``new`` with the usual mode; return it, and True if its name is ``new``.

    If the system supports it, the file has no name yet, so that nothing remains of it if the process is killed.
    """
    if hasattr(os, "O_TMPFILE") and Path(_OPEN_FILE).parent.exists():
        # not on all file systems; an error of the directory is raised by the other way
        with contextlib.suppress(OSError):
            return os.fdopen(os.open(new.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o666), "wb"), False
    return os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb"), True


def _keep_mode(old: Path, new: int) -> None:
    """Give an open file the mode and, if permitted, the owner of the file that it will replace."""
    try:
        status = old.stat()
    except FileNotFoundError:
        return
    with contextlib.suppress(PermissionError):
        os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))


def new_sibling_dir(final: Path) -> Path:
    """Create an empty directory next to ``final``, on the same file system, to be filled and moved there."""
    final = real_path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    directory = _partial_path(final)
    directory.mkdir()
    return directory


def _partial_path(final: Path) -> Path:
    """Return an unused path next to ``final``, even if its name has the maximum length."""
    name = os.fsdecode(os.fsencode(final.name)[:_MAX_NAME_BYTES])
    return final.with_name(f".{name}.{secrets.token_hex(4)}{_PARTIAL}")


@contextlib.contextmanager
def replacing_dir(final: Path) -> Iterator[Path]:
    """Create a directory that replaces ``final`` at the end of the block; after an error it is removed.

    Raises:
        OSError: about ``final``, or about a file in the new directory.
    """
    with naming(final):
        new = new_sibling_dir(final)
        try:
            yield new
            replace_dir(new, final)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def replace_dir(new: Path, final: Path) -> None:
    """Replace ``final``, or the target of the link ``final``, by the finished directory ``new``.

    A directory cannot be renamed over one that is not empty, so the old one is moved away first. A crash between the
    two renames leaves the old content as ``.<name>.old``: ``readable_dir`` finds it there, ``restore_dir`` restores it.
    """
    final = real_path(final)
    sync_dir(new)
    restore_dir(final)
    old = _old_path(final)
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
    """Restore the old directory after a crash inside ``replace_dir``."""
    final = real_path(final)
    old = _old_path(final)
    if old.exists() and not final.exists():
        os.replace(old, final)


def readable_dir(final: Path) -> Path:
    """Return the directory with the content of ``final``; readers must not rename, a writer may be at work."""
    if final.exists():
        return final
    old = _old_path(real_path(final))
    return old if old.exists() else final


def remove_leftovers(parent: Path, name: str) -> None:
    """Clean up in ``parent`` after a crash: restore old directories, remove partial files. ``name`` is a glob.

    Only the single writer of ``name`` may call this: it would remove another writer's partial files, too.
    """
    for old in parent.glob(f".{name}.old"):
        restore_dir(parent / old.name.removeprefix(".").removesuffix(".old"))
    for leftover in [*parent.glob(f".{name}.old"), *parent.glob(f".{name}.{_RANDOM}{_PARTIAL}")]:
        _remove(leftover)


def _remove(path: Path) -> None:
    """Remove a file, a directory or a link, but not a link's target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_dir(directory: Path) -> None:
    """Make renames inside ``directory`` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_allowed() -> int:
    """Return how many files this process may open, after raising the limit as far as it may."""
    if sys.platform == "win32":
        return 512
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


def bytes_hash(content: bytes) -> str:
    """Return the SHA-256 of bytes as hex."""
    return hashlib.sha256(content).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _old_path(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")
