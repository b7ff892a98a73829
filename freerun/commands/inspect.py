"""``freerun inspect``: print what a bundle is, without loading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from freerun.commands.tables import metrics_table
from freerun.config import flatten
from freerun.runtime.bundle import read_bundle
from freerun.text import json_line, one_line

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
    sections = ("source", "target", "model", "length_bound")
    for name, value in flatten({key: bundle.config[key] for key in sections}).items():
        print(f"  {name:30s} {one_line(str(value))}")
    print()
    for name, value in flatten(bundle.config["training"]).items():
        print(f"  {one_line(name):30s} {one_line(str(value))}")
    metrics = {one_line(name): value for name, value in bundle.metrics.items()}
    print("\n" + metrics_table(metrics, {}))
