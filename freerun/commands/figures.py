"""Figures as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # figures of a bundle can be shown without the packages that measure them
    from freerun.evaluation.by_length import Band

__all__ = ["aligned", "bands_table", "defined", "figures_table"]

Figures = Mapping[str, float | None]

_ROWS = {
    "nll.teacher": "NLL, nats a token",
    "perplexity.teacher": "perplexity",
    "token_accuracy.teacher": "token accuracy",
    "sequence_accuracy.free": "sequence accuracy",
    "symbol_error_rate.free": "symbol error rate",
    "bleu.free": "BLEU",
    "chrf.free": "chrF",
    "hit_length_bound.free": "hit the length bound",
    "unknown_target_tokens": "unknown target tokens",
}


def defined(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """The same figures with None for those that are not defined: JSON knows no NaN, and 0 would be a lie."""
    return {name: _number(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def figures_table(metrics: Figures, baselines: Mapping[str, Figures]) -> str:
    """Teacher-forced and free-running figures of a model with their 95 % intervals, the trivial baselines beside."""
    header = ["", "decoder fed with", "model", "95 % interval", *baselines]
    rows = [header]
    for name, label in _ROWS.items():
        if name not in metrics:
            continue
        low, high = metrics.get(f"{name}.low"), metrics.get(f"{name}.high")
        interval = "" if low is None or high is None else f"{_shown(low)} to {_shown(high)}"
        others = [_shown(figures[name]) if name in figures else "" for figures in baselines.values()]
        rows.append([label, _fed(name), _shown(metrics[name]), interval, *others])
    lines = aligned(rows)
    sources = metrics.get("sources")
    if sources is not None:
        lines.append(f"{sources:,} source{'' if sources == 1 else 's'}, beam size {metrics.get('beam_size', 1)}")
    return "\n".join(lines)


def _fed(name: str) -> str:
    """What the decoder was fed with; nothing for a figure of the pairs alone."""
    if name.endswith(".teacher"):
        return "right tokens"
    return "its own tokens" if name.endswith(".free") else ""


def bands_table(bands: Sequence[Band]) -> str:
    """Figures by source length, with the 95 % interval of the last."""
    names = ("nll.teacher", "sequence_accuracy.free", "symbol_error_rate.free", "bleu.free")
    rows = [["source tokens", "sources", *(_ROWS[name] for name in names), "its 95 % interval"]]
    for band in bands:
        ends = f"{band.shortest}" if band.shortest == band.longest else f"{band.shortest} to {band.longest}"
        last = band.figures[names[-1]]
        figures = defined({name: band.figures[name].value for name in names} | {"low": last.low, "high": last.high})
        undefined = figures["low"] is None
        interval = "" if undefined else f"{_shown(figures['low'])} to {_shown(figures['high'])}"
        rows.append([ends, f"{band.sources:,}", *(_shown(figures[name]) for name in names), interval])
    return "\n".join(aligned(rows))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of equal columns, with a rule under the first."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _shown(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
