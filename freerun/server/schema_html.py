"""JSON schemas and their descriptions in words, as HTML for the page at /docs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup, escape

__all__ = ["bounds", "prose", "type_name"]

_BOUNDS: Final = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("minItems", "length at least"),
    ("maxItems", "length at most"),
)


def prose(text: str) -> Markup:
    """Return the Markdown of a description as HTML: paragraphs, code and emphasis."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    html = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html))  # escaped above


def type_name(schema: Mapping[str, Any]) -> Markup:
    """Return the type of a value as HTML, with links to types: "list of (string or list of string), or null"."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return Markup('<a href="#type-{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        return _alternatives(schema["anyOf"])
    if "const" in schema:
        return escape(f'"{schema["const"]}"')
    if "enum" in schema:
        return escape(" or ".join(f'"{each}"' for each in schema["enum"]))
    if schema.get("type") == "array":
        items = schema.get("items", {})
        return Markup("list of ({})" if "anyOf" in items else "list of {}").format(type_name(items))
    return escape(str(schema.get("type", "any value")))


def _alternatives(schemas: Sequence[Mapping[str, Any]]) -> Markup:
    """Return several types; a comma shows where a list's type ends."""
    text = Markup("")
    for schema in schemas:
        if text:
            text += ", or " if "list of" in text else " or "
        text += type_name(schema)
    return text


def bounds(schema: Mapping[str, Any]) -> str:
    """Return the range of a number, or the length of a list, in words; null has none."""
    found = {key: value for part in (schema, *schema.get("anyOf", ())) for key, value in part.items()}
    return "".join(f", {words} {_number(found[key])}" for key, words in _BOUNDS if key in found)


def _number(value: float) -> str:
    return f"{value:,}".removesuffix(".0")
