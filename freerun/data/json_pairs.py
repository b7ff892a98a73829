"""Lines of JSON: objects with the keys ``source``, ``target`` (a string, or a list of references) and ``features``."""

from __future__ import annotations

import json

from freerun.data.features import Features
from freerun.data.field_check import check_field
from freerun.errors import DataError

__all__ = ["json_fields"]


def json_fields(text: str, location: str) -> tuple[str, list[str], Features | None]:
    """Return the source, the targets and the features of a line; None if it has no features.

    Raises:
        DataError: at ``location``: the line is not such an object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of nested brackets
        raise _bad_json(location, f"the line is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise _bad_json(location, f"the line is {_json_type(content)}")
    missing = [key for key in ("source", "target") if key not in content]
    if missing:
        raise _bad_json(location, f"the object has no key {missing[0]!r}")
    features = _json_features(content["features"], location) if "features" in content else None
    return _json_source(content["source"], location), _json_targets(content["target"], location), features


def _json_source(value: object, location: str) -> str:
    if not isinstance(value, str):
        raise _bad_json(location, f"the value of 'source' is {_json_type(value)}")
    check_field(value, location, "source")
    return value


def _json_targets(value: object, location: str) -> list[str]:
    if isinstance(value, list) and not value:
        raise _bad_json(location, "the value of 'target' is an empty list")
    targets: list[str] = []
    for target in value if isinstance(value, list) else [value]:
        if not isinstance(target, str):
            item = "an item of 'target'" if isinstance(value, list) else "the value of 'target'"
            raise _bad_json(location, f"{item} is {_json_type(target)}")
        check_field(target, location, "target")
        targets.append(target)
    return targets


def _json_features(value: object, location: str) -> Features:
    if isinstance(value, str):
        check_field(value, location, "feature text")
        return value
    if not isinstance(value, list):
        raise _bad_features(location, f"the value of 'features' is {_json_type(value)}")
    for item in value:
        if not isinstance(item, str):
            raise _bad_features(location, f"an item of 'features' is {_json_type(item)}")
        check_field(item, location, "feature text")
    return tuple(value)


def _bad_features(location: str, what: str) -> DataError:
    return DataError(location, what, "Expected a string or a list of strings", "Fix the line, or remove the key")


def _json_type(value: object) -> str:
    # By exact type, because True is an int in Python. The rest are int and float.
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _bad_json(location: str, what: str) -> DataError:
    return DataError(
        location,
        what,
        'Expected one JSON object per line: {"source": string, "target": string or list of strings}',
        "Fix the line",
    )
