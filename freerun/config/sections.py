"""The sections of a configuration, their keys and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from freerun.architecture import CELLS, CONTEXTS, FEATURE_ENCODERS, attention_kinds, attention_scores
from freerun.bounds import ACCUMULATE, BEAM_SIZE, COUNT, LENGTH_PENALTY, MAX_LAYERS, MAX_PIECES, THREADS
from freerun.config.numbers import (
    Count,
    Length,
    Number,
    PositiveCount,
    PositiveNumber,
    Seed,
    SignedNumber,
    Size,
    within,
)
from freerun.device_name import DEVICE_NAMES, DEVICE_PATTERN

__all__ = [
    "ALTERNATIVES",
    "HIGHER_IS_BETTER",
    "Config",
    "ConstantSchedule",
    "CosineSchedule",
    "DataConfig",
    "EvaluationConfig",
    "FilePair",
    "ForcingConfig",
    "HalvingSchedule",
    "InverseSqrtSchedule",
    "ModelConfig",
    "PathText",
    "PhaseConfig",
    "Section",
    "SideForms",
    "TrainingConfig",
]

Metric = Literal[
    "symbol_error_rate.free",
    "sequence_accuracy.free",
    "bleu.free",
    "chrf.free",
    "nll.teacher",
    "token_accuracy.teacher",
]
HIGHER_IS_BETTER = ("sequence_accuracy.free", "bleu.free", "chrf.free", "token_accuracy.teacher")
ALTERNATIVES = (("updates", "epochs"), ("batch_size", "batch_tokens"))
"""Pairs of keys of [training] of which exactly one is set."""

# messages show a field's description as what was expected; without one it is derived from the type
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PathText = Annotated[str, Field(pattern=r"\A[^\x00]+\z", description="a path")]
ColumnName = Annotated[str, Field(pattern=r"\A[^\x00]+\z")]


def _kind_of_columns(value: object) -> str:
    is_named = isinstance(value, list | tuple) and any(isinstance(item, str) for item in value)
    return "names" if is_named else "numbers"


_TwoOrThree = Field(strict=False, min_length=2, max_length=3)
Columns = Annotated[
    Annotated[
        Annotated[tuple[Length, ...], _TwoOrThree, Tag("numbers")]
        | Annotated[tuple[ColumnName, ...], _TwoOrThree, Tag("names")],
        Field(discriminator=Discriminator(_kind_of_columns)),
    ]
    | None,
    Field(
        description="two or three columns (source, target, features), counted from 1, for example [1, 2] or [1, 2, 3], "
        'or names of columns, for example ["source", "target"]',
    ),
]
Separator = Annotated[
    str,
    Field(
        pattern=r"\A[^\x00-\x1f\x7f]{1,8}\z",
        description='the text between features, 1 to 8 characters without tabs and line ends, for example ";"',
    ),
]
# MAX_PIECES, a power of ten, or a number with fewer digits
_UP_TO_MAX_PIECES = rf"{MAX_PIECES}|[1-9][0-9]{{0,{len(str(MAX_PIECES)) - 2}}}"
Form = Literal["NFC", "NFD", "NFKC", "NFKD", "none"]
TokensSpec = Annotated[
    str,
    Field(
        pattern=rf"\A(auto|char|whitespace|sentencepiece:0*({_UP_TO_MAX_PIECES}))\z",
        description='"auto", "char", "whitespace" or "sentencepiece:N" with N subwords, for example '
        f'"sentencepiece:8000", at most {MAX_PIECES:,}',
    ),
]

if TYPE_CHECKING:  # type checkers cannot read the registries
    CellName: TypeAlias = str
    ContextName: TypeAlias = str
    AttentionKind: TypeAlias = str
    AttentionScore: TypeAlias = str
    FeatureEncoderName: TypeAlias = str
else:
    CellName = Literal[tuple(CELLS)]
    ContextName = Literal[CONTEXTS]
    AttentionKind = Literal[tuple(attention_kinds())]
    AttentionScore = Literal[tuple(attention_scores())]
    FeatureEncoderName = Literal[FEATURE_ENCODERS]


class Section(BaseModel):
    """A table of known keys with strictly typed values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


class FilePair(Section):
    """Two parallel text files."""

    source: PathText
    target: PathText


def _kind_of_files(value: object) -> str:
    if isinstance(value, list | tuple):
        return "list"
    return "pair" if isinstance(value, dict | FilePair) else "path"


Files = Annotated[
    Annotated[PathText, Tag("path")]
    | Annotated[FilePair, Tag("pair")]
    | Annotated[tuple[PathText, ...], Field(strict=False, min_length=1), Tag("list")],
    Field(
        discriminator=Discriminator(_kind_of_files),
        description='a path, { source = "PATH", target = "PATH" } for two parallel files, or a list of paths and '
        'patterns, for example ["a.tsv", "b/*.tsv"]',
    ),
]
"""One file of pairs, two parallel files, or files that are read one after another."""


class SideForms(Section):
    """The Unicode normalization of each side."""

    source: Form
    target: Form

    def as_value(self) -> str | dict[str, str]:
        """Return the value of ``data.normalisation``: one form if both sides have the same."""
        return self.source if self.source == self.target else {"source": self.source, "target": self.target}


def _kind_of_forms(value: object) -> str:
    return "sides" if isinstance(value, dict | SideForms) else "both"


Forms = Annotated[
    Annotated[Form | Literal["auto"], Tag("both")] | Annotated[SideForms, Tag("sides")],
    Field(
        discriminator=Discriminator(_kind_of_forms),
        description='"NFC", "NFD", "NFKC", "NFKD", "none", "auto", or { source = FORM, target = FORM }',
    ),
]


class DataConfig(Section):
    """The pairs, and how their text is tokenized."""

    train: Files
    dev: Files | None = None
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Fraction of the sources held out for evaluation (at most 2,000) if ``dev`` is not given."""
    columns: Columns = None
    feature_separator: Separator | None = None
    source_tokens: TokensSpec = "auto"
    target_tokens: TokensSpec = "auto"
    normalisation: Forms = "NFC"
    source_case: Literal["keep", "lower"] = "keep"
    minimum_count: PositiveCount = 1
    shared_vocabulary: bool = False
    window: PositiveCount | None = None
    """Of prepared data: how many pairs are shuffled together, in whole shards; by default 2,000,000."""
    max_source_length: Length = 1000
    max_target_length: Length = 1000

    @property
    def forms(self) -> SideForms:
        """The normalization of each side; NFC while it is "auto"."""
        if isinstance(self.normalisation, SideForms):
            return self.normalisation
        form = "NFC" if self.normalisation == "auto" else self.normalisation
        return SideForms(source=form, target=form)


class ModelConfig(Section):
    """The network."""

    cell: CellName = "lstm"
    embedding_size: Size = 256
    hidden_size: Size = 512
    num_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)] = 2
    bidirectional: bool = False
    reverse_source: bool = True
    context: ContextName = "init"
    attention: AttentionKind = "none"
    attention_score: AttentionScore = "general"
    input_feeding: bool = False
    feature_encoder: FeatureEncoderName | None = None
    dropout: Fraction = 0.2
    embedding_dropout: Fraction = 0.0
    embedding_unit_dropout: Fraction = 0.0
    memory_dropout: Fraction = 0.0
    tied_output: bool = False
    initialisation: Literal["default", "uniform"] = "default"
    initial_range: PositiveNumber = 0.08
    forget_bias: SignedNumber | Literal["drawn"] = 1.0


class _Schedule(Section):
    warmup: Count = 0


class ConstantSchedule(_Schedule):
    """A constant learning rate after the warm-up."""

    kind: Literal["constant"] = "constant"


class InverseSqrtSchedule(_Schedule):
    """Falls with the inverse square root of the update after the warm-up."""

    kind: Literal["inverse_sqrt"]
    warmup: PositiveCount = 1000


class CosineSchedule(_Schedule):
    """Half a cosine, which falls to ``final`` times the learning rate at the last update."""

    kind: Literal["cosine"]
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class HalvingSchedule(_Schedule):
    """Halved every ``every_epochs`` once ``start_epoch`` epochs are over (Sutskever et al. 2014)."""

    kind: Literal["halving"]
    start_epoch: Number = 5.0
    every_epochs: PositiveNumber = 0.5


Schedule = Annotated[
    ConstantSchedule | InverseSqrtSchedule | CosineSchedule | HalvingSchedule,
    Field(discriminator="kind", description='a table with its kind, for example { kind = "cosine", warmup = 500 }'),
]


class TrainingConfig(Section):
    """Length, speed and method of training. Exactly one key of each pair of ``ALTERNATIVES`` is not None."""

    updates: PositiveCount | None = None
    epochs: Annotated[float, Field(gt=0.0, le=COUNT.high)] | None = None
    batch_size: Size | None = None
    batch_tokens: PositiveCount | None = None
    accumulate: Annotated[int, within(ACCUMULATE)] = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: PositiveNumber = 1e-3
    weight_decay: Number = 0.0
    schedule: Schedule = ConstantSchedule()
    label_smoothing: Fraction = 0.0
    clip_norm: Number = 1.0
    normalise: Literal["tokens", "sequences"] = "tokens"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Annotated[str, Field(pattern=DEVICE_PATTERN, description=DEVICE_NAMES)] = "auto"
    backend: Literal["auto", "fused", "reference"] = "auto"
    seed: Seed = 1
    threads: Annotated[int, within(THREADS)] = 0
    journal_every: PositiveCount = 50
    checkpoint_every: Count = 500
    keep: PositiveCount = 3
    average: Count = 0
    init: Annotated[str, Field(pattern=r"\A[^\x00]*\z", description="the path of a bundle or run directory")] = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_alternatives(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for keys, value in zip(ALTERNATIVES, (20000, 128), strict=True):
                if not values.keys() & set(keys):
                    values = {**values, keys[0]: value}
        return values


class EvaluationConfig(Section):
    """When and how the model is evaluated on the development pairs."""

    every: Count = 1000
    select_on: Metric = "symbol_error_rate.free"
    max_sources: PositiveCount = 2000
    patience: Count = 10
    beam_size: Annotated[int, within(BEAM_SIZE)] = 1
    length_penalty: Annotated[float, within(LENGTH_PENALTY)] = 0.0
    early_stop: bool = False


class ForcingConfig(BaseModel):
    """The strategy that decides which tokens the decoder is fed in training; every other key belongs to it.

    ``phases`` (tables like this section, each with ``until``) excludes every other key.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    strategy: str | None = "teacher"
    phases: list[dict[str, Any]] | None = None


class PhaseConfig(BaseModel):
    """One of several phases: a strategy that ends with an update; every other key belongs to the strategy."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    strategy: str
    until: PositiveCount | None = None
    """The last update of the phase; None for the last phase, which lasts to the end of training."""


class Config(Section):
    """A complete configuration."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    forcing: ForcingConfig = ForcingConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
