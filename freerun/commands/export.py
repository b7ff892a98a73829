"""``freerun export``: write ONNX graphs, and print what was written and what int8 costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from freerun.api.model_export import DEFAULT_MAX_LOSS, ExportResult
from freerun.api.model_export import export as export_model
from freerun.commands.console import CountLine, shown_notices
from freerun.data.readers import Columns, PairsPart

__all__ = ["DEFAULT_MAX_LOSS", "ExportRequest", "export"]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The arguments of ``freerun export``; ``dev`` are pairs to measure int8 on, by default the run's own."""

    model: Path
    out: Path | None = None
    quantize: bool = False
    max_loss: float = DEFAULT_MAX_LOSS
    dev: PairsPart | None = None
    json: bool = False
    columns: Columns | None = None


def export(request: ExportRequest) -> None:
    """Export, and print the result."""
    with shown_notices(), CountLine("evaluating", "sequences") as progress:
        result = export_model(
            request.model,
            request.out,
            quantize="int8" if request.quantize else None,
            max_loss=request.max_loss,
            dev=request.dev,
            columns=request.columns,
            progress=progress,
        )
    print(json.dumps(result.as_json()) if request.json else _as_text(result))


def _as_text(result: ExportResult) -> str:
    sizes = (f"  {name:20s} {size / 1e6:8.2f} MB" for name, size in result.files.items())
    lines = [f"Wrote {result.directory}:", *sizes]
    loss = result.int8_loss
    for name, difference in loss.get("difference", {}).items():
        lines.append(
            f"{name}: fp32 {loss['fp32'][name]:.4f}, int8 {loss['int8'][name]:.4f}, difference "
            f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
        )
    return "\n".join(lines)
