"""The ONNX graphs of a bundle: checked, then opened with onnxruntime when they are first needed.

Every graph carries metadata, see ``metadata_of``. The bytes are compared with the hash in config.json, and the metadata
with the bundle, so that a graph that was damaged, edited or copied from another bundle is rejected. The author of a
bundle also wrote its hashes, so onnxruntime only runs graphs that consist of what freerun writes (``graph_rules``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from freerun.architecture import Architecture
from freerun.errors import BundleError
from freerun.runtime.bundle import Bundle, graph_file
from freerun.runtime.forked import keep_for_ever, renew_when_forked
from freerun.runtime.session import EXPORT_AGAIN, Session, open_session
from freerun.search.batches import split_features
from freerun.search.stepper import Ids
from freerun.text import printable

__all__ = ["GRAPH_VERSION", "Graphs", "check_metadata", "metadata_of", "source_feeds"]

GRAPH_VERSION: Final = 1
"""Version of the graphs' inputs and outputs."""


def metadata_of(bundle: Bundle, name: str, precision: str) -> dict[str, str]:
    """Return the metadata of a graph, all strings.

    ``freerun.graph``: its name; ``freerun.version``: of its inputs and outputs; ``freerun.bundle``: the bundle format's
    version; ``freerun.precision``; ``freerun.weights``: SHA-256 of model.safetensors; ``freerun.source_vocabulary`` and
    ``freerun.target_vocabulary``, and ``freerun.feature_vocabulary`` of a model with features: SHA-256 of the tokens.
    """
    features = bundle.source.features
    return {
        "freerun.graph": name,
        "freerun.version": str(GRAPH_VERSION),
        "freerun.bundle": str(bundle.config["version"]),
        "freerun.precision": precision,
        "freerun.weights": bundle.weights_hash,
        "freerun.source_vocabulary": bundle.source.vocabulary.hash,
        "freerun.target_vocabulary": bundle.target.vocabulary.hash,
        **({} if features is None else {"freerun.feature_vocabulary": features.vocabulary.hash}),
    }


class Graphs:
    """A bundle's graphs of one precision. A session is opened when it is first needed; any thread may run it.

    A forked child reopens sessions with several threads, because their threads stayed in the parent.
    """

    def __init__(self, bundle: Bundle, precision: str = "fp32", threads: int = 1) -> None:
        self.bundle = bundle
        self.precision = precision
        self._threads = threads
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        renew_when_forked(self)

    def renew(self) -> None:
        """Make the graphs usable in a forked child."""
        self._lock = threading.Lock()
        if self._threads > 1:
            for session in self._sessions.values():
                keep_for_ever(session)
            self._sessions = {}

    @property
    def vocabulary_size(self) -> int:
        """The number of target ids."""
        return len(self.bundle.target.vocabulary)

    @property
    def has_features(self) -> bool:
        """Return True if the graphs have features as an input."""
        return self.bundle.source.features is not None

    def session(self, name: str) -> Session:
        """Return the graph ``name``, ready to run.

        Raises:
            BundleError: the file is missing, damaged, exported from other weights, not a graph that freerun writes, or
                not for this version of onnxruntime.
        """
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._open(name)
            return self._sessions[name]

    def _open(self, name: str) -> Session:
        # imported here because the compiled greedy search does not need them
        from freerun.runtime.graph_rules import check_graph, max_fields
        from freerun.runtime.onnx_file import GraphError, read_onnx

        file = graph_file(name, self.precision)
        path = self.bundle.directory / file
        content = self.bundle.checked_bytes(file)
        sizes = Architecture.of(self.bundle.model)
        try:
            graph = read_onnx(content, max_fields(sizes))
            check_metadata(path, graph.metadata, metadata_of(self.bundle, name, self.precision))
            check_graph(graph, name, sizes)
        except GraphError as error:
            expected = "Expected a graph that freerun exported, of this model's sizes"
            raise BundleError(path, f"damaged: {error}", expected, EXPORT_AGAIN) from None
        return open_session(content, self._threads, path)


def source_feeds(source_ids: Ids, lengths: Ids, has_features: bool) -> dict[str, Ids]:
    """Return the inputs that hold sources, by name, from those of ``Stepper.start``."""
    if not has_features:
        return {"source": source_ids, "lengths": lengths}
    source_ids, features = split_features(source_ids, lengths)
    return {"source": source_ids, "lengths": lengths, "features": features}


def check_metadata(path: Path, metadata: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Check that the file at ``path`` was exported from the bundle that it is in.

    Raises:
        BundleError: its metadata are incomplete, or not the ``expected`` ones.
    """
    for key, value in expected.items():
        if key not in metadata:
            raise BundleError(path, f"its metadata has no {key}", "Expected a file that freerun exported", EXPORT_AGAIN)
        if metadata[key] != value:
            name = key.removeprefix("freerun.")
            raise BundleError(
                path,
                f"its metadata names {name} {printable(metadata[key][:12])!r}, the bundle has {value[:12]!r}",
                "Expected a file that was exported from this bundle, by a freerun of this version",
                EXPORT_AGAIN,
            )
