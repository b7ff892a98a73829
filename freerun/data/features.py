"""Features of a source, such as ``V;PST``: a second input field, a set of whole tokens with their own vocabulary.

A source of a model with features is the pair (source, features), and two sources are one only if both are equal. Order,
repetition and spaces around a feature do not count.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar

from freerun.data.vocabulary import Vocabulary
from freerun.errors import DataError

__all__ = [
    "SEPARATORS",
    "FeatureCodec",
    "Features",
    "SourceText",
    "feature_tokens",
    "likely_separator",
    "source_key",
    "with_features",
]

Features: TypeAlias = str | Sequence[str]
"""Features as text with separators, or as a sequence with one feature each."""


class SourceText(Protocol):
    """Anything with a source and its features: a pair, or an item of an evaluation set."""

    @property
    def source(self) -> str:
        """The text."""
        ...

    @property
    def features(self) -> Features | None:
        """The features; None if it has no such field."""
        ...


class _Line(SourceText, Protocol):
    @property
    def line(self) -> int: ...


P = TypeVar("P", bound=_Line)


SEPARATORS: Final = (";", "+", " ")
"""The separators that occur: UniMorph's, that of finite-state analyzers, and spaces."""


def feature_tokens(features: Features, separator: str) -> list[str]:
    """Return the distinct features in the order of their first occurrence, in NFC, without surrounding whitespace."""
    parts = features.split(separator) if isinstance(features, str) else features
    tokens = (unicodedata.normalize("NFC", part).strip() for part in parts)
    return list(dict.fromkeys(token for token in tokens if token))


def likely_separator(columns: Iterable[Features]) -> str:
    """Return the first of ``SEPARATORS`` that occurs in any of these features; the first one if none does."""
    texts = [text.strip() for text in columns if isinstance(text, str)]
    found = [separator for separator in SEPARATORS if any(separator in text for text in texts)]
    return (*found, SEPARATORS[0])[0]


def source_key(source: str, features: Iterable[str]) -> str:
    """Return a text that is equal for equal sources with the same features."""
    return "\t".join([source, *sorted(features)])


def with_features(pairs: Iterable[P], location: str) -> Iterator[P]:
    """Yield pairs with features. Raises ``DataError`` at ``location`` and the line of a pair without them."""
    for pair in pairs:
        if pair.features is None:
            raise DataError(
                f"{location}:{pair.line}",
                "this pair has no features",
                "Expected features in every pair, if the first one has them",
                "Add the features, which may be empty",
            )
        yield pair


@dataclass(frozen=True)
class FeatureCodec:
    """Features to ids: those of the distinct features, in ascending order."""

    separator: str
    vocabulary: Vocabulary

    @classmethod
    def build(cls, columns: Iterable[Features], separator: str, minimum_count: int = 1) -> FeatureCodec:
        """Build the vocabulary of all features that occur ``minimum_count`` times."""
        counts: Counter[str] = Counter()
        for features in columns:
            counts.update(feature_tokens(features, separator))
        return cls(separator, Vocabulary.from_counts(counts, minimum_count))

    def tokens(self, features: Features) -> list[str]:
        """Return the distinct features in reading order."""
        return feature_tokens(features, self.separator)

    def encode(self, features: Features) -> list[int]:
        """Return the ids of the features in ascending order; UNK once for all that are not in the vocabulary."""
        return sorted(set(self.vocabulary.ids(self.tokens(features))))

    def unknown(self, features: Features) -> list[str]:
        """Return the features that are not in the vocabulary."""
        return [token for token in self.tokens(features) if token not in self.vocabulary]

    def text(self, features: Features) -> str:
        """Return the features as one field of a TSV file."""
        return features if isinstance(features, str) else self.separator.join(features)
