"""Costs of complete sequences, for sequence-level strategies: 0 for a correct output.

Outputs and references are ids without EOS; of several references the best one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from sacrebleu.metrics.bleu import BLEU

from freerun.metrics.accuracy import edit_distances

__all__ = ["COSTS", "Cost", "CostName"]

Ids = Sequence[int]
# "force" only silences a warning about tokenized input, which ids are on purpose
_SENTENCE_BLEU: Final = BLEU(tokenize="none", effective_order=True, force=True)
Cost = Callable[[Ids, Sequence[Ids]], float]
CostName = Literal["symbol_error_rate", "sequence_error", "bleu"]


def _symbol_error_rate(output: Ids, references: Sequence[Ids]) -> float:
    """Return the edit distance to the closest reference, divided by its length (by 1 if it is empty)."""
    distances, lengths = edit_distances([output], [references])
    return float(distances[0]) / max(1, int(lengths[0]))


def _sequence_error(output: Ids, references: Sequence[Ids]) -> float:
    """Return 0 for a reference and 1 for everything else."""
    return float(not any(list(output) == list(reference) for reference in references))


def _bleu(output: Ids, references: Sequence[Ids]) -> float:
    """Return 1 - sentence BLEU (0 to 1), smoothed, with the n-gram order limited to the output's length."""
    return (
        1.0 - _SENTENCE_BLEU.sentence_score(_text(output), [_text(reference) for reference in references]).score / 100.0
    )


def _text(ids: Ids) -> str:
    return " ".join(map(str, ids))


COSTS: Final[dict[str, Cost]] = {
    "symbol_error_rate": _symbol_error_rate,
    "sequence_error": _sequence_error,
    "bleu": _bleu,
}
