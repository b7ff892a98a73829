"""``freerun serve``: answer HTTP requests until a signal ends it."""

from __future__ import annotations

from importlib.util import find_spec

from freerun.errors import MissingExtraError
from freerun.server.serve_settings import ServeSettings

__all__ = ["serve"]


def serve(settings: ServeSettings) -> int:
    """Serve; return the exit code: 0 after SIGTERM.

    Raises:
        UserError: a model cannot be used, the address is not free, or the extra ``serve`` is not installed.
    """
    for name in (
        "httptools",
        "prometheus_client",
        "python_multipart",
        "starlette",
        "uvicorn",
    ):  # some are imported later
        if find_spec(name) is None:
            raise MissingExtraError(name, "serve", "a service")
    from freerun.server.supervisor import serve as run

    return run(settings)
