"""The graphs of a bundle, opened with onnxruntime: checked, and only when they are needed.

Every graph carries metadata, see ``metadata_of``. The bytes are compared with the hash in config.json, and the metadata
with the bundle, so that a graph that was damaged, edited or taken from elsewhere is refused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from freerun.errors import BundleError
from freerun.runtime.bundle import Bundle, graph_file

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["GRAPH_VERSION", "Graphs", "check_metadata", "metadata_of", "open_session"]

GRAPH_VERSION: Final = 1
"""Changes whenever the graphs' inputs or outputs do."""
_EXPORT_AGAIN: Final = "Export again: freerun export MODEL"


def metadata_of(bundle: Bundle, name: str, precision: str) -> dict[str, str]:
    """What a graph says of itself, all strings.

    ``freerun.graph``: its name; ``freerun.version``: of its inputs and outputs; ``freerun.bundle``: the bundle format's
    version; ``freerun.precision``; ``freerun.weights``: SHA-256 of model.safetensors; ``freerun.source_vocabulary`` and
    ``freerun.target_vocabulary``: SHA-256 of the tokens.
    """
    return {
        "freerun.graph": name,
        "freerun.version": str(GRAPH_VERSION),
        "freerun.bundle": str(bundle.config["version"]),
        "freerun.precision": precision,
        "freerun.weights": bundle.weights_hash,
        "freerun.source_vocabulary": bundle.source.vocabulary.hash,
        "freerun.target_vocabulary": bundle.target.vocabulary.hash,
    }


class Graphs:
    """A bundle's graphs of one precision. Sessions are opened once, when first asked for; any thread may run them."""

    def __init__(self, bundle: Bundle, precision: str = "fp32", threads: int = 1) -> None:
        self.bundle = bundle
        self.precision = precision
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def vocabulary_size(self) -> int:
        """Target ids."""
        return len(self.bundle.target.vocabulary)

    def session(self, name: str) -> onnxruntime.InferenceSession:
        """The graph ``name``, ready to run.

        Raises:
            BundleError: the file is missing, damaged, of other weights, or not for this version of onnxruntime.
        """
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = self._opened(name)
            return self._sessions[name]

    def _opened(self, name: str) -> onnxruntime.InferenceSession:
        file = graph_file(name, self.precision)
        path = self.bundle.folder / file
        session = open_session(self.bundle.checked_bytes(file), self._threads, path)
        check_metadata(
            path, session.get_modelmeta().custom_metadata_map, metadata_of(self.bundle, name, self.precision)
        )
        return session


def open_session(content: bytes, threads: int, where: Path) -> onnxruntime.InferenceSession:
    """A session of onnxruntime on the CPU.

    Raises:
        BundleError: onnxruntime cannot run the graph that is to be found at ``where``.
    """
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is raised, and told by us
    # threads that wait by spinning take the time of those they wait for (docs/decisions/0007)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (its errors have no common base but this one)
        raise BundleError(
            where,
            f"onnxruntime {runtime.__version__} cannot run this graph ({_in_short(error)})",
            "Expected a graph that freerun exported, of operators that this onnxruntime knows",
            f"{_EXPORT_AGAIN}; or install another version of onnxruntime",
        ) from None


def check_metadata(path: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Whether the file at ``path`` was made from the bundle that it lies in.

    Raises:
        BundleError: its metadata lack something, or are not the ``expected`` ones.
    """
    for key, value in expected.items():
        if key not in found:
            raise BundleError(
                path, f"its metadata has no {key}", "Expected a file that freerun exported", _EXPORT_AGAIN
            )
        if found[key] != value:
            name = key.removeprefix("freerun.")
            raise BundleError(
                path,
                f"its metadata names {name} {found[key][:12]!r}, the bundle has {value[:12]!r}",
                "Expected a file that was exported from this bundle, by a freerun of this version",
                _EXPORT_AGAIN,
            )


def _in_short(error: Exception) -> str:
    """What onnxruntime says, without error numbers and places in its own source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return re.sub(r"^/\S+:\d+ .*?\) (?=[A-Z])", "", text)[:200].rstrip(".")


def _onnxruntime() -> Any:
    import onnxruntime  # when it is needed: it takes longer to import than all the rest

    return onnxruntime
