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
from freerun.symbols import PAD
from freerun.text import shown

__all__ = [
    "SEPARATORS",
    "FeatureCodec",
    "Features",
    "SourceText",
    "contains_separator",
    "feature_tokens",
    "likely_separator",
    "source_key",
    "with_features",
    "without_features",
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


SEPARATORS: Final = (";", "|", ",", "+", " ")
"""The separators of UniMorph, Universal Dependencies, SIGMORPHON 2016 and finite-state analyzers; and spaces."""


def feature_tokens(features: Features, separator: str) -> list[str]:
    """Return the distinct features in the order of their first occurrence, in NFC, without surrounding whitespace."""
    parts = features.split(separator) if isinstance(features, str) else features
    tokens = (unicodedata.normalize("NFC", part).strip() for part in parts)
    return list(dict.fromkeys(token for token in tokens if token))


def likely_separator(columns: Iterable[Features]) -> str:
    """Return the first of ``SEPARATORS`` that occurs in half as many fields as any other of them, or more.

    So a ``+`` or a comma within some features does not count. If none occurs, it is the first one; for sequences, which
    have no separator, the first one that is in none of their features.
    """
    fields = list(columns)
    texts = [field.strip() for field in fields if isinstance(field, str)]
    items = {item for field in fields if not isinstance(field, str) for item in field}
    possible = [each for each in SEPARATORS if not any(each in item for item in items)] or list(SEPARATORS)
    counts = {each: sum(each in text for text in texts) for each in possible}
    most = max(counts.values())
    return next(each for each in possible if 2 * counts[each] >= most)


def source_key(source: str, features: Iterable[str]) -> str:
    """Return a text that is equal for equal sources with the same features, and only for these."""
    # NUL is in no field of a file, and, unlike a tab, is no whitespace, which the split of sources collapses.
    return "\0".join([source, *sorted(features)])


def with_features(pairs: Iterable[P], location: str, separator: str | None = None) -> Iterator[P]:
    """Yield pairs with features.

    Raises ``DataError`` at ``location`` and the line of a pair without them, or of one with a feature that contains the
    ``separator``, if one is given: joined in a file, it would come back as two.
    """
    for pair in pairs:
        if pair.features is None:
            raise DataError(
                f"{location}:{pair.line}",
                "this pair has no features",
                "Expected features in every pair, if the first one has them",
                "Add the features, which may be empty",
            )
        if separator is not None and not isinstance(pair.features, str):
            _check_items(pair.features, separator, f"{location}:{pair.line}")
        yield pair


def without_features(pairs: Iterable[P], location: str) -> Iterator[P]:
    """Yield pairs without features. Raises ``DataError`` at ``location`` and the line of a pair that has some."""
    for pair in pairs:
        if pair.features is not None:
            raise DataError(
                f"{location}:{pair.line}",
                "this pair has features, and the first one has none",
                "Expected features in every pair, or in none",
                "Add features to the other pairs, which may be empty, or remove them here",
            )
        yield pair


def contains_separator(feature: str, separator: str) -> bool:
    """Return True if a feature of a list would be split, or would split the next one, where they are joined."""
    # also if it ends with a part of the separator: "a:" and "b" joined by "::" would be split as "a" and ":b"
    feature = feature.strip()
    return (feature + separator).index(separator) < len(feature)


def _check_items(features: Sequence[str], separator: str, location: str) -> None:
    """Check that no feature of a list contains the separator."""
    wrong = next((each for each in features if contains_separator(each, separator)), None)
    if wrong is not None:
        raise DataError(
            location,
            f"the feature {shown(wrong)} contains {shown(separator)}, which separates features",
            "Expected features without the separator",
            "Make it two features, or set data.feature_separator to a text that is in none of them",
        )


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

    def decode(self, ids: Iterable[int]) -> str:
        """Return the features with these ids as one text, without PAD."""
        return self.separator.join(self.vocabulary.tokens(number for number in ids if number != PAD))

    def unknown(self, features: Features) -> list[str]:
        """Return the features that are not in the vocabulary."""
        return [token for token in self.tokens(features) if token not in self.vocabulary]

    def text(self, features: Features) -> str:
        """Return the features as one field of a TSV file."""
        return features if isinstance(features, str) else self.separator.join(features)
