"""``freerun export``: ONNX graphs, into a bundle or as a bundle that has nothing else."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from freerun.commands.console import say
from freerun.commands.evaluate import evaluate_items
from freerun.data.readers import Columns, PairsLocation
from freerun.errors import BundleError, MissingExtraError, UserError
from freerun.evaluation.comparison import Comparison, compare
from freerun.evaluation.evaluate import Evaluation
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.experiment.pairs_spec import pairs_to_read
from freerun.files import bytes_hash, real_path, remove_leftovers, replacing_dir, write_atomic
from freerun.loading import load
from freerun.lock import inner_lock, only_writer, outer_lock
from freerun.runtime.bundle import (
    EXPORTED,
    WEIGHTS,
    Bundle,
    arrays_file,
    find_bundle,
    graph_file,
    read_bundle,
)
from freerun.runtime.card import with_quantised
from freerun.runtime.compiled_greedy import CompiledGreedy, can_run
from freerun.runtime.graphs import Graphs
from freerun.runtime.limits import MAX_CONFIG
from freerun.runtime.onnx_greedy import OnnxGreedy
from freerun.runtime.onnx_stepper import OnnxStepper
from freerun.runtime.snapshot import Snapshot
from freerun.runtime.writing import as_json
from freerun.search.batches import pad

__all__ = ["MAX_LOSS", "ExportRequest", "export"]

MAX_LOSS: Final = 1.0
"""Points of sequence accuracy that int8 may lose unless something else is asked for."""
_CALIBRATION: Final = 512
"""Sources that are read to see how large the decoder's first state becomes."""
_RECORD: Final = "export.json"
_OF_A_RUN: Final = ("best", "last")
"""The bundles that training replaces."""
_GRAPH_FILES: Final = {*EXPORTED, _RECORD}
_INT8: Final = [name for name in EXPORTED if ".int8." in name]


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of ``freerun export``; ``dev`` are pairs to measure int8 on, the run's own if there are none."""

    model: Path
    out: Path | None = None
    quantise: bool = False
    max_loss: float = MAX_LOSS
    dev: PairsLocation | None = None
    json: bool = False
    columns: Columns | None = None


def export(request: ExportRequest) -> dict[str, Any]:
    """Write the graphs, once two ways of decoding agree with each other; returns what is printed.

    Raises:
        UserError: a bundle that cannot be exported, a folder in the way, no pairs to measure int8 on, or int8 that
            loses more than ``max_loss``, another process that trains this run or exports to the same place. Nothing was
            written then.
    """
    _check_packages()
    find_bundle(request.model)  # a mistyped path is told before anything is locked
    with only_writer(*_locks(request)):
        return _export(request)


def _locks(request: ExportRequest) -> list[Path]:
    """The lock of the place that is written; and of the model that is read, which must not be replaced meanwhile."""
    model = _lock_of(request.model)
    if request.out is None:
        return [model]
    # nothing is replaced in a folder that cannot be written, nor can it be locked
    return [_lock_of(request.out), *([model] if os.access(model.parent, os.W_OK) else [])]


def _lock_of(folder: Path) -> Path:
    """The lock of a bundle: that of its run, which replaces it in training, or one of its own."""
    final = real_path(folder)
    if (final / "config.toml").is_file():
        return inner_lock(final)
    if final.name in _OF_A_RUN and (final.parent / "config.toml").is_file():
        return inner_lock(final.parent)
    return outer_lock(final)


def _clean_up_export(folder: Path) -> None:
    """Clear away what a killed export left half done."""
    place = real_path(folder / "best" if (folder / "config.toml").is_file() else folder)
    remove_leftovers(place.parent, glob.escape(place.name))


def _export(request: ExportRequest) -> dict[str, Any]:
    _clean_up_export(request.out or request.model)
    bundle = read_bundle(request.model)
    items = _dev_items(request, bundle) if request.quantise else None
    target = bundle.folder if request.out is None else _free(request.out, bundle)
    final, here = real_path(target), Path.cwd()  # while "." leads there: the directory will be replaced
    measured = {} if request.quantise else _measured_before(target, bundle)
    with replacing_dir(final) as new:
        _write(new, bundle, keeps_weights=request.out is None)
        _add_graphs(new, bundle, "fp32")
        _verify(new, bundle, "fp32")
        record = {} if items is None else _quantised(new, bundle, items, request.max_loss)
        _keep_measured(new, measured)
    if not (here.exists() and here.samefile(".")):
        say(f"Your current directory was replaced. To enter the new one: cd {shlex.quote(str(here))}")
    files = {name: (final / name).stat().st_size for name in _graph_names(final)}
    found = {"folder": str(target), "files": files, **record}
    print(json.dumps(found) if request.json else _as_text(target, files, record))
    return found


def _check_packages() -> None:
    for package in ("onnx", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train", "freerun export")


def _free(out: Path, bundle: Bundle) -> Path:
    """``out``, if it is not in use by anything but an exported bundle."""
    if not out.exists():
        return out
    if out.is_dir() and not any(out.iterdir()):
        return out
    try:
        there = read_bundle(out)
    except BundleError:
        there = None
    foreign = there is None or {path.name for path in out.iterdir()} - _kept_names(there) - _GRAPH_FILES
    if there is None or there.has_weights or foreign or find_bundle(out) != out:
        what = "this is the bundle itself" if there and there.folder.samefile(bundle.folder) else "something is there"
        raise UserError(
            out, f"{what}", "Expected a new folder, or an earlier export to replace", "Choose another --out"
        )
    return out


# -- files ------------------------------------------------------------------------------------------------------------


def _write(new: Path, bundle: Bundle, keeps_weights: bool) -> None:
    """What a bundle has beside its graphs, as it was: all of it, or without weights what belongs to a bundle."""
    for path in bundle.folder.iterdir():
        if path.name in _GRAPH_FILES or not (keeps_weights or path.name in _kept_names(bundle)):
            continue
        if path.is_dir():
            shutil.copytree(path, new / path.name, symlinks=True, ignore=_odd_files)
        elif path.is_file():
            shutil.copyfile(path, new / path.name)
        else:  # a pipe or a device, which may have no end
            raise BundleError(path, "this is not a regular file", "Expected a bundle of files", "Remove it")
    _update_card(new, None)
    config: dict[str, Any] = dict(bundle.config)
    kept = {name: value for name, value in bundle.config["files"].items() if name not in _GRAPH_FILES}
    if not keeps_weights:
        kept.pop(WEIGHTS, None)
    _write_config(new, {**config, "files": kept, "graphs": {"weights": bundle.weights_hash}})


def _odd_files(folder: str, names: Sequence[str]) -> list[str]:
    """What cannot be copied: pipes and devices."""
    return [name for name in names if not (Path(folder, name).is_file() or Path(folder, name).is_dir())]


def _kept_names(bundle: Bundle) -> set[str]:
    """The files of a bundle without weights and graphs."""
    return {"config.json", "metrics.json", "README.md", *bundle.config["files"]} - {WEIGHTS} - _GRAPH_FILES


def _add_graphs(new: Path, bundle: Bundle, precision: str, limit: float = 1.0) -> None:
    from freerun.export.graph_files import graph_files

    _write_graphs(new, graph_files(bundle, precision, limit))


def _write_graphs(new: Path, files: Mapping[str, bytes]) -> None:
    """Write graphs, and their hashes into config.json."""
    for name, content in files.items():
        write_atomic(new / name, content)
    config = json.loads((new / "config.json").read_bytes())
    hashes = {**config["files"], **{name: bytes_hash(content) for name, content in files.items()}}
    _write_config(new, {**config, "files": dict(sorted(hashes.items()))})


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    write_atomic(folder / "config.json", as_json(config))


def _measured_before(target: Path, bundle: Bundle) -> dict[str, bytes]:
    """The int8 graphs of an earlier export to ``target``, with the record of what they cost; says what became of them.

    They are kept if they were made of the very weights that are exported now: what was measured is still true then.
    """
    names = [name for name in _INT8 if (target / name).exists()]
    if not names:
        return {}
    try:
        there = read_bundle(target)
        if there.config["graphs"]["weights"] != bundle.weights_hash:
            raise BundleError(_INT8[0], "it is a graph of other weights")
        # a model with attention has no arrays for the compiled search
        names = [name for name in _INT8 if name != arrays_file("int8") or name in there.config["files"]]
        files = {name: there.checked_bytes(name) for name in names}
        files_there = Snapshot(target)
        files_there.open([_RECORD])
        record = files_there.read(_RECORD, MAX_CONFIG)
        with_quantised("", json.loads(record))
    except (BundleError, KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        reason = (
            f"{Path(error.where).name}: {error.what}" if isinstance(error, BundleError) else f"{_RECORD}: {error!r}"
        )
        say(f"{target}: its int8 graphs are left out ({reason}). Write them anew with --quantize int8.")
        return {}
    say(f"{target}: its int8 graphs are kept, because they were measured on these very weights.")
    return {**files, _RECORD: record}


def _keep_measured(new: Path, measured: Mapping[str, bytes]) -> None:
    """Write what ``_measured_before`` kept into the new bundle."""
    if measured:
        _write_graphs(new, {name: content for name, content in measured.items() if name != _RECORD})
        write_atomic(new / _RECORD, measured[_RECORD])
        _update_card(new, json.loads(measured[_RECORD]))


def _graph_names(folder: Path) -> list[str]:
    return [name for name in EXPORTED if (folder / name).exists()]


# -- checks -----------------------------------------------------------------------------------------------------------


def _verify(new: Path, bundle: Bundle, precision: str) -> None:
    """The greedy graph and the step graph under the search against each other; torch and the compiled one, if here."""
    from freerun.export.verify import check_agreement, decoded, random_sources

    exported = read_bundle(new)
    graphs = Graphs(exported, precision)
    ids, lengths = sources = random_sources(exported)
    each = [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
    bounds = exported.bound.of(lengths).tolist()
    found = OnnxGreedy(graphs)(each, bounds)
    name = graph_file("greedy", precision)
    both = f"{name} and {graph_file('step', precision)}"
    check_agreement(bundle, both, found, OnnxStepper(graphs), sources, precision)
    if precision == "fp32" and importlib.util.find_spec("torch") is not None:
        from freerun.loading.torch_model import load_steppers

        check_agreement(bundle, f"{name} and torch", found, load_steppers(bundle)(), sources)
        check_agreement(
            bundle, f"torch and {name}", decoded(bundle, load_steppers(bundle)(), sources), OnnxStepper(graphs), sources
        )
    if can_run(exported, precision):
        both = f"{arrays_file(precision)} and {graph_file('step', precision)}"
        compiled = CompiledGreedy(exported, precision)(each, bounds)
        check_agreement(bundle, both, compiled, OnnxStepper(graphs), sources, precision)


def _dev_items(request: ExportRequest, bundle: Bundle) -> EvaluationSet:
    pairs = pairs_to_read([request.model], request.dev, request.columns)
    return group_pairs(pairs.read(), bundle.source, bundle.target)


# -- int8 -------------------------------------------------------------------------------------------------------------


def _quantised(new: Path, bundle: Bundle, items: EvaluationSet, max_loss: float) -> dict[str, Any]:
    """Add int8 graphs, measure both precisions on ``items``, and write that into the record and the card.

    Raises:
        UserError: int8 loses more than ``max_loss`` points of sequence accuracy.
    """
    _add_graphs(new, bundle, "int8", _first_states_limit(new, items))
    _verify(new, bundle, "int8")
    fp32, int8 = (evaluate_items(load(new, precision=precision), items) for precision in ("fp32", "int8"))
    record = _measured(fp32, int8, compare(fp32, int8))
    loss = -100 * record["difference"]["sequence_accuracy.free"]["value"]
    if loss > max_loss:
        accuracy = [100 * record[precision]["sequence_accuracy.free"] for precision in ("fp32", "int8")]
        raise UserError(
            bundle.folder,
            f"int8 loses {loss:.2f} points of sequence accuracy on {len(items):,} sources ({accuracy[0]:.2f} to "
            f"{accuracy[1]:.2f}); nothing was written",
            f"Expected a loss of {max_loss:g} points at most",
            "Allow more with --max-loss, or leave out --quantize",
        )
    write_atomic(new / _RECORD, as_json(record))
    _update_card(new, record)
    return record


def _update_card(folder: Path, record: Mapping[str, Any] | None) -> None:
    card = folder / "README.md"
    if card.exists():
        write_atomic(card, with_quantised(card.read_text(encoding="utf-8", errors="replace"), record))


def _first_states_limit(new: Path, items: EvaluationSet) -> float:
    """What nearly all numbers of the decoder's first h stay within; 1 where it comes out of the cells as it is."""
    bundle = read_bundle(new)
    if not bundle.model["bidirectional"]:
        return 1.0
    ids, lengths = pad([bundle.source.encode(item.source) for item in items.items[:_CALIBRATION]])
    (state,) = Graphs(bundle).session("encoder").run(["state"], {"source": ids, "lengths": lengths})
    h = np.abs(state[:, : bundle.model["num_layers"] * bundle.model["hidden_size"]])
    return max(1.0, float(np.quantile(h, 0.999)))


def _measured(fp32: Evaluation, int8: Evaluation, comparison: Comparison) -> dict[str, Any]:
    """Figures of both precisions and their paired differences int8 - fp32, as JSON values."""
    names = [name for name in ("sequence_accuracy.free", "symbol_error_rate.free") if name in comparison.differences]
    differences = {name: comparison.differences[name] for name in names}
    return {
        "sources": comparison.sources,
        "fp32": {name: found.a for name, found in differences.items()},
        "int8": {name: found.b for name, found in differences.items()},
        "difference": {
            name: {"value": d.difference.value, "low": d.difference.low, "high": d.difference.high}
            for name, d in differences.items()
        },
    }


def _as_text(target: Path, files: Mapping[str, int], record: Mapping[str, Any]) -> str:
    lines = [f"Wrote {target}:", *(f"  {name:20s} {size / 1e6:8.2f} MB" for name, size in files.items())]
    for name, difference in record.get("difference", {}).items():
        lines.append(
            f"{name}: fp32 {record['fp32'][name]:.4f}, int8 {record['int8'][name]:.4f}, difference "
            f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
        )
    return "\n".join(lines)
