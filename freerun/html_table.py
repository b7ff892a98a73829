"""Small tables in HTML, for the results that a notebook shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["html_table", "metrics_table"]


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return a table of texts, every one of them escaped."""
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    parts.append(f"<thead>{_row('th', header)}</thead><tbody>")
    parts += [_row("td", row) for row in rows]
    return "".join([*parts, "</tbody></table>"])


def metrics_table(
    metrics: Mapping[str, float | None], baselines: Mapping[str, Mapping[str, float | None]], caption: str
) -> str:
    """Return a table of a model's metrics and those of the baselines; intervals are left out."""
    values = {name: value for name, value in metrics.items() if not name.endswith((".low", ".high"))}
    rows = [[name, *(_shown(each.get(name)) for each in (values, *baselines.values()))] for name in values]
    return html_table(["metric", "model", *baselines], rows, caption)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
