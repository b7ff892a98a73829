"""Documents that do not change while a worker runs: the page, the API's description, and their headers."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

from starlette.types import Scope, Send

from freerun.server.service_state import header_of

__all__ = ["API_HEADERS", "Document", "page_documents", "send_document"]

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
API_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Headers of answers that are no documents."""
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


@dataclass(frozen=True)
class Document:
    """Bytes with their type, compressed as well; ``tag`` is their ETag."""

    content: bytes
    compressed: bytes
    media_type: str
    tag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Document:
        """Return a document with this content."""
        return cls(content, gzip.compress(content, 9, mtime=0), media_type, f'"{sha256(content).hexdigest()[:32]}"')


def page_documents() -> dict[str, Document]:
    """Return the page and its parts, by address."""
    documents = {}
    for entry in files("freerun.server").joinpath("page").iterdir():
        suffix = PurePosixPath(entry.name).suffix
        if suffix in _TYPES:
            path = "/" if entry.name == "index.html" else f"/page/{entry.name}"
            documents[path] = Document.of(entry.read_bytes(), _TYPES[suffix])
    return documents


async def send_document(document: Document, scope: Scope, send: Send) -> None:
    """Send a document, compressed for a client that can read it, or 304 if it has it already."""
    headers = [
        (b"content-type", document.media_type.encode()),
        (b"etag", document.tag.encode()),
        (b"cache-control", b"no-cache"),
        (b"vary", b"accept-encoding"),
        (b"content-security-policy", _PAGE_POLICY.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    ]
    body, status = document.content, 200
    if document.tag in header_of(scope, b"if-none-match"):
        body, status = b"", 304
    elif "gzip" in header_of(scope, b"accept-encoding"):
        body = document.compressed
        headers.append((b"content-encoding", b"gzip"))
    if status == 200:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
