"""The warning about reference tokens that a model can never write."""

from __future__ import annotations

from freerun.data.codec import Codec
from freerun.data.unknown_tokens import FIX_TRAINING, MAX_UNKNOWN, unknown_targets_warning
from freerun.evaluation.items import EvaluationSet
from freerun.log import log

__all__ = ["warn_of_unknown_targets"]


def warn_of_unknown_targets(
    location: object,
    items: EvaluationSet,
    target: Codec,
    vocabulary: str = "the vocabulary",
    fix: str = FIX_TRAINING,
) -> None:
    """Log a warning if more than ``MAX_UNKNOWN`` of the reference tokens of ``items`` are unknown.

    ``location`` and ``vocabulary`` name the pairs and the vocabulary in the message.
    """
    unknown, total = items.unknown_targets(target)
    count = sum(unknown.values())
    if count > MAX_UNKNOWN * total:
        log.warning(unknown_targets_warning(location, unknown, count, total, vocabulary, fix))
