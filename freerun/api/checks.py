"""Arguments that several functions of the API share, checked and converted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freerun.arguments import as_list, as_path, check_int, check_text, wrong_type
from freerun.config import Config
from freerun.data.memory_pairs import PairsInMemory, pairs_in_memory
from freerun.data.readers import Columns, PairsPart, ParallelFiles
from freerun.errors import ConfigError, DataError, UserError
from freerun.experiment.pairs_spec import PairsSpec, pairs_spec
from freerun.runtime.predictor import Predictor

__all__ = [
    "AnyPath",
    "Pairs",
    "Progress",
    "as_location",
    "as_model_path",
    "as_pairs",
    "as_sections",
    "as_settings",
    "check_progress",
    "optional_path",
    "reject_load_options",
]

AnyPath = str | os.PathLike[str]

Pairs = AnyPath | ParallelFiles | Iterable[object]
"""A file of pairs, two parallel files, or pairs in memory: (source, target), (source, target, features), or objects
with these attributes."""
Progress = Callable[[int, int], None]
"""Called with the number of finished items and of all."""


def as_pairs(name: str, pairs: Pairs | None, columns: Columns | None, models: Sequence[Path]) -> PairsSpec:
    """Return the argument ``name``, pairs of any kind; None: the development pairs of the first model's run.

    Args:
        name: of the argument, for messages.
        pairs: the argument.
        columns: the source and target columns, and that of the features if the model has any: numbers from 1 in a TSV
            file, names in a Parquet or Arrow file. None: those of the run of one of the models.
        models: their paths, none for a loaded model.

    Raises:
        TypeError: an argument of another type.
        UserError: no pairs, and a model that has none; or columns that do not apply.
    """
    _check_columns(columns)
    location = None if pairs is None else as_location(name, pairs)
    if location is None and not models:
        raise UserError(
            name,
            "no pairs were given, and a loaded Predictor has no development pairs",
            "Expected pairs, or the path of a run",
            "Pass one of them",
        )
    if columns is not None and isinstance(location, PairsInMemory):
        raise UserError(
            "columns", f"the value is {columns}, but pairs in memory have no columns", "Expected None", "Leave it out"
        )
    return pairs_spec(models, location, columns)


def as_location(name: str, pairs: Any, position: str = "", alternative: str = "") -> PairsPart | PairsInMemory:
    """Return pairs of any kind: the location of a file or of two, or pairs in memory.

    Args:
        name: of the argument, for messages.
        pairs: the argument.
        position: the name of the argument in messages about one pair. Default: ``name``.
        alternative: what else the argument may be, for messages.

    Raises:
        TypeError: an argument of another type, or an item that is no pair.
        DataError: no pairs, or a text that no file of pairs could hold.
    """
    if isinstance(pairs, ParallelFiles):
        return ParallelFiles(as_path(f"{name}.source", pairs.source), as_path(f"{name}.target", pairs.target))
    if isinstance(pairs, str | os.PathLike):
        return as_path(name, pairs)
    # a configuration is an iterable of its sections
    if not isinstance(pairs, Iterable) or isinstance(pairs, bytes | bytearray | Config | Mapping):
        raise wrong_type(name, pairs, f"a path, or an iterable of pairs (source, target){alternative}")
    result = pairs_in_memory(position or name, pairs)
    if not result.pairs:
        raise DataError(name, "there are no pairs", "Expected at least one pair (source, target)", "Pass some")
    return result


def as_sections(name: str, configuration: Config | Mapping[Any, Any]) -> dict[str, Any]:
    """Return a configuration as TOML would give it: paths as texts, and NumPy's numbers as Python's.

    Raises:
        TypeError: a key that is not a str.
    """
    if isinstance(configuration, Config):
        return configuration.model_dump(exclude_none=True, mode="json")
    return {key: _value(f"{name}.{key}", value) for key, value in _with_text_keys(name, configuration)}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _value(f"{name}.{key}", inner) for key, inner in _with_text_keys(name, value)}
    if isinstance(value, list | tuple):
        return [_value(f"{name}[{number}]", item) for number, item in enumerate(value)]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _with_text_keys(name: str, values: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    for key in values:
        check_text(f"a key of {name}", key)
    return values.items()


def _check_columns(columns: object) -> None:
    if columns is None:
        return
    if not isinstance(columns, tuple) or len(columns) not in (2, 3):
        expected = 'None or two or three columns, for example (1, 3), (1, 2, 3) or ("source", "target")'
        raise wrong_type("columns", columns, expected)
    if all(isinstance(column, str) and column for column in columns):
        return
    for number, column in enumerate(columns):
        check_int(f"columns[{number}]", column)
        if column < 1:
            what = f"the value is {column}"
            raise ConfigError.single(f"columns[{number}]", what, "Expected 1 or more", "Count columns from 1")


def as_model_path(model: Any, why: str) -> Path:
    """Return the path of a model; ``why`` says, for a message, why a loaded one will not do.

    Raises:
        TypeError: something else.
    """
    if isinstance(model, Predictor):
        raise wrong_type("model", model, f"the path of a run or a bundle, because {why}")
    return as_path("model", model)


def optional_path(name: str, value: AnyPath | None) -> Path | None:
    """Return a path or None; raises TypeError for anything else."""
    return None if value is None else as_path(name, value)


def check_progress(progress: object) -> None:
    """Raise TypeError unless ``progress`` is None or can be called."""
    if progress is not None and not callable(progress):
        raise wrong_type("progress", progress, "None or a function of (done, total)")


def reject_load_options(options: Mapping[str, object]) -> None:
    """Raise UserError for options of loading that were given together with a loaded model; unset ones are falsy."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UserError(
            given[0],
            "this option is given together with a loaded Predictor",
            "Expected it only with the path of a model",
            "Pass it to freerun.load",
        )


def as_settings(settings: Any) -> tuple[str, ...]:
    """Return the argument ``settings``, "key.path=value" items.

    Raises:
        TypeError: it is no list, or an item is no text.
    """
    items = as_list("settings", settings, 'str, for example ["training.seed=3"]')
    for number, setting in enumerate(items):
        check_text(f"settings[{number}]", setting)
    return tuple(items)
