"""No source is trained on that the model reads like a held-out one."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from freerun.config import parse_config
from freerun.errors import ConfigError, UserError
from freerun.experiment.data_source import DataSource
from freerun.experiment.dataset import load_data
from freerun.forcing.registry import settings_of

# spaces of several kinds, the mark of SentencePiece, a letter with a compatibility form, cases, a loose accent
TEXTS = st.lists(
    st.text(st.sampled_from("ab cdA\u00a0\u2581\u3000\uff41e\u0301\u00e9\u200b\x0b\x1c"), max_size=7),
    min_size=8,
    max_size=40,
    unique=True,
)


def loaded(raw, tokens):
    """The data with these source tokens; SentencePiece says how many pieces the texts have."""
    spec = f"{tokens}:99" if tokens == "sentencepiece" else tokens
    config = parse_config({**raw, "data": {**raw["data"], "source_tokens": spec}}, "test", settings_of)
    try:
        return load_data(config, DataSource.open(config.data))
    except ConfigError as error:
        possible = re.search(r"Write (sentencepiece:\d+) or", str(error))
        if possible is None:
            raise
        return loaded(raw, possible[1])


@given(
    TEXTS,
    st.sampled_from(["char", "whitespace", "sentencepiece"]),
    st.sampled_from(["NFC", "NFKC", "NFD", "none"]),
    st.sampled_from(["keep", "lower"]),
    st.integers(1, 3),
    st.booleans(),
    st.floats(0.05, 0.7),
)
@settings(max_examples=150, deadline=None)
def test_no_held_out_source_is_trained_on(texts, tokens, form, case, minimum, reverse, share):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.tsv"
        path.write_text("".join(f"{text}\ty\n" for text in texts), encoding="utf-8")
        raw = {
            "data": {
                "train": str(path),
                "target_tokens": "char",
                "normalisation": form,
                "source_case": case,
                "minimum_count": minimum,
                "held_out": share,
            },
            "model": {"reverse_source": reverse},
        }
        try:
            data = loaded(raw, tokens)
        except UserError:  # too few sources that can be distinguished, or no pair left
            reject()
    trained = {tuple(data.corpus.sources[row].tolist()) for row in range(len(data.corpus))}
    held_out = [tuple(data.source.encode(text)) for text in data.dev.sources]
    assert held_out and not trained & set(held_out)
    assert data.report.read == len(data.corpus) + data.report.same_as_held_out
