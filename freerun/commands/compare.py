"""``freerun compare``: which of two models is better, and could that be chance?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from freerun.commands.evaluate import evaluate_pairs
from freerun.data.readers import Columns, PairsLocation, describe
from freerun.evaluation.comparison import Comparison
from freerun.evaluation.comparison import compare as compare_evaluations
from freerun.experiment.pairs_spec import pairs_to_read
from freerun.loading import load

__all__ = ["compare"]


def compare(
    a: Path,
    b: Path,
    pairs: PairsLocation,
    beam_size: int = 1,
    threads: int = 0,
    as_json: bool = False,
    columns: Columns | None = None,
) -> Comparison:
    """Evaluate both models on the same sources and print paired differences B - A."""
    # read once for both: a pipe has nothing left for a second reader, and a file may change
    read = list(pairs_to_read([a, b], pairs, columns).read())
    where = describe(pairs)
    evaluations = [
        evaluate_pairs(load(model, threads=threads), read, where, beam_size, model=model) for model in (a, b)
    ]
    comparison = compare_evaluations(*evaluations)
    print(json.dumps(_as_values(comparison)) if as_json else _as_table(comparison, a, b))
    return comparison


def _as_values(comparison: Comparison) -> dict[str, object]:
    values: dict[str, object] = {"sources": comparison.sources}
    for name, found in comparison.differences.items():
        values[name] = {
            "a": _defined(found.a),
            "b": _defined(found.b),
            "difference": _defined(found.difference.value),
            "low": _defined(found.difference.low),
            "high": _defined(found.difference.high),
            "p_value": _defined(found.p_value),
        }
    test = comparison.mcnemar
    values["mcnemar"] = {"only_a": test.only_a, "only_b": test.only_b, "p_value": test.p_value}
    return values


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shown(value: float, form: str) -> str:
    return "undefined" if math.isnan(value) else format(value, form)


def _as_table(comparison: Comparison, a: Path, b: Path) -> str:
    rows: list[Sequence[str]] = [("", "A", "B", "B - A", "95 % interval", "p")]
    for name, found in comparison.differences.items():
        change = found.difference
        interval = "" if math.isnan(change.low) else f"{change.low:+.4f} to {change.high:+.4f}"
        figures = [_shown(found.a, ".4f"), _shown(found.b, ".4f"), _shown(change.value, "+.4f")]
        rows.append((name, *figures, interval, _shown(found.p_value, ".3f")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    test = comparison.mcnemar
    vocabularies = "nll.teacher" not in comparison.differences and "unknown_target_tokens" in comparison.differences
    if vocabularies:
        lines.append("Teacher-forced figures are not compared: A and B leave out different unknown target tokens.")
    return "\n".join(
        [
            f"A: {a}",
            f"B: {b}",
            *lines,
            f"{comparison.sources:,} sources. Right only in A: {test.only_a:,}, only in B: {test.only_b:,}.",
            f"Exact McNemar test of sequence accuracy: p = {test.p_value:.3f}.",
            "Paired bootstrap over sources, p two-sided and not corrected for looking at several figures.",
        ]
    )
