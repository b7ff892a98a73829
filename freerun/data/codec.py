"""Text to ids and back for one side of a model: normalization, tokenizer, vocabulary, reversal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING
from unicodedata import is_normalized

from freerun.data.features import FeatureCodec, Features
from freerun.data.normalisation import Case, Form, normalise
from freerun.data.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    make_tokenizer,
    parse_tokens_spec,
    train_sentencepiece,
)
from freerun.data.vocabulary import Vocabulary
from freerun.errors import ConfigError, DataError
from freerun.symbols import BOS, EOS, PAD

if TYPE_CHECKING:  # programs that only predict do not load the readers
    from freerun.data.readers import Pair

__all__ = ["Codec", "build_codecs", "check_specs", "check_target_tokens", "form_to_write"]


@dataclass(frozen=True)
class Codec:
    """Encodes the texts of one side, source or target.

    The ids are those of the tokens (in reverse if ``reverse``: Sutskever et al. 2014, for sources), followed by EOS, so
    that an empty text has length 1.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    _: KW_ONLY
    normalisation: Form = "NFC"
    case: Case = "keep"
    reverse: bool = False
    features: FeatureCodec | None = None
    written: Form = "none"
    """The form of texts that are written: that of the training texts, if their letters were taken apart."""

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of the normalized and case-folded text, in reading order."""
        return self.tokenizer.tokens(normalise(text, self.normalisation, self.case))

    def encode(self, text: str, features: Features | None = None) -> list[int]:
        """Return the ids of a text, then EOS, then those of its features if the model has any."""
        ids = self.encode_tokens(self.tokens(text))
        if self.features is not None:
            ids += self.features.encode(features or "")
        return ids

    def key(self, text: str, features: Features | None = None) -> tuple[object, ...]:
        """Return a key that two sources share if the model reads the same tokens and features."""
        tokens = tuple(self.tokens(text))
        return tokens if self.features is None else (tokens, frozenset(self.features.tokens(features or "")))

    def encode_tokens(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of tokens in reading order, EOS last."""
        ids = self.vocabulary.ids(tokens)
        if self.reverse:
            ids.reverse()
        ids.append(EOS)
        return ids

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens in reading order: up to the first EOS, without PAD and BOS, UNK as ``<unk>``."""
        written = list(ids)
        if EOS in written:  # padding, or tokens that a model predicted after the end
            del written[written.index(EOS) :]
        tokens = self.vocabulary.tokens([number for number in written if number not in (PAD, BOS)])
        return tokens[::-1] if self.reverse else tokens

    def text(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens in reading order."""
        return normalise(self.tokenizer.text(tokens), self.written)

    def unknown(self, text: str) -> list[str]:
        """Return the tokens of a text that are not in the vocabulary, in order, as often as they occur."""
        return self.unknown_among(self.tokens(text))

    def unknown_among(self, tokens: Iterable[str]) -> list[str]:
        """Return the ``tokens`` that are not in the vocabulary."""
        return [token for token in tokens if token not in self.vocabulary]


def build_codecs(
    pairs: Callable[[], Iterator[Pair]],
    *,
    source_tokens: str,
    target_tokens: str,
    minimum_count: int,
    source_form: Form,
    target_form: Form,
    source_case: Case,
    reverse_source: bool,
    shared_vocabulary: bool,
    feature_separator: str | None = None,
) -> tuple[Codec, Codec]:
    """Build the source and target codec from training pairs; each call of ``pairs`` iterates over them anew.

    Only counts are kept in memory. Targets keep their case. With ``shared_vocabulary`` both sides have one vocabulary
    (and SentencePiece model), built from both. ``minimum_count`` does not apply to SentencePiece, whose vocabulary is
    determined by its size.

    Raises:
        ConfigError: an invalid tokenizer specification or size; a shared vocabulary of different tokenizers.
        DataError: no target token is frequent enough to be in the vocabulary.
    """
    # Before the first pass: reading large data takes a while.
    check_specs(source_tokens, target_tokens, shared_vocabulary)
    sides = (
        _Side(lambda: (normalise(pair.source, source_form, source_case) for pair in pairs()), source_tokens, "source"),
        _Side(lambda: (normalise(pair.target, target_form, "keep") for pair in pairs()), target_tokens, "target"),
    )
    # Each side makes a separate pass, so that only one side's counts are in memory at a time.
    if shared_vocabulary:
        source = target = _build_side(_Side(lambda: _chain(sides), target_tokens, "target"), minimum_count)
    else:
        source, target = (_build_side(side, minimum_count) for side in sides)
    check_target_tokens(target[1], minimum_count)
    features = None
    if feature_separator is not None:
        features = FeatureCodec.build((pair.features or "" for pair in pairs()), feature_separator, minimum_count)
    return (
        Codec(*source, normalisation=source_form, case=source_case, reverse=reverse_source, features=features),
        Codec(
            *target,
            normalisation=target_form,
            written=form_to_write(target_form, lambda: all(is_normalized("NFC", pair.target) for pair in pairs())),
        ),
    )


def form_to_write(form: Form, is_composed: Callable[[], bool]) -> Form:
    """Return NFC if targets are read with their letters taken apart, though none of them is stored like that."""
    return "NFC" if form in ("NFD", "NFKD") and is_composed() else "none"


@dataclass(frozen=True)
class _Side:
    """Normalized texts (a new pass at each call), tokenizer specification, and ``source`` or ``target``."""

    texts: Callable[[], Iterator[str]]
    spec: str
    name: str


def check_specs(source_tokens: str, target_tokens: str, shared: bool) -> None:
    """Check the tokens of both sides; raises ``ConfigError`` as ``build_codecs`` does."""
    parse_tokens_spec(source_tokens, "data.source_tokens")
    parse_tokens_spec(target_tokens, "data.target_tokens")
    if shared and source_tokens != target_tokens:
        raise ConfigError.single(
            "shared_vocabulary",
            f"source_tokens {source_tokens!r} and target_tokens {target_tokens!r} cannot share a vocabulary",
            "Expected the same tokenization on both sides",
            "Make the two equal, or set shared_vocabulary = false",
        )


def _chain(sides: Sequence[_Side]) -> Iterator[str]:
    for side in sides:
        yield from side.texts()


def _build_side(side: _Side, minimum_count: int) -> tuple[Tokenizer, Vocabulary]:
    kind, size = parse_tokens_spec(side.spec, f"data.{side.name}_tokens")
    if kind == "sentencepiece" and size is not None:
        model = train_sentencepiece(side.texts(), size, f"data.{side.name}_tokens")
        return SentencePieceTokenizer(model, side.spec), Vocabulary.from_sentencepiece(model)
    tokenizer = make_tokenizer(side.spec)
    counts: Counter[str] = Counter()
    for text in side.texts():
        counts.update(tokenizer.tokens(text))
    return tokenizer, Vocabulary.from_counts(counts, minimum_count)


def check_target_tokens(vocabulary: Vocabulary, minimum_count: int) -> None:
    """Check that there are target tokens: without any there is nothing to learn; sources may all be empty.

    Raises:
        DataError: no target token is frequent enough.
    """
    if len(vocabulary) == len(Vocabulary(())):
        raise _no_target_token(minimum_count)


def _no_target_token(minimum_count: int) -> DataError:
    if minimum_count > 1:
        return DataError(
            "data.minimum_count",
            f"no target token occurs {minimum_count} times",
            "Expected at least one token in the target vocabulary",
            "Set minimum_count = 1",
        )
    return DataError(
        "targets", "all targets are empty", "Expected at least one target with a token", "Check the columns"
    )
