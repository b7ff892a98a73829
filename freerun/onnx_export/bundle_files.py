"""The files of an exported bundle: copies, the graphs, and the record of the loss with int8."""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from freerun.errors import BundleError, UserError
from freerun.files import bytes_hash, real_path, remove_leftovers, write_atomic
from freerun.log import log
from freerun.runtime.bundle import EXPORTED, WEIGHTS, Bundle, arrays_file, find_bundle, read_bundle
from freerun.runtime.card import with_quantised
from freerun.runtime.graphs import Graphs, source_feeds
from freerun.runtime.limits import MAX_CONFIG
from freerun.runtime.snapshot import Snapshot
from freerun.runtime.writing import as_json
from freerun.search.batches import pad_sources

__all__ = [
    "add_graphs",
    "check_output_dir",
    "clean_up_export",
    "copy_bundle",
    "first_state_limit",
    "graph_sizes",
    "keep_int8",
    "reusable_int8",
    "write_record",
]

_CALIBRATION: Final = 512
"""Number of sources from which the range of the decoder's first state is measured."""
_RECORD: Final = "export.json"
_GRAPH_FILES: Final = {*EXPORTED, _RECORD}
_INT8: Final = [name for name in EXPORTED if ".int8." in name]


def clean_up_export(directory: Path) -> None:
    """Remove the partial files of a killed export."""
    target = real_path(directory / "best" if (directory / "config.toml").is_file() else directory)
    remove_leftovers(target.parent, glob.escape(target.name))


def check_output_dir(out: Path, bundle: Bundle) -> Path:
    """Return ``out`` if it is new, empty, or an exported bundle.

    Raises:
        UserError: anything else is there.
    """
    if not out.exists():
        return out
    if out.is_dir() and not any(out.iterdir()):
        return out
    try:
        existing = read_bundle(out)
    except BundleError:
        existing = None
    foreign = existing is None or {path.name for path in out.iterdir()} - _kept_names(existing) - _GRAPH_FILES
    if existing is None or existing.has_weights or foreign or find_bundle(out) != out:
        what = (
            "this is the bundle itself"
            if existing and existing.directory.samefile(bundle.directory)
            else "something is there"
        )
        raise UserError(out, what, "Expected a new directory, or an earlier export to replace", "Choose another --out")
    return out


def copy_bundle(new: Path, bundle: Bundle, keeps_weights: bool) -> None:
    """Copy a bundle without its graphs: all of its directory, or, without weights, only the files of a bundle."""
    for path in bundle.directory.iterdir():
        if path.name in _GRAPH_FILES or not (keeps_weights or path.name in _kept_names(bundle)):
            continue
        if path.is_dir():
            shutil.copytree(path, new / path.name, symlinks=True, ignore=_special_files)
        elif path.is_file():
            shutil.copyfile(path, new / path.name)
        else:  # a pipe or a device
            raise BundleError(path, "this is not a regular file", "Expected a bundle of files", "Remove it")
    _update_card(new, None)
    config: dict[str, Any] = dict(bundle.config)
    files = {name: value for name, value in bundle.config["files"].items() if name not in _GRAPH_FILES}
    if not keeps_weights:
        files.pop(WEIGHTS, None)
    _write_config(new, {**config, "files": files, "graphs": {"weights": bundle.weights_hash}})


def _special_files(directory: str, names: Sequence[str]) -> list[str]:
    """Return the files that cannot be copied: pipes and devices."""
    return [name for name in names if not (Path(directory, name).is_file() or Path(directory, name).is_dir())]


def _kept_names(bundle: Bundle) -> set[str]:
    """Return the files of a bundle except weights and graphs."""
    return {"config.json", "metrics.json", "README.md", *bundle.config["files"]} - {WEIGHTS} - _GRAPH_FILES


def add_graphs(new: Path, bundle: Bundle, precision: str, limit: float = 1.0) -> None:
    """Write a bundle's graphs in one precision; ``limit`` bounds the decoder's first state (int8 only)."""
    from freerun.onnx_export.graph_files import graph_files

    _write_graphs(new, graph_files(bundle, precision, limit))


def _write_graphs(new: Path, files: Mapping[str, bytes]) -> None:
    """Write graphs, and their hashes into config.json."""
    for name, content in files.items():
        write_atomic(new / name, content)
    config = json.loads((new / "config.json").read_bytes())
    hashes = {**config["files"], **{name: bytes_hash(content) for name, content in files.items()}}
    _write_config(new, {**config, "files": dict(sorted(hashes.items()))})


def _write_config(directory: Path, config: Mapping[str, Any]) -> None:
    write_atomic(directory / "config.json", as_json(config))


def reusable_int8(target: Path, bundle: Bundle) -> dict[str, bytes]:
    """Return the int8 graphs of an earlier export to ``target`` and their record; logs whether they are kept.

    They are kept if they come from the weights that are exported now, since their record is then still valid.
    """
    names = [name for name in _INT8 if (target / name).exists()]
    if not names:
        return {}
    try:
        existing = read_bundle(target)
        if existing.config["graphs"]["weights"] != bundle.weights_hash:
            raise BundleError(_INT8[0], "this graph belongs to other weights")
        # a cell that the C library does not have has no arrays
        names = [name for name in _INT8 if name != arrays_file("int8") or name in existing.config["files"]]
        files = {name: existing.checked_bytes(name) for name in names}
        snapshot = Snapshot(target)
        snapshot.open([_RECORD])
        record = snapshot.read(_RECORD, MAX_CONFIG)
        with_quantised("", json.loads(record))
    except (BundleError, KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        reason = (
            f"{Path(error.where).name}: {error.what}" if isinstance(error, BundleError) else f"{_RECORD}: {error!r}"
        )
        log.info(f"{target}: the int8 graphs are dropped ({reason}). Write them again with --quantize int8.")
        return {}
    log.info(f"{target}: the int8 graphs are kept, because they belong to the same weights.")
    return {**files, _RECORD: record}


def keep_int8(new: Path, files: Mapping[str, bytes]) -> None:
    """Write the files that ``reusable_int8`` returned into the new bundle."""
    if files:
        _write_graphs(new, {name: content for name, content in files.items() if name != _RECORD})
        write_atomic(new / _RECORD, files[_RECORD])
        _update_card(new, json.loads(files[_RECORD]))


def graph_sizes(directory: Path) -> dict[str, int]:
    """Return the sizes of the exported files, in bytes."""
    return {name: (directory / name).stat().st_size for name in EXPORTED if (directory / name).exists()}


def write_record(new: Path, record: Mapping[str, Any]) -> None:
    """Write what int8 costs, for programs and into the model card."""
    write_atomic(new / _RECORD, as_json(record))
    _update_card(new, record)


def _update_card(directory: Path, record: Mapping[str, Any] | None) -> None:
    card = directory / "README.md"
    if card.exists():
        write_atomic(card, with_quantised(card.read_text(encoding="utf-8", errors="replace"), record))


def first_state_limit(new: Path, sources: Sequence[Sequence[int]]) -> float:
    """Return a bound that nearly all values of the decoder's first h respect; 1 if a cell computes it directly.

    ``sources`` are encoded.
    """
    bundle = read_bundle(new)
    if not bundle.model["bidirectional"]:
        return 1.0
    graphs = Graphs(bundle)
    feeds = source_feeds(*pad_sources(sources[:_CALIBRATION]), graphs.has_features)
    (state,) = graphs.session("encoder").run(["state"], feeds)
    h = np.abs(state[:, : bundle.model["num_layers"] * bundle.model["hidden_size"]])
    return max(1.0, float(np.quantile(h, 0.999)))
