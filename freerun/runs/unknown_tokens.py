"""What the commands say about tokens that a model's vocabulary lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from freerun.data.codec import Codec
from freerun.evaluation.items import EvaluationSet
from freerun.text import printable

__all__ = [
    "MAX_NAMED",
    "MAX_UNKNOWN",
    "count_tokens",
    "named_tokens",
    "unknown_targets_warning",
    "warn_of_unknown_targets",
]

MAX_NAMED = 10
MAX_COUNTED = 100_000
"""Distinct tokens that are counted at most, so that memory stays constant."""
MAX_UNKNOWN = 0.01
"""Fraction of unknown target tokens above which ``train`` and ``evaluate`` warn."""


def count_tokens(counts: Counter[str], tokens: Iterable[str]) -> None:
    """Add ``tokens`` to ``counts``, which keeps the first ``MAX_COUNTED`` distinct ones."""
    for token in tokens:
        if token in counts or len(counts) < MAX_COUNTED:
            counts[token] += 1


def named_tokens(counts: Counter[str]) -> str:
    """The most frequent tokens with their counts, and how many others there are."""
    named = ", ".join(f"'{printable(token)}' ({count:,})" for token, count in counts.most_common(MAX_NAMED))
    more = f" and {len(counts) - MAX_NAMED:,} others" if len(counts) > MAX_NAMED else ""
    return named + more


def warn_of_unknown_targets(
    where: object, items: EvaluationSet, target: Codec, say: Callable[[str], None], vocabulary: str = "the vocabulary"
) -> None:
    """Say so if more than ``MAX_UNKNOWN`` of the reference tokens are unknown; ``where`` the pairs are stored."""
    unknown, total = items.unknown_targets(target)
    if sum(unknown.values()) > MAX_UNKNOWN * total:
        say(unknown_targets_warning(where, unknown, sum(unknown.values()), total, vocabulary))


def unknown_targets_warning(
    where: object, examples: Counter[str], count: int, total: int, vocabulary: str = "the vocabulary"
) -> str:
    """The warning: ``count`` of ``total`` target tokens are unknown, ``examples`` among them."""
    return (
        f"warning: {where}: {count:,} of {total:,} target tokens ({100 * count / total:.1f} %) are not in "
        f"{vocabulary}: {named_tokens(examples)}. The model can never write them, and teacher-forced metrics leave "
        "them out. Train on more data, lower data.minimum_count, choose smaller data.target_tokens (char or "
        "sentencepiece:N), or give the targets the training data's spelling and Unicode form."
    )
