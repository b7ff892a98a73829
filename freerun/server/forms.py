"""The fields of a request, which LibreTranslate takes as JSON, as a form, or in the address."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser
from starlette.types import Scope

from freerun.server.problem import Problem, over_limit
from freerun.server.service_state import content_type_of, header_of
from freerun.server.validation import parsed_json

__all__ = ["FORM", "MULTIPART", "fields_of"]

FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
_MAX_FIELDS: Final = 2000

logging.getLogger("python_multipart").addHandler(logging.NullHandler())  # mistakes of clients are not logged


def fields_of(scope: Scope, body: bytes, lists: Sequence[str] = ()) -> Any:
    """Return the fields of a JSON body, or of a form and the address; those in ``lists`` may occur several times.

    Raises:
        Problem: a body of another type, one that cannot be read, or too many fields.
    """
    kind = content_type_of(scope)
    if kind == "application/json":
        return parsed_json(body)
    in_address = _parsed(scope["query_string"])
    if kind in (FORM, ""):
        return _gathered([*in_address, *_parsed(body)], lists)
    if kind == MULTIPART:
        return _gathered([*in_address, *_parts(header_of(scope, b"content-type"), body)], lists)
    raise Problem(415, f"The body has to be JSON or a form: Content-Type: application/json, {FORM} or {MULTIPART}")


def _gathered(fields: Iterable[tuple[str, str]], lists: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in fields:
        if name in lists and name in values:
            values[name] = [*([values[name]] if isinstance(values[name], str) else values[name]), value]
        else:
            values[name] = value
    return values


def _parsed(content: bytes) -> list[tuple[str, str]]:
    """Return the fields of an encoded form, or of the query in an address."""
    try:
        return parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except (UnicodeDecodeError, ValueError):
        raise _unreadable() from None


def _parts(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a form in parts (RFC 7578), as browsers and PHP's curl send them."""
    parts: list[tuple[bytes, bytes]] = []

    def take(field: Field) -> None:
        if len(parts) == _MAX_FIELDS:
            raise _unreadable()
        parts.append((field.field_name or b"", field.value or b""))

    def reject(file: File) -> None:
        file.close()
        raise Problem(400, "A form must not contain files. Send the text itself as q.")

    headers = {"Content-Type": content_type.encode("latin-1")}
    try:
        parser = create_form_parser(headers, take, reject, config={"MAX_MEMORY_FILE_SIZE": len(body)})
        parser.write(body)
        parser.finalize()
        return [(name.decode(), value.decode()) for name, value in parts]
    except (FormParserError, UnicodeDecodeError):
        raise _unreadable() from None


def _unreadable() -> Problem:
    detail = f"The form cannot be read: it has to be UTF-8, and have {_MAX_FIELDS:,} fields at most."
    return over_limit("fields", _MAX_FIELDS, detail, 400)
