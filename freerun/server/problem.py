"""Errors: an HTTP status and a JSON object of RFC 9457."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic_core import to_json
from starlette.responses import Response

__all__ = ["PROBLEM_JSON", "Problem", "invalid", "over_limit", "unavailable"]

PROBLEM_JSON: Final = "application/problem+json"


class Problem(Exception):
    """A request that is rejected. ``detail`` is for the person who sent it, so it names no path and no internals."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        """``members`` are added to the object, for example the name of a limit."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def as_json(self) -> dict[str, Any]:
        """Return the problem object; ``error`` is what clients of LibreTranslate show."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,
            **self.members,
        }

    def response(self) -> Response:
        """Return the answer."""
        return Response(to_json(self.as_json()), self.status, self.headers, PROBLEM_JSON)

    def as_http(self) -> bytes:
        """Return the answer as it is sent, the last one of a connection."""
        response = self.response()
        headers = {
            "content-type": PROBLEM_JSON,
            "content-length": str(len(response.body)),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **self.headers,
            "connection": "close",
        }
        first = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"
        lines = [first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + bytes(response.body)


def over_limit(limit: str, maximum: float, detail: str, status: int = 413) -> Problem:
    """Return the rejection of a request that exceeds a limit, an option of ``freerun serve`` without its dashes."""
    return Problem(status, detail, limit=limit, maximum=maximum)


def invalid(detail: str, errors: list[dict[str, str]] | None = None) -> Problem:
    """Return the rejection of a request whose content is wrong; ``errors``: a pointer and a detail for each mistake."""
    return Problem(422, detail) if errors is None else Problem(422, detail, errors=errors)


def unavailable(detail: str, seconds: float, **members: Any) -> Problem:
    """Return the rejection of a request that may succeed if it is repeated in some seconds."""
    return Problem(503, detail, headers={"Retry-After": str(max(1, round(seconds)))}, **members)
