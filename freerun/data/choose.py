"""The choice of a tokenization and of a Unicode form for each side, by the rate of unknown tokens in unseen text.

Spaces in a text say little: names are words that hardly ever recur, while lines of phonemes and tokenized sentences
consist of recurring words. Nor does the number of characters: a Korean syllable is one of eleven thousand, and consists
of two or three of 67 letters. So the rate of unknown tokens on held-out sources decides. Cross-validation uses every
pair once as unseen text, so that the rate is stable even on small data. Repeated pairs count once: a command on a
thousand lines is one command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from freerun.data.hash_sampling import hash_of, hash_sample
from freerun.data.normalisation import Form, collapse_whitespace, normalise
from freerun.data.readers import Pair
from freerun.errors import DataError

__all__ = ["FormChoice", "SideRates", "TokenisationChoice", "choose_forms", "choose_tokenisation", "measure"]

SAMPLE_PAIRS = 50_000
"""Maximum number of pairs that rates are measured on: bounds memory, and makes rates of large data comparable."""

# Measured on 17 datasets: if words recur (phonemes, letters, commands, tokenized sentences), 0 to 0.8 % of them are
# unknown; if they do not (names, raw sentences), 3.2 % and more. The limit is a factor of 2 from both.
MAX_UNKNOWN_WORDS = 0.015
"""Maximum fraction of unknown whitespace tokens for which whitespace tokenization is chosen."""

# Measured on the same datasets: 3.2 % of Korean syllables are unknown, and at most 0.03 % of any others' characters.
MAX_UNKNOWN_CHARACTERS = 0.005
"""Maximum fraction of unknown characters for which characters are not taken apart into letters and accents."""

# Words and short phrases are well below these (at most 1.8 words and 7.5 characters per text), sentences well above (at
# least 6.2 words and 30 characters). Longer sequences of characters slow a model down.
RUNNING_WORDS, RUNNING_CHARACTERS = 3.5, 16.0

_VOCABULARY_SIZES = (500, 1000, 2000, 4000, 8000, 16000)
_WORDS_PER_SUBWORD = 150  # a subword then occurs about a hundred times in training
# SentencePiece finds at least one subword per two distinct words (measured down to 50 sentences) and rejects a number
# that it cannot find; it also needs one for each character.
_DISTINCT_WORDS_PER_SUBWORD, _SUBWORDS_PER_CHARACTER = 3, 2


@dataclass(frozen=True, kw_only=True)
class SideRates:
    """Statistics of one side.

    Attributes:
        texts: number of texts in the sample.
        words: whitespace tokens per text; characters: characters per text.
        unknown_words: fraction (0 to 1) of held-out texts' whitespace tokens that do not occur in the other texts.
        unknown_characters: the same for characters.
        unknown_letters: the same for what characters consist of (NFD): base letters, accents, letters of Hangul.
        distinct_words: number of distinct whitespace tokens; alphabet: number of distinct characters; letters: of what
            they consist of.
    """

    texts: int
    words: float
    characters: float
    unknown_words: float
    unknown_characters: float
    unknown_letters: float
    distinct_words: int
    alphabet: int
    letters: int

    @property
    def running_text(self) -> bool:
        """True if texts are sentences rather than words or short phrases."""
        return self.words >= RUNNING_WORDS and self.characters >= RUNNING_CHARACTERS


@dataclass(frozen=True)
class TokenisationChoice:
    """The tokenization of both sides, and the reasons: one sentence per side, with the rates."""

    source_tokens: str
    target_tokens: str
    reasons: list[str]
    source_rates: SideRates
    target_rates: SideRates


@dataclass(frozen=True)
class FormChoice:
    """The Unicode form of both sides, and the reasons: a sentence for each side that could have had another."""

    source: Form
    target: Form
    reasons: list[str]


def choose_forms(
    pairs: Callable[[], Iterator[Pair]],
    source_tokens: str = "auto",
    target_tokens: str = "auto",
    shared: bool = False,
    location: object = "pairs",
) -> FormChoice:
    """Choose NFC or NFD for each side, given what is known of its tokens ("auto": chosen by ``choose_tokenisation``).

    NFD where tokens are characters, too many of them are unknown on held-out sources, and at most half as many of the
    letters that they consist of. ``shared``: both sides have one vocabulary, so either both are NFD or none is.
    """
    source, target, total = _measured(pairs, location)
    sides = [("source", source_tokens, source), ("target", target_tokens, target)]
    measured = [(side, rates, _tokens(rates, total) if tokens == "auto" else tokens) for side, tokens, rates in sides]
    forms = [_form(rates) if tokens == "char" else "NFC" for _, rates, tokens in measured]
    if shared and "NFD" in forms:
        forms = ["NFD", "NFD"]
    reasons = [
        _form_reason(side, form, rates)
        for (side, rates, tokens), form in zip(measured, forms, strict=True)
        if tokens == "char" and rates.letters != rates.alphabet
    ]
    return FormChoice(forms[0], forms[1], reasons)


def _form(rates: SideRates) -> Form:
    is_rich = rates.unknown_characters > MAX_UNKNOWN_CHARACTERS
    return "NFD" if is_rich and rates.unknown_letters <= rates.unknown_characters / 2 else "NFC"


def _form_reason(side: str, form: Form, rates: SideRates) -> str:
    unknown = f"{_percent(rates.unknown_characters)} of its characters are unknown on held-out sources"
    apart = f"{_percent(rates.unknown_letters)} of the letters and accents that they consist of"
    sizes = f"{rates.alphabet:,} characters, {rates.letters:,} letters and accents"
    limit = f"limit {_percent(MAX_UNKNOWN_CHARACTERS)}"
    what = "characters are taken apart (NFD)" if form == "NFD" else "characters stay whole (NFC)"
    return f"{side}: {what}, because {unknown} ({limit}), and {apart} ({sizes})."


def choose_tokenisation(
    pairs: Callable[[], Iterator[Pair]], held_out: float = 0.1, location: object = "pairs"
) -> TokenisationChoice:
    """Choose ``char``, ``whitespace`` or ``sentencepiece:N`` for each side.

    Whitespace tokens if at most ``MAX_UNKNOWN_WORDS`` of them are unknown on held-out sources; else SentencePiece for
    running text, with one subword per 150 words, if that is enough; else characters. ``held_out`` is the fraction of
    the sources that is held out at a time. Raises ``DataError`` at ``location`` if there are no pairs.
    """
    source, target, total = _measured(pairs, location, held_out)
    tokens = [_tokens(rates, total) for rates in (source, target)]
    reasons = [_reason("source", tokens[0], source), _reason("target", tokens[1], target)]
    return TokenisationChoice(tokens[0], tokens[1], reasons, source, target)


def _measured(
    pairs: Callable[[], Iterator[Pair]], location: object, held_out: float = 0.1
) -> tuple[SideRates, SideRates, int]:
    """Return the statistics of both sides, from a sample, and the number of pairs."""
    # The hash is of the whole pair, so that a source with very many targets does not fill the sample.
    sample, total = hash_sample(pairs(), lambda pair: f"{pair.source}\t{pair.target}", SAMPLE_PAIRS, "choose")
    if not sample:
        raise DataError(location, "there are no pairs", "Expected at least one pair", "Check the file")
    # Variants of a source share a fold: in different folds each would make the other's tokens known.
    sources = {pair.source: _key(pair.source) for pair in sample}
    fold = _folds(set(sources.values()), max(2, round(1 / held_out)))
    source = measure(list(sources), [fold[key] for key in sources.values()])
    target = measure([pair.target for pair in sample], [fold[sources[pair.source]] for pair in sample])
    return source, target, total


def measure(texts: Sequence[str], folds: Sequence[int]) -> SideRates:
    """Compute the statistics of texts by cross-validation: text i is held out with all others of fold ``folds[i]``."""
    words, characters, letters = _Tally(), _Tally(), _Tally()
    for text, fold in zip(texts, folds, strict=True):
        normalised = normalise(text)  # like the default configuration
        words.add(normalised.split(), fold)
        characters.add(list(normalised), fold)
        letters.add(list(normalise(text, "NFD")), fold)
    return SideRates(
        texts=len(texts),
        words=words.total / len(texts),
        characters=characters.total / len(texts),
        unknown_words=words.unknown_rate,
        unknown_characters=characters.unknown_rate,
        unknown_letters=letters.unknown_rate,
        distinct_words=len(words.counts),
        alphabet=len(characters.counts),
        letters=len(letters.counts),
    )


@dataclass
class _Tally:
    """Counts of tokens, and the only fold that each occurs in (-1: several)."""

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
        """The fraction of unknown tokens: those of one fold only are unknown when it is held out, all others never."""
        unknown = sum(count for token, count in self.counts.items() if self.folds[token] >= 0)
        return unknown / self.total if self.total else 0.0


def _key(source: str) -> str:
    """Return a key that is equal for sources that differ only in Unicode form and whitespace."""
    return collapse_whitespace(normalise(source))


def _folds(sources: set[str], folds: int) -> dict[str, int]:
    """Assign folds to sources in turn, in the order of the sources' hashes."""
    # In turn rather than at random, so that even a handful of sources is spread over the folds.
    ordered = sorted(sources, key=lambda source: (hash_of(source, "folds"), source))
    return {source: number % folds for number, source in enumerate(ordered)}


def _tokens(rates: SideRates, total: int) -> str:
    if rates.unknown_words <= MAX_UNKNOWN_WORDS:
        return "whitespace"
    size = _vocabulary_size(rates, total)
    return f"sentencepiece:{size}" if rates.running_text and size else "char"


def _vocabulary_size(rates: SideRates, total: int) -> int:
    """Return the largest usual number of subwords that the amount of text supports, 0 if it supports none."""
    limit = min(rates.words * total / _WORDS_PER_SUBWORD, rates.distinct_words / _DISTINCT_WORDS_PER_SUBWORD)
    minimum = rates.alphabet * _SUBWORDS_PER_CHARACTER
    return max([size for size in _VOCABULARY_SIZES if minimum <= size <= limit], default=0)


def _reason(side: str, spec: str, rates: SideRates) -> str:
    unknown = f"{_percent(rates.unknown_words)} of its words are unknown on held-out sources"
    limit = _percent(MAX_UNKNOWN_WORDS)
    if spec == "whitespace":
        return f"{side}: {spec}, because {unknown} (limit {limit})."
    kind = "short" if not rates.running_text else "too few for subwords" if spec == "char" else "running text"
    return (
        f"{side}: {spec}, because {unknown} (limit {limit}), {_percent(rates.unknown_characters)} of its characters, "
        f"and the texts are {kind} ({rates.words:.1f} words, {rates.characters:.1f} characters)."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
