"""Attention weights of predictions: a second pass over the outputs returns them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from freerun.data.codec import Codec
from freerun.runtime.encoded_texts import EncodedText
from freerun.runtime.prediction import END_NAME, OutputAttention, Prediction
from freerun.search.attended import in_reading_order
from freerun.search.hypothesis import Hypothesis
from freerun.search.searcher import Searcher
from freerun.search.stepper import Weights
from freerun.symbols import EOS, source_length

__all__ = ["with_attention"]

_DIGITS = 6


def with_attention(
    searcher: Searcher,
    source: Codec,
    texts: Sequence[EncodedText],
    outputs: Sequence[Sequence[Hypothesis]],
    predictions: Sequence[Prediction],
) -> list[Prediction]:
    """Return ``predictions``, those of ``outputs``, with the attention weights of a model that has some."""
    ids = [text.ids for text, hypotheses in zip(texts, outputs, strict=True) for _ in hypotheses]
    written = [(*each.ids, *(() if each.truncated else (EOS,))) for each in chain.from_iterable(outputs)]
    found = searcher.attention(ids, written)
    assert found is not None, "has_attention must be True"
    weights = iter(found)
    return [_attending(source, text, each, weights) for text, each in zip(texts, predictions, strict=True)]


def _attending(source: Codec, text: EncodedText, prediction: Prediction, found: Iterator[Weights]) -> Prediction:
    """Return a prediction with the weights of its hypotheses, the next ones of ``found``."""
    length = source_length(text.ids)
    weights = [in_reading_order(next(found), length, source.reverse) for _ in prediction.hypotheses]
    # those of features follow if the model attends to them
    features = text.ids[length : weights[0].shape[1]] if source.features is not None else []
    names = [] if source.features is None else source.features.vocabulary.tokens(features)
    matrices = tuple(tuple(map(tuple, each.astype(np.float64).round(_DIGITS).tolist())) for each in weights)
    return replace(prediction, attention=OutputAttention((*text.tokens, END_NAME, *names), matrices))
