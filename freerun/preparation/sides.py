"""Texts to ids, thousands at a time: the same ids as ``Codec.encode``, several times faster.

Shape suffixes: N texts, M ids of all texts.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from freerun.data.codec import Codec
from freerun.data.normalisation import Case, Form, is_collapsed, normalise
from freerun.data.row_hashes import Encoded
from freerun.symbols import UNK

__all__ = ["count_tokens", "encode_texts", "normalised"]

_TEXTS: Final = 10_000
"""Split at a time: tokens as strings take much memory."""
_CODE_POINTS: Final = 0x110000
_SPACE, _LINE_FEED = 32, 10


def normalised(texts: list[str], form: Form, case: Case) -> list[str]:
    """Return the texts, none of which has a line feed, as ``normalise`` returns each of them."""
    # A line feed neither composes with other characters, nor is it part of a word.
    together = "\n".join(texts)
    if not texts or (together.isascii() and case == "keep"):
        return texts
    return normalise(together, form, case).split("\n")


def is_nfc(texts: Sequence[str]) -> bool:
    """Return True if all texts are in NFC."""
    together = "\n".join(texts)
    return together.isascii() or unicodedata.is_normalized("NFC", together)


def count_tokens(texts: Sequence[str], spec: str) -> Counter[str]:
    """Count the tokens of normalized texts, ``spec`` being "char" or "whitespace"."""
    counts: Counter[str] = Counter()
    if spec == "char":
        found = np.bincount(_code_points("".join(texts)))
        codes = np.flatnonzero(found)
        return Counter(dict(zip(map(chr, codes.tolist()), found[codes].tolist(), strict=True)))
    for some in _parts(texts):
        counts.update("\n".join(some).split())
    return counts


def encode_texts(texts: Sequence[str], codec: Codec) -> Encoded:
    """Encode normalized texts."""
    spec = codec.tokenizer.spec
    if spec == "char":
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return _table(codec)[_code_points("".join(texts))], lengths
    split = _words if spec == "whitespace" else lambda some: _subwords(some, codec)
    counts, ids = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for some in _parts(texts):
        tokens, lengths = split(some)
        counts.append(lengths)
        ids.append(np.fromiter(codec.vocabulary.each_id(tokens), np.int32, len(tokens)))
    return np.concatenate(ids), np.concatenate(counts)


def _words(texts: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the whitespace tokens of all texts, and their number in each."""
    together = "\n".join(texts)
    words = together.split()
    if not is_collapsed(together) or "\n\n" in f"\n{together}\n":
        return words, np.fromiter((len(text.split()) for text in texts), np.int64, len(texts))
    # no text is empty, and there is one space between two words: a text has one word more than spaces
    codes = np.frombuffer(together.encode(), np.uint8)
    spaces, ends = np.flatnonzero(codes == _SPACE), np.append(np.flatnonzero(codes == _LINE_FEED), len(codes))
    return words, np.diff(np.searchsorted(spaces, ends), prepend=0) + 1


def _subwords(texts: Sequence[str], codec: Codec) -> tuple[list[str], npt.NDArray[np.int64]]:
    tokens = [codec.tokenizer.tokens(text) for text in texts]
    return list(chain.from_iterable(tokens)), np.fromiter(map(len, tokens), np.int64, len(tokens))


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS))


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


@lru_cache(maxsize=2)
def _table(codec: Codec) -> npt.NDArray[np.int32]:
    """Return the id of each code point."""
    table = np.full(_CODE_POINTS, UNK, np.int32)
    for number in range(len(codec.vocabulary)):
        token = codec.vocabulary.token(number)
        if len(token) == 1:  # not the special ids
            table[ord(token)] = number
    return table
