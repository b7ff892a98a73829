"""``freerun.export``: ONNX graphs, written into a bundle or as a bundle of their own, checked and measured."""

from __future__ import annotations

import importlib.util
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from freerun.api.checks import AnyPath, Pairs, Progress, as_model_path, as_pairs, check_progress, optional_path
from freerun.arguments import check_number
from freerun.bounds import MAX_LOSS
from freerun.data.readers import Columns
from freerun.errors import ConfigError, MissingExtraError, UserError
from freerun.evaluation.comparison import Comparison, compare
from freerun.evaluation.items import EvaluationSet, group_pairs
from freerun.evaluation.predictor_evaluation import evaluate_items
from freerun.evaluation.searcher_evaluation import Evaluation
from freerun.experiment.pairs_for_model import read_for_models
from freerun.files import real_path, replacing_dir
from freerun.loading import load
from freerun.lock import inner_lock, only_writer, outer_lock
from freerun.log import log
from freerun.onnx_export.bundle_files import (
    add_graphs,
    check_output_dir,
    clean_up_export,
    copy_bundle,
    first_state_limit,
    graph_sizes,
    keep_int8,
    reusable_int8,
    write_record,
)
from freerun.runtime.bundle import Bundle, arrays_file, find_bundle, graph_file, read_bundle
from freerun.runtime.compiled_greedy import CompiledGreedy, can_run
from freerun.runtime.compiled_model import CompiledModel
from freerun.runtime.compiled_stepper import CompiledStepper
from freerun.runtime.graphs import Graphs
from freerun.runtime.onnx_greedy import OnnxGreedy
from freerun.runtime.onnx_stepper import OnnxStepper
from freerun.symbols import source_length

__all__ = ["DEFAULT_MAX_LOSS", "ExportResult", "export"]

DEFAULT_MAX_LOSS: Final = 1.0
"""Points of sequence accuracy that int8 may lose by default."""
_BUNDLES_OF_A_RUN: Final = ("best", "last")
"""The bundles that training replaces."""


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        directory: the bundle with the graphs.
        files: the graphs and their sizes in bytes.
        int8_loss: with ``quantize="int8"``, the metrics of both precisions (``fp32``, ``int8``), their ``difference``
            int8 - fp32 with intervals, and the number of ``sources``; otherwise empty.
    """

    directory: Path
    files: dict[str, int]
    int8_loss: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {"folder": str(self.directory), "files": self.files, **self.int8_loss}


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The arguments of an export, checked."""

    model: Path
    out: Path | None
    quantize: bool
    max_loss: float
    dev: Pairs | None
    columns: Columns | None
    progress: Progress | None


def export(
    model: AnyPath,
    out: AnyPath | None = None,
    *,
    quantize: Literal["int8"] | None = None,
    max_loss: float = DEFAULT_MAX_LOSS,
    dev: Pairs | None = None,
    columns: Columns | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write a model's ONNX graphs: it then runs without torch, and faster.

    Nothing is written unless different ways of decoding agree on random sources.

    Args:
        model: a run directory or a bundle directory.
        out: write a bundle without torch weights here. Default: add the graphs to the model's bundle.
        quantize: "int8" writes quantized graphs, too, and measures what they cost.
        max_loss: the largest loss of int8 in points of sequence accuracy; a larger one is an error.
        dev: pairs to measure int8 on, as in ``freerun.evaluate``. Default: the development pairs of the model's run.
        columns: the columns of ``dev``, as for ``freerun.evaluate``.
        progress: called with the number of sequences evaluated and of all, for one precision after the other.

    Raises:
        TypeError: an argument of another type.
        UserError: a bundle that cannot be exported, an ``out`` that is in use, no pairs to measure int8 on, int8 that
            loses more than ``max_loss``, or another process that trains this run or exports to the same directory.
            In each case nothing was written.
    """
    path = as_model_path(model, "a loaded Predictor has no weights to export")
    target = optional_path("out", out)
    check_number("max_loss", max_loss)
    check_progress(progress)
    if quantize not in (None, "int8"):
        what = f"unknown precision {quantize!r}"
        raise ConfigError.single("quantize", what, "Expected None or 'int8'", "Choose one of them")
    if max_loss not in MAX_LOSS:
        expected = f"Expected {MAX_LOSS.low:g} to {MAX_LOSS.high:g} points of sequence accuracy"
        raise ConfigError.single("max_loss", f"the value is {max_loss}", expected, "Choose another limit")
    if dev is not None and quantize is None:
        what = "pairs were given, but without quantize they are not used"
        raise UserError("dev", what, 'Expected them with quantize="int8"', "Leave them out")
    _check_packages()
    find_bundle(path)  # a mistyped path is an error before anything is locked
    request = _Request(
        model=path,
        out=target,
        quantize=quantize == "int8",
        max_loss=max_loss,
        dev=dev,
        columns=columns,
        progress=progress,
    )
    with only_writer(*_locks(request)):
        return _export(request)


def _check_packages() -> None:
    for package in ("onnx", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train", "freerun export")


def _locks(request: _Request) -> list[Path]:
    """Return the lock of the bundle that is written, and that of the bundle that is read and must not be replaced."""
    model = _lock_of(request.model)
    if request.out is None:
        return [model]
    # in a directory that cannot be written nothing is replaced, and nothing can be locked
    return [_lock_of(request.out), *([model] if os.access(model.parent, os.W_OK) else [])]


def _lock_of(directory: Path) -> Path:
    """Return the lock of a bundle: that of its run, which replaces it in training, or one of its own."""
    final = real_path(directory)
    if (final / "config.toml").is_file():
        return inner_lock(final)
    if final.name in _BUNDLES_OF_A_RUN and (final.parent / "config.toml").is_file():
        return inner_lock(final.parent)
    return outer_lock(final)


def _export(request: _Request) -> ExportResult:
    clean_up_export(request.out or request.model)
    bundle = read_bundle(request.model)
    items = _dev_items(request, bundle) if request.quantize else None
    target = bundle.directory if request.out is None else check_output_dir(request.out, bundle)
    final, here = real_path(target), Path.cwd()  # while "." leads there: the directory will be replaced
    earlier = {} if request.quantize else reusable_int8(target, bundle)
    with replacing_dir(final) as new:
        copy_bundle(new, bundle, keeps_weights=request.out is None)
        add_graphs(new, bundle, "fp32")
        _verify(new, bundle, "fp32")
        loss = {} if items is None else _quantize(new, bundle, items, request)
        keep_int8(new, earlier)
    if not (here.exists() and here.samefile(".")):
        log.info(f"Your current directory was replaced. To enter the new one: cd {shlex.quote(str(here))}")
    return ExportResult(target, graph_sizes(final), loss)


def _dev_items(request: _Request, bundle: Bundle) -> EvaluationSet:
    spec = as_pairs("dev", request.dev, request.columns, [request.model])
    return group_pairs(read_for_models(spec, bundle.source), bundle.source, bundle.target)


def _verify(new: Path, bundle: Bundle, precision: str) -> None:
    """Check that greedy search gives the same outputs by every means: graphs, torch, and the compiled library."""
    from freerun.onnx_export.verify import check_agreement, decoded, random_sources

    exported = read_bundle(new)
    graphs = Graphs(exported, precision)
    sources = random_sources(exported)
    bounds = [exported.bound.of_one(source_length(source)) for source in sources]
    outputs = OnnxGreedy(graphs)(sources, bounds)
    name = graph_file("greedy", precision)
    both = f"{name} and {graph_file('step', precision)}"
    check_agreement(bundle, both, outputs, OnnxStepper(graphs), sources, precision)
    if precision == "fp32" and importlib.util.find_spec("torch") is not None:
        from freerun.loading.torch_model import load_steppers

        check_agreement(bundle, f"{name} and torch", outputs, load_steppers(bundle)(), sources)
        check_agreement(
            bundle, f"torch and {name}", decoded(bundle, load_steppers(bundle)(), sources), OnnxStepper(graphs), sources
        )
    if can_run(exported, precision):
        both = f"{arrays_file(precision)} and {graph_file('step', precision)}"
        model = CompiledModel(exported, precision)
        compiled = CompiledGreedy(model)(sources, bounds)
        check_agreement(bundle, both, compiled, OnnxStepper(graphs), sources, precision)
        check_agreement(bundle, arrays_file(precision), compiled, CompiledStepper(model), sources, precision)


def _quantize(new: Path, bundle: Bundle, items: EvaluationSet, request: _Request) -> dict[str, Any]:
    """Add int8 graphs, measure both precisions on ``items``, and record the loss in the bundle and its card.

    Raises:
        UserError: int8 loses more than the request's ``max_loss`` points of sequence accuracy.
    """
    sources = [bundle.source.encode(item.source, item.features) for item in items.items]
    add_graphs(new, bundle, "int8", first_state_limit(new, sources))
    _verify(new, bundle, "int8")
    fp32, int8 = (
        evaluate_items(load(new, precision=precision), items, progress=request.progress)
        for precision in ("fp32", "int8")
    )
    record = _loss(fp32, int8)
    loss = -100 * record["difference"]["sequence_accuracy.free"]["value"]
    if loss > request.max_loss:
        accuracy = [100 * record[precision]["sequence_accuracy.free"] for precision in ("fp32", "int8")]
        raise UserError(
            bundle.directory,
            f"int8 loses {loss:.2f} points of sequence accuracy on {len(items):,} sources ({accuracy[0]:.2f} to "
            f"{accuracy[1]:.2f}); nothing was written",
            f"Expected a loss of {request.max_loss:g} points at most",
            "Allow more with --max-loss, or leave out --quantize",
        )
    write_record(new, record)
    return record


def _loss(fp32: Evaluation, int8: Evaluation) -> dict[str, Any]:
    """Return the metrics of both precisions and their paired differences int8 - fp32, as JSON values."""
    comparison: Comparison = compare(fp32, int8)
    names = [name for name in ("sequence_accuracy.free", "symbol_error_rate.free") if name in comparison.differences]
    differences = {name: comparison.differences[name] for name in names}
    return {
        "sources": comparison.sources,
        "fp32": {name: metric.a for name, metric in differences.items()},
        "int8": {name: metric.b for name, metric in differences.items()},
        "difference": {
            name: {"value": d.difference.value, "low": d.difference.low, "high": d.difference.high}
            for name, d in differences.items()
        },
    }
