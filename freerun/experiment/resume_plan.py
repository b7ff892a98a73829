"""The configuration of a run that is resumed: the request has to agree with it, except that the run may be longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun.config import (
    ALTERNATIVES,
    Config,
    changed_keys,
    flatten,
    override,
    parse_config,
    read_toml,
    shown,
    strategies_of,
    with_new_names,
)
from freerun.data.readers import COLUMNS_WITH_FEATURES
from freerun.errors import ConfigError, RunError
from freerun.experiment.lengthening import (
    LENGTHS,
    Change,
    Lengthening,
    check_lengthening,
    has_changed,
    length_of,
    recorded_length,
    with_length,
)
from freerun.experiment.memory_files import complete_memory_files, is_memory_file
from freerun.experiment.prepared_data import names_prepared
from freerun.experiment.request import (
    COMMAND,
    DEVICE_KEY,
    TrainRequest,
    for_all_processes,
    option_origins,
    source_config,
    with_options,
)
from freerun.experiment.spool import complete_spool, with_copies
from freerun.forcing.registry import Trust
from freerun.training.journal import read_journal

__all__ = ["ResumedConfig", "check_shares", "resume_config"]

ACCUMULATE = "training.accumulate"

_SET_BY_A_BUNDLE = ("data.normalisation", "data.source_case", "data.source_tokens", "data.target_tokens")


@dataclass(frozen=True)
class ResumedConfig:
    """The configuration of a resumed run, complete, and as sections ``raw``.

    ``is_outdated``: ``config.toml`` still has another length. ``trust`` covers the strategies that the user names.
    """

    config: Config
    raw: Mapping[str, Any]
    length: Lengthening
    is_outdated: bool
    trust: Trust


def resume_config(request: TrainRequest, directory: Path) -> ResumedConfig:
    """Return the configuration of the run in ``directory``, with the length that the request asks for.

    Raises:
        RunError: the request, the journal and ``config.toml`` differ in anything else.
    """
    path = directory / "config.toml"
    saved = with_new_names(read_toml(path))
    trust = Trust(_custom_strategies(request, path), request.trust_code)
    config = parse_config(saved, path, trust.settings_of)
    complete_spool(directory)
    complete_memory_files(directory)
    length = _agreed_length(request, directory, _complete(config), trust)
    is_outdated = length.after != length_of(_complete(config))[1]
    if is_outdated:
        saved = override(saved, length.key.split("."), length.after, str(path))
        config = parse_config(saved, path, trust.settings_of)
    check_shares(config.training.accumulate, request.processes)
    keys = with_options({} if request.configuration is None else source_config(request)[0], request)
    if device := flatten(keys).get(DEVICE_KEY):
        training = config.training.model_copy(update={"device": device})
        config = config.model_copy(update={"training": training})
    return ResumedConfig(config, saved, length, is_outdated, trust)


def check_shares(accumulate: int, processes: int) -> None:
    """Check that the batches of an update, ``accumulate``, can be shared equally among the processes.

    Raises:
        ConfigError: they cannot.
    """
    if accumulate % processes:
        raise ConfigError.single(
            "--processes",
            f"the value is {processes}, and an update of this run has {accumulate} batch"
            f"{'' if accumulate == 1 else 'es'}",
            "Expected a number that divides the batches equally",
            f"Choose {' or '.join(str(n) for n in range(1, accumulate + 1) if accumulate % n == 0)}",
        )


def _custom_strategies(request: TrainRequest, saved: Path) -> list[str]:
    """Return the strategies that the user names now; those in a run directory do not count, even if it is named."""
    raw: dict[str, Any] = {}
    configuration = request.configuration
    if configuration is not None:
        is_saved = isinstance(configuration, Path) and configuration.exists() and configuration.samefile(saved)
        raw = {} if is_saved else source_config(request)[0]
    return strategies_of(with_options(raw, request))


def _agreed_length(request: TrainRequest, directory: Path, saved: Mapping[str, Any], trust: Trust) -> Lengthening:
    """Return the length that the journal records, and the new one; ``saved`` is ``config.toml``, complete.

    Raises:
        RunError: anything else differs between the journal, ``config.toml`` and the request.
    """
    events = read_journal(directory / "journal.jsonl")
    config_then = events[0].get("config") if events else None
    started = with_new_names(config_then) if isinstance(config_then, dict) else {}
    before = _complete(parse_config(started, directory / "journal.jsonl", trust.settings_of)) if started else saved
    key, value = length_of(before)
    length, former = recorded_length(events, key, value)
    before = with_length(before, length)
    if length_of(saved) == (key, former):
        saved = with_length(saved, length)  # the process was killed before it rewrote config.toml
    requested, open_keys = _requested_config(request, saved, trust)
    requested = with_copies(_with_memory_files(requested, before, request, directory), before, directory)
    # config.toml itself was changed by hand
    edited = [change for change in changed_keys(before, saved) if not _is_open(change[0], set())]
    changed = [change for change in changed_keys(before, requested) if not _is_open(change[0], open_keys)]
    if changed == edited and _names_length(request):
        edited = []  # both ask for the same length
    changes = edited + [change for change in changed if change not in edited]
    longer = None if edited else check_lengthening(directory, changes)
    if changes and longer is None:
        raise _other_config(directory, changes)
    return longer or Lengthening(key, length, length)


def _is_open(path: str, open_keys: set[str]) -> bool:
    """Return True if this key, or the table that it is in, is open; a run may always change its device."""
    return path == DEVICE_KEY or path in open_keys or path.rpartition(".")[0] in open_keys


def _names_length(request: TrainRequest) -> bool:
    """Return True if the request itself sets the length of the run."""
    return request.configuration is not None or not flatten(with_options({}, request)).keys().isdisjoint(LENGTHS)


def _other_config(directory: Path, changes: Sequence[Change]) -> RunError:
    return RunError(
        directory,
        has_changed(changes),
        "Expected the configuration that this run was started with",
        "Revert the change to resume, or train into another directory with --out" + _longer_fix(changes),
    )


def _longer_fix(changes: Sequence[Change]) -> str:
    """Return a fix if the first change has one: updates of another size, or a longer run by hand."""
    (key, before, now), *others = changes
    if key == ACCUMULATE:
        return f"; choose --processes and {ACCUMULATE} so that their product is {before}"
    if others or key not in LENGTHS or before is None or now is None or now < before:
        return ""
    return f"; to train longer, add --set {key}={shown(now)}"


def _requested_config(request: TrainRequest, saved: Mapping[str, Any], trust: Trust) -> tuple[dict[str, Any], set[str]]:
    """Return the complete configuration of the request, and the keys that it leaves open, so that any value will do."""
    if request.configuration is not None:
        raw, name = source_config(request)
        raw = for_all_processes(with_options(raw, request), request)
        requested = _complete(parse_config(raw, name, trust.settings_of, option_origins(request)))
        return requested, _open_keys(raw, requested) | _chosen_for_features(saved, requested)
    base = dict(saved)
    options = flatten(with_options({}, request))
    for pair in ALTERNATIVES:
        if any(f"training.{key}" in options for key in pair):
            base["training"] = {key: value for key, value in base["training"].items() if key not in pair}
    if request.pairs is not None:
        base = override(base, ["data", "train"], source_config(request)[0]["data"]["train"], COMMAND)
    base = with_options(base, request)
    if ACCUMULATE in options:
        base = for_all_processes(base, request)
    requested = _complete(parse_config(base, COMMAND, trust.settings_of, option_origins(request)))
    return requested, _automatic_keys(requested)


def _open_keys(raw: Mapping[str, Any], requested: Mapping[str, Any]) -> set[str]:
    """Return the keys that the start of the run decided.

    They are those set to "auto", and those that an initial model, or the preparation of the pairs, set.
    """
    open_keys = _automatic_keys(requested)
    if names_prepared(requested["data"]["train"]):
        unset = flatten(requested).keys() - flatten(raw).keys()
        open_keys |= {key for key in unset if key.startswith("data.") and key != "data.window"}
    if requested["training"]["init"]:
        unset = flatten(requested).keys() - flatten(raw).keys()
        open_keys |= {key for key in unset if key.startswith("model.") or key in _SET_BY_A_BUNDLE}
    return open_keys


def _chosen_for_features(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> set[str]:
    """Return the keys that the start of a run with features chose, and that the request leaves open."""
    keys = [("data", "feature_separator"), ("model", "feature_encoder")]
    if saved["data"].get("columns") == list(COLUMNS_WITH_FEATURES):
        keys.append(("data", "columns"))  # others were set
    return {f"{section}.{key}" for section, key in keys if key not in requested[section]}


def _automatic_keys(requested: Mapping[str, Any]) -> set[str]:
    keys = ("source_tokens", "target_tokens", "normalisation")
    return {f"data.{key}" for key in keys if requested["data"][key] == "auto"}


def _with_memory_files(
    requested: Mapping[str, Any], before: Mapping[str, Any], request: TrainRequest, directory: Path
) -> dict[str, Any]:
    """Return ``requested`` with this run's own files in place of pairs in memory; their content is compared later."""
    data = dict(requested["data"])
    for part in request.in_memory:
        if is_memory_file(before["data"].get(part), directory, part):
            data[part] = before["data"][part]
    return {**requested, "data": data}


def _complete(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude_none=True, mode="json")
