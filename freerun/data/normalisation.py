"""Unicode forms and case: what happens to a text before it becomes tokens."""

from __future__ import annotations

import unicodedata
from typing import Literal

__all__ = ["Case", "Form", "collapse_whitespace", "normalise"]

Form = Literal["NFC", "NFD", "NFKC", "NFKD", "none"]
Case = Literal["keep", "lower"]


def normalise(text: str, form: Form = "NFC", case: Case = "keep") -> str:
    """``text`` in a Unicode normalisation form (Unicode Standard Annex 15) and, if asked, in lower case."""
    normal = _in_form(text, form)
    if case == "keep":
        return normal
    # Lowering can leave the form (one capital becomes a letter and a loose accent), so the form is made again; it was
    # made before as well, for compatibility forms turn symbols into capitals.
    return _in_form(normal.lower(), form)


def collapse_whitespace(text: str) -> str:
    """``text`` without whitespace at its ends and with one space for every other run of it (Unicode whitespace)."""
    return " ".join(text.split())


def _in_form(text: str, form: Form) -> str:
    # ASCII is the same in every form; asking first makes plain text cheap.
    return text if form == "none" or text.isascii() else unicodedata.normalize(form, text)
