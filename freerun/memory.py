"""Whether what is about to be allocated can fit into this machine's memory.

Systems promise more memory than they have, and end the process that uses it. So sizes that cannot fit are reported
before anything is allocated.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from freerun.errors import ConfigError

__all__ = ["check_fits", "machine_memory"]

_BYTES: Final = 4
"""Of a number in fp32."""
_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container, in version 2 and 1 of control groups."""


def check_fits(where: object, what: str, parameters: int, copies: int, fix: str) -> None:
    """Check that ``copies`` of so many parameters in fp32 fit into the memory of this machine.

    Args:
        where: named in the message.
        what: has the parameters, with the sizes that decide their number.
        parameters: their number.
        copies: what is held at the same time: weights, gradients, the optimizer's state.
        fix: what the user can do.

    Raises:
        ConfigError: they do not fit.
    """
    needed, there = _BYTES * parameters * copies, machine_memory()
    if there is not None and needed > there:
        raise ConfigError.single(
            where,
            f"{what} has {parameters:,} parameters, which take {_gigabytes(needed)} in training",
            f"Expected at most {_gigabytes(there)}, the memory of this machine",
            fix,
        )


def machine_memory() -> int | None:
    """Bytes that this process may have at most: of the machine, or of its container; None if nobody says."""
    found = [limit for path in _CGROUP_LIMITS if (limit := _limit(Path(path))) is not None]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min((size for size in found if size > 0), default=None)


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
