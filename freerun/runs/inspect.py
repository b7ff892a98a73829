"""``freerun inspect``: what a bundle is, without loading its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from freerun.config import flatten
from freerun.runs.figures import figures_table
from freerun.runtime.bundle import read_bundle

__all__ = ["inspect"]


def inspect(model: Path, as_json: bool = False) -> dict[str, Any]:
    """Print a bundle's settings, files and figures."""
    bundle = read_bundle(model)
    values = {"folder": str(bundle.folder), **bundle.config, "metrics": dict(bundle.metrics)}
    if as_json:
        print(json.dumps(values, ensure_ascii=False))
        return values
    print(f"{bundle.folder}: {bundle.config['format']}, version {bundle.config['version']}\n")
    sections = ("source", "target", "model", "length_bound")
    for name, value in flatten({key: bundle.config[key] for key in sections}).items():
        print(f"  {name:30s} {value}")
    print()
    for name, value in flatten(bundle.config["training"]).items():
        print(f"  {name:30s} {value}")
    print("\n" + figures_table(bundle.metrics, {}))
    return values
