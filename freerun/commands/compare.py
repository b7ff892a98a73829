"""``freerun compare``: print which of two models is better, and whether that could be chance."""

from __future__ import annotations

import json
import math
from pathlib import Path

from freerun.api.model_comparison import compare as compare_models
from freerun.commands.console import CountLine, shown_notices
from freerun.commands.tables import aligned
from freerun.data.readers import Columns, PairsPart
from freerun.evaluation.comparison import Comparison

__all__ = ["compare"]


def compare(
    a: Path,
    b: Path,
    pairs: PairsPart,
    beam_size: int = 1,
    threads: int = 0,
    as_json: bool = False,
    columns: Columns | None = None,
    device: str = "cpu",
) -> None:
    """Print the paired differences B - A."""
    with shown_notices(), CountLine("evaluating", "sequences") as progress:
        comparison = compare_models(
            a,
            b,
            pairs,
            columns=columns,
            beam_size=beam_size,
            threads=threads,
            device=device,
            progress=progress,
        )
    print(json.dumps(comparison.as_json()) if as_json else _as_text(comparison, a, b))


def _as_text(comparison: Comparison, a: Path, b: Path) -> str:
    rows = [["", "A", "B", "B - A", "95 % interval", "p"]]
    for name, metric in comparison.differences.items():
        change = metric.difference
        interval = "" if math.isnan(change.low) else f"{change.low:+.4f} to {change.high:+.4f}"
        values = [_shown(metric.a, ".4f"), _shown(metric.b, ".4f"), _shown(change.value, "+.4f")]
        rows.append([name, *values, interval, _shown(metric.p_value, ".3f")])
    lines = [f"A: {a}", f"B: {b}", *aligned(rows, rule=False)]
    if "nll.teacher" not in comparison.differences and "unknown_target_tokens" in comparison.differences:
        lines.append("Teacher-forced metrics are not compared: A and B leave out different unknown target tokens.")
    test = comparison.mcnemar
    lines += [
        f"{comparison.sources:,} sources. Correct only in A: {test.only_a:,}, only in B: {test.only_b:,}.",
        f"Exact McNemar test of sequence accuracy: p = {test.p_value:.3f}.",
        "Paired bootstrap over sources; p-values are two-sided and not corrected for multiple comparisons.",
    ]
    return "\n".join(lines)


def _shown(value: float, form: str) -> str:
    return "undefined" if math.isnan(value) else format(value, form)
