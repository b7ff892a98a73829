"""From text to tokens and back: characters, what stands between white space, or SentencePiece.

Known limit: SentencePiece marks a space as U+2581, so a text that holds this character comes back with a space.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

from freerun.bounds import MAX_PIECES
from freerun.data.hash_sampling import hash_sample
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
    "Expected char, whitespace or sentencepiece:N with N pieces, for example sentencepiece:8000, at most "
    f"{MAX_PIECES:,}"
)

MAX_TRAINING_TEXTS = 200_000
"""SentencePiece sees at most so many texts, so that its memory and time are bounded."""

# Rare characters are left to UNK: 5 in 100,000. With 1.0 each typing error of a big corpus would cost a piece.
_CHARACTER_COVERAGE = 0.99995


class Tokenizer(Protocol):
    """Splits texts into tokens. ``text(tokens(x))`` is ``x``, apart from the amount of white space."""

    @property
    def spec(self) -> str:
        """The configuration's word for it: ``char``, ``whitespace`` or ``sentencepiece:N``."""

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text; none for an empty text."""

    def text(self, tokens: Sequence[str]) -> str:
        """The text that tokens stand for."""


class CharTokenizer:
    """Every Unicode code point is a token, white space too."""

    spec = "char"

    def tokens(self, text: str) -> list[str]:
        """The code points."""
        return list(text)

    def text(self, tokens: Sequence[str]) -> str:
        """The tokens without anything between."""
        return "".join(tokens)


class WhitespaceTokenizer:
    """A token is what stands between runs of Unicode white space."""

    spec = "whitespace"

    def tokens(self, text: str) -> list[str]:
        """The parts of the text."""
        return text.split()

    def text(self, tokens: Sequence[str]) -> str:
        """The tokens with one space between."""
        return " ".join(tokens)


class SentencePieceTokenizer:
    """Subword pieces of a trained SentencePiece model (Kudo & Richardson 2018)."""

    def __init__(self, model: bytes, spec: str, where: object = "SentencePiece model") -> None:
        """Raises ``BundleError`` naming ``where`` for a damaged model, ``MissingExtraError`` without the package."""
        self.model = model
        self.spec = spec
        self._processor = load_sentencepiece(model, where)

    def tokens(self, text: str) -> list[str]:
        """The best segmentation; a run of characters that the model does not know is a token of its own."""
        pieces: list[str] = self._processor.encode(text, out_type=str)
        return pieces

    def text(self, tokens: Sequence[str]) -> str:
        """The pieces joined, word boundary marks as spaces."""
        text: str = self._processor.decode(list(tokens))
        return text


def make_tokenizer(spec: str, model: bytes | None = None, where: object = "tokens") -> Tokenizer:
    """The tokenizer of a specification; ``model`` holds the trained model that ``sentencepiece:N`` needs."""
    kind, _ = parse_tokens_spec(spec, where)
    if kind == "char":
        return CharTokenizer()
    if kind == "whitespace":
        return WhitespaceTokenizer()
    if model is None:
        raise BundleError(where, f"{spec} has no model", "Expected a trained SentencePiece model", "Copy it again")
    return SentencePieceTokenizer(model, spec, where)


def parse_tokens_spec(spec: str, where: object) -> tuple[str, int | None]:
    """Kind and number of pieces of ``char``, ``whitespace`` or ``sentencepiece:N``; ``ConfigError`` for all else."""
    kind, colon, size = spec.partition(":")
    if kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        raise ConfigError.single(where, shown(spec), _EXPECTED, f"The closest match is {near[0]!r}" if near else "")
    if kind != "sentencepiece":
        if colon:
            raise ConfigError.single(where, shown(spec), _EXPECTED, f"{kind} takes no number: write {kind!r}")
        return kind, None
    # "²" is a digit to str.isdigit, but no number to int, which takes no more than 4,300 digits either
    digits = size.lstrip("0") if size.isascii() and size.isdigit() else ""
    if not digits or len(digits) > len(str(MAX_PIECES)) or int(digits) > MAX_PIECES:
        raise ConfigError.single(where, shown(spec), _EXPECTED, "Give the number of pieces after the colon")
    return kind, int(digits)


def train_sentencepiece(texts: Iterator[str], size: int, where: object) -> bytes:
    """Train a unigram model (Kudo 2018) with ``size`` pieces, the unknown one included.

    The same texts give the same bytes. They have been normalised before, so the model does not normalise. It sees at
    most ``MAX_TRAINING_TEXTS`` of them, chosen by hash. Raises ``ConfigError`` at ``where``, saying what is possible,
    when ``size`` does not suit the texts.
    """
    # SentencePiece could sample by itself, but seeds that from the system. A text that is repeated counts once.
    sample, _ = hash_sample(texts, lambda text: text, MAX_TRAINING_TEXTS, "sentencepiece")
    if not any(text.strip() for text in sample):
        raise ConfigError.single(where, f"sentencepiece:{size} of texts that are all empty", _EXPECTED, "Choose char")
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
            bos_id=-1,  # no pieces for these: freerun has ids of its own
            eos_id=-1,
            pad_id=-1,
            num_threads=1,  # with more, sums are added in another order
            max_sentence_length=1 << 24,  # by default texts over 4,192 bytes are left out without a word
            minloglevel=2,  # its progress would go to standard error
        )
    except RuntimeError as error:
        raise _size_error(size, str(error), where) from error
    return model.getvalue()


def load_sentencepiece(model: bytes, where: object) -> Any:
    """A SentencePiece processor; ``BundleError`` naming ``where`` when ``model`` is not one."""
    # Not through the constructor, which takes empty bytes for "no model" and fails at the first use.
    processor = _package().SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise BundleError(
            where, "it is not a SentencePiece model", "Expected a whole .model file", "Copy or export the bundle again"
        ) from error
    return processor


def _package() -> ModuleType:
    # Imported when needed, so that models of characters or words run without it.
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise MissingExtraError("sentencepiece", "subword", "a SentencePiece tokenizer") from error
    return sentencepiece


def _size_error(size: int, message: str, where: object) -> ConfigError:
    """SentencePiece names the bound that was broken only in its message."""
    if found := re.search(r"too high .*value <= (\d+)", message):
        expected = f"Expected at most {found[1]} pieces, for these texts give no more"
        return ConfigError.single(where, f"sentencepiece:{size}", expected, f"Write sentencepiece:{found[1]} or less")
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        expected = f"Expected at least {found[1]} pieces, one for each character of these texts"
        return ConfigError.single(where, f"sentencepiece:{size}", expected, f"Write sentencepiece:{found[1]} or more")
    return ConfigError.single(
        where, f"sentencepiece:{size} cannot be trained: {message}", _EXPECTED, "Choose another size"
    )
