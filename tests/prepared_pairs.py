"""Pairs that are prepared in tests, in one process and in small blocks, beside the same pairs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from freerun.commands.data import data_config
from freerun.config import Config, parse_config
from freerun.data.prepared import Prepared
from freerun.experiment.data_source import DataSource
from freerun.experiment.dataset import TrainingData, choose_text, load_data
from freerun.forcing.registry import EVERYTHING
from freerun.preparation import blocks
from freerun.preparation.choices import PrepareRequest
from freerun.preparation.prepare_pairs import prepare

__all__ = ["block_lines", "in_memory", "prepared", "training_data", "write_rows"]


def write_rows(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write rows as TSV."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8", newline="")
    return path


def block_lines(monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    """Cut blocks, which become shards, after so many lines."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_LINES", lines)


def prepared(
    files: Sequence[Path], out: Path, *settings: str, dev: Sequence[Path] = (), init: Path | None = None, **options: str
) -> Prepared:
    """Prepare files as the command does, in this process."""
    data = data_config(files, dev, options, settings)
    request = PrepareRequest(data=data, out=out, processes=1, cores=1, init=init)
    return prepare(request, lambda *progress: None)[0]


def training_data(data: dict[str, Any], **model: Any) -> tuple[TrainingData, DataSource, Config]:
    """Load training data as a run does."""
    raw = {"data": data, "model": {"hidden_size": 8, "embedding_size": 8, "num_layers": 1, **model}}
    config = parse_config({**raw, "training": {"updates": 1}}, "config", EVERYTHING.settings_of)
    pairs = DataSource.open(config.data, quiet=True)
    chosen = {"data": {**data, **pairs.fields.settings(), **choose_text(config.data, pairs)}}
    config = parse_config({**raw, **chosen, "training": {"updates": 1}}, "config", EVERYTHING.settings_of)
    return load_data(config, pairs), pairs, config


in_memory = training_data
