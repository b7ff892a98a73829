"""Texts and pairs as ids: what ``Predictor`` decodes and scores."""

from __future__ import annotations

from typing import NamedTuple

from freerun.data.features import Features

__all__ = ["EncodedPair", "EncodedText"]


class EncodedText(NamedTuple):
    """A text that a model can read.

    Attributes:
        text: as it was given.
        tokens: its source tokens.
        ids: their ids, the end token, and the ids of the features.
        bound: the maximum length of its outputs, in tokens without the end token.
        row: the number that its samples depend on, and that messages name it by.
        features: as they were given; None if the model reads none.
    """

    text: str
    tokens: list[str]
    ids: list[int]
    bound: int
    row: int
    features: Features | None = None


class EncodedPair(NamedTuple):
    """A source and a target to score.

    Attributes:
        source: the source text.
        target: the target text.
        tokens: the target tokens.
        source_ids: the ids of the source, as in ``EncodedText``.
        target_ids: the ids of the target, the end token last.
        number: the one that messages name it by.
        features: as they were given; None if the model reads none.
    """

    source: str
    target: str
    tokens: list[str]
    source_ids: list[int]
    target_ids: list[int]
    number: int
    features: Features | None = None
