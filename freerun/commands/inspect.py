"""``freerun inspect``: print what a bundle is, without loading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from freerun.commands.tables import metrics_table
from freerun.config import flatten
from freerun.runtime.bundle import Bundle, read_bundle
from freerun.text import json_line, one_line, shown

__all__ = ["inspect"]


def inspect(model: Path, as_json: bool = False) -> None:
    """Print a bundle's settings, files and metrics."""
    bundle = read_bundle(model)
    values: dict[str, Any] = {
        "folder": str(bundle.directory),
        "digest": bundle.digest,
        **bundle.config,
        "metrics": dict(bundle.metrics),
    }
    if as_json:
        print(json_line(values))
        return
    print(f"{bundle.directory}: {bundle.config['format']}, version {bundle.config['version']}")
    print(f"digest (SHA-256 of config.json): {bundle.digest}\n")
    for name, value in _encoding_and_sizes(bundle).items():
        print(f"  {name:30s} {one_line(str(value))}")
    print()
    for name, value in flatten(bundle.config["training"]).items():
        print(f"  {one_line(name):30s} {one_line(str(value))}")
    metrics = {one_line(name): value for name, value in bundle.metrics.items()}
    print("\n" + metrics_table(metrics, {}))


def _encoding_and_sizes(bundle: Bundle) -> dict[str, Any]:
    """Return how text is encoded, and the architecture, by key."""
    features = bundle.source.features
    sections = ("source", "target", *([] if features is None else ["features"]), "model", "length_bound")
    values = flatten({name: bundle.config[name] for name in sections})
    if features is not None:
        values["features.separator"] = shown(features.separator)  # quoted, as it may be a space
    return values
