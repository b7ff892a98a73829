"""Greedy prediction with an exported freerun bundle, without freerun: onnxruntime, NumPy and JSON.

python predict.py BUNDLE TEXT... prints one line per text. Copy this file; docs/export.md describes the files it reads.
It does not read SentencePiece models, nor check the hashes in config.json.
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

EOS, UNK, FIRST = 2, 3, 4  # the vocabulary's first token has the id 4


class Model:
    """A bundle, ready for texts."""

    def __init__(self, folder: Path) -> None:
        read = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
        self.config, self.target = read["config"], read["target_vocabulary"]["tokens"]
        self.ids = {token: FIRST + place for place, token in enumerate(read["source_vocabulary"]["tokens"])}
        self.session = onnxruntime.InferenceSession(folder / "greedy.onnx", providers=["CPUExecutionProvider"])

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a source text, in the order in which the model reads them."""
        side = self.config["source"]
        text = self._in_form(text)
        text = self._in_form(text.lower()) if side["case"] == "lower" else text
        return list(text) if side["tokens"] == "char" else text.split()

    def _in_form(self, text: str) -> str:
        form = self.config["source"]["normalisation"]
        return text if form == "none" else unicodedata.normalize(form, text)

    def predict(self, text: str) -> str:
        """Return the greedy output."""
        tokens = self.tokens(text)
        ids = [self.ids.get(token, UNK) for token in tokens]
        source = [*(reversed(ids) if self.config["source"]["reverse"] else ids), EOS]
        inputs = {"source": [source], "lengths": [len(source)], "max_lengths": [self.bound(len(tokens))]}
        written, _ = self.session.run(None, {name: np.array(value, np.int64) for name, value in inputs.items()})
        kept = [number for number in written[0].tolist() if number >= FIRST]
        return ("" if self.config["target"]["tokens"] == "char" else " ").join(self.target[n - FIRST] for n in kept)

    def bound(self, length: int) -> int:
        """Return the maximum output length for a number of source tokens."""
        bound = self.config["length_bound"]
        if bound.get("fixed") is not None:
            return int(bound["fixed"])
        return max(3 * bound["longest_target"], math.ceil(2 * bound["largest_ratio"] * length)) + 10


if __name__ == "__main__":
    model = Model(Path(sys.argv[1]))
    for text in sys.argv[2:]:
        print(model.predict(text) if text else "")
