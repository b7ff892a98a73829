"""Tokenizers: text to tokens and back, by characters, whitespace or SentencePiece.

Known limit: SentencePiece marks a space as U+2581, so a text with this character comes back with a space.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

from freerun.bounds import MAX_PIECES
from freerun.data.hash_sampling import SUBWORDS, hash_sample
from freerun.errors import BundleError, ConfigError, MissingExtraError
from freerun.text import shown

__all__ = [
    "CharTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WhitespaceTokenizer",
    "load_sentencepiece",
    "make_tokenizer",
    "parse_tokens_spec",
    "train_sentencepiece",
]

_KINDS = ("char", "whitespace", "sentencepiece")
_EXPECTED = (
    "Expected char, whitespace or sentencepiece:N with N subwords, for example sentencepiece:8000, at most "
    f"{MAX_PIECES:,}"
)

MAX_TRAINING_TEXTS = 200_000
"""Maximum number of texts that SentencePiece is trained on, which bounds its memory and time."""

# Rare characters, 5 in 100,000, become UNK. With 1.0 each typing error of a large corpus would take a subword.
_CHARACTER_COVERAGE = 0.99995


class Tokenizer(Protocol):
    """Splits texts into tokens; ``text(tokens(x))`` equals ``x`` except for the amount of whitespace."""

    @property
    def spec(self) -> str:
        """The specification in a configuration: ``char``, ``whitespace`` or ``sentencepiece:N``."""

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text; none for an empty text."""

    def text(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""


class CharTokenizer:
    """Every Unicode code point is a token, including whitespace."""

    spec = "char"

    def tokens(self, text: str) -> list[str]:
        """Return the code points."""
        return list(text)

    def text(self, tokens: Sequence[str]) -> str:
        """Concatenate the tokens."""
        return "".join(tokens)


class WhitespaceTokenizer:
    """Tokens are separated by runs of Unicode whitespace."""

    spec = "whitespace"

    def tokens(self, text: str) -> list[str]:
        """Split the text at whitespace."""
        return text.split()

    def text(self, tokens: Sequence[str]) -> str:
        """Join the tokens by single spaces."""
        return " ".join(tokens)


class SentencePieceTokenizer:
    """Subwords of a trained SentencePiece model (Kudo & Richardson 2018)."""

    def __init__(self, model: bytes, spec: str, location: object = "SentencePiece model") -> None:
        """Load a model; raise ``BundleError`` at ``location`` if damaged, ``MissingExtraError`` without the package."""
        self.model = model
        self.spec = spec
        self._processor = load_sentencepiece(model, location)

    def tokens(self, text: str) -> list[str]:
        """Return the best segmentation; a run of characters that the model does not have is a separate token."""
        pieces: list[str] = self._processor.encode(text, out_type=str)
        return pieces

    def text(self, tokens: Sequence[str]) -> str:
        """Join the subwords, with word boundary marks as spaces."""
        text: str = self._processor.decode(list(tokens))
        return text


def make_tokenizer(spec: str, model: bytes | None = None, location: object = "tokens") -> Tokenizer:
    """Return the tokenizer of a specification; ``sentencepiece:N`` needs the trained ``model``."""
    kind, _ = parse_tokens_spec(spec, location)
    if kind == "char":
        return CharTokenizer()
    if kind == "whitespace":
        return WhitespaceTokenizer()
    if model is None:
        raise BundleError(
            location, f"{spec} has no model", "Expected a trained SentencePiece model", "Copy the bundle again"
        )
    return SentencePieceTokenizer(model, spec, location)


def parse_tokens_spec(spec: str, location: object) -> tuple[str, int | None]:
    """Return the kind and the number of subwords of a specification; ``ConfigError`` for an invalid one."""
    kind, colon, size = spec.partition(":")
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        raise ConfigError.single(location, shown(spec), _EXPECTED, f"The closest match is {near[0]!r}" if near else "")
    if kind != "sentencepiece":
        if colon:
            raise ConfigError.single(location, shown(spec), _EXPECTED, f"Write {kind!r}, without a number")
        return kind, None
    # str.isdigit accepts "²", but int does not, nor more than 4,300 digits
    digits = size.lstrip("0") if size.isascii() and size.isdigit() else ""
    if not digits or len(digits) > len(str(MAX_PIECES)) or int(digits) > MAX_PIECES:
        raise ConfigError.single(location, shown(spec), _EXPECTED, "Give the number of subwords after the colon")
    return kind, int(digits)


def train_sentencepiece(texts: Iterator[str], size: int, location: object) -> bytes:
    """Train a unigram model (Kudo 2018) with ``size`` subwords, including the unknown one.

    Equal texts give byte-identical models. The texts are already normalized, so the model does not normalize. It is
    trained on at most ``MAX_TRAINING_TEXTS`` of them, chosen by hash. Raises ``ConfigError`` at ``location``, with the
    possible sizes, if ``size`` does not suit the texts.
    """
    # SentencePiece can sample by itself, but with a seed from the system. Repeated texts count once.
    sample, _ = hash_sample(texts, lambda text: text, MAX_TRAINING_TEXTS, SUBWORDS)
    if not any(text.strip() for text in sample):
        raise ConfigError.single(
            location, f"sentencepiece:{size} cannot be trained on empty texts", _EXPECTED, "Choose char"
        )
    model = io.BytesIO()
    try:
        _package().SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            character_coverage=_CHARACTER_COVERAGE,
            normalization_rule_name="identity",
            byte_fallback=False,
            unk_id=0,
            bos_id=-1,  # no subwords for these: freerun has its own ids
            eos_id=-1,
            pad_id=-1,
            num_threads=1,  # several threads add sums in another order
            max_sentence_length=1 << 24,  # by default texts over 4,192 bytes are silently left out
            minloglevel=2,  # no progress on standard error
        )
    except RuntimeError as error:
        raise _size_error(size, str(error), location) from error
    return model.getvalue()


def load_sentencepiece(model: bytes, location: object) -> Any:
    """Return a SentencePiece processor; ``BundleError`` at ``location`` if ``model`` is invalid."""
    # Not by the constructor, which takes empty bytes for "no model" and fails at the first use.
    processor = _package().SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise BundleError(
            location,
            "this is not a SentencePiece model",
            "Expected a complete .model file",
            "Copy or export the bundle again",
        ) from error
    return processor


def _package() -> ModuleType:
    # Imported on use, so that models of characters or words run without it.
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise MissingExtraError("sentencepiece", "subword", "a SentencePiece tokenizer") from error
    return sentencepiece


def _size_error(size: int, message: str, location: object) -> ConfigError:
    """Return the error for a size that does not suit the texts; only SentencePiece's message names the limit."""
    if match := re.search(r"too high .*value <= (\d+)", message):
        what = f"sentencepiece:{size} is too large for these texts"
        expected = f"Expected at most {match[1]} subwords"
        return ConfigError.single(location, what, expected, f"Write sentencepiece:{match[1]} or less")
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        what = f"sentencepiece:{size} is too small for these texts"
        expected = f"Expected at least {match[1]} subwords, one for each character"
        return ConfigError.single(location, what, expected, f"Write sentencepiece:{match[1]} or more")
    return ConfigError.single(
        location, f"sentencepiece:{size} cannot be trained: {message}", _EXPECTED, "Choose another size"
    )
