"""A tiny trained run, shared by the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freerun.cli import main
from freerun.runtime.compiled_beam import CompiledBeam
from freerun.search.beam import beam_search
from freerun.search.methods import Beam

WORDS = ["".join(chr(97 + (i * j) % 7) for j in range(1, 3 + i % 4)) for i in range(1, 120)]
CONFIG = """
[data]
train = "train.tsv"
dev = "dev.tsv"
source_tokens = "char"
target_tokens = "whitespace"
[model]
embedding_size = 16
hidden_size = 24
num_layers = 1
dropout = 0.1
[training]
updates = 60
batch_size = 16
learning_rate = 1e-2
precision = "fp32"
checkpoint_every = 20
threads = 1
[evaluation]
every = 30
"""


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str


Freerun = Callable[..., Result]


@pytest.fixture
def freerun(capfd: pytest.CaptureFixture[str]) -> Freerun:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    return run


def write_pairs(directory: Path) -> None:
    """Letters and the same letters spelt out, in upper case."""
    lines = [f"{word}\t{' '.join(word.upper())}\n" for word in WORDS]
    (directory / "train.tsv").write_text("".join(lines[20:]))
    (directory / "dev.tsv").write_text("".join(lines[:20]))
    (directory / "config.toml").write_text(CONFIG)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with train.tsv, dev.tsv, config.toml and the finished run ``run``; read-only."""
    directory = tmp_path_factory.mktemp("trained")
    write_pairs(directory)
    assert main(["train", str(directory / "config.toml"), "--out", str(directory / "run")]) == 0
    return directory


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A new directory with train.tsv, dev.tsv and config.toml."""
    write_pairs(tmp_path)
    return tmp_path


Searches = list[dict[str, Any]]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Searches:
    """The settings of every beam search from now on."""
    seen: Searches = []

    def spy(stepper: Any, ids: Any, lengths: Any, settings: Beam, **options: Any) -> Any:
        seen.append({**asdict(settings), "max_lengths": options["max_lengths"]})
        return beam_search(stepper, ids, lengths, settings, **options)

    class Spy(CompiledBeam):
        def __call__(self, sources: Any, bounds: Any, settings: Beam) -> Any:
            seen.append({**asdict(settings), "max_lengths": np.array(bounds)})
            return super().__call__(sources, bounds, settings)

    monkeypatch.setattr("freerun.search.searcher.beam_search", spy)
    monkeypatch.setattr("freerun.loading.CompiledBeam", Spy)
    return seen


def write_pairs_with_features(directory: Path) -> None:
    """Letters, spelt out in upper or lower case as the features say."""
    cases = [("UP;V", str.upper), ("LOW;V", str.lower)]
    lines = [f"{word}\t{' '.join(change(word))}\t{features}\n" for word in WORDS for features, change in cases]
    (directory / "train.tsv").write_text("".join(lines[40:]))
    (directory / "dev.tsv").write_text("".join(lines[:40]))
    (directory / "config.toml").write_text(CONFIG.replace("[model]", "columns = [1, 2, 3]\n[model]"))


@pytest.fixture(scope="session")
def trained_with_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``trained``, of pairs with the features UP or LOW, and V."""
    directory = tmp_path_factory.mktemp("trained-with-features")
    write_pairs_with_features(directory)
    assert main(["train", str(directory / "config.toml"), "--out", str(directory / "run")]) == 0
    return directory
