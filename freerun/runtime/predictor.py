"""Predictions for texts: the class through which programs use a model.

Over 350 lines, because predicting and scoring each check texts, turn them into ids, and name what is wrong with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

from freerun.architecture import Architecture
from freerun.arguments import as_list, check_items, check_text, wrong_type
from freerun.data.codec import Codec
from freerun.data.features import Features
from freerun.errors import BundleError, ConfigError, DataError
from freerun.runtime.bundle import Bundle
from freerun.runtime.encoded_texts import EncodedPair, EncodedText
from freerun.runtime.output_attention import with_attention
from freerun.runtime.prediction import PredictedHypothesis, Prediction, Scored
from freerun.runtime.sources import (
    Source,
    check_features_type,
    check_line,
    check_text_alone,
    features_of,
    split_sources,
    stored_features,
)
from freerun.search.batches import MAX_POSITIONS, ROWS
from freerun.search.bound import LengthBound
from freerun.search.hypothesis import Hypothesis
from freerun.search.methods import Beam, Greedy, Sampling, Search
from freerun.search.searcher import Searcher, score_in_batches, search_in_batches
from freerun.symbols import EOS, UNK

__all__ = ["Predictor", "check_score", "windows"]

T = TypeVar("T")
Reload = tuple[Callable[..., "Predictor"], tuple[Any, ...]]
"""A module-level function that loads a predictor, and its arguments."""

WINDOW = 4096
"""Number of texts read ahead from a stream, to batch them by length."""


class _Pair(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...


class Predictor:
    """A model with its codecs, ready for texts. Created by ``freerun.load``.

    Several threads may use it at once. A copy shares the model. A pickle holds the location that the model was loaded
    from, and loads it again there.
    """

    def __init__(
        self,
        *,
        searcher: Searcher,
        source: Codec,
        target: Codec,
        bound: LengthBound,
        batch_size: int = ROWS,
        longest_source: int = MAX_POSITIONS,
        load_again: Reload | None = None,
        bundle: Bundle | None = None,
        runtime: str = "",
    ) -> None:
        """``longest_source`` is in tokens, with the end token and without features (each of which counts once, so
        their number is limited by the vocabulary); without ``load_again`` it cannot be pickled. ``bundle`` is the only
        one that it was loaded from, and ``runtime`` names what runs it: "compiled", "onnxruntime" or "torch".
        """
        self.searcher = searcher
        self.source = source
        self.target = target
        self.bound = bound
        self.batch_size = batch_size
        self.longest_source = longest_source
        self.bundle = bundle
        self.runtime = runtime
        self._load_again = load_again

    def __reduce__(self) -> tuple[Any, ...]:
        if self._load_again is None:
            raise TypeError(
                "Predictor: not loaded from a bundle, so a pickle cannot record where to load it from. Expected a "
                "Predictor that freerun.load returned. Load one from a bundle, or create it in each process."
            )
        return (*self._load_again, self._settings())

    def _settings(self) -> dict[str, Any]:
        """Return the attributes that a program may have set."""
        return {name: getattr(self, name) for name in ("bound", "batch_size", "longest_source")}

    def __copy__(self) -> Predictor:
        other = object.__new__(Predictor)
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Predictor:
        return self.__copy__()  # the shared objects never change

    def predict(
        self, text: str, search: Search = Greedy(), prefix: str = "", features: Features | None = None
    ) -> Prediction:
        """Return the outputs for one text; every output begins with the text ``prefix``.

        A model with features needs ``features``: a str such as "V;PST", or a sequence with one str each. Their order
        does not matter. Raises as ``predict_batch`` does.
        """
        if type(text) is not str:
            check_text("text", text)
        if features is None:
            return self.predict_batch([text], search, prefix)[0]
        check_features_type("features", features)
        return self.predict_batch([(text, features)], search, prefix)[0]

    def predict_batch(
        self,
        texts: Iterable[Source],
        search: Search = Greedy(),
        prefix: str = "",
        rows: Sequence[int] | None = None,
        attention: bool = False,
    ) -> list[Prediction]:
        """Return the outputs for several texts, in their order; texts do not influence each other.

        For a model with features, ``texts`` are pairs (text, features), with features as in ``predict``. ``rows``
        numbers the texts if they are part of a longer list (a sample depends on the number of its text). ``attention``
        adds the attention weights of each output, if ``has_attention``.

        Raises:
            TypeError: an argument of another type; ``texts`` is a single text.
            DataError: ``prefix`` has a token that the model cannot write, or a text is longer than ``longest_source``
                or is not one line of valid Unicode without tabs; or a model with features gets a text without any, or
                another model features.
            ConfigError: ``attention`` is asked of a model that has none.
            BundleError: the model gives a text a score that is not finite, or its bundle turns out to be damaged.
        """
        if type(texts) is not list:
            texts = as_list("texts", texts, _TEXTS)
        _check_search(search, prefix)
        prefix_ids = self.prefix_ids(prefix)
        return self.predict_encoded(self.encode(texts, rows), search, prefix_ids, attention=attention)

    def encode(
        self, texts: Sequence[Source], rows: Sequence[int] | None = None, max_length: int | None = None
    ) -> list[EncodedText]:
        """Check texts and return them as ids, for ``predict_encoded``, which also takes texts of several calls.

        Args:
            texts: as in ``predict_batch``.
            rows: as in ``predict_batch``.
            max_length: the maximum number of tokens per output, instead of the model's bound.

        Raises as ``predict_batch`` does.
        """
        numbers = range(len(texts)) if rows is None else rows
        features = None
        if self.source.features is not None:
            texts, features = split_sources(texts, numbers, self.source.features)
        for position, (number, text) in enumerate(zip(numbers, texts, strict=True)):
            if type(text) is not str or not text.isprintable():  # nearly every text is, and the check takes 0.1 µs
                check_text_alone(text, f"texts[{position}]", f"text {number + 1}")
        tokens = [self.source.tokens(text) for text in texts]  # type: ignore[arg-type]
        encoded = [self._ids(each, number) for each, number in zip(tokens, numbers, strict=True)]
        bounds = [self.bound.of_one(len(ids)) if max_length is None else max_length for ids in encoded]
        if features is None:
            return list(map(EncodedText, texts, tokens, encoded, bounds, numbers))  # type: ignore[arg-type]
        self._append_features(encoded, features)
        return list(map(EncodedText, texts, tokens, encoded, bounds, numbers, features))

    def predict_encoded(
        self,
        texts: Sequence[EncodedText],
        search: Search = Greedy(),
        prefix_ids: Sequence[int] = (),
        *,
        attention: bool = False,
    ) -> list[Prediction]:
        """Return the outputs for texts that ``encode`` returned; ``prefix_ids`` are those of ``prefix_ids``.

        Raises:
            BundleError, ConfigError: as ``predict_batch`` does.
        """
        if attention:
            self.check_attention()
        outputs = self._outputs(texts, search, prefix_ids)
        for text, hypotheses in zip(texts, outputs, strict=True):
            for hypothesis in hypotheses:
                check_score(hypothesis.score, f"text {text.row + 1}")
        predictions = list(map(self._prediction, texts, outputs))
        return with_attention(self.searcher, self.source, texts, outputs, predictions) if attention else predictions

    def check_attention(self) -> None:
        """Raise ConfigError unless ``has_attention``."""
        if not self.has_attention:
            raise ConfigError.single(
                "attention",
                "this model has no attention weights to return",
                "Expected one model with attention, in the compiled library or torch",
                "Leave attention out",
            )

    @property
    def has_attention(self) -> bool:
        """Return True if attention weights can be asked for; onnxruntime's graphs do not return any."""
        if self.bundle is None or self.runtime not in ("compiled", "torch"):
            return False
        return Architecture.of(self.bundle.model).attention_spec.reads_memory

    def _ids(self, tokens: list[str], number: int) -> list[int]:
        """Return the ids of a source, the end token last."""
        ids = self.source.encode_tokens(tokens)
        if len(ids) > self.longest_source:
            raise DataError(
                f"text {number + 1}",
                f"too long ({len(ids) - 1:,} tokens)",
                f"Expected at most {self.longest_source - 1:,}",
                "Split it into shorter texts",
            )
        return ids

    def _append_features(self, encoded: list[list[int]], features: Iterable[Features]) -> None:
        """Append the ids of the features to those of their sources."""
        assert self.source.features is not None
        for ids, each in zip(encoded, features, strict=True):
            ids += self.source.features.encode(each)

    def _outputs(self, texts: Sequence[EncodedText], search: Search, prefix: Sequence[int]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each text, in the order of the texts."""
        sources = [text.ids for text in texts]
        bounds = [text.bound for text in texts]
        numbers = [text.row for text in texts]
        if len(sources) == 1:
            return self.searcher.search(sources, bounds, search, prefix, numbers)
        outputs: list[list[Hypothesis]] = [[] for _ in sources]
        batches = search_in_batches(
            self.searcher, sources, bounds, search, prefix=prefix, rows=numbers, batch_size=self.batch_size
        )
        for batch, hypotheses in batches:
            for n, each in zip(batch, hypotheses, strict=True):
                outputs[n] = each
        return outputs

    def predict_stream(
        self, texts: Iterable[Source], search: Search = Greedy(), prefix: str = ""
    ) -> Iterator[Prediction]:
        """Yield the predictions for any number of texts, in constant memory; ``texts`` as in ``predict_batch``."""
        check_items("texts", texts, _TEXTS)
        _check_search(search, prefix)  # now, not when the first prediction is taken
        return self._stream(texts, search, prefix)

    def _stream(self, texts: Iterable[Source], search: Search, prefix: str) -> Iterator[Prediction]:
        for window in windows(enumerate(texts)):
            yield from self.predict_batch([text for _, text in window], search, prefix, [row for row, _ in window])

    def score_stream(self, pairs: Iterable[_Pair]) -> Iterator[Scored]:
        """Yield the log-probability of each given target, in constant memory; None for one with an unknown token.

        A model with features reads those of the pairs' attribute ``features``; any other model ignores it.

        Raises:
            TypeError: not an iterable of pairs with the attributes ``source`` and ``target``, both str.
            DataError: a text that is too long, or not one line of valid Unicode without tabs; or no features, and a
                model that needs them.
        """
        check_items("pairs", pairs, _PAIRS)
        return self._score_stream(pairs)

    def _score_stream(self, pairs: Iterable[_Pair]) -> Iterator[Scored]:
        for window in windows(enumerate(pairs)):
            yield from self._scored([pair for _, pair in window], [number for number, _ in window])

    def _prediction(self, text: EncodedText, hypotheses: Sequence[Hypothesis]) -> Prediction:
        unknown = tuple(self.source.unknown_among(text.tokens)) if UNK in text.ids else ()
        readable = tuple(map(self._readable, hypotheses))
        if text.features is None:
            return Prediction(text.text, readable, unknown)
        assert self.source.features is not None
        unknown_features = tuple(self.source.features.unknown(text.features))
        return Prediction(text.text, readable, unknown, stored_features(text.features), unknown_features)

    def _readable(self, hypothesis: Hypothesis) -> PredictedHypothesis:
        tokens = self.target.decode(hypothesis.ids)
        return PredictedHypothesis(
            self.target.text(tokens),
            tuple(tokens),
            hypothesis.score,
            hypothesis.rank_score,
            hypothesis.token_scores,
            hypothesis.truncated,
        )

    def prefix_ids(self, prefix: str) -> list[int]:
        """Return the ids of a text that outputs shall begin with.

        Raises:
            DataError: it has a token that the model cannot write.
        """
        if not prefix:
            return []
        tokens = self.target.tokens(prefix)
        unknown = [token for token in tokens if token not in self.target.vocabulary]
        if unknown:
            raise DataError(
                f"prefix {prefix!r}",
                "the model has no target token " + ", ".join(map(repr, unknown)),
                "Expected target tokens that occur in the training data",
                "Leave these tokens out",
            )
        ids = self.target.encode_tokens(tokens)
        return ids[: ids.index(EOS)]

    def _scored(self, pairs: Sequence[_Pair], numbers: Sequence[int]) -> list[Scored]:
        return self.score_encoded(self.encode_pairs(pairs, numbers))

    def encode_pairs(self, pairs: Sequence[_Pair], numbers: Sequence[int] | None = None) -> list[EncodedPair]:
        """Check pairs and return them as ids, for ``score_encoded``, which also takes pairs of several calls.

        ``numbers`` are those of the pairs in a longer list, for messages. Raises as ``score_stream`` does.
        """
        numbers = range(len(pairs)) if numbers is None else numbers
        for number, pair in zip(numbers, pairs, strict=True):
            _check_pair(pair, number)
        sources = [
            self._ids(self.source.tokens(pair.source), number) for number, pair in zip(numbers, pairs, strict=True)
        ]
        features: Sequence[Features | None] = [None] * len(pairs)
        if (codec := self.source.features) is not None:
            features = given = [
                features_of(pair, f"pair {number + 1}", f"pairs[{number}]", codec)
                for number, pair in zip(numbers, pairs, strict=True)
            ]
            self._append_features(sources, given)
        tokens = [self.target.tokens(pair.target) for pair in pairs]
        targets = [self.target.encode_tokens(each) for each in tokens]
        texts = [pair.source for pair in pairs], [pair.target for pair in pairs]
        return list(map(EncodedPair, *texts, tokens, sources, targets, numbers, features))

    def score_encoded(self, pairs: Sequence[EncodedPair]) -> list[Scored]:
        """Return the scores of pairs that ``encode_pairs`` returned.

        Raises:
            BundleError: the model gives a pair a score that is not finite.
        """
        ids = [pair.source_ids for pair in pairs], [pair.target_ids for pair in pairs]
        scores: list[list[float]] = [[]] * len(pairs)
        for batch, forced in score_in_batches(self.searcher, *ids, self.batch_size):
            for n, log_probs in zip(batch, forced.log_probs, strict=True):
                scores[n] = log_probs.tolist()
                check_score(sum(scores[n]), f"pair {pairs[n].number + 1}")
        return list(map(self._as_scored, pairs, scores))

    def _as_scored(self, pair: EncodedPair, scores: list[float]) -> Scored:
        """Return the ``scores`` of a target's ids; those of UNK do not belong to the tokens that it stands for."""
        ids, features = pair.target_ids, pair.features
        if UNK not in ids:
            return Scored(pair.source, pair.target, float(sum(scores)), tuple(scores), features=features)
        known = tuple(None if number == UNK else score for number, score in zip(ids, scores, strict=True))
        unknown = tuple(self.target.unknown_among(pair.tokens))
        return Scored(pair.source, pair.target, None, known, unknown, features)


_TEXTS = "str (predict() takes a single one)"
_PAIRS = "pairs with the attributes source and target"


def _check_pair(pair: _Pair, number: int) -> None:
    for side in ("source", "target"):
        text = getattr(pair, side, None)
        if not isinstance(text, str):
            raise wrong_type(f"pairs[{number}]", pair, "an object with the attributes source and target, both str")
        check_line(text, side, f"{side} of pair {number + 1}")


def _check_search(search: object, prefix: str) -> None:
    if not isinstance(search, Greedy | Beam | Sampling):
        raise wrong_type("search", search, "a freerun.Greedy, a freerun.Beam or a freerun.Sampling")
    if type(prefix) is not str:
        check_text("prefix", prefix)


def check_score(score: float, location: str) -> None:
    """Raise ``BundleError`` for the score of a source at ``location`` that is not finite."""
    if not math.isfinite(score):
        raise BundleError(
            location,
            f"the model gives it the score {score}, because its weights are so large that numbers overflow",
            "Expected a finite score",
            "Use another model, or train this one again with a lower learning rate",
        )


def windows(items: Iterable[T], size: int = WINDOW) -> Iterator[list[T]]:
    """Yield a stream in lists of ``size`` items."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window
