"""Checkpoints: everything a run needs to go on as if it had never stopped, as safetensors and JSON.

A checkpoint is a folder ``update-00000500`` with ``model.safetensors``, ``optimizer.safetensors``,
``strategy.safetensors`` and ``state.json``. It is filled under another name and renamed when complete, so a folder with
that name is always whole.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from freerun.errors import RunError
from freerun.files import replacing_folder, write_atomic

__all__ = ["Checkpoint", "Checkpoints", "serialised"]

_NAME = re.compile(r"update-(\d{8,})")
_PARTS = ("model.safetensors", "optimizer.safetensors", "strategy.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """Weights, optimiser state and the strategy's own by name, and the rest of the state as JSON values."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    strategy: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run: the newest ``keep`` scheduled ones, and one that a signal asked for.

    A checkpoint is scheduled when it would have been written without a signal. Only such ones are kept and averaged, so
    that a stopped and resumed run has the same ones as an undisturbed run.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def updates(self) -> list[int]:
        """The updates of all whole checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name)))

    def save(self, update: int, checkpoint: Checkpoint, scheduled: bool = True) -> None:
        """Write one whole or not at all, then remove those that are no longer kept.

        Raises:
            RunError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        # keys stay in their order: figures that are resumed in it are written to the journal in it
        state = json.dumps({**checkpoint.state, "scheduled": scheduled}, indent=1, allow_nan=False)
        final = self._path(update)
        try:
            with replacing_folder(final) as new:
                write_atomic(new / "model.safetensors", serialised(checkpoint.model))
                write_atomic(new / "optimizer.safetensors", serialised(checkpoint.optimizer))
                write_atomic(new / "strategy.safetensors", serialised(checkpoint.strategy))
                write_atomic(new / "state.json", state)
        except OSError as error:
            raise self._cannot_write(final, error) from error
        self._prune()

    def load(self, update: int) -> Checkpoint:
        """Read one.

        Raises:
            RunError: a part is missing or damaged.
        """
        folder = self._path(update)
        try:
            model, optimizer, strategy = (load_tensors((folder / name).read_bytes()) for name in _PARTS[:3])
            return Checkpoint(model, optimizer, strategy, self._state(update))
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(
                folder,
                f"this checkpoint cannot be read ({error})",
                "Expected whole files " + ", ".join(_PARTS),
                "Remove the folder to go on from the checkpoint before it",
            ) from error

    def newest(self, updates: list[int]) -> Checkpoint | None:
        """The checkpoint of the last of ``updates``, None when there is none."""
        return self.load(updates[-1]) if updates else None

    def scheduled(self) -> list[int]:
        """The updates of the scheduled checkpoints, oldest first; one that cannot be read is not among them."""
        return [update for update in self.updates() if self._is_scheduled(update)]

    def _path(self, update: int) -> Path:
        return self.folder / f"update-{update:08d}"

    def _state(self, update: int) -> Mapping[str, Any]:
        state = json.loads((self._path(update) / "state.json").read_bytes())
        if not isinstance(state, dict):
            raise ValueError("state.json is not a JSON object")
        return state

    def _is_scheduled(self, update: int) -> bool:
        try:
            return self._state(update).get("scheduled") is True
        except (OSError, ValueError):
            return False

    def _prune(self) -> None:
        updates = self.updates()
        kept = {*self.scheduled()[-self.keep :], updates[-1]}
        for update in updates:
            if update not in kept:
                shutil.rmtree(self._path(update), ignore_errors=True)

    def _cannot_write(self, final: Path, error: OSError) -> RunError:
        updates = self.updates()
        safe = f"the one of update {updates[-1]} is untouched" if updates else "there is none before it"
        return RunError(
            final,
            f"this checkpoint could not be written ({error.strerror or error}); {safe}",
            "Expected room and permission to write",
            "Make room, then go on with --resume",
        )


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file; equal tensors give equal bytes."""
    return save_tensors({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
