"""A plan with its data: pairs in files that can be read repeatedly, codecs, and all choices that depend on the data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from freerun.architecture import feature_encoder_for
from freerun.config import Config, DataConfig, merge, parse_config, shown, to_toml
from freerun.errors import ConfigError, RunError
from freerun.experiment.automatic import choose_before_data, choose_recipe
from freerun.experiment.bundle_reading import as_bundle_reads, check_bundle_features
from freerun.experiment.data_source import DataSource
from freerun.experiment.dataset import TrainingData, choose_text, load_data, most_frequent_of, write_held_out
from freerun.experiment.initial_model import (
    bundle_settings,
    data_hashes,
    read_initial_bundle,
)
from freerun.experiment.memory_files import MemoryFiles, digest_of, restore_memory_files, write_memory_files
from freerun.experiment.plan import RunPlan, clean_up_run
from freerun.experiment.prepared_data import check_initial_codecs, check_prepared_keys, prepared_keys
from freerun.experiment.spool import Spool, existing_spool, spool_pairs
from freerun.files import write_atomic
from freerun.log import log
from freerun.runtime.bundle import Bundle
from freerun.training.journal import read_journal

__all__ = ["PreparedRun", "check_pairs_in_memory", "prepared_run"]


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """Everything that a training needs.

    Attributes:
        plan: the plan; its configuration names copies of pairs, if there are any.
        config: the configuration with every choice made.
        data: the encoded pairs.
        init: the bundle to start from, if there is one.
        most_frequent: the most frequent training target, for baselines.
        hashes: SHA-256 of pairs and initial weights, by the key that the journal has them under.
        pairs: the pairs as streams.
        files: temporary files that are moved into the run directory when it is written.
    """

    plan: RunPlan
    config: Config
    data: TrainingData
    init: Bundle | None
    most_frequent: str
    hashes: Mapping[str, str]
    pairs: DataSource
    files: tuple[Spool | MemoryFiles, ...]

    def write_directory(self) -> None:
        """Write the configuration, which marks a directory as a run, then held-out and copied pairs.

        Raises:
            RunError: the directory cannot be written.
        """
        directory = self.plan.directory
        try:
            if not self.plan.resumes:
                clean_up_run(directory)
                write_atomic(directory / "config.toml", to_toml(self.config))
            # also of a run that is resumed: the file has no hash, and the pairs have
            write_held_out(self.config.data, self.pairs, directory)
            for files in self.files:
                files.publish()
        except OSError as error:
            raise RunError(
                directory,
                f"this directory cannot be written ({error.strerror or error})",
                "Expected a directory for the run",
                "Choose another with --out",
            ) from error


@contextlib.contextmanager
def prepared_run(plan: RunPlan) -> Iterator[PreparedRun]:
    """Read the data of a plan and make every choice; copies of pairs are removed unless the run directory is written.

    Raises:
        UserError: something that the user can fix; the run directory is unchanged.
    """
    init = read_initial_bundle(plan.config.training.init, plan.raw, plan.name)
    with contextlib.ExitStack() as stack:
        memory = _memory_files(plan)
        if memory is not None:
            stack.callback(memory.discard)
        data = plan.config.data if memory is None else _with_values(plan.config.data, memory.reading)
        spool = existing_spool(plan.directory, data) if plan.resumes else spool_pairs(plan.directory, data)
        stack.callback(spool.discard)
        plan = _naming_copies(plan, spool)
        reading = spool.reading if init is None else as_bundle_reads(spool.reading, init)
        pairs = DataSource.open(reading, "pairs" if "train" in plan.in_memory else spool.name)
        if pairs.prepared is not None:
            check_prepared_keys(plan.raw, pairs.prepared, plan.name)
        if init is not None:
            check_bundle_features(init, pairs.name, pairs.feature_separator)
            if pairs.prepared is not None:
                check_initial_codecs(init, pairs.prepared)
        hashes = data_hashes(pairs.hashes, init)
        if plan.resumes:
            _check_data(plan.directory, hashes)
        config, training_data = resolve_config(plan, pairs, init)
        most_frequent = most_frequent_of(pairs)
        files = (spool,) if memory is None else (spool, memory)
        yield PreparedRun(
            plan=plan,
            config=config,
            data=training_data,
            init=init,
            most_frequent=most_frequent,
            hashes=hashes,
            pairs=pairs,
            files=files,
        )


# -- pairs -------------------------------------------------------------------------------------------------------------


def _memory_files(plan: RunPlan) -> MemoryFiles | None:
    """Write pairs in memory to files; a resumed run has them already, and must be given the same pairs."""
    if not plan.in_memory:
        return None
    if not plan.resumes:
        return write_memory_files(plan.directory, plan.in_memory)
    check_pairs_in_memory(plan)
    restore_memory_files(plan.directory, plan.in_memory)
    return None


def check_pairs_in_memory(plan: RunPlan) -> None:
    """Check that pairs in memory are those that the run was started with.

    Raises:
        RunError: they are not.
    """
    _check_data(plan.directory, {f"{part}_sha256": digest_of(pairs) for part, pairs in plan.in_memory.items()})


def _naming_copies(plan: RunPlan, spool: Spool) -> RunPlan:
    """Return the plan with the run's copies in place of pipes."""
    if not spool.recorded:
        return plan
    raw = merge(plan.raw, {"data": spool.recorded})
    data = _with_values(plan.config.data, spool.recorded)
    return replace(plan, raw=raw, config=plan.config.model_copy(update={"data": data}))


def _with_values(data: DataConfig, values: Mapping[str, Any]) -> DataConfig:
    return DataConfig.model_validate({**data.model_dump(), **values})


def _check_data(directory: Path, hashes: Mapping[str, str]) -> None:
    """Check that data have the hashes that the journal recorded at the start of the run."""
    events = read_journal(directory / "journal.jsonl")
    before = events[0] if events else {}
    names = {"train_sha256": "training pairs", "dev_sha256": "development pairs", "init_sha256": "initial model"}
    changed = [(names[key], before[key], value) for key, value in hashes.items() if before.get(key, value) != value]
    if changed:
        details = "; ".join(
            f"the {name} (SHA-256 was {old[:12]}..., is now {new[:12]}...)" for name, old, new in changed
        )
        raise RunError(
            directory,
            f"the data of this run has changed since it was started: {details}",
            "Expected the same data",
            "Restore the data to resume, or train into another directory with --out",
        )


# -- choices -----------------------------------------------------------------------------------------------------------


def resolve_config(plan: RunPlan, pairs: DataSource, init: Bundle | None) -> tuple[Config, TrainingData]:
    """Choose what was left open: the tokens, and without a configuration the model's dimensions and the length."""
    chosen = _nested(bundle_settings(init)) if init else {"data": choose_text(plan.config.data, pairs)}
    if init and pairs.prepared is not None:
        chosen = merge(chosen, {"data": prepared_keys(pairs.prepared)})
    raw = merge(merge(plan.raw, _feature_settings(plan.config, pairs)), chosen)
    automatic = choose_before_data(raw) if plan.automatic else {}
    config = _parsed(plan, merge(automatic, raw))
    data = load_data(config, pairs, (init.source, init.target) if init else None)
    if plan.automatic:
        choice = choose_recipe(
            data, raw, plan.limit, lambda values: _parsed(plan, merge(_nested(values), raw)), plan.processes
        )
        for reason in choice.reasons:
            log.info(reason)
        raw = merge(_nested(choice.values), raw)
        config = _parsed(plan, raw)
    if data.source.features is not None and config.model.feature_encoder is None:
        encoder = {"model": {"feature_encoder": feature_encoder_for(config.model.attention)}}
        config = _parsed(plan, merge(raw, encoder))
    return config, data


def _feature_settings(config: Config, pairs: DataSource) -> dict[str, Any]:
    """Return the keys of [data] that record how features are read; none for pairs without features.

    Raises:
        ConfigError: such a key is set, and the pairs have no features.
    """
    if pairs.feature_separator is not None:
        return {"data": pairs.fields.settings()}
    keys = {
        "data.feature_separator": config.data.feature_separator,
        "model.feature_encoder": config.model.feature_encoder,
    }
    for key, value in keys.items():
        if value is not None:
            raise ConfigError.single(
                key,
                f"the value is {shown(value)}, but {pairs.name} has no features",
                "Expected pairs with features: a third column, or the key features in JSON Lines",
                "Remove this key, or choose the columns with --columns, for example 1,2,3",
            )
    return {}


def _parsed(plan: RunPlan, raw: Mapping[str, Any]) -> Config:
    return parse_config(raw, plan.name, plan.trust.settings_of, plan.origins)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by key path as sections."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        section, _, key = path.partition(".")
        nested.setdefault(section, {})[key] = value
    return nested
