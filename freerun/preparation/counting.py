"""The first pass: counts tokens for the vocabularies, and finds the sources that are held out.

Held-out sources are those with the lowest hashes, so only the lowest ones of each block matter; their pairs do not
belong to the training pairs, so their tokens are taken off the counts at the end.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from freerun.data.features import feature_tokens, source_key
from freerun.data.hash_sampling import SUBWORDS, hash_of
from freerun.data.normalisation import Case, Form
from freerun.data.readers import Columns, Pair
from freerun.data.split import check_enough, held_out_count, held_out_hashes
from freerun.preparation.blocks import Block, Texts, texts_of
from freerun.preparation.sides import count_tokens, is_nfc, normalised

__all__ = ["BlockCounts", "Bounds", "HeldOutPairs", "Reading", "Tally", "count_block", "lowest_texts"]

_ALL: Final = 2**64 - 1
_MERGED_TOGETHER: Final = 1_000_000
_MARGIN: Final = 64


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How texts are read: as in the section [data] of a configuration, with every choice made.

    Attributes:
        columns: of TSV lines.
        separator: of features, None if the pairs have none.
        source_form, target_form: Unicode forms; composed_form: the one that sources are compared in.
        source_case: of the sources.
        source_tokens, target_tokens: how texts are split.
        holds_out: some sources are held out.
    """

    columns: Columns | None
    separator: str | None
    source_form: Form
    target_form: Form
    composed_form: Form
    source_case: Case
    source_tokens: str
    target_tokens: str
    holds_out: bool

    def texts(self, block: Block) -> Texts:
        """Return the texts of a block, as they are in the file. Raises as ``texts_of`` does."""
        return texts_of(block, self.columns, self.separator)


@dataclass
class TokenCounts:
    """Numbers of tokens of each kind, and of targets that are not in NFC."""

    source: Counter[str] = field(default_factory=Counter)
    target: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    decomposed: int = 0

    def add(self, other: TokenCounts) -> None:
        """Add the numbers of other pairs."""
        self.source.update(other.source)
        self.target.update(other.target)
        self.features.update(other.features)
        self.decomposed += other.decomposed

    def take_off(self, other: TokenCounts) -> None:
        """Take off the numbers of pairs that have been counted."""
        for mine, its in ((self.source, other.source), (self.target, other.target), (self.features, other.features)):
            mine.subtract(its)
            for token in [token for token in its if not mine[token]]:
                del mine[token]
        self.decomposed -= other.decomposed


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What of a block may still matter.

    Attributes:
        distinct: the largest hash that matters for the number of sources.
        candidate: the largest hash of a source that may be held out.
        fraction: of the sources that may be held out.
        limit: of their number.
    """

    distinct: int
    candidate: int
    fraction: float
    limit: int

    def of(self, lowest: npt.NDArray[np.uint64]) -> int:
        """Return the largest hash of a candidate among these lowest hashes, all distinct and sorted.

        With more sources, the rank of a hash grows, but so does the number of those that are held out. So a source far
        from being held out would be so in the end only by a coincidence, which ``Tally`` notices.
        """
        rank = min(self.limit, math.ceil(2 * self.fraction * len(lowest)) + _MARGIN)
        return min(self.candidate, int(lowest[rank - 1])) if rank <= len(lowest) else self.candidate


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockCounts:
    """What the first pass finds in a block.

    Attributes:
        pairs: their number.
        counts: of tokens, those of held-out pairs included.
        hashes: the lowest distinct hashes of sources, sorted.
        candidates: pairs that may be held out: hash, number in the block, and the pair.
        bound: the largest hash of a source that would be among them.
    """

    pairs: int
    counts: TokenCounts
    hashes: npt.NDArray[np.uint64]
    candidates: list[tuple[int, int, Pair]]
    bound: int = _ALL


def count_block(block: Block, bounds: Bounds, reading: Reading) -> BlockCounts:
    """Count a block; ``bounds``: of what may still matter.

    Raises:
        BadBlock: it cannot be read.
    """
    texts = reading.texts(block)
    counts = counts_of(texts, reading)
    if not reading.holds_out:
        return BlockCounts(pairs=len(texts), counts=counts, hashes=np.zeros(0, np.uint64), candidates=[])
    hashes = source_hashes(texts, reading)
    lowest = np.unique(hashes)
    bound = bounds.of(lowest)
    chosen = np.flatnonzero(hashes <= np.uint64(bound)).tolist()
    return BlockCounts(
        pairs=len(texts),
        counts=counts,
        hashes=lowest[lowest <= np.uint64(bounds.distinct)],
        candidates=[(int(hashes[number]), number, _pair(texts, number)) for number in chosen],
        bound=bound,
    )


def _pair(texts: Texts, number: int) -> Pair:
    features = None if texts.features is None else texts.features[number]
    return Pair(texts.sources[number], texts.targets[number], number + 1, features)


def counts_of(texts: Texts, reading: Reading) -> TokenCounts:
    """Count the tokens of texts. Subwords are not counted: ``lowest_texts`` finds what they are learned from."""
    counts = TokenCounts()
    if not reading.source_tokens.startswith("sentencepiece"):
        sources = normalised(texts.sources, reading.source_form, reading.source_case)
        counts.source = count_tokens(sources, reading.source_tokens)
    if not reading.target_tokens.startswith("sentencepiece"):
        counts.target = count_tokens(normalised(texts.targets, reading.target_form, "keep"), reading.target_tokens)
    if texts.features is not None and reading.separator is not None:
        for each, number in Counter(texts.features).items():
            counts.features.update(dict.fromkeys(feature_tokens(each, reading.separator), number))
    if reading.target_form in ("NFD", "NFKD") and not is_nfc(texts.targets):
        counts.decomposed = sum(not is_nfc([target]) for target in texts.targets)
    return counts


def source_hashes(texts: Texts, reading: Reading) -> npt.NDArray[np.uint64]:
    """Return the hash by which each source is held out or not."""
    sources = normalised(texts.sources, reading.composed_form, reading.source_case)
    if texts.features is None or reading.separator is None:
        return held_out_hashes(sources)
    tokens = {each: feature_tokens(each, reading.separator) for each in set(texts.features)}
    keys = (source_key(source, tokens[each]) for source, each in zip(sources, texts.features, strict=True))
    return held_out_hashes(keys)


@dataclass(frozen=True, kw_only=True)
class HeldOutPairs:
    """The pairs that are held out.

    Attributes:
        pairs: in the order of the file.
        places: number of the block -> numbers of the pairs in it.
        sources: number of held-out sources.
        total: number of all distinct sources.
        is_exact: False if ``total`` is an estimate.
    """

    pairs: list[Pair]
    places: dict[int, list[int]]
    sources: int
    total: int
    is_exact: bool


class Tally:
    """The counts of all blocks, in bounded memory.

    Args:
        fraction: of the sources that is held out.
        limit: of their number.
        keeps_all: keep every candidate that may still be held out, and not only the likely ones.
    """

    def __init__(self, fraction: float, limit: int, keeps_all: bool = False) -> None:
        self.counts, self.pairs = TokenCounts(), 0
        self._fraction, self._limit, self._keeps_all = fraction, limit, keeps_all
        # with so many distinct sources, the limit decides how many are held out
        self._enough = math.ceil((limit + 1) / fraction) + 1
        self._lowest = np.zeros(0, np.uint64)
        self._new: list[npt.NDArray[np.uint64]] = []
        self._candidates: defaultdict[int, list[tuple[int, int, Pair]]] = defaultdict(list)
        self._bound = _ALL
        """The largest hash of a candidate that was kept so far."""

    @property
    def bounds(self) -> Bounds:
        """What of the next block may still matter."""
        distinct = int(self._lowest[-1]) if self._is_saturated else _ALL
        fraction = 1.0 if self._keeps_all else self._fraction
        return Bounds(distinct=distinct, candidate=self._bound, fraction=fraction, limit=self._limit)

    @property
    def _is_saturated(self) -> bool:
        return len(self._lowest) >= self._enough

    def add(self, number: int, block: BlockCounts) -> None:
        """Add the counts of block ``number``; blocks are added in their order."""
        self.counts.add(block.counts)
        self.pairs += block.pairs
        self._new.append(block.hashes)
        self._bound = min(self._bound, block.bound)
        # merged when there are as many new ones, so that sorting takes as long as reading
        if sum(map(len, self._new)) >= min(len(self._lowest), _MERGED_TOGETHER):
            self._merge()
        for value, index, pair in block.candidates:
            self._candidates[value].append((number, index, pair))

    def take_off(self, pairs: Sequence[Pair], reading: Reading) -> None:
        """Take the tokens of held-out pairs off the counts."""
        features = None if reading.separator is None else [pair.features or "" for pair in pairs]
        texts = Texts([pair.source for pair in pairs], [pair.target for pair in pairs], features)
        self.counts.take_off(counts_of(texts, reading))

    def _merge(self) -> None:
        self._lowest = np.unique(np.concatenate([self._lowest, *self._new]))[: self._enough]
        self._new = []
        self._bound = self.bounds.of(self._lowest)
        for value in [value for value in self._candidates if value > self._bound]:
            del self._candidates[value]

    def held_out(self, location: object) -> HeldOutPairs | None:
        """Return the pairs that are held out; None if some of them were not kept, in which case all have to be.

        Raises:
            DataError: at ``location``: there are too few sources.
        """
        self._merge()
        distinct = len(self._lowest)
        check_enough(distinct, location)
        count = held_out_count(distinct, self._fraction, self._limit)
        if int(self._lowest[count - 1]) > self._bound:
            return None
        chosen = [place for value in self._lowest[:count].tolist() for place in self._candidates[value]]
        chosen.sort(key=lambda place: place[:2])
        places: defaultdict[int, list[int]] = defaultdict(list)
        for number, index, _ in chosen:
            places[number].append(index)
        total = round((distinct - 1) / (int(self._lowest[-1]) / 2**64)) if self._is_saturated else distinct
        return HeldOutPairs(
            pairs=[pair for _, _, pair in chosen],
            places=dict(places),
            sources=count,
            total=total,
            is_exact=not self._is_saturated,
        )


# -- subwords ----------------------------------------------------------------------------------------------------------


def lowest_texts(
    block: Block, excluded: Sequence[int], size: int, bounds: tuple[int, int], reading: Reading
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Return (hash, text) of the sources, and of the targets, that subwords may be learned from.

    They are the ``size`` texts with the lowest hashes up to ``bounds``, each once, as ``hash_sample`` finds them;
    ``excluded`` are numbers of held-out pairs. A side without subwords has none.
    """
    texts = reading.texts(block)
    without = set(excluded)
    sources = normalised(texts.sources, reading.source_form, reading.source_case)
    targets = normalised(texts.targets, reading.target_form, "keep")
    sides = ((sources, reading.source_tokens, bounds[0]), (targets, reading.target_tokens, bounds[1]))
    found = []
    for side, spec, bound in sides:
        chosen: dict[int, str] = {}
        if spec.startswith("sentencepiece"):
            for number, text in enumerate(side):
                if number not in without and (value := hash_of(text, SUBWORDS)) <= bound:
                    chosen.setdefault(value, text)
        # in the order of their first occurrence
        kept = set(sorted(chosen)[:size])
        found.append([(value, text) for value, text in chosen.items() if value in kept])
    return found[0], found[1]
