"""``freerun inspect``: what a bundle is, without loading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from freerun.commands.figures import figures_table
from freerun.config import flatten
from freerun.runtime.bundle import read_bundle
from freerun.text import json_line, one_line

__all__ = ["inspect"]


def inspect(model: Path, as_json: bool = False) -> dict[str, Any]:
    """Print a bundle's settings, files and figures."""
    bundle = read_bundle(model)
    values = {"folder": str(bundle.folder), "digest": bundle.digest, **bundle.config, "metrics": dict(bundle.metrics)}
    if as_json:
        print(json_line(values))
        return values
    print(f"{bundle.folder}: {bundle.config['format']}, version {bundle.config['version']}")
    print(f"digest (SHA-256 of config.json): {bundle.digest}\n")
    sections = ("source", "target", "model", "length_bound")
    for name, value in flatten({key: bundle.config[key] for key in sections}).items():
        print(f"  {name:30s} {one_line(str(value))}")
    print()
    for name, value in flatten(bundle.config["training"]).items():
        print(f"  {one_line(name):30s} {one_line(str(value))}")
    figures = {one_line(name): value for name, value in bundle.metrics.items()}
    print("\n" + figures_table(figures, {}))
    return values
