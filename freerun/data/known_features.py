"""Messages about features: those that a model has, unknown ones, and sources that come without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from freerun.data.features import FeatureCodec, SourceText
from freerun.data.unknown_tokens import MAX_NAMED, named_tokens
from freerun.errors import DataError
from freerun.symbols import NUM_SPECIAL
from freerun.text import printable, shown

__all__ = ["count_unknown_features", "known_features", "missing_features", "unknown_features_warning"]


def known_features(codec: FeatureCodec) -> str:
    """Return the first features of a model and the number of others: "'V', 'PST' and 2 others"."""
    size = len(codec.vocabulary)
    tokens = codec.vocabulary.tokens(range(NUM_SPECIAL, min(size, NUM_SPECIAL + MAX_NAMED)))
    others = size - NUM_SPECIAL - len(tokens)
    named = ", ".join(f"'{printable(token)}'" for token in tokens) or "none"
    return f"{named} and {others:,} other{'s' if others > 1 else ''}" if others else named


def missing_features(location: str, source: str, codec: FeatureCodec, fix: str) -> DataError:
    """Return the error for a source without a field of features, which the model of ``codec`` needs."""
    return DataError(
        location,
        f"{shown(source)} has no features",
        f"Expected features separated by {shown(codec.separator)}, because the model was trained with them; it has "
        f"{known_features(codec)}",
        fix,
    )


def count_unknown_features(codec: FeatureCodec, sources: Iterable[SourceText]) -> tuple[Counter[str], int]:
    """Return the counts of features that are not in the vocabulary, and the number of all."""
    unknown: Counter[str] = Counter()
    total = 0
    for each in sources:
        tokens = codec.tokens(each.features or "")
        unknown.update(token for token in tokens if token not in codec.vocabulary)
        total += len(tokens)
    return unknown, total


def unknown_features_warning(
    unknown: Counter[str],
    codec: FeatureCodec,
    total: int | None = None,
    vocabulary: str = "the vocabulary",
    fix: str = "",
) -> str:
    """Return the warning about unknown features with their counts; ``total`` is the number of all features."""
    count = unknown.total()
    noun = "feature" if (count if total is None else total) == 1 else "features"
    of_all = f"{count:,} {noun}" if total is None else f"{count:,} of {total:,} {noun} ({100 * count / total:.1f} %)"
    verbs = ("is", "was") if count == 1 else ("are", "were")
    text = (
        f"{of_all} {verbs[0]} not in {vocabulary} and {verbs[1]} mapped to UNK: {named_tokens(unknown)}. Features are "
        f"separated by {shown(codec.separator)}; the model has {known_features(codec)}."
    )
    return f"{text} {fix}" if fix else text
