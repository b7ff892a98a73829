"""Choosing a tokenisation for each side by measurement: how much of unseen text would be unknown?

Whether texts have spaces says little: names are words that hardly ever recur, while lines of phonemes and sentences
split by a tokenizer consist of recurring words. So the rate of unknown tokens on held-out sources decides.
Cross-validation uses every pair once as unseen text, so that even small data give a steady rate. Pairs that are
repeated count once: one command that stands on a thousand lines is one command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from freerun.data.hash_sampling import hash_of, hash_sample
from freerun.data.normalisation import collapse_whitespace, normalise
from freerun.data.readers import Pair
from freerun.errors import DataError

__all__ = ["Choice", "SideRates", "choose_tokenisation", "measure"]

SAMPLE_PAIRS = 50_000
"""Rates are measured on at most so many pairs: this bounds memory and makes the rates of large data comparable."""

# Measured on 17 data sets: words that recur (phonemes, letters, commands, sentences split by a tokenizer) have 0 to
# 0.8 % unknown ones, words that do not (names, raw sentences) 3.2 % and more. The limit is a factor of 2 from both.
MAX_UNKNOWN_WORDS = 0.015
"""Share of unknown whitespace tokens up to which these are the tokens."""

# Words and short phrases stay well under these (1.8 words and 7.5 characters a text at most), sentences well over them
# (6.2 words and 30 characters at least). Beyond them a sequence of characters is long enough to slow a model down.
RUNNING_WORDS, RUNNING_CHARACTERS = 3.5, 16.0

_PIECES = (500, 1000, 2000, 4000, 8000, 16000)
_WORDS_A_PIECE = 150  # a piece is then seen some hundred times in training
# SentencePiece finds at least one piece for every two distinct words (measured down to 50 sentences) and refuses a
# number that it cannot find; it also needs one for each character.
_DISTINCT_WORDS_A_PIECE, _PIECES_A_CHARACTER = 3, 2


@dataclass(frozen=True)
class SideRates:
    """What was measured of one side.

    Attributes:
        texts: number of texts in the sample.
        words: whitespace tokens a text; characters: characters a text.
        unknown_words: share (0 to 1) of the whitespace tokens of held-out texts that the others lack.
        unknown_characters: the same for characters.
        distinct_words: number of distinct whitespace tokens; alphabet: of distinct characters.
    """

    texts: int
    words: float
    characters: float
    unknown_words: float
    unknown_characters: float
    distinct_words: int
    alphabet: int

    @property
    def running_text(self) -> bool:
        """Whether texts are sentences rather than words or short phrases."""
        return self.words >= RUNNING_WORDS and self.characters >= RUNNING_CHARACTERS


@dataclass(frozen=True)
class Choice:
    """Tokenisation of both sides, and why: one plain sentence a side, with the rates."""

    source_tokens: str
    target_tokens: str
    reasons: list[str]
    source_rates: SideRates
    target_rates: SideRates


def choose_tokenisation(pairs: Callable[[], Iterator[Pair]], held_out: float = 0.1, where: object = "pairs") -> Choice:
    """Choose ``char``, ``whitespace`` or ``sentencepiece:N`` for each side.

    Whitespace tokens if at most ``MAX_UNKNOWN_WORDS`` of those of held-out sources are unknown; else SentencePiece for
    running text, with a piece for every 150 words, if there are enough; else characters. ``held_out`` is the share of
    the sources that is held out at a time. Raises ``DataError`` at ``where`` when there are no pairs.
    """
    # Sampled by the whole pair, so that one source with very many targets does not fill the sample.
    sample, total = hash_sample(pairs(), lambda pair: f"{pair.source}\t{pair.target}", SAMPLE_PAIRS, "choose")
    if not sample:
        raise DataError(where, "there are no pairs", "Expected at least one pair", "Check the file")
    # A source's variants share a fold: in two folds, each would make the other's tokens known.
    sources = {pair.source: _key(pair.source) for pair in sample}
    fold = _folds(set(sources.values()), max(2, round(1 / held_out)))
    source = measure(list(sources), [fold[key] for key in sources.values()])
    target = measure([pair.target for pair in sample], [fold[sources[pair.source]] for pair in sample])
    tokens = [_tokens(rates, total) for rates in (source, target)]
    reasons = [_reason("source", tokens[0], source), _reason("target", tokens[1], target)]
    return Choice(tokens[0], tokens[1], reasons, source, target)


def measure(texts: Sequence[str], folds: Sequence[int]) -> SideRates:
    """Measure texts by cross-validation: text i is held out together with all others of fold ``folds[i]``."""
    words, characters = _Tally(), _Tally()
    for text, fold in zip(texts, folds, strict=True):
        normal = normalise(text)  # as the default configuration would
        words.add(normal.split(), fold)
        characters.add(list(normal), fold)
    return SideRates(
        texts=len(texts),
        words=words.total / len(texts),
        characters=characters.total / len(texts),
        unknown_words=words.unknown_rate,
        unknown_characters=characters.unknown_rate,
        distinct_words=len(words.counts),
        alphabet=len(characters.counts),
    )


@dataclass
class _Tally:
    """Counts of tokens, and the only fold that each was met in (-1: several)."""

    counts: dict[str, int] = field(default_factory=dict)
    folds: dict[str, int] = field(default_factory=dict)
    total: int = 0

    def add(self, tokens: Sequence[str], fold: int) -> None:
        self.total += len(tokens)
        for token in tokens:
            self.counts[token] = self.counts.get(token, 0) + 1
            if self.folds.setdefault(token, fold) != fold:
                self.folds[token] = -1

    @property
    def unknown_rate(self) -> float:
        """Tokens that are met in one fold only are unknown when it is held out, all others never."""
        unknown = sum(count for token, count in self.counts.items() if self.folds[token] >= 0)
        return unknown / self.total if self.total else 0.0


def _key(source: str) -> str:
    """What sources have in common that differ only in Unicode form and whitespace."""
    return collapse_whitespace(normalise(source))


def _folds(sources: set[str], folds: int) -> dict[str, int]:
    """The fold of each source, dealt out evenly in the order of the sources' hashes."""
    # Dealt out rather than drawn, so that even a handful of sources spreads over the folds.
    ordered = sorted(sources, key=lambda source: (hash_of(source, "folds"), source))
    return {source: number % folds for number, source in enumerate(ordered)}


def _tokens(rates: SideRates, total: int) -> str:
    if rates.unknown_words <= MAX_UNKNOWN_WORDS:
        return "whitespace"
    pieces = _pieces(rates, total)
    return f"sentencepiece:{pieces}" if rates.running_text and pieces else "char"


def _pieces(rates: SideRates, total: int) -> int:
    """The largest usual number of pieces that the amount of text supports, 0 if it supports none."""
    bound = min(rates.words * total / _WORDS_A_PIECE, rates.distinct_words / _DISTINCT_WORDS_A_PIECE)
    return max([size for size in _PIECES if rates.alphabet * _PIECES_A_CHARACTER <= size <= bound], default=0)


def _reason(side: str, spec: str, rates: SideRates) -> str:
    unknown = f"{_percent(rates.unknown_words)} of its words are unknown on held-out sources"
    limit = _percent(MAX_UNKNOWN_WORDS)
    if spec == "whitespace":
        return f"{side}: {spec}, for {unknown} (limit {limit})."
    kind = "short" if not rates.running_text else "too few for pieces" if spec == "char" else "running text"
    return (
        f"{side}: {spec}, for {unknown} (limit {limit}), {_percent(rates.unknown_characters)} of its characters, "
        f"and the texts are {kind} ({rates.words:.1f} words, {rates.characters:.1f} characters)."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
