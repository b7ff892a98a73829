"""Greedy prediction with an exported freerun bundle, without freerun: onnxruntime, NumPy and JSON.

python predict.py BUNDLE TEXT... prints one line per text. If the model reads features, a text is followed by a tab and
its features. Copy this file; docs/export.md describes the files it reads. It does not read SentencePiece models, nor
check the hashes in config.json.
"""

from __future__ import annotations

import json
import math
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else the import writes into the home directory
import onnxruntime

PAD, EOS, UNK, FIRST = 0, 2, 3, 4  # a vocabulary's first token has the id 4


class Model:
    """A bundle, ready for texts."""

    def __init__(self, folder: Path) -> None:
        read = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
        self.config, self.target = read["config"], read["target_vocabulary"]["tokens"]
        self.ids = ids_by_token(read["source_vocabulary"])
        self.feature_ids = ids_by_token(read["feature_vocabulary"]) if "features" in self.config else None
        self.session = onnxruntime.InferenceSession(folder / "greedy.onnx", providers=["CPUExecutionProvider"])

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a source text, in the order in which the model reads them."""
        side = self.config["source"]
        text = in_form(text, side["normalisation"])
        text = in_form(text.lower(), side["normalisation"]) if side["case"] == "lower" else text
        return list(text) if side["tokens"] == "char" else text.split()

    def predict(self, text: str, features: str | None = None) -> str:
        """Return the greedy output; ``features`` are required exactly if the model reads them."""
        tokens = self.tokens(text)
        ids = [self.ids.get(token, UNK) for token in tokens]
        source = [*(reversed(ids) if self.config["source"]["reverse"] else ids), EOS]
        inputs = {"source": [source], "lengths": [len(source)], "max_lengths": [self.bound(len(tokens))]}
        if (features is None) != (self.feature_ids is None):
            has = "no" if features is None else "a field of"
            raise ValueError(f"{text!r} has {has} features, contrary to the model")
        if features is not None:
            inputs["features"] = [self.encode_features(features) or [PAD]]
        written, _ = self.session.run(None, {name: np.array(value, np.int64) for name, value in inputs.items()})
        kept = [number for number in written[0].tolist() if number >= FIRST]
        side = self.config["target"]
        text = ("" if side["tokens"] == "char" else " ").join(self.target[n - FIRST] for n in kept)
        return in_form(text, side.get("written", "none"))

    def encode_features(self, features: str) -> list[int]:
        """Return the distinct ids of a source's features in ascending order."""
        parts = features.split(self.config["features"]["separator"])
        tokens = (unicodedata.normalize("NFC", part).strip() for part in parts)
        return sorted({self.feature_ids.get(token, UNK) for token in tokens if token})

    def bound(self, length: int) -> int:
        """Return the maximum output length for a number of source tokens."""
        bound = self.config["length_bound"]
        if bound.get("fixed") is not None:
            return int(bound["fixed"])
        return max(3 * bound["longest_target"], math.ceil(2 * bound["largest_ratio"] * length)) + 10


def in_form(text: str, form: str) -> str:
    """Return the text in a Unicode form, or as it is ("none")."""
    return text if form == "none" else unicodedata.normalize(form, text)


def ids_by_token(vocabulary: dict[str, list[str]]) -> dict[str, int]:
    """Return the id of each token of a vocabulary file."""
    return {token: FIRST + place for place, token in enumerate(vocabulary["tokens"])}


def main(folder: str, lines: list[str]) -> None:
    """Print the output of each line: a text, or a text, a tab and its features."""
    model = Model(Path(folder))
    for line in lines:
        text, tab, features = line.partition("\t")
        try:
            print(model.predict(text, features if tab else None) if line else "")
        except ValueError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
