"""Validation of a raw configuration as a whole: all errors are reported at once, in the user's terms."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from freerun.architecture import BOTH, NO_ATTENTION, SEQUENCE, AttentionSpec, attention_kinds, attention_scores
from freerun.config.fields import Target, kinds_of, models_of, one_of, resolve
from freerun.config.renamed import new_name
from freerun.config.sections import (
    ALTERNATIVES,
    Config,
    DataConfig,
    EvaluationConfig,
    ForcingConfig,
    ModelConfig,
    PhaseConfig,
    TrainingConfig,
)
from freerun.errors import ConfigError, UserError
from freerun.text import shown

__all__ = ["ForcingSettings", "check_values", "parse_config"]

M = TypeVar("M", bound=BaseModel)
ForcingSettings = Callable[[str], type[BaseModel]]
"""Maps a strategy's name to its settings; raises ConfigError for an unknown name."""


def parse_config(
    raw: Mapping[str, Any], location: object, forcing: ForcingSettings, origins: Mapping[str, str] | None = None
) -> Config:
    """Validate a raw configuration as a whole.

    Args:
        raw: nested sections, from TOML and --set.
        location: the file, as messages name it.
        forcing: maps a strategy's name to its settings.
        origins: key path -> the option that set it, for keys that were not set in ``location``.

    Raises:
        ConfigError: all errors at once.
    """
    check = _Check(raw, str(location), origins or {})
    config = check.validate(Config, raw)
    complete = check.forcing(forcing)
    check.check_combinations()
    if check.problems or config is None or complete is None:
        raise ConfigError(list(check.problems.values()))
    return config.model_copy(update={"forcing": ForcingConfig.model_validate(complete)})


def check_values(model: type[M], raw: Any, location: object) -> M:
    """Validate values that do not come from a training configuration in the same way, and with the same messages.

    Raises:
        ConfigError: all errors at once.
    """
    check = _Check(raw, str(location), {})
    values = check.validate(model, raw)
    if values is None:
        raise ConfigError(list(check.problems.values()))
    return values


@dataclass
class _Check:
    """Collects the errors of one raw configuration, the first at each key path."""

    raw: Mapping[str, Any]
    location: str
    origins: Mapping[str, str]
    problems: dict[str, UserError] = field(default_factory=dict)

    def validate(self, model: type[M], raw: Any, prefix: tuple[str, ...] = ()) -> M | None:
        """Return ``raw``, which is at the key path ``prefix``, as a ``model``; None if a type or range is wrong."""
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            for details in error.errors():
                self._add_details(details, model, prefix)
        return None

    def forcing(self, settings_of: ForcingSettings) -> dict[str, Any] | None:
        """Return [forcing] with all defaults of its strategy, or of the strategies of its phases."""
        section = self.raw.get("forcing", {})
        if not isinstance(section, Mapping):
            return None  # reported by the validation of the section
        if "phases" not in section:
            return self._strategy({"strategy": "teacher", **section}, settings_of, ("forcing",))
        phases = section["phases"]
        if not isinstance(phases, list) or not all(isinstance(phase, Mapping) for phase in phases) or not phases:
            self._add("forcing.phases", f"the value is {shown(phases)}", "Expected tables [[forcing.phases]]", "")
            return None
        for key in section.keys() - {"phases"}:
            what = "this key cannot be combined with phases"
            fix = "Move it into one of [[forcing.phases]]"
            self._add(f"forcing.{key}", what, "Expected phases alone", fix)
        complete = [self._phase(number, phase, settings_of) for number, phase in enumerate(phases, start=1)]
        self._check_ends(phases)
        return {"strategy": None, "phases": complete} if None not in complete else None

    def _phase(self, number: int, phase: Mapping[str, Any], settings_of: ForcingSettings) -> dict[str, Any] | None:
        path = ("forcing", f"phases[{number}]")
        config = self.validate(PhaseConfig, phase, path)
        if config is None:
            return None
        section = {key: value for key, value in phase.items() if key != "until"}
        complete = self._strategy(section, settings_of, path)
        if complete is None or config.until is None:
            return complete
        return {**complete, "until": config.until}

    def _check_ends(self, phases: Sequence[Mapping[str, Any]]) -> None:
        """Check that every phase except the last has an end, each later than the previous one."""
        previous = 0
        for number, phase in enumerate(phases, start=1):
            until, key = phase.get("until"), f"forcing.phases[{number}].until"
            if number == len(phases):
                if until is not None:
                    self._add(key, f"the value is {shown(until)}", "Expected no end for the last phase", "Remove it")
            elif until is None:
                self._add(key, "this key is missing", "Expected the last update of this phase", "Set this key")
            elif type(until) is int:
                if until <= previous:
                    what = f"the value is {until}, but the previous phase ends at {previous}"
                    self._add(key, what, f"Expected more than {previous}", "Raise the value")
                previous = until

    def _strategy(
        self, section: Mapping[str, Any], settings_of: ForcingSettings, path: tuple[str, ...]
    ) -> dict[str, Any] | None:
        """Return a strategy's name and its keys, defaults included."""
        name = section["strategy"]
        if not isinstance(name, str):
            return None  # reported by the validation of the section
        try:
            settings = settings_of(name)
        except ConfigError as error:
            for problem in error.problems:
                self._add(".".join((*path, "strategy")), problem.what, problem.expected, problem.fix)
            return None
        keys = {key: value for key, value in section.items() if key != "strategy"}
        values = self.validate(settings, keys, path)
        if values is None:
            return None
        self._check_used(values, path)
        return {"strategy": name, **values.model_dump(exclude_none=True)}

    def _check_used(self, settings: BaseModel, path: tuple[str, ...]) -> None:
        """Check that a key that another key switches off has its default, as in a complete configuration."""
        for key, (switch, values) in getattr(settings, "used_with", {}).items():
            value, chosen = getattr(settings, key), getattr(settings, switch)
            if chosen not in values and value != type(settings).model_fields[key].default:
                self._add(
                    ".".join((*path, key)),
                    f"the value is {shown(value)}, but {switch} = {shown(chosen)} does not use it",
                    f"Expected {switch} = {' or '.join(map(shown, values))}",
                    f"Change {key} or {switch}",
                )

    def check_combinations(self) -> None:
        """Check keys that are valid by themselves but not together."""
        training, model = self._section("training", TrainingConfig), self._section("model", ModelConfig)
        for one, other in ALTERNATIVES:
            values = [training.get(key) for key in (one, other)]
            if None not in values:
                both = f"both {one} = {shown(values[0])} and {other} = {shown(values[1])} are set"
                self._add(f"training.{other}", both, "Expected only one of them", "Remove one")
        average, keep = training["average"], training["keep"]
        if type(average) is type(keep) is int and average > keep >= 1:
            what = f"{shown(average)} checkpoints cannot be averaged if only keep = {shown(keep)} are retained"
            fix = f"Set training.keep to {shown(average)} or more"
            self._add("training.average", what, "Expected average <= keep", fix)
        self._contradictions_of_attention(model)
        evaluation = self._section("evaluation", EvaluationConfig)
        if evaluation["early_stop"] is True and evaluation["length_penalty"] == 0:
            self._add(
                "evaluation.early_stop",
                "early stopping has no effect without a length penalty",
                "Expected length_penalty above 0",
                "Set evaluation.length_penalty, or remove early_stop",
            )
        data = self._section("data", DataConfig)
        tokens = data["source_tokens"], data["target_tokens"]
        if data["shared_vocabulary"] is True and tokens[0] != tokens[1] and "auto" not in tokens:
            self._add(
                "data.shared_vocabulary",
                f"source_tokens = {shown(tokens[0])} and target_tokens = {shown(tokens[1])} cannot share a vocabulary",
                "Expected the same tokens on both sides",
                "Make the two equal, or set data.shared_vocabulary = false",
            )

    def _contradictions_of_attention(self, model: Mapping[str, Any]) -> None:
        attention, score = (
            _spec(attention_kinds(), model["attention"]),
            _spec(attention_scores(), model["attention_score"]),
        )
        is_scored = attention is not None and score is not None and attention.kind == score.kind
        if score is not None and is_scored and score.needs_equal_sizes and model["bidirectional"] is True:
            others = [each for each in attention_scores().values() if each.kind == score.kind]
            fitting = ", ".join(shown(each.score) for each in others if not each.needs_equal_sizes)
            self._add(
                "model.attention_score",
                f"{shown(score.score)} needs vectors of equal size, but those of a bidirectional encoder are twice as "
                "long",
                f"Expected one of {fitting}, or bidirectional = false",
                "Change attention_score or bidirectional",
            )
        if model["input_feeding"] is True and (attention is None or not attention.feeds_input):
            what = f"input feeding cannot be combined with attention = {shown(model['attention'])}"
            fitting = f"Expected attention = {_kinds_with(lambda spec: spec.feeds_input)}"
            self._add("model.input_feeding", what, fitting, "Change attention or input_feeding")
        encoder = model["feature_encoder"]
        if encoder in (SEQUENCE, BOTH) and attention is not None and attention.kind == NO_ATTENTION:
            self._add(
                "model.feature_encoder",
                f"{shown(encoder)} needs an attention, which reads features, but attention = {shown(attention.kind)}",
                f'Expected "summary", or attention = {_kinds_with(lambda spec: spec.kind != NO_ATTENTION)}',
                "Change feature_encoder or attention",
            )

    def _section(self, name: str, model: type[BaseModel]) -> dict[str, Any]:
        """Return a section with its defaults; only the defaults if it is no table."""
        section = self.raw.get(name, {})
        defaults = {key: value.default for key, value in model.model_fields.items()}
        return {**defaults, **(section if isinstance(section, Mapping) else {})}

    def _add(self, key: str, what: str, expected: str, fix: str) -> None:
        self.problems.setdefault(key, UserError(self._location(key), what, expected, fix))

    def _location(self, key: str) -> str:
        """Return the location of a key for the user: the option they typed, or file and key path."""
        for path, origin in self.origins.items():
            if key == path:
                return origin
            if key.startswith(f"{path}.") or path.startswith(f"{key}."):
                return f"{origin}: {key}"
        return f"{self.location}: {key}" if key else self.location

    def _add_details(self, details: Any, model: type[BaseModel], prefix: tuple[str, ...]) -> None:
        """Add one error of pydantic, in our words."""
        target = resolve(model, details["loc"])
        keys = (*prefix, *target.keys)
        key, expected = ".".join(keys), f"Expected {target.expectation()}"
        kinds = target.kinds()
        match details["type"]:
            case "extra_forbidden":
                self._add(key, *_unknown_key(key, target))
            case "union_tag_not_found":
                self._add(f"{key}.kind", "this key is missing", f"Expected {one_of(kinds)}", "Set this key")
            case "union_tag_invalid":
                value = details["input"].get("kind")
                what = f"the value is {shown(value)}"
                self._add(f"{key}.kind", what, f"Expected {one_of(kinds)}", _near(value, kinds))
            case "value_error":
                # a validator of a strategy's settings; it may give what, expected and fix, separated by bars
                what, _, rest = str(details["ctx"]["error"]).partition("|")
                own_expected, _, fix = rest.partition("|")
                self._add(key, what, own_expected or expected, fix)
            case "missing" if self._value(keys, None) is None:
                self._add(key, "this key is missing", expected, f"Set {target.required_keys()}")
            case "finite_number":
                what = f"the value is {shown(details['input'])}"
                self._add(key, what, expected.replace("a number", "a finite number"), "")
            case _:
                value = self._value(keys, details["input"])
                self._add(key, f"the value is {shown(value)}", expected, _fix(value, target))

    def _value(self, keys: Sequence[str], default: object) -> object:
        """Return the complete value at a key path; pydantic may name only a part of it."""
        value: Any = self.raw
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return value


def _spec(registry: Mapping[str, AttentionSpec], value: object) -> AttentionSpec | None:
    """Return the entry that a raw value names, None if it names none."""
    return registry.get(value) if isinstance(value, str) else None


def _kinds_with(fits: Callable[[AttentionSpec], bool]) -> str:
    """Return the attentions for which ``fits`` holds, as a list for messages."""
    return " or ".join(shown(kind) for kind, spec in attention_kinds().items() if fits(spec))


def _fix(value: object, target: Target) -> str:
    if isinstance(value, str) and value in target.kinds():
        return f'Write {target.keys[-1]} = {{ kind = "{value}" }}'
    return _near(value, target.words())


def _unknown_key(key: str, target: Target) -> tuple[str, str, str]:
    """Return what, expected and fix for a key that does not exist."""
    name, valid = target.keys[-1], sorted({name for model in target.models for name in model.model_fields})
    renamed_to = new_name(key)
    if renamed_to in valid:
        return "this key was renamed", f"Expected {renamed_to}", f"Write {renamed_to} in place of {name}"
    if key.startswith("forcing.") and len(target.keys) == 1:
        valid = [*(["strategy"] if "phases[" not in key else ["strategy", "until"]), *valid]
    kinds = kinds_of(target.models[0]) if len(target.models) == 1 else ()
    what = f"unknown key for kind = {shown(kinds[0])}" if kinds else "unknown key"
    homes = [section for section, inner in _sections() if name in inner.model_fields and section not in key.split(".")]
    fix = f"Move it to [{homes[0]}]" if homes else _near(name, valid) or "Remove it"
    return what, "Expected one of: " + ", ".join(valid), fix


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, info in Config.model_fields.items():
        for model in models_of(info.annotation):
            yield name, model


def _near(value: object, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, list(names), 1, 0.5) if isinstance(value, str) else []
    return f"The closest match is {near[0]!r}" if near else ""
