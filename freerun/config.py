"""The configuration: TOML, checked as a whole before anything starts.

Every key has its one default here. All faults are reported at once, each with its key path and, for an unknown key, the
nearest valid name. Settings of a forcing strategy are checked together with the rest: the caller hands in ``forcing``,
a function from a strategy's name to the pydantic model of its settings.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from freerun.errors import ConfigError, UserError

__all__ = [
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "FilePair",
    "ForcingSettings",
    "ModelConfig",
    "TrainingConfig",
    "absolute_paths",
    "apply_overrides",
    "changed_keys",
    "flatten",
    "merge",
    "parse_config",
    "read_toml",
    "to_toml",
]

Metric = Literal[
    "symbol_error_rate.free", "sequence_accuracy.free", "bleu.free", "chrf.free", "nll.teacher", "token_accuracy.teacher"
]
HIGHER_IS_BETTER = ("sequence_accuracy.free", "bleu.free", "chrf.free", "token_accuracy.teacher")
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
ForcingSettings = Callable[[str], type[BaseModel]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


def _plain_types(annotation: Any) -> set[type]:
    """The scalar types that an annotation names, through Optional, Annotated and Literal."""
    if isinstance(annotation, type):
        return {annotation}
    found: set[type] = set()
    for argument in get_args(annotation):
        found |= _plain_types(argument) if not isinstance(argument, str) else {str}
    return found


class FilePair(_Section):
    """Two parallel text files."""

    source: str
    target: str


class DataConfig(_Section):
    """What is read, and how text becomes tokens."""

    train: str | FilePair
    dev: str | FilePair | None = None
    columns: Annotated[tuple[Positive, Positive] | None, Field(strict=False)] = None
    source_tokens: str = "auto"
    target_tokens: str = "auto"
    normalisation: Literal["NFC", "NFD", "NFKC", "NFKD", "none"] = "NFC"
    source_case: Literal["keep", "lower"] = "keep"
    minimum_count: Positive = 1
    shared_vocabulary: bool = False
    max_source_length: Positive = 1000
    max_target_length: Positive = 1000


class ModelConfig(_Section):
    """The network."""

    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    embedding_size: Positive = 256
    hidden_size: Positive = 512
    num_layers: Positive = 2
    bidirectional: bool = False
    reverse_source: bool = True
    context: Literal["init", "every_step"] = "init"
    attention: Literal["none", "luong"] = "none"
    attention_score: Literal["dot", "general", "concat"] = "general"
    dropout: Share = 0.2
    embedding_dropout: Share = 0.0
    tied_output: bool = False
    initialisation: Literal["default", "uniform"] = "default"
    initial_range: Annotated[float, Field(gt=0.0)] = 0.08
    forget_bias: float = 1.0

    @model_validator(mode="after")
    def _dot_needs_equal_sizes(self) -> ModelConfig:
        if self.attention == "luong" and self.attention_score == "dot" and self.bidirectional:
            raise ValueError(
                'attention_score "dot" compares vectors of one size, but a two-directional encoder\'s are twice as long'
                '|Expected "general" or "concat", or bidirectional = false|Change one of the two'
            )
        return self


class _Schedule(_Section):
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
    ConstantSchedule | InverseSqrtSchedule | CosineSchedule | HalvingSchedule, Field(discriminator="kind")
]


class TrainingConfig(_Section):
    """How long, how fast and with what the model learns."""

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
    backend: Literal["fused", "reference"] = "fused"
    seed: int = 1
    threads: NonNegative = 0
    journal_every: Positive = 50
    checkpoint_every: NonNegative = 500
    keep: Positive = 3
    average: NonNegative = 0
    init: str = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_alternatives(cls, values: Any) -> Any:
        if isinstance(values, dict):
            if "updates" not in values and "epochs" not in values:
                values = {**values, "updates": 20000}
            if "batch_size" not in values and "batch_tokens" not in values:
                values = {**values, "batch_size": 128}
        return values

    @model_validator(mode="after")
    def _one_of_each(self) -> TrainingConfig:
        for one, other in (("updates", "epochs"), ("batch_size", "batch_tokens")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"both {one} and {other} are set|Expected one of them|Remove the other")
        if self.average > self.keep:
            raise ValueError(
                f"average = {self.average} checkpoints cannot be averaged when keep = {self.keep} of them are kept"
                f"|Expected average <= keep|Set keep = {self.average} or more"
            )
        return self


class EvaluationConfig(_Section):
    """When and how the model is measured on the development pairs."""

    every: NonNegative = 1000
    select_on: Metric = "symbol_error_rate.free"
    max_sources: Positive = 2000
    patience: NonNegative = 10
    beam_size: Positive = 1
    length_penalty: Annotated[float, Field(ge=0.0)] = 0.0


class ForcingConfig(BaseModel):
    """Which tokens the decoder is fed in training; every other key belongs to the strategy."""

    model_config = ConfigDict(extra="allow", frozen=True)
    strategy: str = "teacher"


class Config(_Section):
    """A whole configuration."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    forcing: ForcingConfig = ForcingConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def read_toml(path: Path) -> dict[str, Any]:
    """The raw content of a TOML file.

    Raises:
        ConfigError: no such file, a folder, not UTF-8, or not TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError.single(path, "no such file", "Expected a TOML configuration", "Check the path") from None
    except IsADirectoryError:
        raise ConfigError.single(
            path, "this is a folder", "Expected a TOML configuration file", "Name the file in it"
        ) from None
    except PermissionError:
        raise ConfigError.single(path, "no permission to read it", fix="Change its permissions") from None
    except UnicodeDecodeError as error:
        raise ConfigError.single(
            path, f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8", "Expected UTF-8 text"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError.single(path, f"not valid TOML: {error}", fix="Correct the line it names") from None


def apply_overrides(raw: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """``raw`` with ``key.path=VALUE`` settings put over it; VALUE is TOML, and what does not parse is a string."""
    result: dict[str, Any] = _copy(raw)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError.single(
                f"--set {setting}", "this is not key=value", "Expected key.path=value, for example training.seed=3"
            )
        place = result
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError.single(f"--set {setting}", f"{key!r} holds a value, not a section")
        place[keys[-1]] = _toml_value(text)
    return result


def _copy(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in raw.items()}


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def parse_config(raw: Mapping[str, Any], where: object, forcing: ForcingSettings) -> Config:
    """Check a raw configuration as a whole.

    Args:
        raw: what TOML and --set gave.
        where: named in messages (the file).
        forcing: the settings of a strategy, by its name; raises ConfigError for an unknown one.

    Raises:
        ConfigError: every fault at once.
    """
    problems: list[UserError] = []
    config = None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        problems += [_problem(where, fault) for fault in error.errors()]
    strategy = raw.get("forcing", {})
    complete: BaseModel | None = None
    if isinstance(strategy, Mapping):
        try:
            complete = _forcing(strategy, forcing)
        except ValidationError as error:
            problems += [_problem(where, fault, ("forcing",), forcing(_strategy_name(strategy))) for fault in error.errors()]
        except ConfigError as error:
            problems += [UserError(f"{where}: forcing.strategy", p.what, p.expected, p.fix) for p in error.problems]
    if problems or config is None or complete is None:
        raise ConfigError(problems)
    full = {"strategy": config.forcing.strategy, **complete.model_dump(exclude_none=True)}
    return config.model_copy(update={"forcing": ForcingConfig.model_validate(full)})


def _strategy_name(raw: Mapping[str, Any]) -> str:
    return str(raw.get("strategy", "teacher"))


def _forcing(raw: Mapping[str, Any], forcing: ForcingSettings) -> BaseModel:
    settings = {key: value for key, value in raw.items() if key != "strategy"}
    return forcing(_strategy_name(raw)).model_validate(settings)


def _problem(
    where: object, fault: Any, prefix: tuple[str, ...] = (), model: type[BaseModel] = Config
) -> UserError:
    """One pydantic fault as a message of ours."""
    path = [str(part) for part in fault["loc"] if str(part) not in _UNION_TAGS]
    key = ".".join((*prefix, *path))
    place = f"{where}: {key}" if key else str(where)
    if fault["type"] == "extra_forbidden":
        names = list(_fields_at(model, path[:-1]))
        near = difflib.get_close_matches(path[-1], names, 1, 0.5)
        fix = f"Did you mean {near[0]!r}?".rstrip("?") if near else "Remove it"
        return UserError(place, "unknown key", "Expected one of: " + ", ".join(sorted(names)), fix)
    if fault["type"] == "missing":
        return UserError(place, "this key is missing", fix="Set it")
    if fault["type"] == "value_error":
        what, _, rest = str(fault["ctx"]["error"]).partition("|")
        expected, _, fix = rest.partition("|")
        value = "" if isinstance(fault["input"], dict) else f"{fault['input']!r}: "
        return UserError(place, value + what, expected or _expectation(model, path), fix)
    message = str(fault["msg"]).replace("Input should be", "Expected").replace("Input tag", "Expected kind: tag")
    return UserError(place, f"the value is {_shown(fault['input'])}", message)


_UNION_TAGS = {"FilePair", "str", "constant", "inverse_sqrt", "cosine", "halving"}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields_at(model: type[BaseModel], path: Iterable[str]) -> set[str]:
    """The valid keys of the section at ``path`` (of all its kinds, where it has several)."""
    models = [model]
    for part in path:
        models = [inner for m in models for inner in _inner_models(m.model_fields[part].annotation)]
    return {name for m in models for name in m.model_fields}


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [m for argument in get_args(annotation) for m in _inner_models(argument)]


def _expectation(model: type[BaseModel], path: Sequence[str]) -> str:
    field = None
    models = [model]
    for part in path:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        if not fields:
            return ""
        field = fields[0]
        models = _inner_models(field.annotation)
    if field is None:
        return ""
    names = sorted({"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}[t.__name__]
                   for t in _plain_types(field.annotation) if t in (int, float, bool, str))
    return "Expected " + " or ".join(names) if names else ""


def absolute_paths(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A raw configuration whose relative paths count from ``folder``; what is not a path is left for ``parse_config``."""
    result = _copy(raw)
    data, training = result.get("data"), result.get("training")
    if isinstance(data, dict):
        for key in ("train", "dev"):
            value = data.get(key)
            if isinstance(value, dict):
                data[key] = {side: _absolute(path, folder) for side, path in value.items()}
            elif value is not None:
                data[key] = _absolute(value, folder)
    if isinstance(training, dict) and training.get("init"):
        training["init"] = _absolute(training["init"], folder)
    return result


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two raw configurations as one; ``over`` wins, key by key."""
    result = _copy(under)
    for key, value in over.items():
        below = result.get(key)
        # a schedule is chosen as a whole: keys of another kind must not shine through
        whole = key == "schedule" or not (isinstance(below, dict) and isinstance(value, dict))
        result[key] = value if whole else merge(below or {}, value)
    return result


def _absolute(path: Any, folder: Path) -> Any:
    if not isinstance(path, str) or "\0" in path:
        return path
    return str((folder / Path(path).expanduser()).resolve())


def to_toml(config: Config) -> str:
    """The complete configuration as TOML, every default written out; keys without a value are left out."""
    return tomli_w.dumps(config.model_dump(exclude_none=True, mode="json"))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one flat mapping, key path -> value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The key paths at which two raw configurations differ, with both values (None where absent)."""
    before, after = flatten(old), flatten(new)
    return [(key, before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)]
