"""Predictions from texts: what a program that uses a model works with."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np

from freerun.arguments import as_list, check_items, check_text, wrong_type
from freerun.data.batching import MAX_POSITIONS, ROWS, pad, similar_lengths
from freerun.data.codec import Codec
from freerun.errors import BundleError, DataError
from freerun.search.beam import beam_search, check_beam
from freerun.search.bound import LengthBound
from freerun.search.hypothesis import Hypothesis
from freerun.search.sampling import check_sampling, sample
from freerun.search.score import score_targets
from freerun.search.stepper import Greedy, Stepper
from freerun.symbols import EOS, UNK

__all__ = [
    "Beam",
    "PredictedHypothesis",
    "Prediction",
    "Predictor",
    "Sampling",
    "Scored",
    "Search",
    "check_score",
    "windows",
]

T = TypeVar("T")

WINDOW = 4096
"""Texts read ahead of a stream, so that batches can be made of similar lengths."""


@dataclass(frozen=True)
class Beam:
    """Beam search; a beam of 1 is greedy. ``length_penalty`` ranks only.

    ``early_stop`` ends a search with a positive ``length_penalty`` sooner, and may miss the best output.
    """

    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 0.0
    early_stop: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a setting that is out of its range."""
        check_beam(self.beam_size, self.num_hypotheses, self.length_penalty)

    @property
    def width(self) -> int:
        """Rows that a source takes."""
        return max(self.beam_size, self.num_hypotheses)

    @property
    def is_plain(self) -> bool:
        """Whether this is greedy search that ranks nothing."""
        return self.width == 1 and not self.length_penalty


@dataclass(frozen=True)
class Sampling:
    """Independent draws from the model; temperature 0 is greedy search."""

    num_hypotheses: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a setting that is out of its range."""
        check_sampling(self.temperature, self.top_k, self.top_p, self.num_hypotheses, self.seed)

    @property
    def width(self) -> int:
        """Rows that a source takes."""
        return self.num_hypotheses


Search = Beam | Sampling
Reload = tuple[Callable[..., "Predictor"], tuple[Any, ...]]
"""A function of a module, which loads a predictor, and its arguments."""


@dataclass(frozen=True)
class PredictedHypothesis:
    """One output.

    Attributes:
        text: the output as text.
        tokens: its target tokens.
        score: total natural-log probability, with that of the end token unless ``truncated``.
        rank_score: what hypotheses are ranked by: the score under the length penalty.
        token_scores: one log-probability a token, and one for the end token.
        truncated: whether the length bound cut it off before it ended by itself.
    """

    text: str
    tokens: tuple[str, ...]
    score: float
    rank_score: float
    token_scores: tuple[float, ...]
    truncated: bool


@dataclass(frozen=True)
class Prediction:
    """All outputs for one source text, best first; ``text``, ``tokens`` and ``score`` are the best one's."""

    source: str
    hypotheses: tuple[PredictedHypothesis, ...]
    unknown: tuple[str, ...] = ()
    """Source tokens that the model has never seen, as often as they occur."""

    @property
    def text(self) -> str:
        """The best output."""
        return self.hypotheses[0].text

    @property
    def tokens(self) -> tuple[str, ...]:
        """The best output's tokens."""
        return self.hypotheses[0].tokens

    @property
    def score(self) -> float:
        """The best output's score."""
        return self.hypotheses[0].score


@dataclass(frozen=True)
class Scored:
    """A given target's total log-probability, and one per token with the end token last.

    The model cannot write a token that its vocabulary lacks, so such a target has no score.

    Attributes:
        source: the source text.
        target: the target text.
        score: total natural-log probability; None if a token is unknown.
        token_scores: one log-probability per token, and one for the end token; None for an unknown token.
        unknown: the unknown target tokens, as often as they occur.
    """

    source: str
    target: str
    score: float | None
    token_scores: tuple[float | None, ...]
    unknown: tuple[str, ...] = ()


class _Pair(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...


class Predictor:
    """A model with its codecs, ready for texts. Made by ``freerun.load``.

    Several threads may use it at once: a search has its state in a stepper, and each thread gets one of its own. A copy
    shares the model. A pickle says where the model was loaded from, and loads it again there.
    """

    def __init__(
        self,
        new_stepper: Callable[[], Stepper],
        source: Codec,
        target: Codec,
        bound: LengthBound,
        batch_size: int = ROWS,
        greedy: Greedy | None = None,
        longest_source: int = MAX_POSITIONS,
        load_again: Reload | None = None,
    ) -> None:
        """``greedy`` is used instead of a stepper where it can be; ``longest_source`` is in tokens, with the end.

        ``load_again``, a function of a module and its arguments, is what a pickle keeps; without it there is none.
        """
        self.source = source
        self.target = target
        self.bound = bound
        self.batch_size = batch_size
        self.longest_source = longest_source
        self._new_stepper = new_stepper
        self.greedy = greedy
        self._load_again = load_again
        self._of_thread = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._load_again is None:
            raise TypeError(
                "Predictor: it was not loaded from a bundle, so a pickle cannot say where to load it again. Expected a "
                "Predictor that freerun.load returned. Load one from a bundle, or create it in each process."
            )
        return (*self._load_again, self._settings())

    def _settings(self) -> dict[str, Any]:
        """The attributes that a program may have set."""
        return {name: getattr(self, name) for name in ("bound", "batch_size", "longest_source")}

    def __copy__(self) -> Predictor:
        shared = self._new_stepper, self.source, self.target, self.bound, self.batch_size, self.greedy
        return Predictor(*shared, self.longest_source, self._load_again)

    def __deepcopy__(self, memo: dict[int, Any]) -> Predictor:
        return self.__copy__()  # what is shared never changes

    @property
    def stepper(self) -> Stepper:
        """The stepper of the thread that asks."""
        if not hasattr(self._of_thread, "stepper"):
            self._of_thread.stepper = self._new_stepper()
        stepper: Stepper = self._of_thread.stepper
        return stepper

    def predict(self, text: str, search: Search = Beam(), prefix: str = "") -> Prediction:
        """The outputs for one text. ``prefix`` is text that every output is made to begin with.

        Raises as ``predict_batch`` does.
        """
        check_text("text", text)
        return self.predict_batch([text], search, prefix)[0]

    def predict_batch(
        self, texts: Iterable[str], search: Search = Beam(), prefix: str = "", rows: Sequence[int] | None = None
    ) -> list[Prediction]:
        """The outputs for several texts, in their order; texts do not influence each other.

        ``rows`` are the texts' numbers where they are part of a longer list (a draw depends on its text's number).

        Raises:
            TypeError: an argument of another type; ``texts`` is a single text.
            DataError: ``prefix`` has a token that the model cannot write, or a text is longer than ``longest_source``
                or is not one line of valid Unicode without tabs.
            BundleError: the model gives a text a score that is not finite, or what runs it finds the bundle damaged.
        """
        if type(texts) is not list:
            texts = as_list("texts", texts, _TEXTS)
        _check_search(search, prefix)
        forced = self._prefix(prefix) if prefix else []
        numbers = range(len(texts)) if rows is None else rows
        for place, (number, text) in enumerate(zip(numbers, texts, strict=True)):
            if type(text) is not str or not text.isprintable():  # nearly every text is, and that is seen in 0.1 µs
                _check_line(text, f"texts[{place}]", f"text {number + 1}")
        tokens = [self.source.tokens(text) for text in texts]
        encoded = [self._ids(each, number) for each, number in zip(tokens, numbers, strict=True)]
        found = self._found(search, encoded, numbers, forced)
        for number, hypotheses in zip(numbers, found, strict=True):
            for hypothesis in hypotheses:
                check_score(hypothesis.score, f"text {number + 1}")
        return [self._prediction(*each) for each in zip(texts, tokens, encoded, found, strict=True)]

    def _ids(self, tokens: list[str], number: int) -> list[int]:
        """A source's ids."""
        ids = self.source.encode_tokens(tokens)
        if len(ids) > self.longest_source:
            raise DataError(
                f"text {number + 1}",
                f"it has {len(ids) - 1:,} tokens",
                f"Expected at most {self.longest_source - 1:,}",
                "Cut it into shorter texts",
            )
        return ids

    def _found(
        self, search: Search, encoded: list[list[int]], numbers: Sequence[int], forced: Sequence[int]
    ) -> list[list[Hypothesis]]:
        """The outputs of each source, in their order, whatever batches they were made in."""
        if len(encoded) == 1:
            return self._search(search, encoded, numbers, forced)
        sizes = [len(ids) for ids in encoded]
        found: list[list[Hypothesis]] = [[] for _ in encoded]
        for chosen in similar_lengths(sizes, sizes, self.batch_size, search.width):
            sources = [encoded[row] for row in chosen]
            outputs = self._search(search, sources, [numbers[row] for row in chosen], forced)
            for row, hypotheses in zip(chosen, outputs, strict=True):
                found[row] = hypotheses
        return found

    def predict_stream(self, texts: Iterable[str], search: Search = Beam(), prefix: str = "") -> Iterator[Prediction]:
        """The same for any number of texts, in constant memory."""
        check_items("texts", texts, _TEXTS)
        _check_search(search, prefix)  # now, and not when the first prediction is taken
        return self._stream(texts, search, prefix)

    def _stream(self, texts: Iterable[str], search: Search, prefix: str) -> Iterator[Prediction]:
        for window in windows(enumerate(texts)):
            yield from self.predict_batch([text for _, text in window], search, prefix, [row for row, _ in window])

    def score_stream(self, pairs: Iterable[_Pair]) -> Iterator[Scored]:
        """The log-probability of each given target, in constant memory; None for one with an unknown token.

        Raises:
            TypeError: not an iterable of pairs with the attributes ``source`` and ``target``, both str.
            DataError: a text that is too long, or not one line of valid Unicode without tabs.
        """
        check_items("pairs", pairs, _PAIRS)
        return self._score_stream(pairs)

    def _score_stream(self, pairs: Iterable[_Pair]) -> Iterator[Scored]:
        for window in windows(enumerate(pairs)):
            yield from self._scored([pair for _, pair in window], [number for number, _ in window])

    def _search(
        self, search: Search, sources: list[list[int]], rows: Sequence[int], forced: Sequence[int]
    ) -> list[list[Hypothesis]]:
        if self.greedy is not None and isinstance(search, Beam) and search.is_plain and not forced:
            found = self.greedy(sources, [self.bound.of_one(len(source)) for source in sources])
            return [[hypothesis] for hypothesis in found]
        ids, lengths = pad(sources)
        bounds = self.bound.of(lengths)
        prefix = [forced] * len(lengths) if forced else None
        if isinstance(search, Beam):
            return beam_search(
                self.stepper,
                ids,
                lengths,
                max_lengths=bounds,
                beam_size=search.beam_size,
                length_penalty=search.length_penalty,
                num_hypotheses=search.num_hypotheses,
                prefix=prefix,
                early_stop=search.early_stop,
            )
        return sample(
            self.stepper,
            ids,
            lengths,
            max_lengths=bounds,
            temperature=search.temperature,
            top_k=search.top_k,
            top_p=search.top_p,
            num_hypotheses=search.num_hypotheses,
            seed=search.seed,
            rows=np.asarray(rows, np.int64),
            prefix=prefix,
        )

    def _prediction(self, text: str, tokens: list[str], ids: list[int], hypotheses: Sequence[Hypothesis]) -> Prediction:
        unknown = tuple(self.source.unknown_among(tokens)) if UNK in ids else ()
        return Prediction(text, tuple(map(self._readable, hypotheses)), unknown)

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

    def _prefix(self, prefix: str) -> list[int]:
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
        for number, pair in zip(numbers, pairs, strict=True):
            _check_pair(pair, number)
        targets = [self.target.tokens(pair.target) for pair in pairs]
        encoded = [
            (self._ids(self.source.tokens(pair.source), number), self.target.encode_tokens(tokens))
            for number, pair, tokens in zip(numbers, pairs, targets, strict=True)
        ]
        sizes = [[len(ids) for ids in side] for side in zip(*encoded, strict=True)] or [[], []]
        scores: list[list[float]] = [[]] * len(pairs)
        for rows in similar_lengths(sizes[0], sizes[1], self.batch_size):
            ids, lengths = pad([encoded[row][0] for row in rows])
            forced = score_targets(self.stepper, ids, lengths, [encoded[row][1] for row in rows])
            for row, log_probs in zip(rows, forced.log_probs, strict=True):
                scores[row] = log_probs.tolist()
                check_score(sum(scores[row]), f"pair {numbers[row] + 1}")
        return [
            self._as_scored(pair, tokens, ids, each)
            for pair, tokens, (_, ids), each in zip(pairs, targets, encoded, scores, strict=True)
        ]

    def _as_scored(self, pair: _Pair, tokens: list[str], ids: list[int], scores: list[float]) -> Scored:
        """``scores`` of a target's ``ids``; those of UNK are no scores of the tokens that it stands for."""
        if UNK not in ids:
            return Scored(pair.source, pair.target, float(sum(scores)), tuple(scores))
        known = tuple(None if number == UNK else score for number, score in zip(ids, scores, strict=True))
        return Scored(pair.source, pair.target, None, known, tuple(self.target.unknown_among(tokens)))


_TEXTS = "str (predict() takes a single one)"
_PAIRS = "pairs with the attributes source and target"


def _check_pair(pair: _Pair, number: int) -> None:
    for side in ("source", "target"):
        text = getattr(pair, side, None)
        if not isinstance(text, str):
            raise wrong_type(f"pairs[{number}]", pair, "an object with the attributes source and target, both str")
        _check_line(text, side, f"{side} of pair {number + 1}")


def _check_search(search: object, prefix: str) -> None:
    if not isinstance(search, Beam | Sampling):
        raise wrong_type("search", search, "a freerun.Beam or a freerun.Sampling")
    if type(prefix) is not str:
        check_text("prefix", prefix)


def _check_line(text: Any, name: str, where: str) -> None:
    """Check a text, the argument ``name``, for what no line of a file of texts can hold; ``where`` is for messages."""
    check_text(name, text)
    for character, called in (("\t", "a tab"), ("\n", "a line feed"), ("\0", "a NUL character")):
        if character in text:
            raise DataError(where, f"it has {called} in it", "Expected one line of text", "Put a space in its place")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            where,
            f"it has half a surrogate pair (U+{ord(text[error.start]):04X}) in it",
            "Expected whole Unicode characters",
            "Decode the text with the right encoding, and without surrogateescape",
        ) from None


def check_score(score: float, where: str) -> None:
    """Raise ``BundleError`` for the score of a source at ``where`` that is not finite."""
    if not math.isfinite(score):
        raise BundleError(
            where,
            f"the model gives it the score {score}: its weights are so large that numbers overflow",
            "Expected a finite score",
            "Use another model, or train this one again with a lower learning rate",
        )


def windows(items: Iterable[T], size: int = WINDOW) -> Iterator[list[T]]:
    """A stream in lists of ``size`` items."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window
