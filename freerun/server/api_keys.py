"""Keys that clients must show, read from a file."""

from __future__ import annotations

import hmac
import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Final

from freerun.errors import DataError, UserError

__all__ = ["ApiKeys", "read_keys"]

_SHORTEST: Final = 16
_LARGEST_FILE: Final = 1_000_000


class ApiKeys:
    """The keys of a service; only their hashes are kept, so that no message can contain one."""

    def __init__(self, keys: list[str]) -> None:
        self._hashes = [sha256(key.encode()).digest() for key in keys]

    def accept(self, given: str | None) -> bool:
        """Return True for one of the keys; the time does not depend on which characters agree, nor on which key."""
        digest = sha256((given or "").encode(errors="surrogatepass")).digest()
        matches = [hmac.compare_digest(digest, each) for each in self._hashes]
        return any(matches)


def read_keys(path: Path) -> ApiKeys:
    """Read a file with one key per line; empty lines and lines that begin with # are skipped.

    Raises:
        UserError: the file cannot be read, has no key, or one that is too short or is not printable ASCII.
    """
    fix = "Write one key per line, for example from: openssl rand -hex 32"
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(path, f"cannot be read ({error.strerror})", "Expected a file of keys", fix) from None
    if len(content) > _LARGEST_FILE:
        raise DataError(path, "larger than 1 MB", "Expected a file of keys", fix)
    keys = []
    for number, line in enumerate(content.splitlines(), 1):
        key = line.strip()
        if not key or key.startswith(b"#"):
            continue
        if len(key) < _SHORTEST or not all(0x21 <= byte <= 0x7E for byte in key):
            raise DataError(
                f"{path}:{number}",
                f"not a key ({len(key)} bytes)",
                f"Expected at least {_SHORTEST} printable ASCII characters without spaces",
                fix,
            )
        keys.append(key.decode("ascii"))
    if not keys:
        raise DataError(path, "there is no key in it", "Expected at least one", fix)
    return ApiKeys(keys)


def others_can_read(path: Path) -> bool:
    """Return True if users other than the owner may read the file."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
