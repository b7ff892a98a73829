"""``freerun data``: the built-in data sets."""

from __future__ import annotations

from pathlib import Path

from freerun.data.builtin import DATASETS, make_dataset

__all__ = ["list_data_sets", "make"]


def list_data_sets() -> None:
    """Print name and description of every built-in data set."""
    width = max(map(len, DATASETS))
    for name, data_set in DATASETS.items():
        print(f"{name:{width}s}  {data_set.description}")


def make(name: str, folder: Path, stress: bool = False, seed: int = 0) -> None:
    """Write a data set's train.tsv, dev.tsv and test.tsv and say what is in them."""
    for part, path in make_dataset(name, folder, stress=stress, seed=seed).items():
        with path.open(encoding="utf-8") as lines:
            print(f"{path}: {sum(1 for _ in lines):,} pairs ({part})")
