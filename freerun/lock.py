"""One writer at a time: lock files with locks of the operating system.

A lock is an exclusive ``flock`` on an open file. The kernel releases it when the process ends, however it ends, so a
file that a killed process left behind blocks no one. Threads of one process exclude each other, too. On NFS the lock
holds between hosts if the kernel passes it on to the server (Linux does, except on mounts with ``nolock`` or
``local_lock``). On a file system without locks a warning says so, and nothing is locked.

On Windows, where Python has no ``fcntl``, nothing is locked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from freerun.errors import RunError
from freerun.files import real_path

if sys.platform != "win32":
    import fcntl

__all__ = ["BUSY_MESSAGE", "LOCK", "check_empty", "holder", "inner_lock", "only_writer", "outer_lock"]

LOCK = ".lock"
BUSY_MESSAGE = "is writing here"
"""Part of the message to a second writer, by which tests recognize it."""
_TRIES = 5
_PAUSE_SECONDS = 0.05
"""Between tries: the holder may be about to end, or to write its note."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_MAX_COMMAND = 200


def check_empty(directory: Path, leftovers: tuple[str, ...]) -> None:
    """Check that there is nothing in a directory but a lock, and files whose names begin with one of ``leftovers``.

    These may be there if an earlier process was killed as it began.

    Raises:
        RunError: there is something else.
    """
    names = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
    names = [name for name in names if name != LOCK and not name.startswith(leftovers)]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise RunError(
            directory,
            f"this directory is not empty: it holds {', '.join(names[:3])}{more}",
            "Expected a new or empty directory",
            "Choose another with --out",
        )


def inner_lock(directory: Path) -> Path:
    """Return the lock file, inside it, of a directory that is written file by file."""
    return directory / LOCK


def outer_lock(directory: Path) -> Path:
    """Return the lock file, next to it, of a directory that is replaced as a whole."""
    final = real_path(directory)
    return final.with_name(f".{final.name}{LOCK}")


@contextlib.contextmanager
def only_writer(*files: Path) -> Iterator[None]:
    """Hold the locks ``files`` until the end of the block; a file named twice is locked once.

    Missing directories are created, and removed again if the block leaves them empty.

    Raises:
        RunError: another process or thread holds one of them, or a directory cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for file in sorted({real_path(file.parent) / file.name: file for file in files}.values()):
            stack.enter_context(_directory(file))
            if sys.platform != "win32":
                stack.enter_context(_hold(file))
        yield


def holder(file: Path) -> str | None:
    """Return a description of the process that holds a lock; None if it is free."""
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # shared: two processes that only check do not exclude each other
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_note(handle)
    except OSError:
        return None
    finally:
        os.close(handle)
    return None


@contextlib.contextmanager
def _directory(file: Path) -> Iterator[None]:
    """Create the directory of a lock file, and remove it again if it is empty at the end of the block."""
    directory = file.parent
    with _as_run_error(file):
        if directory.exists() and not directory.is_dir():
            raise RunError(directory, "this is a file", "Expected a directory", "Choose another directory")
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty, and then its parents are not empty either
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def _hold(file: Path) -> Iterator[None]:
    with _as_run_error(file):
        handle = _acquire(file)
    process = os.getpid()
    try:
        yield
    finally:
        # A forked child has a copy of the handle, but the lock and its file belong to the parent.
        if os.getpid() == process:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        os.close(handle)


def _acquire(file: Path) -> int:
    """Lock a file, write a note about the holder into it, and return its handle."""
    note = "another process"
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        handle = _open_lock_file(file)
        try:
            if not _lock(handle):
                note = _read_note(handle)
            elif _is_in_place(file, handle):
                _write_note(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise RunError(
        _subject(file),
        f"{note} {BUSY_MESSAGE}",
        "Expected one writer at a time",
        "Wait until that process ends, stop it, or choose another directory",
    )


def _open_lock_file(file: Path) -> int:
    """Open a lock file; the last holder may have removed its directory as well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not inheritable: the lock of a study must not outlive it in the training processes that it starts.
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _lock(handle: int) -> bool:
    """Return False if another open file has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"this file system has no locks ({error.strerror}): a second writer is not prevented", stacklevel=2
        )
    return True


def _is_in_place(file: Path, handle: int) -> bool:
    """Return False if the last holder removed the file after it was opened: a new file may be locked, too."""
    with contextlib.suppress(OSError):
        return os.path.samestat(file.lstat(), os.fstat(handle))
    return False


def _write_note(handle: int) -> None:
    """Write a note about the holder; the lock is valid without it."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    note = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "command": command[:_MAX_COMMAND],
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(note) + "\n").encode(), 0)


def _read_note(handle: int) -> str:
    """Return a lock file's description of its holder."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
        text = f"process {note['process']} on {note['host']} ({note['command']}, since {note['since']})"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process, which is not named in the lock file,"
    return "".join(character if character.isprintable() else "?" for character in text)


def _subject(file: Path) -> Path:
    """Return the directory that a lock file is for."""
    return file.parent if file.name == LOCK else file.with_name(file.name[1 : -len(LOCK)])


@contextlib.contextmanager
def _as_run_error(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            _subject(file),
            f"this directory cannot be written ({error.strerror or error})",
            "Expected a directory that can be written",
            "Choose another directory",
        ) from error
