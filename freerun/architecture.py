"""The architecture of a network: its hyperparameters, and the registries of cells and attentions.

Everything that has to know which cells and attentions exist reads the registries: configuration, bundles, weight
shapes, export, graph checks, the C library's border, and the tables in docs/configuration.md (a test compares them).

A new cell takes three files: an entry of ``CELLS`` here, its equations in ``freerun.models.cells``, and its ONNX nodes
in ``freerun.onnx_export.cell_nodes``. A new attention takes an entry of ``ATTENTIONS``, a module in
``freerun.models.attention``, and nodes in ``freerun.onnx_export.attention_nodes``. Faster implementations are
capabilities with a fallback: a cell that claims none of them trains through the loop over its equations, in torch.

Over 350 lines, because the registries are next to the types of their entries.

Shape suffixes: H hidden, M memory (H, or 2 H of a bidirectional encoder), G gates x hidden, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Final

__all__ = [
    "ATTENTIONS",
    "CELLS",
    "CONTEXTS",
    "FEATURE_ENCODERS",
    "Architecture",
    "AttentionSpec",
    "CellSpec",
    "attention_kinds",
    "attention_name",
    "attention_scores",
    "feature_encoder_for",
]

Shapes = dict[str, tuple[int, ...]]

EVERY_STEP: Final = "every_step"
CONTEXTS: Final = ("init", EVERY_STEP)
"""Values of ``Architecture.context``."""

SUMMARY: Final = "summary"
SEQUENCE: Final = "sequence"
BOTH: Final = "both"
FEATURE_ENCODERS: Final = (SUMMARY, SEQUENCE, BOTH)
"""Values of ``Architecture.feature_encoder``."""


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """A recurrent cell: its structure, and its faster implementations.

    Attributes:
        name: the value of ``model.cell``.
        description: the sentence fragment that documentation shows, with the paper.
        gates: blocks of H rows in each weight and bias of a layer.
        has_cell_state: a step carries c in addition to h.
        is_recurrent: the gates read h of the step before, so a layer has ``weight_hh`` and ``bias_hh``.
        gated_bias: the last gate's recurrent bias is multiplied by another gate, so it cannot join the input bias.
        forget_gate: the gate whose bias ``model.forget_bias`` sets.
        is_bounded: every output is within [-1, 1]. An int8 export quantizes outputs with one fixed scale, so it needs
            this.
        fused: torch has whole-sequence kernels for it.
        compiled_training: ``freerun.models.compiled_cells`` has its steps, compiled by Numba.
        onnx: ``freerun.onnx_export.cell_nodes`` has its nodes.
        native_code: its number in ``native/greedy.h``; None if the C library cannot decode it.
    """

    name: str
    description: str
    gates: int
    has_cell_state: bool = False
    is_recurrent: bool = True
    gated_bias: bool = False
    forget_gate: int | None = None
    is_bounded: bool = True
    fused: bool = False
    compiled_training: bool = False
    onnx: bool = False
    native_code: int | None = None

    @property
    def compiled_greedy(self) -> bool:
        """Return True if the C library can decode it."""
        return self.native_code is not None

    def shapes(self, input_size: int, hidden_size: int) -> Shapes:
        """Return the shapes of a layer's parameters by name, in their order."""
        gates = self.gates * hidden_size
        shapes: Shapes = {"weight_ih": (gates, input_size)}
        if self.is_recurrent:
            shapes["weight_hh"] = (gates, hidden_size)
        shapes["bias_ih"] = (gates,)
        if self.is_recurrent:
            shapes["bias_hh"] = (gates,)
        return shapes


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """A kind of attention with its score function.

    Attributes:
        name: the value of ``Architecture.attention``, and of ``model.attention`` in a bundle's config.json.
        kind: the value of ``model.attention`` in a configuration.
        score: the value of ``model.attention_score``; empty if the kind has one score only.
        title: its name in reports.
        description: the sentence fragment that documentation shows, with the paper.
        weights: the shape of each of its weights.
        within_recurrence: computed before each step from the previous state, and read by the first layer; otherwise
            after the recurrence, from its outputs.
        feeds_input: the attentional output can be an input of the next step (``model.input_feeding``).
        sums: a score is v . tanh(query + key), otherwise query . key.
        is_scaled: scores are divided by sqrt(H).
        needs_equal_sizes: queries and memory are compared directly, so a bidirectional encoder does not fit.
        compiled_training: ``freerun.models.compiled_attention`` has its steps, compiled by Numba, for a model whose
            recurrence reads it.
        onnx: ``freerun.onnx_export.attention_nodes`` has its nodes.
        compiled_greedy: the C library can decode it.
    """

    name: str
    kind: str
    title: str
    description: str
    weights: Callable[[Architecture], Shapes]
    score: str = ""
    within_recurrence: bool = False
    feeds_input: bool = False
    sums: bool = False
    is_scaled: bool = False
    needs_equal_sizes: bool = False
    compiled_training: bool = False
    onnx: bool = False
    compiled_greedy: bool = False

    @property
    def reads_memory(self) -> bool:
        """Return True for every attention, False for the absence of one."""
        return self.kind != NO_ATTENTION


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides which parameters a network has; ``as_json`` is the section "model" of config.json.

    ``hidden_size`` is that of the decoder and of each direction of the encoder; ``cell`` and ``attention`` are keys of
    ``CELLS`` and ``ATTENTIONS``. ``feature_vocabulary`` is 0 and ``feature_encoder`` is empty for a model that reads no
    features.
    """

    source_vocabulary: int
    target_vocabulary: int
    embedding_size: int = 256
    hidden_size: int = 512
    num_layers: int = 2
    cell: str = "lstm"
    bidirectional: bool = False
    context: str = "init"
    attention: str = "none"
    tied_output: bool = False
    input_feeding: bool = False
    feature_vocabulary: int = 0
    feature_encoder: str = ""

    @staticmethod
    def of(model: Mapping[str, Any]) -> Architecture:
        """Read the section "model" of config.json; unknown keys are left out."""
        known = {field.name for field in fields(Architecture)}
        return Architecture(**{name: value for name, value in model.items() if name in known})

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, without those about features if there are none."""
        values = asdict(self)
        return values if self.has_features else {name: value for name, value in values.items() if "feature" not in name}

    @property
    def cell_spec(self) -> CellSpec:
        """The cell."""
        return CELLS[self.cell]

    @property
    def attention_spec(self) -> AttentionSpec:
        """The attention."""
        return ATTENTIONS[self.attention]

    @property
    def gates(self) -> int:
        """G."""
        return self.cell_spec.gates * self.hidden_size

    @property
    def num_directions(self) -> int:
        """Directions of the encoder."""
        return 2 if self.bidirectional else 1

    @property
    def memory_size(self) -> int:
        """M."""
        return self.hidden_size * self.num_directions

    @property
    def every_step(self) -> bool:
        """Return True if the source's summary is read at every step."""
        return self.context == EVERY_STEP

    @property
    def context_size(self) -> int:
        """Width of the summary that every step reads; 0 if none does."""
        return self.hidden_size if self.every_step else 0

    @property
    def known_size(self) -> int:
        """Inputs of the decoder's first layer that do not depend on attention: embedding, features and context."""
        return self.embedding_size + self.feature_summary_size + self.context_size

    @property
    def has_features(self) -> bool:
        """Return True if a source has features: a second input with its own vocabulary."""
        return self.feature_vocabulary > 0

    @property
    def feature_summary_size(self) -> int:
        """Width of the features' summary, an input of the first layers at every step; 0 if there is none."""
        return self.embedding_size if self.feature_encoder in (SUMMARY, BOTH) else 0

    @property
    def has_feature_entries(self) -> bool:
        """Return True if features are entries of the memory."""
        return self.feature_encoder in (SEQUENCE, BOTH)

    @property
    def attended_size(self) -> int:
        """Inputs of the decoder's first layer that attention computes."""
        if self.attention_spec.within_recurrence:
            return self.memory_size
        return self.hidden_size if self.input_feeding else 0

    @property
    def features(self) -> int:
        """Inputs of the output layer: h or the attentional output, and the context if every step reads it."""
        return self.hidden_size + self.context_size

    @property
    def is_projected(self) -> bool:
        """Return True if features are projected to the width of an embedding before a tied output."""
        return self.tied_output and self.features != self.embedding_size

    @property
    def is_bridged(self) -> bool:
        """Return True if the encoder's states are projected to the decoder's size."""
        return self.memory_size != self.hidden_size

    @property
    def states_per_layer(self) -> int:
        """Vectors of a layer's state: h, and c if the cell has one."""
        return 2 if self.cell_spec.has_cell_state else 1

    @property
    def has_source_table(self) -> bool:
        """Return True if a source token's gates are looked up: a table that takes no more room than the embedding."""
        return self.source_vocabulary <= self.embedding_size

    @property
    def compiled_greedy(self) -> bool:
        """Return True if the C library can decode it."""
        return self.cell_spec.compiled_greedy and self.attention_spec.compiled_greedy


def _by_name(*specs: Any) -> Mapping[str, Any]:
    return {spec.name: spec for spec in specs}


CELLS: Final[Mapping[str, CellSpec]] = _by_name(
    CellSpec(
        name="lstm",
        description="long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000)",
        gates=4,
        has_cell_state=True,
        forget_gate=1,
        fused=True,
        compiled_training=True,
        onnx=True,
        native_code=0,
    ),
    CellSpec(
        name="gru",
        description="gated recurrent unit (Cho et al. 2014)",
        gates=3,
        gated_bias=True,
        fused=True,
        compiled_training=True,
        onnx=True,
        native_code=1,
    ),
    CellSpec(
        name="rnn",
        description="plain recurrent network with tanh (Elman 1990)",
        gates=1,
        fused=True,
        compiled_training=True,
        onnx=True,
        native_code=2,
    ),
    CellSpec(
        name="mingru",
        description="minGRU: gates from the input alone, trained by a parallel scan (Feng et al. 2024)",
        gates=2,
        is_recurrent=False,
        is_bounded=False,
        onnx=True,
    ),
)


def _no_weights(_: Architecture) -> Shapes:
    return {}


def _dot(sizes: Architecture) -> Shapes:
    return {"combine.weight": (sizes.hidden_size, sizes.memory_size + sizes.hidden_size)}


def _general(sizes: Architecture) -> Shapes:
    return {"keys.weight": (sizes.hidden_size, sizes.memory_size), **_dot(sizes)}


def _additive(sizes: Architecture) -> Shapes:
    hidden = sizes.hidden_size
    return {"keys.weight": (hidden, sizes.memory_size), "query.weight": (hidden, hidden), "vector.weight": (1, hidden)}


def _concat(sizes: Architecture) -> Shapes:
    return {**_additive(sizes), **_dot(sizes)}


def _bahdanau(sizes: Architecture) -> Shapes:
    pairs = 2 * sizes.hidden_size
    return {
        **_additive(sizes),
        "state_output.weight": (pairs, sizes.hidden_size),
        "state_output.bias": (pairs,),
        "token_output.weight": (pairs, sizes.embedding_size),
        "context_output.weight": (pairs, sizes.memory_size),
    }


NO_ATTENTION: Final = "none"
_luong: Final = partial(
    AttentionSpec,
    kind="luong",
    title="Luong attention",
    feeds_input=True,
    compiled_training=True,
    onnx=True,
    compiled_greedy=True,
)

ATTENTIONS: Final[Mapping[str, AttentionSpec]] = _by_name(
    AttentionSpec(
        name=NO_ATTENTION,
        kind=NO_ATTENTION,
        title="no attention",
        description="a fixed context (Sutskever et al. 2014; Cho et al. 2014)",
        weights=_no_weights,
        onnx=True,
        compiled_greedy=True,
    ),
    _luong(
        name="dot",
        score="dot",
        description="`h . m`; needs `bidirectional = false` (Luong et al. 2015)",
        weights=_dot,
        needs_equal_sizes=True,
    ),
    _luong(name="general", score="general", description="`h . W m` (Luong et al. 2015)", weights=_general),
    _luong(
        name="scaled_general",
        score="scaled_general",
        description="`h . W m / sqrt(H)`, as in scaled dot-product attention (Vaswani et al. 2017)",
        weights=_general,
        is_scaled=True,
    ),
    _luong(
        name="concat",
        score="concat",
        description="`v . tanh(W [h; m])` (Luong et al. 2015)",
        weights=_concat,
        sums=True,
    ),
    AttentionSpec(
        name="bahdanau",
        kind="bahdanau",
        title="Bahdanau attention",
        description="additive, within the recurrence: an input of every step (Bahdanau et al. 2015)",
        weights=_bahdanau,
        within_recurrence=True,
        sums=True,
        compiled_training=True,
        onnx=True,
        compiled_greedy=True,
    ),
)


def attention_kinds() -> dict[str, AttentionSpec]:
    """Return the values of ``model.attention``, each with its first entry in the registry."""
    kinds: dict[str, AttentionSpec] = {}
    for spec in ATTENTIONS.values():
        kinds.setdefault(spec.kind, spec)
    return kinds


def attention_scores() -> dict[str, AttentionSpec]:
    """Return the values of ``model.attention_score``, each with its entry in the registry."""
    return {spec.score: spec for spec in ATTENTIONS.values() if spec.score}


def attention_name(kind: str, score: str) -> str:
    """Return the key of ``ATTENTIONS`` for ``model.attention`` and its score, which most kinds ignore."""
    return next(spec.name for spec in ATTENTIONS.values() if spec.kind == kind and spec.score in ("", score))


def feature_encoder_for(kind: str) -> str:
    """Return the default of ``model.feature_encoder`` for ``model.attention``: the most accurate one that fits."""
    return SUMMARY if kind == NO_ATTENTION else BOTH
