"""Numbers and texts as a person reads them in a terminal."""

from __future__ import annotations

__all__ = ["duration", "printable"]


def duration(seconds: float) -> str:
    """A length of time in its two largest units: "1 h 05 min", "3 min 20 s", "12 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: str) -> str:
    """``text`` with control characters escaped, so that data cannot steer the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
