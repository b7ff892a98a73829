"""Unicode normalization and case folding of texts before tokenization."""

from __future__ import annotations

import unicodedata
from typing import Literal

__all__ = ["Case", "Form", "collapse_whitespace", "is_collapsed", "normalise"]

Form = Literal["NFC", "NFD", "NFKC", "NFKD", "none"]
Case = Literal["keep", "lower"]


def normalise(text: str, form: Form = "NFC", case: Case = "keep") -> str:
    """Return ``text`` in a Unicode normalization form (Unicode Standard Annex 15) and, if requested, in lower case."""
    normalised = _in_form(text, form)
    if case == "keep":
        return normalised
    # Lowering can break the form (a capital becomes a letter and a combining accent), so the text is normalized again;
    # normalizing only afterwards would not do, because compatibility forms turn symbols into capitals.
    return _in_form(normalised.lower(), form)


def collapse_whitespace(text: str) -> str:
    """Strip ``text``, and replace every run of Unicode whitespace in it by one space."""
    return " ".join(text.split())


def is_collapsed(lines: str) -> bool:
    """Return True if ``collapse_whitespace`` would change none of the lines, which end with line feeds.

    It may also return False for other texts, but hardly ever does.
    """
    framed = f"\n{lines}\n"
    # a space is the only whitespace that counts as printable
    return not any(each in framed for each in ("  ", " \n", "\n ")) and framed.replace("\n", "").isprintable()


def _in_form(text: str, form: Form) -> str:
    # ASCII is unchanged in every form; this check makes plain text cheap.
    return text if form == "none" or text.isascii() else unicodedata.normalize(form, text)
