"""A graph in onnxruntime: its errors are about the bundle, and Ctrl-C ends it."""

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
    # threads that wait by spinning take the time of those they wait for (docs/decisions/0007)
    "session.intra_op.allow_spinning": "0",
    # bytes that look like onnxruntime's own format are not read as that: it is not checked
    "session.load_model_format": "ONNX",
    # graphs with data in other files are rejected before; should one come through, this is no directory to look in
    "session.model_external_initializers_file_folder_path": "/dev/null",
}
_NO_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
_FAILURES: Final = (MemoryError, RuntimeError, TypeError, ValueError)
"""What a run raises, in addition to onnxruntime's own errors, which have no common base."""
_NODES: Final = 200_000
"""What a step costs even in the smallest graph, in the time that a row takes to read so many bytes of weights."""
_SHORT: Final = 2_000_000_000
"""Bytes of weights, read once for each row and step, up to which a run is over in about 0.2 s."""


class Session:
    """A graph, ready to run in any thread. ``where`` is its file.

    ``rows`` and ``steps`` of a run say how long it may take: one that may be long is made so that signals end it.
    """

    def __init__(self, session: Any, size: int, where: Path | str) -> None:
        """``size`` is that of the file in bytes."""
        self.where = where
        self.output_names = [output.name for output in session.get_outputs()]
        self._size = size
        self._run, self._run_values = session.run, session.run_with_ort_values

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any], rows: int = 1, steps: int = 1) -> list[Any]:
        """The ``outputs`` (or all of them) as NumPy arrays.

        Raises:
            BundleError: onnxruntime gives up.
        """
        return self._made(self._run, outputs, feeds, rows, steps)

    def run_with_ort_values(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], rows: int = 1, steps: int = 1
    ) -> list[Any]:
        """The same with onnxruntime's own tensors."""
        return self._made(self._run_values, outputs, feeds, rows, steps)

    def _made(
        self,
        run: Callable[..., list[Any]],
        outputs: Sequence[str] | None,
        feeds: Mapping[str, Any],
        rows: int,
        steps: int,
    ) -> list[Any]:
        """``run(outputs, feeds)``, so that signals end it if it may be long."""
        try:
            if steps * (_NODES + rows * self._size) <= _SHORT:
                return run(outputs, feeds)
            return _interruptible(run, outputs, feeds)
        except Exception as error:  # noqa: BLE001 (onnxruntime's errors have no common base but this one)
            raise self._failure(error) from None

    def damaged(self, what: str) -> BundleError:
        """An error about what the graph gave."""
        return BundleError(self.where, f"damaged: {what}", "Expected a graph that freerun exported", EXPORT_AGAIN)

    def _failure(self, error: Exception) -> Exception:
        """What is to be raised instead of an error of a run."""
        return self.damaged(f"onnxruntime gave up ({_in_short(error)})") if _is_of_onnxruntime(error) else error


def _interruptible(run: Callable[..., list[Any]], outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
    """``run(outputs, feeds)``, which ends early if a signal's handler raises."""
    options = import_onnxruntime().RunOptions()
    return interruptible(lambda: run(outputs, feeds, options), lambda: setattr(options, "terminate", True))


def open_session(content: bytes, threads: int, where: Path | str) -> Session:
    """A session of onnxruntime on the CPU.

    Raises:
        BundleError: onnxruntime cannot run the graph that is to be found at ``where``.
    """
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is raised, and told by us; a fallback would print to stdout
    for key, value in _OPTIONS.items():
        options.add_session_config_entry(key, value)
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        return Session(session, len(content), where)
    except Exception as error:
        if not _is_of_onnxruntime(error):
            raise
        raise BundleError(
            where,
            f"onnxruntime {runtime.__version__} cannot run this graph ({_in_short(error)})",
            "Expected a graph that freerun exported, of operators that this onnxruntime knows",
            f"{EXPORT_AGAIN}; or install another version of onnxruntime",
        ) from None


def _is_of_onnxruntime(error: Exception) -> bool:
    """Return True for an error of onnxruntime, False for one of a signal's handler."""
    return isinstance(error, _FAILURES) or type(error).__module__.startswith("onnxruntime")


def _in_short(error: Exception) -> str:
    """What onnxruntime says, without error numbers and places in its own source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return printable(re.sub(r"^/\S+:\d+ .*?\) (?=[A-Z])", "", text)[:200].rstrip("."))


def import_onnxruntime() -> Any:
    """Import onnxruntime when it is first needed, for it takes longer than all the rest; return the module.

    Once imported it writes a device id and a database of events into the user's home and, where it can, sends them
    away. A program that reads private texts must not: that is turned off, unless the user has decided it.
    """
    os.environ.setdefault(_NO_TELEMETRY, "1")
    import onnxruntime

    return onnxruntime
