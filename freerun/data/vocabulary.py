"""The vocabulary: tokens to ids and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from freerun.data.tokenizers import load_sentencepiece
from freerun.errors import BundleError
from freerun.strict_json import parse
from freerun.symbols import NUM_SPECIAL, UNK
from freerun.text import shown

__all__ = ["SPECIAL_NAMES", "Vocabulary"]

SPECIAL_NAMES = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Display names of the special ids. They are ids without a token: a user's token ``<pad>`` has its own id."""

_VERSION = 1


class Vocabulary:
    """An ordered list of distinct tokens; the first has the id ``NUM_SPECIAL``, after PAD, BOS, EOS and UNK."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = tuple(tokens)
        self._ids = {token: number for number, token in enumerate(self._tokens, start=NUM_SPECIAL)}
        if len(self._ids) != len(self._tokens):
            raise ValueError(f"a vocabulary holds each token once; {_first_repeated(self._tokens)!r} occurs twice")

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], minimum_count: int = 1) -> Vocabulary:
        """Build a vocabulary of tokens with a minimum count, by falling frequency; ties are ordered by code point."""
        # Ties are broken by the token, because the order of the counts depends on that of the data.
        frequent = [token for token, count in counts.items() if count >= minimum_count]
        return cls(sorted(frequent, key=lambda token: (-counts[token], token)))

    @classmethod
    def from_json(cls, text: str | bytes, location: object) -> Vocabulary:
        """Read the output of ``to_json``; raises ``BundleError`` at ``location`` for a damaged or newer file."""
        try:
            content = parse(text.encode() if isinstance(text, str) else text)
        except (ValueError, RecursionError) as error:
            raise _damage_error(location, f"this is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise _damage_error(location, "this is not a JSON object")
        _check_version(content.get("version"), location)
        return cls(_checked_tokens(content.get("tokens"), location))

    @classmethod
    def from_sentencepiece(cls, model: bytes, location: object = "SentencePiece model") -> Vocabulary:
        """Build a vocabulary of a SentencePiece model's subwords except unknown, control and unused ones, in order."""
        processor = load_sentencepiece(model, location)
        special = (processor.is_unknown, processor.is_control, processor.is_unused)
        numbers = (n for n in range(processor.get_piece_size()) if not any(is_special(n) for is_special in special))
        try:
            pieces = [processor.id_to_piece(n) for n in numbers]
        except UnicodeDecodeError as error:
            raise _damage_error(location, f"a subword is not UTF-8 ({error.reason})") from None
        return cls(_distinct(pieces, location))

    def to_json(self) -> str:
        """Return the vocabulary as JSON, one token per line; equal vocabularies give equal text."""
        # Tokens are not escaped, so that the file is readable.
        content = {"version": _VERSION, "tokens": list(self._tokens)}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def __len__(self) -> int:
        """Return the number of ids, including the special ones."""
        return NUM_SPECIAL + len(self._tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._tokens == other._tokens

    def __hash__(self) -> int:
        return hash(self._tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} ids, {self.hash[:8]})"

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the tokens in order: equal if and only if every id has the same token."""
        # JSON quotes the tokens, so that ["a b"] and ["a", "b"] differ.
        return hashlib.sha256(json.dumps(self._tokens).encode()).hexdigest()

    @cached_property
    def _known(self) -> dict[str, int]:
        return _Ids(self._ids)

    @cached_property
    def _names(self) -> list[str]:
        """The tokens or display names of all ids."""
        return [*SPECIAL_NAMES, *self._tokens]

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of each token, UNK for a token that is not in the vocabulary."""
        find = self._ids.get
        return [find(token, UNK) for token in tokens]

    def each_id(self, tokens: Iterable[str]) -> Iterator[int]:
        """Return an iterator over ``ids``; for many tokens it takes less time."""
        return map(self._known.__getitem__, tokens)

    def token(self, number: int) -> str:
        """Return the token of an id, or a special id's display name. Raises ``IndexError`` out of range."""
        if not 0 <= number < len(self):
            raise IndexError(f"id {number} is not in a vocabulary of {len(self)} ids")
        return SPECIAL_NAMES[number] if number < NUM_SPECIAL else self._tokens[number - NUM_SPECIAL]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the token of each id, as ``token`` does."""
        numbers = list(ids)
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self):
            return [self.token(number) for number in numbers]  # names the invalid id
        names = self._names
        return [names[number] for number in numbers]


class _Ids(dict[str, int]):
    """Ids by token, and UNK for any other, which is not remembered."""

    def __missing__(self, token: str) -> int:
        return UNK


def _first_repeated(tokens: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]


def _damage_error(location: object, what: str) -> BundleError:
    return BundleError(location, what, "Expected a vocabulary as freerun writes it", "Copy or export the bundle again")


def _check_version(version: object, location: object) -> None:
    # Not isinstance: True is an int in Python.
    if type(version) is not int or version < 1:
        raise _damage_error(location, f"the version is {json.dumps(version)[:80]}")
    if version > _VERSION:
        raise BundleError(
            location,
            f"version {version} of the vocabulary format is too new",
            f"Expected at most version {_VERSION}, which this freerun reads",
            "Update freerun",
        )


def _checked_tokens(tokens: object, location: object) -> list[str]:
    if not isinstance(tokens, list):
        raise _damage_error(location, "there is no list 'tokens'")
    for position, token in enumerate(tokens):
        if not isinstance(token, str):
            raise _damage_error(location, f"token {position} is {shown(token)}, not a string")
    return _distinct(tokens, location)


def _distinct(tokens: list[str], location: object) -> list[str]:
    """Return ``tokens``; raise if two are equal, because no text would be encoded to the second one's id."""
    if len(set(tokens)) != len(tokens):
        raise _damage_error(location, f"the token {_first_repeated(tokens)!r} occurs twice")
    return tokens
