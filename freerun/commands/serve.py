"""``freerun serve``: answer HTTP requests until a signal ends it."""

from __future__ import annotations

from freerun.errors import MissingExtraError
from freerun.server.serve_settings import ServeSettings

__all__ = ["serve"]


def serve(settings: ServeSettings) -> int:
    """Serve; return the exit code: 0 after SIGTERM.

    Raises:
        UserError: a model cannot be used, the address is not free, or the extra ``serve`` is not installed.
    """
    try:
        from freerun.server.supervisor import serve as run
    except ModuleNotFoundError as error:
        if error.name not in ("httptools", "prometheus_client", "starlette", "uvicorn"):
            raise
        raise MissingExtraError(error.name, "serve", "a service") from None
    return run(settings)
