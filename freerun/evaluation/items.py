"""Evaluation sets: sources, each with all its references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from freerun.data.codec import Codec
from freerun.data.features import FeatureCodec, Features
from freerun.data.known_features import missing_features
from freerun.data.readers import Pair
from freerun.errors import DataError

__all__ = ["EvaluationSet", "Item", "group_pairs"]


@dataclass(slots=True)
class Item:
    """One source as text; its references as texts and, in the same order, as the target's tokens."""

    source: str
    texts: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    features: Features | None = None

    @property
    def label(self) -> str:
        """The source, then a tab and its features if it has any."""
        if self.features is None:
            return self.source
        return f"{self.source}\t{self.features if isinstance(self.features, str) else ';'.join(self.features)}"


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """N sources in the order of their first pair. Each counts once in every metric, however many its references."""

    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sources(self) -> list[str]:
        """The source texts [N]."""
        return [item.source for item in self.items]

    @property
    def labels(self) -> list[str]:
        """The sources [N] with their features, if they have any: each text occurs once."""
        return [item.label for item in self.items]

    @property
    def has_features(self) -> bool:
        """Return True if the sources have features."""
        return any(item.features is not None for item in self.items)

    @property
    def references(self) -> list[list[list[str]]]:
        """The references [N] as token lists; a source has at least one."""
        return [item.references for item in self.items]

    @property
    def reference_texts(self) -> list[list[str]]:
        """The references [N] as texts."""
        return [item.texts for item in self.items]

    def unknown_targets(self, target_codec: Codec) -> tuple[Counter[str], int]:
        """Return the counts of reference tokens that are not in the vocabulary, and the number of all, with EOS."""
        references = [tokens for item in self.items for tokens in item.references]
        unknown = Counter(token for tokens in references for token in target_codec.unknown_among(tokens))
        return unknown, sum(len(tokens) + 1 for tokens in references)

    def take(self, indices: Iterable[int]) -> EvaluationSet:
        """Return the sources at ``indices``."""
        return EvaluationSet([self.items[index] for index in indices])


def group_pairs(pairs: Iterable[Pair], source_codec: Codec, target_codec: Codec) -> EvaluationSet:
    """Group the references of each source.

    Two sources are one if the model reads the same tokens ("A" and "a" are, if case is folded). A repeated reference
    counts once. Features are dropped if the model reads none. Raises DataError without pairs, and for a pair without
    the features that the model reads.
    """
    items: dict[tuple[object, ...], Item] = {}
    for pair in pairs:
        # By tokens and not by ids: all unknown symbols share one id, but their sources differ.
        key = source_codec.key(pair.source, pair.features)
        features = None if source_codec.features is None else _features(pair, source_codec.features)
        item = items.setdefault(key, Item(pair.source, features=features))
        tokens = target_codec.tokens(pair.target)
        # Some corpora repeat a pair a thousand times, which adds no further correct output.
        if tokens not in item.references:
            item.references.append(tokens)
            item.texts.append(pair.target)
    if not items:
        raise DataError(
            "pairs to evaluate on", "there are none", "Expected at least one pair", "Name a file that holds pairs"
        )
    return EvaluationSet(list(items.values()))


def _features(pair: Pair, codec: FeatureCodec) -> Features:
    if pair.features is None:
        raise missing_features(f"pair {pair.line}", pair.source, codec, 'Add them; "" stands for none')
    return pair.features
