"""Arguments that several functions of the API share, checked and converted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freerun.arguments import as_path, check_int, wrong_type
from freerun.data.memory_pairs import PairsInMemory, pairs_in_memory
from freerun.data.readers import Columns, PairsLocation, ParallelFiles
from freerun.errors import ConfigError, UserError
from freerun.experiment.pairs_spec import PairsSpec, pairs_spec
from freerun.runtime.predictor import Predictor

__all__ = ["Pairs", "as_model_path", "as_pairs", "check_progress", "optional_path", "reject_load_options"]

Pairs = str | Path | ParallelFiles | Iterable[object]
"""A file of pairs, two parallel files, or pairs in memory: (source, target), or objects with these attributes."""


def as_pairs(name: str, pairs: Pairs | None, columns: Columns | None, models: Sequence[Path]) -> PairsSpec:
    """Return the argument ``name``, pairs of any kind; None: the development pairs of the first model's run.

    Args:
        name: of the argument, for messages.
        pairs: the argument.
        columns: the source and target columns of a TSV file, from 1; None: those of the run of one of the models.
        models: their paths, none for a loaded model.

    Raises:
        TypeError: an argument of another type.
        UserError: no pairs, and a model that has none; or columns that do not apply.
    """
    _check_columns(columns)
    location = _location(name, pairs)
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


def _location(name: str, pairs: Any) -> PairsLocation | PairsInMemory | None:
    if pairs is None or isinstance(pairs, ParallelFiles):
        return pairs
    if isinstance(pairs, str | os.PathLike):
        return as_path(name, pairs)
    if not isinstance(pairs, Iterable):
        expected = "a path (str or os.PathLike), or pairs in memory: a list or another iterable of (source, target)"
        raise wrong_type(name, pairs, expected)
    return pairs_in_memory(name, pairs)


def _check_columns(columns: object) -> None:
    if columns is None:
        return
    if not isinstance(columns, tuple) or len(columns) != 2:
        raise wrong_type("columns", columns, "None or the numbers of two columns, for example (1, 3)")
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


def optional_path(name: str, value: str | Path | None) -> Path | None:
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
