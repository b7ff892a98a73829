"""Checkpoints: everything a run needs to continue as if it had never stopped, as safetensors and JSON.

A checkpoint is a directory ``update-00000500`` with ``model.safetensors``, ``optimizer.safetensors``,
``strategy.safetensors`` and ``state.json``; one from before the end of a run has ``best.safetensors``, too. It is
written under another name and renamed when complete, so a directory with that name is always complete.

``manifest.json`` describes it: ``{"version": 1, "update": 500, "files": {"model.safetensors": "9f86d0...",
...}}``, with the SHA-256 of these files. A checkpoint is loaded only if all of that is true, so damage, a file
of another checkpoint, or a renamed directory is never trained on. Checkpoints of earlier versions have no manifest:
they are loaded unverified.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from freerun.errors import RunError
from freerun.files import bytes_hash, replacing_dir, write_atomic

__all__ = ["Checkpoint", "Checkpoints", "Damaged", "serialised"]

_NAME = re.compile(r"update-(\d{8,})")
_PARTS = ("model.safetensors", "optimizer.safetensors", "strategy.safetensors", "state.json")
_BEST = "best.safetensors"
_MANIFEST = "manifest.json"
_VERSION = 1
_SINCE_MANIFESTS = "best_sha256"
"""A key of every state with a manifest: if only the manifest is missing, the checkpoint is damaged, not old."""


class Damaged(RunError):
    """A checkpoint that differs from what was written; ``what`` says how."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights, optimizer state and the strategy's state by name, and the rest of the state as JSON values.

    ``is_verified``: its files have the hashes that were written with them. ``best``: the best model's weights, in a
    checkpoint from before the end of a run, which may replace that model.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    strategy: Mapping[str, Tensor]
    state: Mapping[str, Any]
    is_verified: bool = True
    best: Mapping[str, Tensor] | None = None


class Checkpoints:
    """The checkpoints of one run: the newest ``keep`` scheduled ones, and one that a signal requested.

    A checkpoint is scheduled if it would have been saved without a signal. Only scheduled ones are kept and averaged,
    so that a stopped and resumed run has the same ones as an undisturbed run.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def updates(self) -> list[int]:
        """Return the updates of all checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(match[1]) for path in self.directory.iterdir() if (match := _NAME.fullmatch(path.name)))

    def save(self, update: int, checkpoint: Checkpoint, scheduled: bool = True) -> None:
        """Save a checkpoint atomically, then remove those that are no longer kept.

        Raises:
            RunError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        # keys stay in their order, in which resumed metrics are written to the journal
        state = json.dumps({**checkpoint.state, "scheduled": scheduled}, indent=1, allow_nan=False)
        tensors = (checkpoint.model, checkpoint.optimizer, checkpoint.strategy)
        parts = zip(_PARTS, chain(map(serialised, tensors), [state.encode()]), strict=True)
        contents = chain(parts, [] if checkpoint.best is None else [(_BEST, serialised(checkpoint.best))])
        final = self.path(update)
        hashes: dict[str, str] = {}
        try:
            with replacing_dir(final) as new:
                for name, content in contents:
                    hashes[name] = bytes_hash(content)
                    write_atomic(new / name, content)
                write_atomic(new / _MANIFEST, json.dumps(_manifest(update, hashes), indent=1) + "\n")
        except OSError as error:
            raise self._cannot_write(final, error) from error
        self._prune()

    def load(self, update: int) -> Checkpoint:
        """Read one, and compare it with its manifest.

        Raises:
            Damaged: a file is missing, unreadable or not the one that was written with this checkpoint.
        """
        directory = self.path(update)
        try:
            names = (*_PARTS, _BEST) if (directory / _BEST).exists() else _PARTS
            contents = {name: _content(directory / name) for name in names}
            state = _state(contents["state.json"])
            is_verified = self._verify(update, contents, state)
            model, optimizer, strategy = (load_tensors(contents[name]) for name in _PARTS[:3])
            best = load_tensors(contents[_BEST]) if _BEST in contents else None
            return Checkpoint(model, optimizer, strategy, state, is_verified, best)
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            raise Damaged(
                directory,
                f"this checkpoint is damaged ({error})",
                "Expected the files " + ", ".join((*_PARTS, _MANIFEST)) + " as they were written together",
                "Put them back, or remove this directory to continue from the checkpoint before it",
            ) from error

    def _verify(self, update: int, contents: Mapping[str, bytes], state: Mapping[str, Any]) -> bool:
        """Return False if there is no manifest to verify by. Raises ValueError if something differs from it."""
        if state.get("update") != update:
            raise ValueError(f"state.json is of update {state.get('update')}, not {update}")
        path = self.path(update) / _MANIFEST
        if not path.exists() and _SINCE_MANIFESTS not in state:
            return False
        manifest = json.loads(_content(path))
        hashes = {name: bytes_hash(content) for name, content in contents.items()}
        if manifest != _manifest(update, hashes):
            files = manifest.get("files") if isinstance(manifest, dict) else None
            named = files if isinstance(files, dict) else {}
            others = [name for name, digest in hashes.items() if named.get(name) != digest]
            what = f"the SHA-256 of {', '.join(others)} differs" if others else "unexpected content"
            raise ValueError(f"{_MANIFEST}: {what}")
        return True

    def remove(self, updates: Collection[int]) -> None:
        """Remove the checkpoints of these updates, damaged or not."""
        for update in updates:
            shutil.rmtree(self.path(update), ignore_errors=True)

    def scheduled(self) -> list[int]:
        """Return the updates of the scheduled checkpoints that can be read, oldest first."""
        return [update for update in self.updates() if self._is_scheduled(update)]

    def path(self, update: int) -> Path:
        """Return the directory of a checkpoint."""
        return self.directory / f"update-{update:08d}"

    def _is_scheduled(self, update: int) -> bool:
        try:
            return _state(_content(self.path(update) / "state.json")).get("scheduled") is True
        except (OSError, ValueError, RecursionError):
            return False

    def _prune(self) -> None:
        updates = self.updates()
        retained = {*self.scheduled()[-self.keep :], updates[-1]}
        self.remove([update for update in updates if update not in retained])

    def _cannot_write(self, final: Path, error: OSError) -> RunError:
        updates = self.updates()
        safe = f"the one of update {updates[-1]} is unchanged" if updates else "there is none before it"
        return RunError(
            final,
            f"this checkpoint could not be written ({error.strerror or error}); {safe}",
            "Expected enough disk space and permission to write",
            "Free disk space, then rerun with --resume",
        )


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file; equal tensors give equal bytes."""
    return save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _manifest(update: int, hashes: Mapping[str, str]) -> dict[str, Any]:
    return {"version": _VERSION, "update": update, "files": dict(hashes)}


def _content(path: Path) -> bytes:
    """Return a file's bytes; raises ValueError for a pipe, which might never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a regular file")
    return path.read_bytes()


def _state(content: bytes) -> Mapping[str, Any]:
    state = json.loads(content)
    if not isinstance(state, dict):
        raise ValueError("state.json is not a JSON object")
    return state
