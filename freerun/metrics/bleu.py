"""BLEU and chrF by sacrebleu (Post 2018), kept as sufficient statistics so that they can be resampled."""

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
_SAMPLE = 200  # references that are looked at for the language

# sacrebleu splits at every character that Python calls whitespace (str.split), and chrF drops it, so a token of such
# characters would vanish. Each is written as a lone surrogate: one code point, as chrF counts them, and one that no
# text holds, since it has no UTF-8 form; so different tokens stay different. All whitespace is below U+10000.
_WHITESPACE = [number for number in range(0x10000) if chr(number).isspace()]
_VISIBLE = {number: 0xD800 + place for place, number in enumerate(_WHITESPACE)}


@dataclass(frozen=True)
class CorpusScore:
    """A score of a corpus, 0-100, as counts that add up over sources.

    It is undefined (NaN) where neither the outputs nor their references have an n-gram that the score needs: 4-grams
    for BLEU, which averages precisions of 1- to 4-grams, and characters for chrF. sacrebleu calls that 0, which would
    make outputs under four tokens worthless, perfect ones too.

    statistics: [N, C], sacrebleu's counts of each source. comparable: [N], the number of those n-grams in each output
    and in its reference closest in length. signature: sacrebleu's, which says how the score was computed.
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
        """The score of each bootstrap resample [R]."""
        sums = resampled_sums(self._counts, resamples, seed).astype(np.int64)
        return np.array([self._score(row) for row in sums])

    def of(self, rows: npt.NDArray[np.intp]) -> CorpusScore:
        """The score of some of the sources."""
        return replace(self, statistics=self.statistics[rows], comparable=self.comparable[rows])

    @property
    def _counts(self) -> npt.NDArray[np.int64]:
        """[N, 1 + C]: what the score depends on."""
        return np.column_stack([self.comparable, self.statistics])

    def interval(self, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
        """The score with its 95 % bootstrap interval."""
        return percentile_interval(self.value, self.resampled(resamples, seed))

    def _score(self, counts: npt.NDArray[np.int64]) -> float:
        if counts[0] == 0:
            return math.nan
        # As Python's integers: BLEU changes some in place, and NumPy's would warn where Python's are exact.
        return float(self._metric._compute_score_from_stats(counts[1:].tolist()).score)


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: str) -> CorpusScore:
    """Corpus BLEU-4 (Papineni et al. 2002), exponential smoothing; ``tokenize`` is sacrebleu's word.

    hypotheses: N texts. references: for each at least one; their numbers may differ.
    """
    # "force" only silences a remark about tokenised input, which freerun's often is, on purpose.
    return _corpus_score(BLEU(tokenize=tokenize, force=True), hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> CorpusScore:
    """Corpus chrF2 (Popovic 2015): character 6-grams, white space left out. Arguments as for ``bleu``."""
    return _corpus_score(CHRF(), hypotheses, references)


def spaced(tokens: Iterable[str]) -> str:
    """Tokens joined by spaces, for ``bleu`` with the tokenizer ``none`` and for ``chrf``.

    Whitespace within a token is replaced by characters that both keep: where targets are characters, a space is a token
    like any other. The texts are for comparison only.
    """
    return " ".join(token.translate(_VISIBLE) for token in tokens)


def _corpus_score(metric: BLEU | CHRF, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> CorpusScore:
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, and references for {sum(map(bool, references))}")
    # One stream of all first references, one of all second ones, and so on, with None where a source has fewer.
    ranks = range(max(map(len, references)))
    streams = [[refs[rank] if rank < len(refs) else None for refs in references] for rank in ranks]
    # Not part of sacrebleu's public interface, but all that its own bootstrap is built on; tests hold both equal.
    statistics = np.array(metric._extract_corpus_statistics(hypotheses, streams), np.int64)  # type: ignore[arg-type]
    return CorpusScore(statistics, _comparable(metric, statistics, hypotheses), str(metric.get_signature()), metric)


def _comparable(
    metric: BLEU | CHRF, statistics: npt.NDArray[np.int64], hypotheses: Sequence[str]
) -> npt.NDArray[np.int64]:
    """[N]: n-grams without which the score is undefined, those of the output and of the reference added up."""
    if isinstance(metric, BLEU):
        # Lengths of output and closest reference, then matching n-grams and n-grams of the output, each by order.
        order = metric.max_ngram_order
        return statistics[:, 1 + 2 * order] + np.maximum(statistics[:, 1] - (order - 1), 0)
    # Counted here, since sacrebleu leaves the characters of an output out if its reference has none.
    characters = np.array([len("".join(text.split())) for text in hypotheses], np.int64)
    return characters + statistics[:, 1]


def bleu_tokenizer(target_tokens: str, references: Iterable[str]) -> str:
    """The tokenizer, as sacrebleu names it, for a target side of this token specification.

    ``none``, for texts that are tokens joined by spaces, unless pieces of SentencePiece would be compared: then
    ``ja-mecab`` for Japanese where MeCab is installed, and else ``13a``, both on plain texts.
    """
    if not target_tokens.startswith("sentencepiece"):
        return "none"
    # Kana tell Japanese from Chinese; most sentences hold some, though not every one.
    sample = list(islice(references, _SAMPLE))
    japanese = sum(bool(_KANA.search(text)) for text in sample) * 2 > len(sample)
    has_mecab = all(importlib.util.find_spec(name) for name in ("MeCab", "ipadic"))
    return "ja-mecab" if japanese and has_mecab else "13a"
