"""Tiny trained models as exported bundles, for what is tested from the outside."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from functools import partial

from freerun.cli import main

HOSTILE = "<img/src=x/onerror=console.error(1)>"
"""A target token that would run if a page took it for markup."""

NAMES = ["ab", "ba", "abc", "cab", "bca", "cc", "aab", "bbc", "acb", "cba", "abab", "bcbc"]
SPOKEN = {"a": "A", "b": "𝔅", "c": HOSTILE}

CHARACTERS = {
    "options": ("--quantize", "int8", "--max-loss", "100"),
    "pairs": [(name, " ".join(SPOKEN[letter] for letter in name)) for name in NAMES],
    "settings": {
        "model.cell": "gru",
        "model.attention": "none",
        "model.reverse_source": "true",
        "data.target_tokens": "whitespace",
    },
}
"""From letters to words, GRU without attention, reversed; the target 𝔅 lies beyond the first 65,536 code points."""

WORDS = {
    "options": (),
    "pairs": [(" ".join(name.upper()), name[::-1] + "é") for name in NAMES],
    "settings": {
        "model.attention": "bahdanau",
        "model.bidirectional": "true",
        "data.source_tokens": "whitespace",
        "data.source_case": "lower",
        "data.target_tokens": "char",
    },
}
"""From words to letters, LSTM with the attention that is chosen by default, lower case."""


MODELS = {"characters": CHARACTERS, "words": WORDS}

CHANGES = {
    "": str,
    "UP": str.upper,
    "É; REV": lambda name: name[::-1] + "é",
    "REV;UP": lambda name: name[::-1].upper(),
}
FEATURED = [(name, change(name), features) for name in NAMES for features, change in CHANGES.items()]
COLUMNS = {"data.columns": "[1, 2, 3]", "data.feature_separator": ";"}

WITH_FEATURES = {
    "summary": {
        "options": ("--quantize", "int8", "--max-loss", "100"),
        "pairs": FEATURED,
        "settings": {**COLUMNS, "model.cell": "gru", "model.attention": "none"},
    },
    "sequence": {
        "options": (),
        "pairs": FEATURED,
        "settings": {**COLUMNS, "model.attention": "luong", "model.feature_encoder": "sequence"},
    },
}
"""From letters to letters; features decide how."""


def bundles(tmp_path_factory, models=MODELS):
    """The exported bundle of each model."""
    return {name: once(tmp_path_factory, name, partial(exported, **model)) / "bundle" for name, model in models.items()}


def once(tmp_path_factory, name, make):
    """Return the directory ``name``, filled by ``make(directory)`` once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    directory.mkdir(exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / ".made").exists():
            make(directory)
            (directory / ".made").touch()
    return directory


def exported(directory, pairs, settings, options=()):
    """Train for a second or two, export to ``directory / "bundle"``."""
    (directory / "pairs.tsv").write_text("".join("\t".join(pair) + "\n" for pair in pairs), "utf-8")
    every = {
        "training.updates": 150,
        "training.batch_size": 6,
        "training.learning_rate": 0.02,
        "training.threads": 1,
        "model.hidden_size": 12,
        "model.embedding_size": 8,
        # so few units, and so few updates, cannot do without any of them
        "model.embedding_unit_dropout": 0.0,
        "model.memory_dropout": 0.0,
        **settings,
    }
    chosen = [part for key, value in every.items() for part in ("--set", f"{key}={value}")]
    files = [str(directory / "pairs.tsv"), "--dev", str(directory / "pairs.tsv"), "--out", str(directory / "run")]
    assert main(["train", *files, *chosen]) == 0
    assert main(["export", str(directory / "run"), "--out", str(directory / "bundle"), *options]) == 0


def change_config(bundle, changed):
    """Let ``changed`` alter config.json in place; the hashes of all other files are made right again."""
    path = bundle / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for name in config["files"]:
        if (bundle / name).exists():
            config["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    changed(config)
    path.write_text(json.dumps(config), "utf-8")
