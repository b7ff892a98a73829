"""Requests as objects of their types, and what is wrong with those that are none.

pydantic collects every mistake, so a list of a million wrong items would take seconds and gigabytes: lists stop at the
first mistake (``FailFast``), and unknown keys are looked for here, not by pydantic. They come first, because a key that
is misspelled is missing as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from freerun.bounds import shown_number
from freerun.server.api_types import RequestType
from freerun.server.problem import Problem, invalid
from freerun.text import shown

__all__ = ["parsed_json", "validated", "validated_fields"]

M = TypeVar("M", bound=RequestType)

_SHOWN_MISTAKES: Final = 20
_EXPECTED: Final = {
    "missing": "it is missing",
    "string_type": "expected a string",
    "string_unicode": "expected a string",
    "list_type": "expected an array",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_parsing_size": "expected a smaller integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "too_short": "expected at least {min_length} item",
}
"""What is said of pydantic's mistakes, by their types; its own messages are in the words of Python."""
_ALTERNATIVES: Final = ("str", "list[str]")
"""Names that pydantic puts into the path of a mistake, for a value that may be either."""


def parsed_json(content: bytes | str, what: str = "body") -> Any:
    """Return the value of a JSON text, which may be nested about 200 deep. Raises Problem 400."""
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"The {what} is not JSON: {str(error)[:200]}.") from None


def validated(kind: type[M], value: Any) -> M:
    """Return a JSON value as an object of a type.

    Raises:
        Problem: it is not of this type, or has keys that the type has not.
    """
    if not isinstance(value, dict):
        raise _mistaken({"": "expected an object"})
    _check_keys(kind, value, "")
    try:
        checked = kind.model_validate(value)
    except ValidationError as error:
        raise _mistaken(_mistakes(error)) from None
    _check_parts(checked, value)
    return checked


def validated_fields(kind: type[M], values: Mapping[str, Any]) -> M:
    """Return the fields of a form or of a query, whose values are strings, as an object of a type; raises as above."""
    _check_keys(kind, values, "")
    try:
        checked = kind.model_validate_strings(dict(values), strict=False)
    except ValidationError as error:
        raise _mistaken(_mistakes(error)) from None
    _check_parts(checked, values)
    return checked


def _check_keys(kind: type[RequestType], value: Collection[str], path: str) -> None:
    """Raise Problem for a key that the type has not, unless it ignores such keys."""
    if not kind.ignores_unknown_keys:
        for key in value:
            if key not in kind.model_fields:
                raise _mistaken({f"{path}/{key[:80]}": f"there is no such key. {_known_key(key, kind)}"})


def _known_key(key: str, kind: type[RequestType]) -> str:
    near = difflib.get_close_matches(key[:80], kind.model_fields, 1, 0.5)
    return f"Did you mean {near[0]}?" if near else f"Expected one of {', '.join(kind.model_fields)}"


def _check_parts(checked: RequestType, value: Mapping[str, Any]) -> None:
    """Raise Problem for a key of a part that its type has not."""
    for name in type(checked).model_fields:
        part, given = getattr(checked, name), value.get(name)
        if isinstance(part, RequestType):
            _check_keys(type(part), given or (), f"/{name}")
        elif isinstance(part, list) and part and isinstance(part[0], RequestType):
            for number, (each, one) in enumerate(zip(part, given or (), strict=True)):
                _check_keys(type(each), one, f"/{name}/{number}")


def _mistakes(error: ValidationError) -> dict[str, str]:
    """Return what is wrong, by the JSON pointers to it."""
    said: dict[str, str] = {}
    for mistake in error.errors(include_url=False, include_input=False)[:_SHOWN_MISTAKES]:
        pointer = "".join(f"/{part}"[:80] for part in mistake["loc"] if part not in _ALTERNATIVES)
        text = _in_our_words(mistake)
        said[pointer] = f"{said[pointer]} or {text.removeprefix('expected ')}" if pointer in said else text
    # of a list with a wrong item it is also true that it is no string
    return {pointer: text for pointer, text in said.items() if not any(each.startswith(f"{pointer}/") for each in said)}


def _in_our_words(mistake: ErrorDetails) -> str:
    words = _EXPECTED.get(mistake["type"])
    if words is None:
        return mistake["msg"][:200]
    context = mistake.get("ctx", {})
    return words.format(
        **{name: shown_number(value) for name, value in context.items() if isinstance(value, int | float)}
    )


def _mistaken(said: Mapping[str, str]) -> Problem:
    """Return the rejection of a request with mistakes, given by their pointers; it does not repeat what was sent."""
    pointer, text = next(iter(said.items()))
    where = pointer[1:] or "body"
    sentence = f"{where if where.isprintable() else shown(where)}: {text}"
    listed = [{"pointer": pointer, "detail": text} for pointer, text in said.items()]
    return invalid(sentence if sentence.endswith("?") else f"{sentence}.", listed)
