"""``freerun diagnose``: print how a model behaves teacher-forced and free-running."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from freerun.api.model_diagnosis import diagnose as diagnose_model
from freerun.commands.console import CountLine, say, shown_notices
from freerun.commands.tables import aligned
from freerun.data.readers import Columns, PairsPart
from freerun.diagnostics.diagnosis import Diagnosis
from freerun.diagnostics.recovery import Recovery
from freerun.diagnostics.summary import cells, error_rows

__all__ = ["DiagnoseRequest", "diagnose"]


@dataclass(frozen=True, kw_only=True)
class DiagnoseRequest:
    """The arguments of ``freerun diagnose``; without ``pairs``, the run's development pairs are used."""

    model: Path
    pairs: PairsPart | None = None
    html: Path | None = None
    threads: int = 0
    json: bool = False
    columns: Columns | None = None
    device: str = "cpu"


def diagnose(request: DiagnoseRequest) -> None:
    """Print the summary with tables, or the measures as JSON."""
    with shown_notices(), CountLine("diagnosing", "runs") as progress:
        diagnosis = diagnose_model(
            request.model,
            request.pairs,
            columns=request.columns,
            html=request.html,
            threads=request.threads,
            device=request.device,
            progress=progress,
        )
    print(json.dumps(diagnosis.as_json()) if request.json else _as_text(diagnosis))
    if request.html is not None:
        say(f"Wrote {request.html}: open it in a browser.")


def _as_text(diagnosis: Diagnosis) -> str:
    measures = diagnosis.measures
    paragraphs = [*diagnosis.summary, "\n".join(aligned(error_rows(measures.excess_error)))]
    rows = _recovery_rows(measures.recovery)
    if len(rows) > 1:
        paragraphs.append("\n".join(aligned(rows)))
    return "\n\n".join(paragraphs)


def _recovery_rows(recovery: Recovery) -> list[list[str]]:
    rows = [
        ["steps after the first error", "recovered", "95 % interval", "sources", "errors / forced", "95 % interval"]
    ]
    for point in recovery.curve:
        if point.free.n:
            recovered, ratio = cells(point.recovered), cells(point.ratio)
            rows.append([str(point.k), *recovered[:2], f"{point.free.n:,}", *ratio[:2]])
    return rows
