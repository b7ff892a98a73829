"""``data.normalisation = "auto"``: the form of each side is chosen, recorded and kept; outputs have the user's form."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from unicodedata import is_normalized

import pytest

from tests.cli.conftest import Freerun

SYLLABLES = [chr(0xAC00 + n) for n in range(0, 11172, 20)]
SMALL = [
    part
    for key in ("model.hidden_size=6", "model.embedding_size=4", "model.num_layers=1", "training.threads=1")
    for part in ("--set", key)
]


@pytest.fixture
def korean(tmp_path: Path) -> Path:
    """Words in Latin letters and in syllables, 300 pairs."""
    chance = random.Random(1)
    words = ["".join(chance.choices(SYLLABLES, k=2)) for _ in range(300)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{number:03}\t{word}\n" for number, word in enumerate(words)), encoding="utf-8")
    return path


def forms(run: Path) -> object:
    return tomllib.loads((run / "config.toml").read_text())["data"]["normalisation"]


def test_without_a_configuration_the_forms_are_chosen(freerun: Freerun, korean: Path) -> None:
    run = korean.parent / "run"
    done = freerun("train", korean, "--out", run, *SMALL, "--set", "training.updates=4")
    assert done.code == 0, done.err
    assert "target: characters are taken apart (NFD), because" in done.out + done.err
    assert forms(run) == {"source": "NFC", "target": "NFD"}
    found = freerun("predict", run, "007", "--max-length", 9).out.strip()
    assert found and is_normalized("NFC", found)
    assert freerun("train", "--resume", "--out", run, "--set", "training.updates=6").code == 0
    tuned = "--out", korean.parent / "tuned", "--init", run
    again = freerun("train", korean, *tuned, *SMALL[6:], "--set", "training.updates=2")
    assert again.code == 0, again.err
    assert forms(korean.parent / "tuned") == forms(run)


def test_a_configuration_may_leave_them_open(freerun: Freerun, korean: Path) -> None:
    """A form that was chosen may be left open again when the run goes on; another one may not be set."""
    config, run = korean.parent / "config.toml", korean.parent / "run"
    text = (
        f'[data]\ntrain = "{korean.name}"\nnormalisation = "auto"\n[model]\nhidden_size = 6\nembedding_size = 4\n'
        "num_layers = 1\n[training]\nthreads = 1\nupdates = 2\n"
    )
    config.write_text(text)
    assert freerun("train", config, "--out", run).code == 0
    assert forms(run) == {"source": "NFC", "target": "NFD"}
    config.write_text(text.replace("updates = 2", "updates = 3"))
    assert freerun("train", config, "--out", run, "--resume").code == 0
    config.write_text(text.replace('"auto"', '"NFC"'))
    assert freerun("train", config, "--out", run, "--resume").code == 2


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ('"nfd"', 'Expected "NFC", "NFD", "NFKC", "NFKD", "none", "auto", or { source = FORM, target = FORM }'),
        ('{ source = "NFC" }', "or { source = FORM, target = FORM }"),
        ('{ source = "NFC", target = "auto" }', "or { source = FORM, target = FORM }"),
        ("3", 'Expected "NFC", "NFD"'),
    ],
)
def test_another_form_is_rejected(freerun: Freerun, korean: Path, value: str, what: str) -> None:
    result = freerun("train", korean, "--out", korean.parent / "run", "--set", f"data.normalisation={value}")
    assert result.code == 2
    assert what in result.err
    assert "Traceback" not in result.err
