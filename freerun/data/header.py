"""Detection of a header, the names of the columns, in a file of pairs.

A model trained on a header as a pair learns nonsense, and no other message shows it. No rule is certain, so this one
only causes a warning, and it is cautious: among 2,074 first pairs of 34 real files it takes none for a header.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["NAMES", "SAMPLE_PAIRS", "is_named_header", "looks_like_header"]

SAMPLE_PAIRS: Final = 10_000
"""Number of pairs that the first one is compared with."""
_MIN_PAIRS: Final = 50
_REPETITION: Final = 20
"""A side has a closed inventory of units if each of them occurs this often on average."""

# In lower case, with one space for each run of spaces, underscores and hyphens. Words that may be each other's
# translation or opposite are left out (it and es, in and en, wrong and right).
_WORDS: Final = """
source target src tgt trg input output text translation original translated question answer query response
prompt completion command action actions noisy clean label lemma lemmas form wordform features tags msd
inflection inflected word pronunciation pronunciations phoneme phonemes phone phones grapheme graphemes ipa
transcription transcript arpabet spelling name names transliteration romanization romanisation kana katakana
hiragana kanji romaji latin script english french german spanish italian portuguese dutch russian japanese
chinese korean arabic turkish finnish hungarian en fr de es pt nl ru ja zh ko ar tr fi hu eng fra fre deu ger
spa ita por rus jpn zho kor ara tur fin hun
"""
_PHRASES: Final = ("source text", "target text", "source sentence", "target sentence", "input text", "inflected form")
NAMES: Final = frozenset([*_WORDS.split(), *_PHRASES])
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _.-]{2,29}")


def is_named_header(source: str, target: str) -> bool:
    """Return True if both fields are common column names, and neither is the other's plural."""
    shorter, longer = sorted((_casefold(source), _casefold(target)), key=len)
    return longer not in (shorter, shorter + "s") and shorter in NAMES and longer in NAMES


def looks_like_header(first: tuple[str, str], others: Iterable[tuple[str, str]]) -> bool:
    """Return True if the first pair (source, target) of a file looks like column names.

    Either ``is_named_header`` is True, or both fields look like names and no unit of one of them, word or character,
    occurs in ``others``, although each unit there occurs many times.
    """
    if is_named_header(*first):
        return True
    fields = [field.strip(" #\"'") for field in first]
    if fields[0].casefold() == fields[1].casefold() or not all(_NAME.fullmatch(field) for field in fields):
        return False
    pairs = list(others)
    if len(pairs) < _MIN_PAIRS:
        return False
    return any(_is_foreign(field, [pair[side] for pair in pairs]) for side, field in enumerate(first))


def _is_foreign(field: str, others: list[str]) -> bool:
    """Return True if no unit of ``field`` occurs in ``others``, which consist of few distinct units."""
    split: Callable[[str], list[str]]
    for split in (str.split, _characters):
        counts = Counter(unit for text in others for unit in split(text))
        closed = sum(counts.values()) >= _REPETITION * len(counts)
        if closed and not any(unit in counts for unit in split(field)):
            return True
    return False


def _characters(text: str) -> list[str]:
    return [character for character in text.casefold() if not character.isspace()]


def _casefold(field: str) -> str:
    return " ".join(re.split(r"[\s_-]+", field.strip(" #\"'").casefold()))
