"""``freerun score``: the log-probability of given targets."""

from __future__ import annotations

import json
from pathlib import Path

from freerun.data.readers import PairsLocation, read_pairs
from freerun.runs.load import load
from freerun.runs.output import open_output

__all__ = ["score"]


def score(model: Path, pairs: PairsLocation, as_json: bool = False, threads: int = 0) -> None:
    """Write a line a pair, in their order: the total natural-log probability, end token included."""
    predictor = load(model, threads=threads)
    with open_output(None) as out:
        for scored in predictor.score_stream(read_pairs(pairs)):
            if as_json:
                values = {
                    "source": scored.source,
                    "target": scored.target,
                    "score": scored.score,
                    "token_scores": list(scored.token_scores),
                }
                out.write(json.dumps(values, ensure_ascii=False) + "\n")
            else:
                out.write(f"{scored.score:.6f}\n")
