"""``freerun data``: the built-in datasets."""

from __future__ import annotations

from pathlib import Path

from freerun.data.builtin import DATASETS, make_dataset

__all__ = ["list_datasets", "make"]


def list_datasets() -> None:
    """Print the name and description of every built-in dataset."""
    width = max(map(len, DATASETS))
    for name, dataset in DATASETS.items():
        print(f"{name:{width}s}  {dataset.description}")


def make(name: str, directory: Path, stress: bool = False, seed: int = 0) -> None:
    """Write a dataset's train.tsv, dev.tsv and test.tsv, and print their sizes."""
    for part, path in make_dataset(name, directory, stress=stress, seed=seed).items():
        with path.open(encoding="utf-8") as lines:
            print(f"{path}: {sum(1 for _ in lines):,} pairs ({part})")
