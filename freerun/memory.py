"""Checks that an allocation fits into this machine's memory.

Operating systems promise more memory than they have, and kill the process that uses it. So sizes that cannot fit are
reported before anything is allocated.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from freerun.errors import ConfigError

__all__ = ["check_fits", "machine_memory"]

_BYTES: Final = 4
"""Size of a number in fp32."""
_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Memory limit of a container, in versions 2 and 1 of control groups."""


def check_fits(location: object, what: str, parameters: int, copies: int, fix: str) -> None:
    """Check that ``copies`` copies of the parameters in fp32 fit into the memory of this machine.

    Args:
        location: the prefix of the message.
        what: the network, with the dimensions that determine its size.
        parameters: number of parameters.
        copies: number of copies in memory at a time: weights, gradients, the optimizer's state.
        fix: advice to the user.

    Raises:
        ConfigError: they do not fit.
    """
    needed, available = _BYTES * parameters * copies, machine_memory()
    if available is not None and needed > available:
        raise ConfigError.single(
            location,
            f"{what} has {parameters:,} parameters, which take {_gigabytes(needed)} in training",
            f"Expected at most {_gigabytes(available)}, the memory of this machine",
            fix,
        )


def machine_memory() -> int | None:
    """Return the memory limit of this process in bytes, of the machine or its container; None if unknown."""
    limits = [limit for path in _CGROUP_LIMITS if (limit := _limit(Path(path))) is not None]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min((size for size in limits if size > 0), default=None)


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
