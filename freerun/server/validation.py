"""Requests as objects of their types, and what is wrong with those that are none.

pydantic collects every mistake, so a list of a million wrong items would take seconds and gigabytes: lists stop at the
first mistake (``FailFast``), and unknown keys are looked for here, not by pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from freerun.server.api_types import RequestType
from freerun.server.problem import Problem, invalid
from freerun.text import shown

__all__ = ["parsed_json", "validated", "validated_fields"]

M = TypeVar("M", bound=RequestType)

_SHOWN_MISTAKES: Final = 20


def parsed_json(content: bytes | str) -> Any:
    """Return the value of a JSON text, which may be nested about 200 deep. Raises Problem 400."""
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"The body is not JSON: {str(error)[:200]}.") from None


def validated(kind: type[M], value: Any) -> M:
    """Return a JSON value as an object of a type.

    Raises:
        Problem: it is not of this type, or has keys that the type has not.
    """
    if not isinstance(value, dict):
        raise invalid("body: Input should be an object.", [{"pointer": "", "detail": "Input should be an object"}])
    try:
        checked = kind.model_validate(value)
    except ValidationError as error:
        raise _explained(error) from None
    _check_keys(checked, value, "")
    return checked


def validated_fields(kind: type[M], values: Mapping[str, Any]) -> M:
    """Return the fields of a form or of a query, whose values are strings, as an object of a type; raises as above."""
    try:
        checked = kind.model_validate_strings(dict(values), strict=False)
    except ValidationError as error:
        raise _explained(error) from None
    _check_keys(checked, values, "")
    return checked


def _check_keys(checked: RequestType, value: Mapping[str, Any], path: str) -> None:
    """Raise Problem for a key that the type has not, unless it ignores such keys, also within its parts."""
    fields = type(checked).model_fields
    if not checked.ignores_unknown_keys:
        for key in value:
            if key not in fields:
                raise _mistake(f"{path}/{key[:80]}", f"There is no such key. Expected: {', '.join(fields)}")
    for name in fields:
        part, given = getattr(checked, name), value.get(name)
        if isinstance(part, RequestType):
            _check_keys(part, given or {}, f"{path}/{name}")
        elif isinstance(part, list) and part and isinstance(part[0], RequestType):
            for number, (each, one) in enumerate(zip(part, given or (), strict=True)):
                _check_keys(each, one, f"{path}/{name}/{number}")


def _mistake(pointer: str, detail: str) -> Problem:
    return invalid(f"{shown(pointer[1:])}: {detail}.", [{"pointer": pointer, "detail": detail}])


def _in_words_of_json(message: str) -> str:
    """Return a message of pydantic's without Python's words."""
    message = message.replace("valid list", "valid array")
    return re.sub(r"a valid dictionary or instance of \w+", "an object", message)[:200]


def _explained(error: ValidationError) -> Problem:
    """Return the rejection of a request with mistakes; it does not repeat what was sent."""
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    listed = [
        {"pointer": "".join(f"/{part}"[:80] for part in mistake["loc"]), "detail": _in_words_of_json(mistake["msg"])}
        for mistake in mistakes[:_SHOWN_MISTAKES]
    ]
    first = listed[0]
    return invalid(f"{first['pointer'].lstrip('/') or 'body'}: {first['detail']}.", listed)
