"""Pages of strangers: a browser sends their requests to programs on the same machine, too.

A page of another host cannot read answers (unless `--cors` allows it), but some of its requests would be
computed; and a host that changes its address to this one (DNS rebinding) could even read. Browsers say where a request
comes from, and which host it was meant for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

from freerun.server.problem import Problem
from freerun.server.service_state import header_of

__all__ = ["check_host", "check_site"]


def check_host(scope: Scope, names: Sequence[str]) -> None:
    """Reject a request that was meant for another host than this machine, ``names`` or an address.

    Raises:
        Problem: 421.
    """
    host = header_of(scope, b"host").lower()
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name in ("", "localhost", *names) or name.endswith(".localhost") or _is_address(name):
        return
    detail = (
        f"This service does not answer for the host {name[:64]!r}. To allow it: freerun serve --host-name {name[:64]}"
    )
    raise Problem(421, detail)


def _is_address(name: str) -> bool:
    """Return True for an address, which no foreign name can stand for."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_site(scope: Scope, origins: Sequence[str]) -> None:
    """Reject a request that a page of another site makes, unless its origin is one of ``origins``.

    Raises:
        Problem: 403.
    """
    if scope["method"] not in ("GET", "HEAD") and header_of(scope, b"sec-fetch-site") in ("cross-site", "same-site"):
        origin = header_of(scope, b"origin")
        if origin not in origins and "*" not in origins:
            raise Problem(
                403, "Pages of other sites may not use this service. To allow one: freerun serve --cors ORIGIN"
            )
