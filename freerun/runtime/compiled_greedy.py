"""Greedy search in the compiled library, with the arrays of greedy.npz: for models without attention.

Over 350 lines, because every check of an array is next to the code that passes its address to C.
"""

from __future__ import annotations

import ctypes
import io
import json
import threading
import zipfile
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from freerun.architecture import Architecture
from freerun.errors import BundleError
from freerun.runtime.bundle import Bundle, arrays_file, graph_file
from freerun.runtime.compiled import PRODUCT_LEVELS, Array, Layer, Linear, Model, library, linear, table
from freerun.runtime.forked import renew_when_forked
from freerun.runtime.graphs import check_metadata, metadata_of
from freerun.runtime.interruptible import interruptible
from freerun.search.hypothesis import Hypothesis
from freerun.symbols import EOS, PAD, source_length

__all__ = ["CompiledGreedy", "arrays_version", "can_run", "supports"]

_NO_MEMORY, _BAD_SOURCE, _BAD_MODEL, _STOPPED = 1, 2, 3, 4
_FIRST_ROOM: Final = 2**12
"""Tokens per output for which the first attempt reserves memory."""
_MAX_ROOM: Final = 2**20
"""Total tokens for which the first attempt of a call reserves memory."""
_SHORT: Final = 4_000_000_000
"""Tokens * weights of a call that takes about 0.2 s at most."""
_MIN_ROWS: Final = 24
"""Minimum number of sources per thread."""


def arrays_version(sizes: Architecture) -> int:
    """Return the format version of greedy.npz: 2 if the model has features, which version 1 cannot hold."""
    return 2 if sizes.has_features else 1


def supports(bundle: Bundle) -> bool:
    """Return True if the library can run a model of this architecture."""
    return Architecture.of(bundle.model).compiled_greedy


def can_run(bundle: Bundle, precision: str) -> bool:
    """Return True if the library is installed and the bundle has arrays for it."""
    return supports(bundle) and arrays_file(precision) in bundle.config["files"] and library() is not None


class CompiledGreedy:
    """A ``GreedyDecoder`` in the C library. Any number of threads may call it at once.

    Outputs do not depend, to the last bit, on the other sources in a call. Many sources are divided among ``threads``.
    """

    def __init__(self, bundle: Bundle, precision: str = "fp32", threads: int = 1) -> None:
        compiled = library()
        assert compiled is not None, "can_run() must be True"
        self._decode = compiled.freerun_greedy
        self._bundle = bundle
        self._precision = precision
        self._threads = threads
        self._memory: list[Any] = []
        self._model: Any = None
        self._lock = threading.Lock()
        self._numbers = bundle.limits.numbers
        self._has_features = Architecture.of(bundle.model).has_features
        renew_when_forked(self)

    def renew(self) -> None:
        """Make this usable in a forked child; there are no threads between two calls."""
        self._lock = threading.Lock()

    def __call__(self, sources: Sequence[Sequence[int]], bounds: Sequence[int]) -> list[Hypothesis]:
        """Return the output for each source, whose features follow its EOS; ``bounds`` are in tokens without EOS.

        Raises:
            BundleError: the arrays, which the first call reads, are damaged or not of this bundle's sizes.
        """
        model, stop = self._model or self._read(), ctypes.c_int32()
        if len(sources) == 1:
            return self._decoded(model, stop, sources, bounds)
        parts = [(model, stop, sources[part], bounds[part]) for part in _parts(bounds, self._threads)]
        if self._threads == 1:
            outputs = [self._decoded(*part) for part in parts]
        else:
            outputs = self._in_threads(parts, stop)
        return list(chain.from_iterable(outputs))

    def _in_threads(self, parts: Sequence[Any], stop: ctypes.c_int32) -> list[list[Hypothesis]]:
        from concurrent.futures import ThreadPoolExecutor  # slow to import, and not needed for single texts

        with ThreadPoolExecutor(self._threads) as pool:
            try:
                return list(pool.map(lambda part: self._decoded(*part), parts))
            except BaseException:  # Ctrl-C: stop the other parts
                stop.value = 1
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _decoded(
        self,
        model: Any,
        stop: ctypes.c_int32,
        sources: Sequence[Sequence[int]],
        bounds: Sequence[int],
        room: int = _FIRST_ROOM,
    ) -> list[Hypothesis]:
        """Decode with memory for ``room`` tokens per output, then those that were truncated there with more.

        Few outputs come near a large bound.
        """
        outputs = self._called(model, stop, sources, [min(bound, room) for bound in bounds])
        rows = [row for row, bound in enumerate(bounds) if bound > room and outputs[row].truncated]
        if rows:
            again = self._decoded(model, stop, [sources[row] for row in rows], [bounds[row] for row in rows], 8 * room)
            for row, hypothesis in zip(rows, again, strict=True):
                outputs[row] = hypothesis
        return outputs

    def _called(
        self, model: Any, stop: ctypes.c_int32, sources: Sequence[Sequence[int]], bounds: Sequence[int]
    ) -> list[Hypothesis]:
        """Call the library once; if the call may be long, signals can interrupt it."""
        room = sum(bounds) + len(bounds)
        arrays = (  # not NumPy's: creating these and reading their addresses takes a third of the time
            *_inputs(sources, self._has_features),
            array("q", bounds),
            tokens := array("i", bytes(4 * room)),
            scores := array("f", bytes(4 * room)),
            written := array("q", bytes(8 * len(sources))),
        )
        addresses = [None if each is None else each.buffer_info()[0] for each in arrays]
        if room * self._numbers <= _SHORT:
            result = self._decode(model, len(sources), *addresses, stop)
        else:
            call = partial(self._decode, model, len(sources), *addresses, stop)
            result = interruptible(call, lambda: setattr(stop, "value", 1))
        self._check(result)
        outputs, start = [], 0
        for count, bound in zip(written, bounds, strict=True):
            outputs.append(_hypothesis(tokens[start : start + count].tolist(), scores[start : start + count].tolist()))
            start += bound + 1
        return outputs

    def _check(self, result: int) -> None:
        """Raise the exception for an error code of the library."""
        if result == _STOPPED:
            raise RuntimeError("stopped, because another part of the same call has failed")
        if result == _NO_MEMORY:
            raise MemoryError("no memory for decoding")
        if result == _BAD_SOURCE:
            sides = "source or feature" if self._has_features else "source"
            raise ValueError(f"a source is empty, or has an id outside the {sides} vocabulary")
        if result == _BAD_MODEL:
            raise _damaged(
                self._bundle.directory / arrays_file(self._precision), "the compiled library rejects its sizes"
            )

    def _read(self) -> Any:
        with self._lock:
            if self._model is None:
                memory: list[Any] = []
                # a damaged bundle is rejected by every runtime alike
                self._bundle.checked_bytes(graph_file("greedy", self._precision))
                model = _ModelReader(self._bundle, self._precision, memory).model()
                self._memory = [model, *memory]
                self._model = ctypes.byref(model)
            return self._model


def _parts(bounds: Sequence[int], threads: int) -> list[slice]:
    """Return slices of sources to decode in one call: within ``_MAX_ROOM``, about four per thread."""
    limit = len(bounds) if threads == 1 else max(_MIN_ROWS, -(-len(bounds) // (4 * threads)))
    parts, start, room = [], 0, 0
    for row, bound in enumerate(bounds):
        if row - start == limit or (row > start and room + min(bound, _FIRST_ROOM) > _MAX_ROOM):
            parts.append(slice(start, row))
            start, room = row, 0
        room += min(bound, _FIRST_ROOM) + 1
    return [*parts, slice(start, len(bounds))]


def _inputs(sources: Sequence[Sequence[int]], has_features: bool) -> list[array[int] | None]:
    """Return source ids, source lengths, feature ids and feature counts; None for the latter without features."""
    if not has_features:
        return [*_joined(sources), None, None]
    ends = [source_length(source) if source else 0 for source in sources]
    ids = [source[:end] for source, end in zip(sources, ends, strict=True)]
    features = [source[end:] for source, end in zip(sources, ends, strict=True)]
    return [*_joined(ids), *_joined(features)]


def _joined(rows: Sequence[Sequence[int]]) -> tuple[array[int], array[int]]:
    """Return the ids of all rows one after the other, and the length of each."""
    ids = array("q", rows[0] if len(rows) == 1 else chain.from_iterable(rows))
    return ids or array("q", [PAD]), array("q", map(len, rows))  # an empty array has no address


def _hypothesis(tokens: list[int], scores: list[float]) -> Hypothesis:
    """Return the hypothesis of the tokens that were written, which end with EOS unless the bound came first."""
    truncated = not tokens or tokens[-1] != EOS
    score = sum(scores)
    return Hypothesis(tuple(tokens if truncated else tokens[:-1]), score, tuple(scores), score, truncated)


def _arrays_in(content: bytes) -> dict[str, Array]:
    """Return the arrays of an uncompressed .npz file: they take no more memory than the file has bytes.

    Raises:
        Exception: of many kinds, if it is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries = file.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("overlapping arrays")
        return {entry.filename.removesuffix(".npy"): _array_in(file.read(entry)) for entry in entries}


def _array_in(content: bytes) -> Array:
    """Return the array of an .npy file, whose header may name any shape."""
    file = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    shape, by_columns, kind = read_header(file)
    numbers = np.frombuffer(content, kind, offset=file.tell())
    return numbers.reshape(shape, order="F" if by_columns else "C")


class _ModelReader:
    """Builds a model from the arrays of a bundle; the memory that it points to is added to ``memory``."""

    def __init__(self, bundle: Bundle, precision: str, memory: list[Any]) -> None:
        self._path = bundle.directory / arrays_file(precision)
        self._memory = memory
        self._arrays = self._read(bundle.checked_bytes(arrays_file(precision)))
        self._sizes = sizes = Architecture.of(bundle.model)
        expected = {**metadata_of(bundle, "greedy", precision), "freerun.arrays": str(arrays_version(sizes))}
        check_metadata(self._path, self._metadata(), expected)
        self._directions = ("forward", "backward") if sizes.bidirectional else ("forward",)

    def _read(self, content: bytes) -> dict[str, Array]:
        try:
            arrays = _arrays_in(content)
        except Exception as error:  # noqa: BLE001 (a damaged file can fail in a dozen ways)
            raise self._damaged(f"not an .npz file of numbers ({' '.join(str(error).split())[:200]})") from None
        for name, values in arrays.items():
            if values.dtype.kind not in "fiu":
                raise self._damaged(f"{name} is not an array of numbers")
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise self._damaged(f"{name} has values that are not finite")
        return arrays

    def _metadata(self) -> dict[str, str]:
        try:
            metadata = json.loads(self._arrays.pop("metadata", np.empty(0, np.uint8)).tobytes())
        except (ValueError, RecursionError):
            metadata = {}
        metadata = metadata if isinstance(metadata, dict) else {}
        return {name: value for name, value in metadata.items() if isinstance(value, str)}

    def model(self) -> Model:
        """Build the whole model.

        Raises:
            BundleError: an array is missing, superfluous, or does not have the shape that the bundle's sizes imply.
        """
        sizes, hidden = self._sizes, self._sizes.hidden_size
        if sizes.num_layers > len(self._arrays):
            raise self._damaged(f"{len(self._arrays)} arrays, too few for {sizes.num_layers} layers")
        begins = sizes.embedding_size if sizes.is_projected else sizes.target_vocabulary
        context = {"context_gates": sizes.gates, "context_output": begins} if sizes.every_step else {}
        tied = sizes.target_vocabulary if sizes.is_projected else None
        model = Model(
            cell=sizes.cell_spec.native_code,
            layers=sizes.num_layers,
            directions=len(self._directions),
            hidden=hidden,
            embedding=sizes.embedding_size,
            source_vocabulary=sizes.source_vocabulary,
            target_vocabulary=sizes.target_vocabulary,
            encoder=self._encoder(),
            source_embedding=self._source_embedding(),
            bridge_h=self._bridge("h"),
            bridge_c=self._bridge("c") if sizes.cell_spec.has_cell_state else None,
            decoder=self._decoder(),
            context_gates=self._linears(["context_gates"], hidden, context.get("context_gates"), biased=False),
            context_output=self._linears(["context_output"], hidden, context.get("context_output"), biased=False),
            output=self._linear("output", hidden, begins, biased=not sizes.is_projected),
            tied=self._linears(["tied"], sizes.embedding_size, tied, biased=True),
            feature_vocabulary=sizes.feature_vocabulary,
            feature_embedding=self._feature_embedding(),
            feature_encoder=self._feature_gates([f"encoder.0.{direction}" for direction in self._directions]),
            feature_decoder=self._feature_gates(["decoder.0"]),
        )
        if self._arrays:
            raise self._damaged(f"an unexpected array: {min(self._arrays)}")
        return model

    def _source_embedding(self) -> int | None:
        sizes = self._sizes
        if sizes.has_source_table:
            return None
        return table(self._memory, self._array("source_embedding", (sizes.source_vocabulary, sizes.embedding_size)))

    def _feature_embedding(self) -> int | None:
        sizes = self._sizes
        if not sizes.has_features:
            return None
        shape = sizes.feature_vocabulary, sizes.feature_summary_size
        return table(self._memory, self._array("feature_embedding", shape))

    def _feature_gates(self, layers: Sequence[str]) -> Any:
        """Return the projections of the features' summary to the gates of these layers."""
        sizes = self._sizes
        names = [f"{layer}.features" for layer in layers]
        outputs = sizes.gates if sizes.has_features else None
        return self._linears(names, sizes.feature_summary_size, outputs, biased=False)

    def _encoder(self) -> Any:
        sizes = self._sizes
        first = (sizes.embedding_size, sizes.source_vocabulary if sizes.has_source_table else 0)
        names = [(n, f"encoder.{n}.{direction}") for n in range(sizes.num_layers) for direction in self._directions]
        return self._several(Layer, [self._layer(name, *((sizes.memory_size, 0) if n else first)) for n, name in names])

    def _bridge(self, part: str) -> Any:
        """Return the projections of a bidirectional encoder's states."""
        sizes = self._sizes
        names = [f"bridge.{part}.{n}" for n in range(sizes.num_layers)]
        return self._linears(names, sizes.memory_size, sizes.hidden_size if sizes.bidirectional else None, biased=True)

    def _decoder(self) -> Any:
        sizes = self._sizes
        tokens = [sizes.target_vocabulary, *[0] * (sizes.num_layers - 1)]
        return self._several(Layer, [self._layer(f"decoder.{n}", sizes.hidden_size, t) for n, t in enumerate(tokens)])

    def _layer(self, name: str, inputs: int, tokens: int) -> Layer:
        """Read a layer; if ``tokens`` is not 0, it has a table of so many rows instead of ``inputs``."""
        gates = self._sizes.gates
        biased = self._sizes.cell_spec.gated_bias
        recurrent = self._linear(f"{name}.recurrent", self._sizes.hidden_size, gates, biased)
        if tokens:
            rows = self._array(f"{name}.table", (tokens, gates))
            return Layer(Linear(), recurrent, table(self._memory, rows))
        return Layer(self._linear(f"{name}.input", inputs, gates, biased=True), recurrent, None)

    def _linears(self, names: Sequence[str], inputs: int, outputs: int | None, biased: bool) -> Any:
        """Read one for each name; without ``outputs`` the model has none."""
        if outputs is None:
            return None
        return self._several(Linear, [self._linear(name, inputs, outputs, biased) for name in names])

    def _linear(self, name: str, inputs: int, outputs: int, biased: bool) -> Linear:
        bias = self._array(f"{name}.bias", (outputs,)) if biased else None
        if f"{name}.step" not in self._arrays:
            return linear(self._memory, self._array(f"{name}.weight", (inputs, outputs)), bias)
        step = float(self._array(f"{name}.step", ()))
        if step <= 0:
            raise self._damaged(f"{name}.step is {step:g}, but should be above 0")
        scale = self._array(f"{name}.scale", (outputs,))
        weight = self._array(f"{name}.weight", (inputs, outputs), np.int8)
        if np.abs(weight.astype(np.int16)).max(initial=0) > PRODUCT_LEVELS:
            raise self._damaged(f"{name}.weight has values outside -{PRODUCT_LEVELS} to {PRODUCT_LEVELS}")
        return linear(self._memory, weight, bias, scale, step)

    def _array(self, name: str, shape: tuple[int, ...], kind: type[np.generic] = np.float32) -> Array:
        """Take out an array; one that is only stored in 8 bits becomes float32."""
        values = self._arrays.pop(name, None)
        if values is not None and values.dtype == np.int8 and kind is np.float32 and f"{name}.scale" in self._arrays:
            scale = self._arrays.pop(f"{name}.scale")
            # along one axis or the other
            if scale.dtype == kind and scale.shape in ((1, *values.shape[1:]), (*values.shape[:1], 1)):
                values = np.asarray(values * scale)
        if values is None or values.shape != shape or values.dtype != kind:
            what = "missing" if values is None else f"{values.dtype} {values.shape}"
            raise self._damaged(f"{name} is {what}, but should be {np.dtype(kind)} {shape}")
        return values

    def _several(self, kind: type[ctypes.Structure], items: list[Any]) -> Any:
        """Return an array of structures."""
        self._memory.append((kind * len(items))(*items))
        return self._memory[-1]

    def _damaged(self, what: str) -> BundleError:
        return _damaged(self._path, what)


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(
        path,
        f"damaged: {what}",
        "Expected a file as freerun export wrote it",
        "Export again: freerun export MODEL",
    )
