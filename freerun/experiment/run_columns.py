"""The columns of the runs and bundles that read other pairs than those they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from freerun.config import DataConfig, check_values, read_toml
from freerun.data.columns import COLUMNS_WITH_FEATURES, Columns, are_names, listed
from freerun.data.readers import PairsLocation, PairsPart, ParallelFiles, has_columns
from freerun.errors import ConfigError
from freerun.strict_json import parse

__all__ = ["columns_for", "columns_of_runs", "data_of_run", "held_out_columns", "if_possible"]


def if_possible(location: PairsLocation, columns: Columns | None) -> Columns | None:
    """Return columns that were chosen for other pairs, None if no file of these pairs has such numbers or names."""
    return columns if columns is not None and has_columns(location, are_names(columns)) else None


def columns_for(location: PairsLocation, columns: Columns | None, separator: str | None) -> Columns | None:
    """Return the columns of other pairs for the same model, whose training pairs had ``columns``.

    With a feature ``separator`` the model has features, so a TSV file has a column for them.
    """
    usual = None if separator is None else COLUMNS_WITH_FEATURES
    return if_possible(location, columns) or if_possible(location, usual)


def held_out_columns(data: DataConfig) -> Columns | None:
    """Return the columns of the file that a run writes its held-out pairs to."""
    return None if data.feature_separator is None else COLUMNS_WITH_FEATURES


def data_of_run(model: Path) -> DataConfig:
    """Return the section [data] of a run directory's ``config.toml``."""
    path = model / "config.toml"
    # the rest of the configuration is for training, and may name a custom strategy that cannot be imported here
    return check_values(DataConfig, read_toml(path).get("data", {}), path)


def columns_of_runs(models: Sequence[Path], location: PairsPart) -> Columns | None:
    """Return the columns that the runs among ``models`` were trained with, or those of pairs that one of them held out.

    A model with features that is not a run reads the usual three.
    """
    if isinstance(location, ParallelFiles):
        return None
    chosen: dict[Columns, Path] = {}
    for model in models:
        if not (model / "config.toml").is_file():
            if _has_features(model) and (columns := if_possible(location, COLUMNS_WITH_FEATURES)):
                chosen.setdefault(columns, model)
            continue
        data = data_of_run(model)
        if data.dev is None and _same_file(location, model / "dev.tsv"):
            return held_out_columns(data)
        if columns := columns_for(location, data.columns, data.feature_separator):
            chosen.setdefault(columns, model)
    return _one_choice(chosen, location) if chosen else None


def _one_choice(chosen: dict[Columns, Path], location: Path) -> Columns:
    """Return the columns that all models can read: a model without features reads two of three."""
    if len({columns[:2] for columns in chosen}) > 1 or len({columns[2:] for columns in chosen} - {()}) > 1:
        each = "; ".join(f"{model}: {listed(columns)}" for columns, model in chosen.items())
        raise ConfigError.single(
            location,
            f"the runs were trained with different columns ({each})",
            "Expected one choice of columns for all models",
            "Choose them with --columns",
        )
    columns = max(chosen, key=len)
    fields = "source and target" if len(columns) == 2 else "source, target and features"
    _notify(f"{location}: {fields} are columns {listed(columns)}, as in {chosen[columns]}; see --columns.")
    return columns


def _notify(text: str) -> None:
    from freerun.log import log  # not above, as in pairs_spec

    log.info(text)


def _has_features(model: Path) -> bool:
    """Return True for a bundle of a model with features; what is wrong with another one is reported as it is loaded."""
    try:
        config = parse((model / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "features" in config


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
