"""From what was typed to a checked configuration and a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freerun.commands.console import say
from freerun.config import (
    ALTERNATIVES,
    Config,
    absolute_paths,
    apply_overrides,
    changed_keys,
    flatten,
    merge,
    override,
    parse_config,
    read_toml,
    shown,
    strategies_of,
    with_new_names,
)
from freerun.data.readers import PairsLocation, ParallelFiles, describe, files_of
from freerun.errors import ConfigError, RunError
from freerun.experiment.automatic import choose_before_data
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
from freerun.experiment.pairs_spec import COPIES, parse_columns, value_of
from freerun.experiment.spool import complete_spool, with_copies
from freerun.files import real_path, remove_leftovers
from freerun.forcing.registry import EVERYTHING, NOBODY, Trust
from freerun.lock import LOCK
from freerun.text import cut
from freerun.training.journal import read_journal

__all__ = ["RunPlan", "TrainRequest", "clean_up_run", "plan_run", "run_folder"]

_OF_A_BUNDLE = ("data.normalisation", "data.source_case", "data.source_tokens", "data.target_tokens")
_DATA_SUFFIXES = (".gz", ".xz", ".tsv", ".txt", ".jsonl", ".json", ".toml", ".csv")


@dataclass(frozen=True)
class TrainRequest:
    """The arguments of ``freerun train``; ``subject`` is a configuration (a path that ends in .toml) or pairs."""

    subject: PairsLocation | None = None
    dev: PairsLocation | None = None
    out: Path | None = None
    settings: tuple[str, ...] = ()
    seed: int | None = None
    init: Path | None = None
    resume: bool = False
    columns: str | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class RunPlan:
    """What to do: ``raw`` holds the keys that were set, ``config`` all of them.

    ``automatic``: sizes and length are still to be chosen from the data. ``resumes``: the folder holds the run already.
    ``where`` and ``origins`` name in messages who set a key. ``trust`` says which code of the user's own is imported.
    ``longer`` is how a resumed run's length was changed, ``is_outdated``: its ``config.toml`` has another length.
    """

    folder: Path
    config: Config
    raw: Mapping[str, Any]
    automatic: bool
    resumes: bool
    where: str
    origins: Mapping[str, str] = field(default_factory=dict)
    trust: Trust = NOBODY
    longer: Lengthening | None = None
    is_outdated: bool = False


def plan_run(request: TrainRequest) -> RunPlan:
    """Settle configuration and folder.

    Raises:
        ConfigError: a fault in the configuration, or none at all.
        RunError: the folder holds another run, or resuming would change the configuration.
    """
    folder = run_folder(request)
    is_run = (folder / "config.toml").exists()
    if request.resume and is_run:
        return _resumed(request, folder)
    if request.subject is None:
        raise ConfigError.single(
            "freerun train",
            f"no configuration and no pairs, and {folder} holds no run to go on with",
            "Expected freerun train CONFIG.toml or freerun train PAIRS.tsv",
            "Name one of them",
        )
    _refuse_occupied(folder, is_run)
    raw, where = _from_subject(request.subject)
    raw = _with_typed(raw, request)
    origins = _origins(request)
    automatic = _is_pairs(request.subject)
    trust = EVERYTHING  # all of it was written or named by the user
    complete = merge(choose_before_data(raw, trust.settings_of), raw) if automatic else raw
    config = parse_config(complete, where, trust.settings_of, origins)
    return RunPlan(folder, config, raw, automatic, False, where, origins, trust)


# -- the run folder ----------------------------------------------------------------------------------------------------


def run_folder(request: TrainRequest) -> Path:
    """Return the run directory that a request is about.

    Raises:
        ConfigError: it names neither one nor anything to call one after.
    """
    if request.out is not None:
        return request.out
    if request.subject is None:
        raise ConfigError.single(
            "freerun train",
            "neither a configuration, nor pairs, nor --out",
            "Expected freerun train CONFIG.toml, freerun train PAIRS.tsv, or --resume with the --out of a run",
            "Name one of them",
        )
    return Path("runs") / _name_of(request.subject)


def _name_of(subject: PairsLocation) -> str:
    """The name of a configuration or of pairs without its suffixes; of parallel files what both names begin with."""
    names = [_bare_name(file) for file in files_of(subject)]
    stems = {Path(name).stem for name in names}
    return names[0] if len(names) == 1 or len(stems) > 1 else stems.pop()


def _bare_name(file: Path) -> str:
    if file.parent.name == "fd":  # <(command): another number at every call
        return "pipe"
    name = file.name
    while Path(name).suffix in _DATA_SUFFIXES:
        name = Path(name).stem
    return name


def _refuse_occupied(folder: Path, is_run: bool) -> None:
    if is_run:
        raise RunError(
            folder,
            "this folder holds another run",
            "Expected a new or empty folder",
            "Add --resume to go on with that run, or choose another folder with --out",
        )
    if folder.exists() and not folder.is_dir():
        raise RunError(folder, "this is a file", "Expected a new or empty folder", "Choose another with --out")
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    # our own lock; and a run that was killed as it began may have left an unfinished config.toml, or copies of pairs
    found = [name for name in found if name != LOCK and not name.startswith((".config.toml.", f".{COPIES}."))]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise RunError(
            folder,
            f"this folder is not empty: it holds {', '.join(found[:3])}{more}",
            "Expected a new or empty folder",
            "Choose another with --out",
        )


def clean_up_run(folder: Path) -> None:
    """Clear away what a killed process left half done."""
    for name in ("best", "last", "config.toml", "dev.tsv"):
        remove_leftovers(folder, name)
    remove_leftovers(folder / "checkpoints", "update-*")


# -- the configuration -------------------------------------------------------------------------------------------------


def _is_pairs(subject: PairsLocation) -> bool:
    return isinstance(subject, ParallelFiles) or subject.suffix != ".toml"


def _from_subject(subject: PairsLocation) -> tuple[dict[str, Any], str]:
    """The keys that a configuration file sets, or the one that pairs set; and what to call that in messages."""
    if isinstance(subject, ParallelFiles) or _is_pairs(subject):
        return absolute_paths({"data": {"train": value_of(subject)}}, Path.cwd()), "freerun train"
    raw = read_toml(subject)
    if subject.name == "config.toml" and (subject.parent / "journal.jsonl").exists():
        raw = with_new_names(raw)  # a run's own configuration
    return absolute_paths(raw, real_path(subject.parent)), str(subject)


def _with_typed(raw: Mapping[str, Any], request: TrainRequest) -> dict[str, Any]:
    """``raw`` under what was typed: the options, and over them --set."""
    result = dict(raw)
    for option, path, value in _options(request):
        result = override(result, path.split("."), value, option, Path.cwd())
    return apply_overrides(result, request.settings, Path.cwd())


def _options(request: TrainRequest) -> list[tuple[str, str, Any]]:
    """Option as typed, key path, value."""
    options: list[tuple[str, str, Any]] = []
    if request.dev is not None:
        option = " ".join(f"--dev {file}" for file in files_of(request.dev))
        options.append((option, "data.dev", value_of(request.dev)))
    if request.columns is not None:
        options.append((f"--columns {request.columns}", "data.columns", list(parse_columns(request.columns))))
    if request.seed is not None:
        options.append((f"--seed {request.seed}", "training.seed", request.seed))
    if request.init is not None:
        options.append((f"--init {request.init}", "training.init", str(request.init)))
    return options


def _origins(request: TrainRequest) -> dict[str, str]:
    """Key path -> what was typed to set it."""
    settings = {setting.partition("=")[0].strip(): f"--set {cut(setting)}" for setting in request.settings}
    return {**{path: option for option, path, _ in _options(request)}, **settings}


# -- going on ----------------------------------------------------------------------------------------------------------


def _resumed(request: TrainRequest, folder: Path) -> RunPlan:
    """The run in ``folder``; what is typed again must agree with it, except that the run may become longer."""
    path = folder / "config.toml"
    saved = with_new_names(read_toml(path))
    trust = Trust(_own_strategies(request, path), request.trust_code)
    config = parse_config(saved, path, trust.settings_of)
    complete_spool(folder)
    length = _agreed_length(request, folder, _complete(config), trust)
    is_outdated = length.after != length_of(_complete(config))[1]
    if is_outdated:
        saved = override(saved, length.key.split("."), length.after, str(path))
        config = parse_config(saved, path, trust.settings_of)
    clean_up_run(folder)
    longer = length if length.after > length.before else None
    return RunPlan(folder, config, saved, False, True, str(path), trust=trust, longer=longer, is_outdated=is_outdated)


def _own_strategies(request: TrainRequest, saved: Path) -> list[str]:
    """The strategies that the user names now; what a run directory says is not theirs, even if they name its file."""
    raw: dict[str, Any] = {}
    if isinstance(request.subject, Path) and not _is_pairs(request.subject):
        is_saved = request.subject.exists() and request.subject.samefile(saved)
        raw = {} if is_saved else _from_subject(request.subject)[0]
    return strategies_of(_with_typed(raw, request))


def _agreed_length(request: TrainRequest, folder: Path, saved: Mapping[str, Any], trust: Trust) -> Lengthening:
    """The length that the journal records, and the one to train to now; ``saved`` is ``config.toml``, complete.

    Raises:
        RunError: anything else differs between the journal, ``config.toml`` and the request.
    """
    events = read_journal(folder / "journal.jsonl")
    config_then = events[0].get("config") if events else None
    started = with_new_names(config_then) if isinstance(config_then, dict) else {}
    before = _complete(parse_config(started, folder / "journal.jsonl", trust.settings_of)) if started else saved
    key, value = length_of(before)
    length, former = recorded_length(events, key, value)
    before = with_length(before, length)
    if length_of(saved) == (key, former):
        saved = with_length(saved, length)  # the process was killed before it rewrote config.toml
    asked, open_keys = _asked(request, saved, trust)
    asked = with_copies(asked, before, folder, say)
    edited = changed_keys(before, saved)  # config.toml itself was changed by hand
    typed = [change for change in changed_keys(before, asked) if change[0] not in open_keys]
    if typed == edited and _names_length(request):
        edited = []  # both ask for the same length
    changes = edited + [change for change in typed if change not in edited]
    longer = None if edited else check_lengthening(folder, changes)
    if changes and longer is None:
        _refuse_changes(folder, changes)
    return longer or Lengthening(key, length, length)


def _names_length(request: TrainRequest) -> bool:
    """Return True if the request itself says how long the run is to be."""
    is_configuration = request.subject is not None and not _is_pairs(request.subject)
    return is_configuration or not flatten(_with_typed({}, request)).keys().isdisjoint(LENGTHS)


def _refuse_changes(folder: Path, changes: Sequence[Change]) -> None:
    raise RunError(
        folder,
        has_changed(changes),
        "Expected the configuration that this run was started with",
        "Undo the change to go on, or train into another folder with --out" + _longer_fix(changes),
    )


def _longer_fix(changes: Sequence[Change]) -> str:
    """What to do if only the length in ``config.toml`` was raised by hand."""
    (key, before, now), *others = changes
    if others or key not in LENGTHS or before is None or now is None or now < before:
        return ""
    return f"; to train longer, add --set {key}={shown(now)}"


def _asked(request: TrainRequest, saved: Mapping[str, Any], trust: Trust) -> tuple[dict[str, Any], set[str]]:
    """The complete configuration that is asked for now, and the keys that were left open, so that any value will do."""
    subject = request.subject
    if subject is not None and not _is_pairs(subject):
        raw, where = _from_subject(subject)
        typed = _with_typed(raw, request)
        asked = _complete(parse_config(typed, where, trust.settings_of, _origins(request)))
        return asked, _open_keys(typed, asked)
    base = dict(saved)
    typed_alone = flatten(_with_typed({}, request))
    for pair in ALTERNATIVES:
        if any(f"training.{key}" in typed_alone for key in pair):
            base["training"] = {key: value for key, value in base["training"].items() if key not in pair}
    if subject is not None:
        base = override(base, ["data", "train"], _from_subject(subject)[0]["data"]["train"], describe(subject))
    asked = _complete(parse_config(_with_typed(base, request), "freerun train", trust.settings_of, _origins(request)))
    return asked, _automatic_keys(asked)


def _open_keys(typed: Mapping[str, Any], asked: Mapping[str, Any]) -> set[str]:
    """What "auto" was turned into at the start of the run, and what a bundle to start from decided, is no change."""
    open_keys = _automatic_keys(asked)
    if asked["training"]["init"]:
        unset = flatten(asked).keys() - flatten(typed).keys()
        open_keys |= {key for key in unset if key.startswith("model.") or key in _OF_A_BUNDLE}
    return open_keys


def _automatic_keys(asked: Mapping[str, Any]) -> set[str]:
    return {f"data.{key}" for key in ("source_tokens", "target_tokens") if asked["data"][key] == "auto"}


def _complete(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude_none=True, mode="json")
