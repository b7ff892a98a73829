"""Characters that a field of a pair cannot contain, whatever its text was read from."""

from __future__ import annotations

from freerun.errors import DataError
from freerun.text import forbidden_character, lone_surrogate

__all__ = ["check_field"]


def check_field(text: str, location: str, key: str, fix: str = "Fix the escape \\u... in the line") -> None:
    """Reject characters that a str or a JSON string may hold and a field of a TSV file may not."""
    if name := forbidden_character(text):
        raise DataError(
            location,
            f"the {key} contains {name}",
            "Expected text that fits into one field of a TSV line",
            "Remove the character, or replace it by a space",
        )
    # "\ud83d" is valid JSON and a valid str, but cannot be written as UTF-8.
    if surrogate := lone_surrogate(text):
        raise DataError(
            location,
            f"the {key} contains half a surrogate pair ({surrogate})",
            "Expected complete Unicode characters",
            fix,
        )
