"""The fields of pydantic models in the user's terms: key paths, kinds of tables, and descriptions of valid values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from freerun.bounds import shown_number
from freerun.text import shown

__all__ = ["Target", "expectation", "kinds_of", "models_of", "one_of", "resolve"]


@dataclass(frozen=True)
class Target:
    """The subject of an error: its key path, the field, and the models that the last key should be a field of."""

    keys: list[str]
    info: FieldInfo | None
    models: list[type[BaseModel]]

    def expectation(self) -> str:
        """Return a description of the field's valid values."""
        if self.info is None:
            return ""
        if self._is_section():
            return f"a section, [{self.keys[0]}]"
        return expectation(self.info)

    def required_keys(self) -> str:
        """Return the required keys of a section; for any other field "this key"."""
        models = models_of(self.info.annotation) if self.info and self._is_section() else []
        inner = [name for model in models for name, info in model.model_fields.items() if info.is_required()]
        return ", ".join(f"{self.keys[0]}.{name}" for name in inner) or "this key"

    def _is_section(self) -> bool:
        return len(self.keys) == 1 and self.info is not None and bool(models_of(self.info.annotation))

    def kinds(self) -> list[str]:
        """Return the values of ``kind`` if the field is a table of one of several kinds."""
        models = models_of(self.info.annotation) if self.info else []
        return [kind for model in models for kind in kinds_of(model)]

    def words(self) -> list[str]:
        """Return the strings that the field is restricted to, if it is."""
        return [word for word in _literals(self.info.annotation) if isinstance(word, str)] if self.info else []


def resolve(model: type[BaseModel], location: Sequence[int | str]) -> Target:
    """Follow a location: a table of several kinds is followed by its kind, a value by an index or a type."""
    keys: list[str] = []
    info: FieldInfo | None = None
    owners = models = [model]
    tagged = False
    for part in location:
        if isinstance(part, int) or not models:
            break
        if tagged:
            models = [m for m in models if part in (kinds_of(m) or ["pair"])]
            tagged = False
            continue
        keys.append(part)
        owners = models
        info = next((m.model_fields[part] for m in owners if part in m.model_fields), None)
        if info is None:
            break
        models, tagged = models_of(info.annotation), _is_tagged(info)
    return Target(keys, info, owners)


def kinds_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of a model's key ``kind``; none if it has no such key."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _is_tagged(annotation: Any) -> bool:
    if isinstance(annotation, FieldInfo):
        return annotation.discriminator is not None or _is_tagged(annotation.annotation)
    return any(_is_tagged(argument) for argument in get_args(annotation))


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in a type annotation, such as the members of a union."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in get_args(annotation) for model in models_of(argument)]


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for argument in get_args(annotation) for value in _literals(argument))


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
_BOUNDS = (("ge", "{} or more"), ("gt", "above {}"), ("le", "{} or less"), ("lt", "below {}"))


def expectation(field: FieldInfo) -> str:
    """Describe the valid values of a key."""
    return _expectation(field.annotation, [field])


def _expectation(annotation: Any, metadata: Sequence[Any]) -> str:
    """Describe the valid values of a type: by its description, if it has one, or by its kind and bounds."""
    described = [item.description for item in metadata if isinstance(item, FieldInfo) and item.description]
    if described:
        return str(described[0])
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _expectation(inner, [*metadata, *more])
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    if get_origin(annotation) is dict:
        return "a table"
    if annotation in _NAMES:
        return _NAMES[annotation] + _bounds(metadata)
    members = [argument for argument in get_args(annotation) if argument is not NoneType]
    return " or ".join(_expectation(member, metadata) for member in members)


def _bounds(metadata: Sequence[Any]) -> str:
    """Return the ends of a range, as they follow the kind of number in a message."""
    items = [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])]
    ends = {name: shown_number(getattr(item, name)) for name, _ in _BOUNDS for item in items if hasattr(item, name)}
    if ends.keys() == {"ge", "le"}:
        return f" from {ends['ge']} to {ends['le']}"
    return "".join(f", {text.format(ends[name])}" for name, text in _BOUNDS if name in ends)


def one_of(names: Sequence[str]) -> str:
    """Format a choice: ``one of "a", "b"``."""
    return ("one of " if len(names) > 1 else "") + ", ".join(shown(name) for name in names)
