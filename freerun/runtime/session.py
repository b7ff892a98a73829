"""A graph in onnxruntime whose errors are about the bundle, and which Ctrl-C interrupts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from freerun.errors import BundleError
from freerun.runtime.interruptible import interruptible
from freerun.text import printable

__all__ = ["EXPORT_AGAIN", "Session", "import_onnxruntime", "open_session"]

EXPORT_AGAIN: Final = "Export again: freerun export MODEL"

_OPTIONS: Final = {
    # threads that spin while they wait take CPU time from those they wait for (docs/decisions/0007)
    "session.intra_op.allow_spinning": "0",
    # bytes in onnxruntime's own format, which is not checked, are not read as such
    "session.load_model_format": "ONNX",
    # graphs with data in other files are rejected before; should one get through, this is not a directory
    "session.model_external_initializers_file_folder_path": "/dev/null",
}
_NO_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
_FAILURES: Final = (MemoryError, RuntimeError, TypeError, ValueError)
"""Errors of a run, in addition to onnxruntime's own, which have no common base class."""
_NODES: Final = 200_000
"""Minimum cost of a step, in bytes of weights that a row could read in the same time."""
_SHORT: Final = 2_000_000_000
"""Bytes of weights, read once per row and step, of a run that takes about 0.2 s at most."""


class Session:
    """A graph, ready to run in any thread. ``location`` is its file.

    ``rows`` and ``steps`` of a run tell how long it may take; signals can interrupt a run that may be long.
    """

    def __init__(self, session: Any, size: int, location: Path | str) -> None:
        """``size`` is the size of the file in bytes."""
        self.location = location
        self.output_names = [output.name for output in session.get_outputs()]
        self._size = size
        self._run, self._run_values = session.run, session.run_with_ort_values

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any], rows: int = 1, steps: int = 1) -> list[Any]:
        """Return the ``outputs`` (default: all) as NumPy arrays.

        Raises:
            BundleError: onnxruntime fails.
        """
        return self._call(self._run, outputs, feeds, rows, steps)

    def run_with_ort_values(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], rows: int = 1, steps: int = 1
    ) -> list[Any]:
        """Return the ``outputs`` as onnxruntime's own tensors, which the feeds are too."""
        return self._call(self._run_values, outputs, feeds, rows, steps)

    def _call(
        self,
        run: Callable[..., list[Any]],
        outputs: Sequence[str] | None,
        feeds: Mapping[str, Any],
        rows: int,
        steps: int,
    ) -> list[Any]:
        """Call ``run(outputs, feeds)``, so that signals can interrupt it if it may be long."""
        try:
            if steps * (_NODES + rows * self._size) <= _SHORT:
                return run(outputs, feeds)
            return _interruptible(run, outputs, feeds)
        except Exception as error:  # noqa: BLE001 (onnxruntime's errors have no other common base)
            raise self._failure(error) from None

    def damaged(self, what: str) -> BundleError:
        """Return an error about the outputs of the graph."""
        return BundleError(self.location, f"damaged: {what}", "Expected a graph that freerun exported", EXPORT_AGAIN)

    def _failure(self, error: Exception) -> Exception:
        """Return the error to raise in place of one that a run raised."""
        return self.damaged(f"onnxruntime failed ({_shortened(error)})") if _is_of_onnxruntime(error) else error


def _interruptible(run: Callable[..., list[Any]], outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
    """Call ``run(outputs, feeds)``; it ends early if a signal's handler raises."""
    options = import_onnxruntime().RunOptions()
    return interruptible(lambda: run(outputs, feeds, options), lambda: setattr(options, "terminate", True))


def open_session(content: bytes, threads: int, location: Path | str) -> Session:
    """Open a graph, the content of the file at ``location``, in onnxruntime on the CPU.

    Raises:
        BundleError: onnxruntime cannot run it.
    """
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and reported by freerun; a fallback would print to stdout
    for key, value in _OPTIONS.items():
        options.add_session_config_entry(key, value)
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        return Session(session, len(content), location)
    except Exception as error:
        if not _is_of_onnxruntime(error):
            raise
        raise BundleError(
            location,
            f"onnxruntime {runtime.__version__} cannot run this graph ({_shortened(error)})",
            "Expected a graph that freerun exported, with operators that this onnxruntime supports",
            f"{EXPORT_AGAIN}; or install another version of onnxruntime",
        ) from None


def _is_of_onnxruntime(error: Exception) -> bool:
    """Return True for an error of onnxruntime, False for one of a signal's handler."""
    return isinstance(error, _FAILURES) or type(error).__module__.startswith("onnxruntime")


def _shortened(error: Exception) -> str:
    """Return onnxruntime's message without error numbers and positions in its source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return printable(re.sub(r"^/\S+:\d+ .*?\) (?=[A-Z])", "", text)[:200].rstrip("."))


def import_onnxruntime() -> Any:
    """Import onnxruntime when it is first needed, because it takes longer than all other imports; return the module.

    On import it writes a device id and a database of events into the user's home directory and, if it can, uploads
    them. A program that reads private texts must not do that, so it is turned off unless the user has set the variable.
    """
    os.environ.setdefault(_NO_TELEMETRY, "1")
    import onnxruntime

    return onnxruntime
