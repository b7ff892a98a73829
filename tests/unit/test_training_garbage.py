"""An update frees its tensors when it ends: none stays, or waits in a cycle of references for a garbage collection."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

import freerun

PAIRS = [("".join("abcdef"[(i * k) % 6] for k in range(1, 5)), "abcdef"[i % 6] * 3) for i in range(40)]
SIZES = [
    "model.hidden_size=8",
    "model.embedding_size=8",
    "model.dropout=0.2",
    "model.embedding_unit_dropout=0.2",
    "training.updates=6",
    "training.batch_size=8",
    "training.threads=1",
    "training.checkpoint_every=0",
    "evaluation.every=0",
]
BAHDANAU = ["model.attention=bahdanau", "model.memory_dropout=0.2"]
LUONG = ["model.attention=luong", "model.memory_dropout=0.2"]
NETWORKS = {
    "none": ["model.attention=none"],
    "luong": LUONG,
    "input feeding": [*LUONG, "model.input_feeding=true"],
    "bahdanau": BAHDANAU,
}
STRATEGIES = (
    "scheduled_sampling",
    "free_running",
    "professor",
    "optimal_completion",
    "minimum_risk",
    "self_critical",
    "input_corruption",
)


class LiveTensors(freerun.Callback):
    """Counts the tensors that are alive after two of the updates, between which nothing collects garbage."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_update(self, update: int, metrics: Any) -> None:
        if update == 2:  # whatever is made once has been made
            gc.collect()
            gc.disable()
        if update in (2, 5):
            self.counts.append(sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()))


def growth(out: Path, *settings: str) -> int:
    """Return how many more tensors there are after three more updates."""
    live = LiveTensors()
    try:
        freerun.train(PAIRS, dev=PAIRS[:4], out=out, settings=[*SIZES, *settings], callbacks=[live])
    finally:
        gc.enable()
    before, after = live.counts
    return after - before


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_attention(tmp_path: Path, network: str, layers: int) -> None:
    settings = [f"model.num_layers={layers}", "training.precision=fp32"]
    assert growth(tmp_path / "run", *NETWORKS[network], *settings) == 0


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_every_compiled_cell(tmp_path: Path, cell: str) -> None:
    assert growth(tmp_path / "run", *NETWORKS["bahdanau"], f"model.cell={cell}") == 0


def test_mingru(tmp_path: Path) -> None:
    assert growth(tmp_path / "run", "model.cell=mingru", "model.attention=luong") == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(tmp_path: Path, strategy: str) -> None:
    assert growth(tmp_path / "run", *NETWORKS["bahdanau"], f"forcing.strategy={strategy}") == 0


@pytest.mark.parametrize("network", NETWORKS)
def test_the_reference_loop(tmp_path: Path, network: str) -> None:
    assert growth(tmp_path / "run", *NETWORKS[network], "training.backend=reference") == 0
