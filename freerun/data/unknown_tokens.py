"""Messages about tokens that are not in a model's vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from freerun.text import printable

__all__ = [
    "FIX_FEATURES",
    "FIX_INIT",
    "FIX_TRAINING",
    "MAX_NAMED",
    "MAX_UNKNOWN",
    "count_tokens",
    "named_tokens",
    "unknown_sources_warning",
    "unknown_targets_warning",
]

MAX_NAMED = 10
MAX_COUNTED = 100_000
"""Maximum number of distinct tokens that are counted, so that memory stays constant."""
MAX_UNKNOWN = 0.01
"""Fraction of unknown target tokens above which ``train`` and ``evaluate`` warn."""


def count_tokens(counts: Counter[str], tokens: Iterable[str]) -> None:
    """Add ``tokens`` to ``counts``, which holds at most the first ``MAX_COUNTED`` distinct ones."""
    for token in tokens:
        if token in counts or len(counts) < MAX_COUNTED:
            counts[token] += 1


def named_tokens(counts: Counter[str]) -> str:
    """Return the most frequent tokens with their counts, and the number of others."""
    named = ", ".join(f"'{printable(token)}' ({count:,})" for token, count in counts.most_common(MAX_NAMED))
    more = f" and {len(counts) - MAX_NAMED:,} others" if len(counts) > MAX_NAMED else ""
    return named + more


FIX_TRAINING = (
    "Train on more data, lower data.minimum_count, choose smaller data.target_tokens (char or sentencepiece:N), or "
    "give the targets the training data's spelling and Unicode form."
)
FIX_FEATURES = (
    "Train on data with these features, lower data.minimum_count, or give the features the training data's spelling."
)
FIX_INIT = (
    "A model that training starts from keeps its vocabulary: start without --init, start from a model trained on data "
    "with these tokens, or give the pairs that data's spelling, case and Unicode form."
)


def unknown_targets_warning(
    location: object,
    examples: Counter[str],
    count: int,
    total: int,
    vocabulary: str = "the vocabulary",
    fix: str = FIX_TRAINING,
) -> str:
    """Return the warning that ``count`` of ``total`` target tokens are unknown, ``examples`` among them."""
    return (
        f"{_unknown(location, examples, count, total, 'target', vocabulary)} The model can never write them, and "
        f"teacher-forced metrics leave them out. {fix}"
    )


def unknown_sources_warning(location: object, examples: Counter[str], count: int, total: int, vocabulary: str) -> str:
    """Return the warning that an initial model reads ``count`` of ``total`` source tokens as unknown."""
    return (
        f"{_unknown(location, examples, count, total, 'source', vocabulary)} The model reads all of them as one "
        f"unknown token. {FIX_INIT}"
    )


def _unknown(location: object, examples: Counter[str], count: int, total: int, side: str, vocabulary: str) -> str:
    fraction = f"{count:,} of {total:,} {side} tokens ({100 * count / total:.1f} %)"
    return f"{location}: {fraction} are not in {vocabulary}: {named_tokens(examples)}."
