"""The warning about features that a model does not distinguish."""

from __future__ import annotations

from freerun.data.codec import Codec
from freerun.data.known_features import count_unknown_features, unknown_features_warning
from freerun.data.unknown_tokens import MAX_UNKNOWN
from freerun.evaluation.items import EvaluationSet
from freerun.log import log

__all__ = ["warn_of_unknown_features"]


def warn_of_unknown_features(location: object, items: EvaluationSet, source: Codec) -> None:
    """Log a warning if more than ``MAX_UNKNOWN`` of the features of ``items``, read from ``location``, are unknown."""
    codec = source.features
    if codec is None:
        return
    unknown, total = count_unknown_features(codec, items.items)
    if unknown.total() > MAX_UNKNOWN * total:
        log.warning(f"{location}: {unknown_features_warning(unknown, codec, total)}")
