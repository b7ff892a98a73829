"""Metrics as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from freerun.metrics.defined import defined

if TYPE_CHECKING:  # the metrics of a bundle can be shown without the packages that compute them
    from freerun.evaluation.by_length import Band

__all__ = ["aligned", "bands_table", "metrics_table"]

Metrics = Mapping[str, float | None]

_LABELS = {
    "nll.teacher": "NLL, nats per token",
    "perplexity.teacher": "perplexity",
    "token_accuracy.teacher": "token accuracy",
    "sequence_accuracy.free": "sequence accuracy",
    "symbol_error_rate.free": "symbol error rate",
    "bleu.free": "BLEU",
    "chrf.free": "chrF",
    "hit_length_bound.free": "hit the length bound",
    "unknown_target_tokens": "unknown target tokens",
}


def metrics_table(metrics: Metrics, baselines: Mapping[str, Metrics]) -> str:
    """Return a model's metrics with their 95 % intervals, next to those of the trivial baselines."""
    rows = [["", "decoder fed with", "model", "95 % interval", *baselines]]
    for name, label in _LABELS.items():
        if name not in metrics:
            continue
        low, high = metrics.get(f"{name}.low"), metrics.get(f"{name}.high")
        others = [_shown(baseline[name]) if name in baseline else "" for baseline in baselines.values()]
        rows.append([label, _fed(name), _shown(metrics[name]), _interval(low, high), *others])
    lines = aligned(rows)
    sources = metrics.get("sources")
    if sources is not None:
        lines.append(f"{sources:,} source{'' if sources == 1 else 's'}, beam size {metrics.get('beam_size', 1)}")
    return "\n".join(lines)


def _fed(name: str) -> str:
    """Return what the decoder was fed with; nothing for a metric of the pairs alone."""
    if name.endswith(".teacher"):
        return "reference tokens"
    return "its own predictions" if name.endswith(".free") else ""


def bands_table(bands: Sequence[Band]) -> str:
    """Return metrics by source length, with the 95 % interval of the last one."""
    names = ("nll.teacher", "sequence_accuracy.free", "symbol_error_rate.free", "bleu.free")
    rows = [["source tokens", "sources", *(_LABELS[name] for name in names), f"95 % interval of {_LABELS[names[-1]]}"]]
    for band in bands:
        ends = f"{band.shortest}" if band.shortest == band.longest else f"{band.shortest} to {band.longest}"
        last = band.metrics[names[-1]]
        metrics = defined({name: band.metrics[name].value for name in names} | {"low": last.low, "high": last.high})
        interval = _interval(metrics["low"], metrics["high"])
        rows.append([ends, f"{band.sources:,}", *(_shown(metrics[name]) for name in names), interval])
    return "\n".join(aligned(rows))


def aligned(rows: Sequence[Sequence[str]], rule: bool = True) -> list[str]:
    """Return rows as lines with equally wide columns; ``rule`` underlines the first."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_shown(low)} to {_shown(high)}"


def _shown(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
