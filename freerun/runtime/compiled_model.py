"""A bundle's model in the C library.

Over 350 lines, because the reader has one method for each part of the model, and they share the arrays that are left.
"""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from freerun.architecture import Architecture
from freerun.errors import BundleError
from freerun.runtime.bundle import WEIGHTS, Bundle, arrays_file, graph_file
from freerun.runtime.compiled import (
    PRODUCT_LEVELS,
    Array,
    AttentionWeights,
    Layer,
    Linear,
    Model,
    library,
    linear,
    table,
)
from freerun.runtime.compiled_arrays import arrays_in_memory
from freerun.runtime.compiled_file import damaged_arrays, read_arrays
from freerun.runtime.forked import renew_when_forked
from freerun.runtime.interruptible import interruptible
from freerun.symbols import PAD, source_length

__all__ = ["BAD_SOURCE", "STOPPED", "CompiledModel", "in_threads"]

T = TypeVar("T")

NO_MEMORY, BAD_SOURCE, BAD_MODEL, STOPPED = 1, 2, 3, 4
"""Errors of native/greedy.h."""
_SHORT: Final = 4_000_000_000
"""Tokens * weights of a call that takes about 0.2 s at most."""


class CompiledModel:
    """A bundle's model in the C library, read when it is first used. Any number of threads may share it.

    Its arrays are those of greedy.npz, or are computed from the weights of a bundle that was not exported.

    Attributes:
        library: the functions of the library.
        sizes: the architecture.
        numbers: the number of weights.
        is_exported: True if its arrays are read from greedy.npz.
    """

    def __init__(self, bundle: Bundle, precision: str = "fp32") -> None:
        compiled = library()
        assert compiled is not None, "can_run() must be True"
        self.library = compiled
        self.sizes = Architecture.of(bundle.model)
        self.numbers = bundle.limits.numbers
        self.is_exported = bundle.has_graphs(precision)
        self._bundle, self._precision = bundle, precision
        self._path = bundle.directory / (arrays_file(precision) if self.is_exported else WEIGHTS)
        self.memory: list[Any] = []
        self._model: Any = None
        self._lock = threading.Lock()
        renew_when_forked(self)

    def renew(self) -> None:
        """Make this usable in a forked child; there are no threads between two calls."""
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        """Return the model as an argument of the library's functions.

        Raises:
            BundleError: the arrays, which the first call reads, are damaged or not of this bundle's sizes.
        """
        return self._model or self._read()

    def inputs(self, sources: Sequence[Sequence[int]]) -> list[array[int] | None]:
        """Return source ids, source lengths, feature ids and feature counts; None for the latter without features."""
        if not self.sizes.has_features:
            return [*_joined(sources), None, None]
        ends = [source_length(source) if source else 0 for source in sources]
        ids = [source[:end] for source, end in zip(sources, ends, strict=True)]
        features = [source[end:] for source, end in zip(sources, ends, strict=True)]
        return [*_joined(ids), *_joined(features)]

    def run(self, call: Callable[[], int], stop: ctypes.c_int32, tokens: int) -> None:
        """Make a call of the library over so many tokens, which heeds ``stop``; signals can interrupt it if it is long.

        Raises as ``check`` does.
        """
        if tokens * self.numbers <= _SHORT:
            self.check(call())
        else:
            self.check(interruptible(call, lambda: setattr(stop, "value", 1)))

    def check(self, result: int) -> None:
        """Raise the exception for an error code of the library."""
        if result == STOPPED:
            raise RuntimeError("stopped by another thread, or because another part of the same call has failed")
        if result == NO_MEMORY:
            raise MemoryError("no memory for decoding")
        if result == BAD_SOURCE:
            sides = "source or feature" if self.sizes.has_features else "source"
            raise ValueError(f"a source is empty, or has an id outside the {sides} vocabulary")
        if result == BAD_MODEL:
            raise damaged_arrays(self._path, "the compiled library rejects its sizes")

    def _read(self) -> Any:
        with self._lock:
            if self._model is None:
                memory: list[Any] = []
                model = _ModelReader(self.sizes, self._arrays(), self._path, memory).model()
                self.memory = [model, *memory]
                self._model = ctypes.byref(model)
            return self._model

    def _arrays(self) -> Mapping[str, Array]:
        if not self.is_exported:
            return arrays_in_memory(self._bundle)
        # a damaged bundle is rejected by every runtime alike
        self._bundle.checked_bytes(graph_file("greedy", self._precision))
        return read_arrays(self._bundle, self._precision)


def in_threads(work: Callable[[slice], list[T]], parts: Sequence[slice], threads: int, stop: ctypes.c_int32) -> list[T]:
    """Return the results of all parts, in their order; if one fails (Ctrl-C), ``stop`` ends the others."""
    if threads == 1 or len(parts) == 1:
        return list(chain.from_iterable(map(work, parts)))
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and not needed for single texts

    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(chain.from_iterable(pool.map(work, parts)))
        except BaseException:
            stop.value = 1
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _joined(rows: Sequence[Sequence[int]]) -> tuple[array[int], array[int]]:
    """Return the ids of all rows one after the other, and the length of each."""
    ids = array("q", rows[0] if len(rows) == 1 else chain.from_iterable(rows))
    return ids or array("q", [PAD]), array("q", map(len, rows))  # an empty array has no address


class _ModelReader:
    """Builds a model from its arrays; the memory that it points to is added to ``memory``. ``path`` is for errors."""

    def __init__(self, sizes: Architecture, arrays: Mapping[str, Array], path: Path, memory: list[Any]) -> None:
        self._sizes, self._arrays, self._path, self._memory = sizes, dict(arrays), path, memory
        self._directions = ("forward", "backward") if sizes.bidirectional else ("forward",)

    def model(self) -> Model:
        """Build the whole model."""
        sizes, hidden = self._sizes, self._sizes.hidden_size
        if sizes.num_layers > len(self._arrays):
            raise self._damaged(f"{len(self._arrays)} arrays, too few for {sizes.num_layers} layers")
        begins = sizes.embedding_size if sizes.is_projected else sizes.target_vocabulary
        feature_decoder, context_gates = self._context_gates()
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
            context_gates=context_gates,
            context_output=self._linears(
                ["context_output"], hidden, begins if sizes.every_step else None, biased=False
            ),
            output=self._linear("output", hidden, begins, biased=not sizes.is_projected),
            tied=self._linears(["tied"], sizes.embedding_size, tied, biased=True),
            feature_vocabulary=sizes.feature_vocabulary,
            feature_table=self._feature_table(),
            feature_bias=self._feature_bias(),
            feature_encoder=self._feature_encoder(),
            feature_decoder=feature_decoder,
            attention=self._attention() if sizes.attention_spec.reads_memory else None,
        )
        if self._arrays:
            raise self._damaged(f"an unexpected array: {min(self._arrays)}")
        return model

    def _source_embedding(self) -> int | None:
        sizes = self._sizes
        if sizes.has_source_table:
            return None
        return table(self._memory, self._array("source_embedding", (sizes.source_vocabulary, sizes.embedding_size)))

    def _feature_table(self) -> int | None:
        sizes = self._sizes
        if not sizes.feature_summary_size:
            return None
        return table(self._memory, self._array("feature_table", (sizes.feature_vocabulary, sizes.embedding_size)))

    def _feature_bias(self) -> int | None:
        if not self._sizes.feature_summary_size:
            return None
        return table(self._memory, self._array("feature_bias", (self._sizes.embedding_size,))[None])

    def _feature_encoder(self) -> Any:
        """Return the projections of the features' summary to the gates of the encoder's first layer."""
        names = [f"encoder.0.{direction}.features" for direction in self._directions]
        gates = self._sizes.gates if self._sizes.feature_summary_size else None
        return self._linears(names, self._sizes.embedding_size, gates, biased=False)

    def _context_gates(self) -> tuple[Any, Any]:
        """Return the projections of the features' summary and of the context to the decoder's gates, or None."""
        sizes = self._sizes
        width = sizes.feature_summary_size
        if not width + sizes.context_size:
            return None, None
        weight = self._array("context_gates.weight", (width + sizes.context_size, sizes.gates))
        # one array, as in the graphs
        features = self._several(Linear, [linear(self._memory, weight[:width], None)]) if width else None
        context = self._several(Linear, [linear(self._memory, weight[width:], None)]) if sizes.every_step else None
        return features, context

    def _attention(self) -> Any:
        sizes, spec = self._sizes, self._sizes.attention_spec
        hidden, memory, vocabulary = sizes.hidden_size, sizes.memory_size, sizes.target_vocabulary
        within = spec.within_recurrence
        pairs = 2 * hidden
        attention = AttentionWeights(
            is_within=within,
            keys=self._optional("attention.keys", memory, None if spec.needs_equal_sizes else hidden),
            query=self._optional("attention.query", hidden, hidden if spec.sums else None),
            vector=table(self._memory, self._array("attention.vector", (hidden,))[None]) if spec.sums else None,
            values=self._linear("attention.values", memory, sizes.gates + pairs if within else hidden, biased=False),
            state=self._linear("attention.state", hidden, pairs if within else hidden, biased=within),
            tokens=table(self._memory, self._array("attention.tokens", (vocabulary, pairs))) if within else None,
            fed=self._optional("attention.fed", hidden, sizes.gates if sizes.input_feeding else None),
            entries=self._entries(),
        )
        return self._several(AttentionWeights, [attention])

    def _entries(self) -> int | None:
        """Return the table of the features' entries of the memory."""
        sizes = self._sizes
        if not sizes.has_feature_entries:
            return None
        return table(self._memory, self._array("feature_entries", (sizes.feature_vocabulary, sizes.memory_size)))

    def _optional(self, name: str, inputs: int, outputs: int | None) -> Any:
        """Read a product without bias; without ``outputs`` the model has none."""
        return self._linears([name], inputs, outputs, biased=False)

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
        return damaged_arrays(self._path, what)
