"""The sections of a configuration, their keys and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from freerun.threads import MAX_THREADS

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
"""Keys of [training] of which one is set."""

# a description is what a message tells the user to expect; without one it is made from the type
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
PathText = Annotated[str, Field(pattern=r"\A[^\x00]+\z", description="a path")]
Columns = Annotated[
    tuple[Positive, Positive] | None,
    Field(strict=False, description="two columns, counted from 1, for example [1, 2]"),
]
TokensSpec = Annotated[
    str,
    Field(
        pattern=r"\A(auto|char|whitespace|sentencepiece:0*[1-9][0-9]*)\z",
        description='"auto", "char", "whitespace" or "sentencepiece:N" with N pieces, for example "sentencepiece:8000"',
    ),
]


class Section(BaseModel):
    """A table of keys that are all known, with values that are what they are said to be."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


class FilePair(Section):
    """Two parallel text files."""

    source: PathText
    target: PathText


def _kind_of_files(value: object) -> str:
    return "pair" if isinstance(value, dict | FilePair) else "path"


Files = Annotated[
    Annotated[PathText, Tag("path")] | Annotated[FilePair, Tag("pair")],
    Field(
        discriminator=Discriminator(_kind_of_files),
        description='a path, or { source = "PATH", target = "PATH" } for two parallel files',
    ),
]


class DataConfig(Section):
    """What is read, and how text becomes tokens."""

    train: Files
    dev: Files | None = None
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the sources held out for evaluation (2,000 at most) where ``dev`` is not given."""
    columns: Columns = None
    source_tokens: TokensSpec = "auto"
    target_tokens: TokensSpec = "auto"
    normalisation: Literal["NFC", "NFD", "NFKC", "NFKD", "none"] = "NFC"
    source_case: Literal["keep", "lower"] = "keep"
    minimum_count: Positive = 1
    shared_vocabulary: bool = False
    max_source_length: Positive = 1000
    max_target_length: Positive = 1000


class ModelConfig(Section):
    """The network."""

    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    embedding_size: Positive = 256
    hidden_size: Positive = 512
    num_layers: Positive = 2
    bidirectional: bool = False
    reverse_source: bool = True
    context: Literal["init", "every_step"] = "init"
    attention: Literal["none", "luong", "bahdanau"] = "none"
    attention_score: Literal["dot", "general", "concat"] = "general"
    input_feeding: bool = False
    dropout: Share = 0.2
    embedding_dropout: Share = 0.0
    tied_output: bool = False
    initialisation: Literal["default", "uniform"] = "default"
    initial_range: Annotated[float, Field(gt=0.0)] = 0.08
    forget_bias: float | Literal["drawn"] = 1.0


class _Schedule(Section):
    warmup: NonNegative = 0


class ConstantSchedule(_Schedule):
    """The learning rate as it is, after the warm-up."""

    kind: Literal["constant"] = "constant"


class InverseSqrtSchedule(_Schedule):
    """Falls with one over the square root of the update, from the end of the warm-up on."""

    kind: Literal["inverse_sqrt"]
    warmup: Positive = 1000


class CosineSchedule(_Schedule):
    """Half a cosine, down to ``final`` times the learning rate at the last update."""

    kind: Literal["cosine"]
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class HalvingSchedule(_Schedule):
    """Halved every ``every_epochs`` once ``start_epoch`` epochs are over (Sutskever et al. 2014)."""

    kind: Literal["halving"]
    start_epoch: Annotated[float, Field(ge=0.0)] = 5.0
    every_epochs: Annotated[float, Field(gt=0.0)] = 0.5


Schedule = Annotated[
    ConstantSchedule | InverseSqrtSchedule | CosineSchedule | HalvingSchedule,
    Field(discriminator="kind", description='a table with its kind, for example { kind = "cosine", warmup = 500 }'),
]


class TrainingConfig(Section):
    """How long, how fast and with what the model learns. Of each pair of ``ALTERNATIVES`` one is not None."""

    updates: Positive | None = None
    epochs: Annotated[float, Field(gt=0.0)] | None = None
    batch_size: Positive | None = None
    batch_tokens: Positive | None = None
    accumulate: Positive = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    schedule: Schedule = ConstantSchedule()
    label_smoothing: Share = 0.0
    clip_norm: Annotated[float, Field(ge=0.0)] = 1.0
    normalise: Literal["tokens", "sequences"] = "tokens"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    backend: Literal["auto", "fused", "reference"] = "auto"
    seed: int = 1
    threads: Annotated[int, Field(ge=0, le=MAX_THREADS)] = 0
    journal_every: Positive = 50
    checkpoint_every: NonNegative = 500
    keep: Positive = 3
    average: NonNegative = 0
    init: Annotated[str, Field(pattern=r"\A[^\x00]*\z", description="the path of a bundle or run folder")] = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_alternatives(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for keys, value in zip(ALTERNATIVES, (20000, 128), strict=True):
                if not values.keys() & set(keys):
                    values = {**values, keys[0]: value}
        return values


class EvaluationConfig(Section):
    """When and how the model is measured on the development pairs."""

    every: NonNegative = 1000
    select_on: Metric = "symbol_error_rate.free"
    max_sources: Positive = 2000
    patience: NonNegative = 10
    beam_size: Positive = 1
    length_penalty: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    early_stop: bool = False


class ForcingConfig(BaseModel):
    """Which tokens the decoder is fed in training; every other key belongs to the strategy.

    With ``phases`` (tables like this section, each with ``until``) there is nothing else in it.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    strategy: str | None = "teacher"
    phases: list[dict[str, Any]] | None = None


class PhaseConfig(BaseModel):
    """One of several phases: a strategy up to an update; every other key belongs to the strategy."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    strategy: str
    until: Positive | None = None
    """The last update of the phase; none for the last phase, which goes on to the end."""


class Config(Section):
    """A whole configuration."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    forcing: ForcingConfig = ForcingConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
