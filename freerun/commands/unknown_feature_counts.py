"""The warning about features that are not in a model's vocabulary, for commands that read sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from freerun.commands.console import say
from freerun.data.features import FeatureCodec
from freerun.data.known_features import unknown_features_warning
from freerun.data.unknown_tokens import count_tokens

__all__ = ["UnknownFeatures"]


class UnknownFeatures:
    """Counts of unknown features; without a codec there are none."""

    def __init__(self, codec: FeatureCodec | None) -> None:
        self._codec = codec
        self._counts: Counter[str] = Counter()

    def add(self, features: Iterable[str]) -> None:
        """Count the unknown features of one source."""
        count_tokens(self._counts, features)

    def report(self) -> None:
        """Print a warning on standard error if any feature was unknown."""
        if self._codec is not None and self._counts:
            say(f"warning: {unknown_features_warning(self._counts, self._codec)}")
