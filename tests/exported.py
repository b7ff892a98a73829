"""Small models as exported bundles, and their graphs without a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from freerun.architecture import ATTENTIONS, FEATURE_ENCODERS, Architecture
from freerun.data.codec import Codec, build_codecs
from freerun.data.features import FeatureCodec
from freerun.data.readers import Pair
from freerun.data.tokenizers import WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.onnx_export.encoder_graph import encoder_graph
from freerun.onnx_export.graph import model_of
from freerun.onnx_export.graph_files import graph_files
from freerun.onnx_export.greedy_graph import greedy_graph
from freerun.onnx_export.products import Fp32
from freerun.onnx_export.step_graph import step_graph
from freerun.runtime.bundle import read_bundle
from freerun.runtime.compiled_arrays import greedy_arrays
from freerun.runtime.graph_rules import check_graph
from freerun.runtime.graphs import metadata_of
from freerun.runtime.limits import Limits
from freerun.runtime.onnx_file import read_onnx
from freerun.runtime.session import open_session
from freerun.runtime.weights import ModelWeights
from freerun.runtime.writing import BundleParts, write_bundle
from freerun.search.bound import LengthBound
from freerun.symbols import EOS
from freerun.training.checkpoint import serialised
from tests.networks import CELLS, network

TRAINING = {
    "model": {"cell": "gru"},
    "forcing": {"strategy": "teacher"},
    "training": {"seed": 1},
    "evaluation": {"select_on": "symbol_error_rate.free"},
    "update": 1,
    "pairs": 1,
    "sources": 1,
    "parameters": 1,
}


@st.composite
def model_options(draw):
    """Every option of a model, in the combinations that exist."""
    bidirectional = draw(st.booleans())
    fitting = [name for name, spec in ATTENTIONS.items() if not (bidirectional and spec.needs_equal_sizes)]
    attention = draw(st.sampled_from(fitting))
    return {
        "cell": draw(st.sampled_from(CELLS)),
        "num_layers": draw(st.integers(1, 3)),
        "hidden_size": draw(st.integers(1, 9)),
        "embedding_size": draw(st.sampled_from([2, 5, 13])),  # 13: above both vocabularies
        "bidirectional": bidirectional,
        "context": draw(st.sampled_from(["init", "every_step"])),
        "attention": attention,
        "tied_output": draw(st.booleans()),
        "input_feeding": ATTENTIONS[attention].feeds_input and draw(st.booleans()),
    }


@st.composite
def feature_options(draw):
    """The same with features, in a vocabulary of 7: above and below the sizes of an embedding."""
    options = draw(model_options())
    encoders = FEATURE_ENCODERS if options["attention"] != "none" else ("summary",)
    return {**options, "feature_vocabulary": 7, "feature_encoder": draw(st.sampled_from(encoders))}


class GraphsOf:
    """Stands for ``freerun.runtime.graphs.Graphs``, without a bundle; graphs are checked as they are there."""

    def __init__(self, model, arithmetic=None, limit=1.0):
        self.vocabulary_size, self.has_features = model.sizes.target_vocabulary, model.sizes.has_features
        arrays = {name: value.float().numpy() for name, value in model.state_dict().items()}
        self.weights = ModelWeights(model.sizes, arrays)
        self._arithmetic, self._limit, self._sessions = arithmetic or Fp32(), limit, {}

    def session(self, name):
        if name not in self._sessions:
            make = {"encoder": encoder_graph, "step": step_graph, "greedy": greedy_graph}[name]
            graph = make(self.weights, self._arithmetic, *([] if name == "encoder" else [self._limit]))
            content = model_of(graph, {})
            check_graph(read_onnx(content), name, self.weights.sizes)
            self._sessions[name] = open_session(content, 1, name)
        return self._sessions[name]


class ArraysOf:
    """Stands for the bundle of a model whose arrays the compiled greedy search reads."""

    def __init__(self, model, precision="fp32", limit=1.0):
        self.directory, self.config, self.weights_hash = Path("bundle"), {"version": 1}, "w"
        self.source, self.target = (Codec(WhitespaceTokenizer(), Vocabulary(each)) for each in ("abcdefg", "vwxyz"))
        self.model = model.sizes.as_json()
        self.limits = Limits(Architecture(**self.model))
        metadata = metadata_of(self, "greedy", precision)
        self._content = greedy_arrays(GraphsOf(model).weights, precision == "int8", limit, metadata)

    def has_graphs(self, precision):
        return True

    def checked_bytes(self, name):
        return self._content if name.endswith("npz") else b""


def codecs_of_pieces(size, texts=300):
    """Source codec of characters and target codec of so many pieces, from pairs that have a number in each."""
    pairs = [Pair(f"ab cd {n} ef", f"gh {n} ij kl", n) for n in range(texts)]
    return build_codecs(
        lambda: iter(pairs),
        source_tokens="char",
        target_tokens=f"sentencepiece:{size}",
        minimum_count=1,
        source_form="NFC",
        target_form="NFC",
        source_case="keep",
        reverse_source=False,
        shared_vocabulary=False,
    )


def write_model(directory, model=None, **changes):
    """A bundle with words a to g as source tokens and v to z as target tokens; returns the bundle as read.

    A model with features has A, B and C.
    """
    model = network(1, torch.float32, scale=1.5) if model is None else model
    features = FeatureCodec(";", Vocabulary("ABC")) if model.sizes.has_features else None
    parts = {
        "source": Codec(WhitespaceTokenizer(), Vocabulary("abcdefg"), case="lower", reverse=True, features=features),
        "target": Codec(WhitespaceTokenizer(), Vocabulary("vwxyz")),
        "bound": LengthBound(5, 1.0),
        "model": model.sizes.as_json(),
        "training": TRAINING,
        "most_frequent_target": "v",
        "weights": serialised(model.state_dict()),
        "metrics": {"sources": 1},
        "freerun_version": "0.1.0",
    }
    write_bundle(directory, BundleParts(**{**parts, **changes}))
    return read_bundle(directory)


def sources(rows):
    """Rows of ids, padded, as int64 arrays, and their lengths: the ids after EOS are features."""
    lengths = np.array([row.index(EOS) + 1 for row in rows])
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = values
    return ids, lengths


__all__ = [
    "ArraysOf",
    "GraphsOf",
    "codecs_of_pieces",
    "feature_options",
    "graph_files",
    "model_options",
    "sources",
    "write_model",
]
