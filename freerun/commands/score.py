"""``freerun score``: print the log-probability of given targets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from freerun.commands.console import say, shown_notices
from freerun.commands.output import open_output
from freerun.commands.unknown_feature_counts import UnknownFeatures
from freerun.data.readers import Columns, PairsPart
from freerun.data.unknown_tokens import count_tokens, named_tokens
from freerun.experiment.pairs_for_model import read_for_models
from freerun.experiment.pairs_spec import pairs_spec
from freerun.loading import load
from freerun.runtime.prediction import Scored
from freerun.text import json_line

__all__ = ["score"]


@shown_notices()
def score(
    model: Path,
    pairs: PairsPart,
    as_json: bool = False,
    threads: int = 0,
    columns: Columns | None = None,
    device: str = "cpu",
) -> None:
    """Write one line per pair, in order: the total natural-log probability, end token included.

    A target with a token that is not in the vocabulary has no score: ``null``, and a notice at the end.
    """
    spec = pairs_spec([model], pairs, columns)
    predictor = load(model, threads=threads, device=device)
    unknown: Counter[str] = Counter()
    codec = predictor.source.features
    unknown_features = UnknownFeatures(codec)
    targets = without = 0
    with open_output(None) as out:
        for scored in predictor.score_stream(read_for_models(spec, predictor.source)):
            targets += 1
            without += scored.score is None
            count_tokens(unknown, scored.unknown)
            unknown_features.add(codec.unknown(scored.features or "") if codec else ())
            out.write(json_line(scored.as_json()) + "\n" if as_json else _as_line(scored))
    unknown_features.report()
    if without:
        say(
            f"warning: {without:,} of {targets:,} targets have no score (null), because they have tokens that are not "
            f"in the vocabulary: {named_tokens(unknown)}. The model can never write them. Check the targets' spelling, "
            "case and Unicode form, or use a model trained on data with these tokens."
        )


def _as_line(scored: Scored) -> str:
    return "null\n" if scored.score is None else f"{scored.score:.6f}\n"
