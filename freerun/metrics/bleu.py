"""BLEU and chrF by sacrebleu (Post 2018), stored as sufficient statistics so that they can be resampled."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from freerun.errors import MissingExtraError
from freerun.metrics.intervals import RESAMPLES, Interval, percentile_interval, resampled_sums

try:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
except ModuleNotFoundError as missing:
    raise MissingExtraError("sacrebleu", "train", "computing BLEU and chrF") from missing

__all__ = ["CorpusScore", "bleu", "bleu_tokenizer", "chrf", "spaced"]

_KANA = re.compile("[\u3040-\u30ff]")
_SAMPLE = 200  # number of references that the language is detected from

# sacrebleu splits at every character that Python counts as whitespace (str.split), and chrF drops it, so a token of
# such characters would vanish. Each is replaced by a lone surrogate: one code point, as chrF counts them, that no text
# can contain, because it has no UTF-8 form; so distinct tokens stay distinct. All whitespace is below U+10000.
_WHITESPACE = [number for number in range(0x10000) if chr(number).isspace()]
_VISIBLE = {number: 0xD800 + index for index, number in enumerate(_WHITESPACE)}


@dataclass(frozen=True)
class CorpusScore:
    """A corpus-level score, 0 to 100, as counts that add up over sources.

    It is undefined (NaN) if neither the outputs nor their references have an n-gram that the score needs: 4-grams for
    BLEU, which averages precisions of 1- to 4-grams, and characters for chrF. sacrebleu returns 0 then, even for
    perfect outputs of fewer than four tokens.

    Attributes:
        statistics: sacrebleu's counts for each source [N, C].
        comparable: number of those n-grams in each output and in its reference of the closest length [N].
        signature: sacrebleu's signature, which says how the score is computed.
    """

    statistics: npt.NDArray[np.int64]
    comparable: npt.NDArray[np.int64]
    signature: str
    _metric: BLEU | CHRF

    @property
    def value(self) -> float:
        """The score of all sources together."""
        return self._score(self._counts.sum(axis=0))

    def resampled(self, resamples: int = RESAMPLES, seed: int = 0) -> npt.NDArray[np.float64]:
        """Compute the score of each bootstrap resample [R]."""
        sums = resampled_sums(self._counts, resamples, seed).astype(np.int64)
        return np.array([self._score(row) for row in sums])

    def of(self, rows: npt.NDArray[np.intp]) -> CorpusScore:
        """Return the score of a subset of the sources."""
        return replace(self, statistics=self.statistics[rows], comparable=self.comparable[rows])

    @property
    def _counts(self) -> npt.NDArray[np.int64]:
        """All counts that the score depends on [N, 1 + C]."""
        return np.column_stack([self.comparable, self.statistics])

    def interval(self, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
        """Return the score with its 95 % bootstrap interval."""
        return percentile_interval(self.value, self.resampled(resamples, seed))

    def _score(self, counts: npt.NDArray[np.int64]) -> float:
        if counts[0] == 0:
            return math.nan
        # As Python integers: BLEU changes some in place, and NumPy would warn where Python is exact.
        return float(self._metric._compute_score_from_stats(counts[1:].tolist()).score)


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: str) -> CorpusScore:
    """Compute corpus-level BLEU-4 (Papineni et al. 2002) with exponential smoothing.

    Args:
        hypotheses: N texts.
        references: at least one for each hypothesis; their numbers may differ.
        tokenize: name of a sacrebleu tokenizer.
    """
    # "force" only silences a warning about tokenized input, which is often intended here.
    return _corpus_score(BLEU(tokenize=tokenize, force=True), hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> CorpusScore:
    """Compute corpus-level chrF2 (Popović 2015): character 6-grams without whitespace. Arguments as for ``bleu``."""
    return _corpus_score(CHRF(), hypotheses, references)


def spaced(tokens: Iterable[str]) -> str:
    """Join tokens by spaces, for ``bleu`` with the tokenizer ``none`` and for ``chrf``.

    Whitespace within a token is replaced by characters that both metrics keep: if targets are characters, a space is a
    token like any other. The texts are for comparison only.
    """
    return " ".join(token.translate(_VISIBLE) for token in tokens)


def _corpus_score(metric: BLEU | CHRF, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> CorpusScore:
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, and references for {sum(map(bool, references))}")
    # One stream of all first references, one of all second ones, and so on; None if a source has fewer.
    ranks = range(max(map(len, references)))
    streams = [[refs[rank] if rank < len(refs) else None for refs in references] for rank in ranks]
    # Not part of sacrebleu's public interface, but what its own bootstrap uses; tests check that both agree.
    statistics = np.array(metric._extract_corpus_statistics(hypotheses, streams), np.int64)  # type: ignore[arg-type]
    return CorpusScore(statistics, _comparable(metric, statistics, hypotheses), str(metric.get_signature()), metric)


def _comparable(
    metric: BLEU | CHRF, statistics: npt.NDArray[np.int64], hypotheses: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Count the n-grams that the score needs, in the output and in the reference together [N]."""
    if isinstance(metric, BLEU):
        # Columns: lengths of output and closest reference, then per order matching n-grams and n-grams of the output.
        order = metric.max_ngram_order
        return statistics[:, 1 + 2 * order] + np.maximum(statistics[:, 1] - (order - 1), 0)
    # Counted here, because sacrebleu leaves out the characters of an output if its reference has none.
    characters = np.array([len("".join(text.split())) for text in hypotheses], np.int64)
    return characters + statistics[:, 1]


def bleu_tokenizer(target_tokens: str, references: Iterable[str]) -> str:
    """Return the name of sacrebleu's tokenizer for a target side with this token specification.

    It is ``none``, for tokens joined by spaces, except for SentencePiece, whose subwords should not be compared: then
    it is ``ja-mecab`` for Japanese if MeCab is installed, else ``13a``, both on plain texts.
    """
    if not target_tokens.startswith("sentencepiece"):
        return "none"
    # Kana distinguish Japanese from Chinese; most sentences contain some, though not all.
    sample = list(islice(references, _SAMPLE))
    japanese = sum(bool(_KANA.search(text)) for text in sample) * 2 > len(sample)
    has_mecab = all(importlib.util.find_spec(name) for name in ("MeCab", "ipadic"))
    return "ja-mecab" if japanese and has_mecab else "13a"
