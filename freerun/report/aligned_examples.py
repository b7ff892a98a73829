"""Example outputs, aligned with their references token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from freerun.data.codec import Codec
from freerun.diagnostics.record import Recorded
from freerun.evaluation.items import EvaluationSet
from freerun.randomness import numpy_generator
from freerun.runtime.prediction import END_NAME
from freerun.search.attended import in_reading_order
from freerun.search.batches import pad, pad_sources
from freerun.symbols import BOS, EOS, UNK, source_length

__all__ = ["MAX_EXAMPLES", "AttentionOf", "chosen_examples", "examples"]

Ids = npt.NDArray[np.int64]
AttentionOf = Callable[[Ids, Ids, Ids], npt.NDArray[np.float32]]
"""Source ids [B, L], their lengths [B] and the tokens fed [B, T] to attention weights [B, T, S].

Features that attention reads have further weights, after those of the longest source.
"""
MAX_EXAMPLES = 500
_MAX_STEPS = 200
"""Steps of an endless output that are shown."""
_MAX_WEIGHTS = 10_000
"""Size above which attention matrices are left out of the page."""
_BATCH = 64


def chosen_examples(recorded: Recorded, limit: int = MAX_EXAMPLES) -> Ids:
    """Return the worst rows by edit distance, and as many of the others at random: at most ``limit``."""
    edits = edit_distances_of(recorded)
    worst = np.argsort(-edits, kind="stable")[: limit // 2]
    worst = worst[edits[worst] > 0]
    others = np.setdiff1d(np.arange(len(edits)), worst)
    return np.concatenate([worst, np.sort(numpy_generator(0, "examples").permutation(others)[: limit - len(worst)])])


def edit_distances_of(recorded: Recorded) -> Ids:
    """Return the edit distances [N]: the regrets of the steps (without EOS) and of the ending, added up."""
    free = recorded.free
    steps, _ = free.errors.window(0, free.errors.lengths - free.ended)
    distances: Ids = steps.astype(np.int64) + free.ending_regret
    return distances


def examples(
    recorded: Recorded,
    items: EvaluationSet,
    source: Codec,
    target: Codec,
    rows: Ids,
    attention_of: AttentionOf | None = None,
) -> list[dict[str, Any]]:
    """Return JSON values for the page, one example per row of ``rows``."""
    edits = edit_distances_of(recorded)
    result = [_example(recorded, items, source, target, int(row), int(edits[row])) for row in rows]
    if attention_of is not None:
        for row, example, weights in zip(rows, result, _attention(recorded, rows, attention_of), strict=True):
            if weights.size <= _MAX_WEIGHTS:
                ids = recorded.pairs.sources[row]
                length = source_length(ids)
                example["attention"] = _percent_of_weights(in_reading_order(weights, length, source.reverse))
                if source.features is not None and weights.shape[1] > length:
                    example["sourceTokens"] += source.features.vocabulary.tokens(ids[length:])
    return result


def _example(
    recorded: Recorded, items: EvaluationSet, source: Codec, target: Codec, row: int, edits: int
) -> dict[str, Any]:
    item, free, forced = items.items[row], recorded.free, recorded.forced
    followed = int(recorded.followed[row])
    reference, output = recorded.pairs.targets[followed], free.tokens[row][:_MAX_STEPS]
    first = int(recorded.first_errors[row])
    tokens = [token for token in free.tokens[row].tolist() if token != EOS]
    return {
        "source": item.source,
        "features": None if source.features is None else source.features.text(item.features or ""),
        "sourceTokens": [*source.tokens(item.source), END_NAME],
        "references": item.texts,
        "output": target.text(target.decode(tokens)),
        "edits": edits,
        "firstError": first + 1 if first < free.errors.lengths[row] else None,
        "nll": round(-float(free.log_probs[row].sum()), 3),
        "truncated": not bool(free.ended[row]),
        "shown": len(output) if len(output) < free.tokens.lengths[row] else None,
        "columns": _columns(reference.tolist(), output.tolist()),
        "reference": _named(reference, target),
        "forced": _named(forced.tokens[followed], target),
        "forcedProbability": _known_percent(forced.log_probs[followed], reference),
        "forcedError": forced.errors[followed].astype(int).tolist(),
        "free": _named(output, target),
        "freeProbability": _percent(free.log_probs[row][:_MAX_STEPS]),
        "freeError": free.errors[row][:_MAX_STEPS].astype(int).tolist(),
    }


def _columns(reference: Sequence[int], output: Sequence[int]) -> list[list[int]]:
    """Return pairs of positions in the reference and in the output, -1 for a gap: an alignment of fewest edits."""
    pairs: list[list[int]] = []
    for code in Levenshtein.opcodes(reference, output):
        left = [*range(code.src_start, code.src_end)]
        right = [*range(code.dest_start, code.dest_end)]
        size = max(len(left), len(right))
        left += [-1] * (size - len(left))
        right += [-1] * (size - len(right))
        pairs += [list(pair) for pair in zip(left, right, strict=True)]
    return pairs


def _named(ids: npt.NDArray[np.integer], target: Codec) -> list[str]:
    return [END_NAME if token == EOS else target.vocabulary.token(int(token)) for token in ids]


def _percent(log_probs: npt.NDArray[np.float32]) -> list[int]:
    values: list[int] = np.rint(100 * np.exp(log_probs.astype(np.float64))).astype(int).tolist()
    return values


def _known_percent(log_probs: npt.NDArray[np.float32], reference: Ids) -> list[int | None]:
    """Return the same for a reference's tokens; None for an unknown one, which has no probability of its own."""
    pairs = zip(_percent(log_probs), reference.tolist(), strict=True)
    return [None if token == UNK else percent for percent, token in pairs]


def _attention(recorded: Recorded, rows: Ids, attention_of: AttentionOf) -> list[npt.NDArray[np.float32]]:
    """Return the weights along each free run: [T, S], or [T, S + Q] if attention reads the Q features."""
    result: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        sources = [recorded.pairs.sources[row] for row in part]
        ids, lengths = pad_sources(sources)
        outputs = [recorded.free.tokens[row][:_MAX_STEPS].tolist() for row in part]
        fed, steps = pad([[BOS, *each[:-1]] if each else [] for each in outputs])
        weights = attention_of(ids, lengths, fed)
        longest = lengths.max()
        for each, source, length, n in zip(weights, sources, lengths, steps, strict=True):
            features = each[:n, longest : longest + len(source) - length]
            result.append(np.concatenate([each[:n, :length], features], 1))
    return result


def _percent_of_weights(weights: npt.NDArray[np.float32]) -> list[list[int]]:
    values: list[list[int]] = np.rint(100 * weights.astype(np.float64)).astype(int).tolist()
    return values
