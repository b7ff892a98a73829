"""The best model of a run: locating, verifying and restoring its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from freerun.errors import RunError
from freerun.files import bytes_hash, file_hash
from freerun.training.checkpoint import Checkpoint, Checkpoints, Damaged, serialised
from freerun.training.hooks import TrainerHooks
from freerun.training.progress import Progress
from freerun.training.settings import TrainerSettings

__all__ = ["BestModel"]


class BestModel:
    """The bundle ``best/`` in a run directory, compared with what ``Progress`` says of it."""

    def __init__(self, directory: Path, hooks: TrainerHooks, checkpoints: Checkpoints) -> None:
        self.directory = directory / "best"
        self.hooks = hooks
        self.checkpoints = checkpoints

    def weights(self, progress: Progress) -> Mapping[str, Tensor]:
        """Return the weights in ``best/``.

        Raises:
            RunError: they cannot be read, or are not those of the best evaluation.
        """
        path = self._weights_path
        try:
            content = path.read_bytes()
            if bytes_hash(content) != progress.best_sha256:
                raise ValueError("the SHA-256 differs from the one at its evaluation")
            return load_tensors(content)
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(
                path,
                f"the weights of the best model (update {progress.best_update}) cannot be read ({error})",
                "Expected the directory best/ as training wrote it",
                "Put it back and rerun with --resume, or train again into another directory with --out",
            ) from error

    def weights_to_save(self, progress: Progress) -> Mapping[str, Tensor] | None:
        """Return the weights that a checkpoint has to keep because ``best/`` may be replaced after it.

        None if there is no best model yet, it is the present one, or ``best/`` has another already.
        """
        if progress.best_update in (-1, progress.update):
            return None
        try:
            return self.weights(progress)
        except RunError:
            return None  # written at the end of the run before a crash, and now again

    def restore(self, progress: Progress, checkpoint: Checkpoint, settings: TrainerSettings, is_longer: bool) -> str:
        """Make sure that ``best/`` is the model that ``progress`` names, or one that the run will write again.

        ``is_longer``: the length of the run was raised. Returns a message if the model was restored, else "".
        """
        if progress.best_update < 0:
            return ""
        label, present = self.hooks.read_label("best"), self._present_hash()
        if not progress.best_sha256 and label == (progress.best_update, present):
            progress.best_sha256 = present  # resumed from an earlier version's checkpoint: the bundle's own hash
        if label == (progress.best_update, progress.best_sha256) and present == progress.best_sha256:
            return ""
        is_later = label is not None and label[0] > progress.best_update
        if label is not None and is_later and not (is_longer and _is_of_an_end(label[0], progress, settings)):
            return ""  # written after this checkpoint, so the run will write it again
        is_intact = present != "" and present == progress.best_sha256
        weights = self.weights(progress) if is_intact else self._saved_weights(progress, checkpoint)
        progress.best_sha256 = self.hooks.write_bundle("best", weights, progress.best or {}, progress.best_update)
        reason = "changes by the end of the shorter run are undone" if is_longer else "damaged"
        return f"{self.directory}: {reason}; restored from the weights of update {progress.best_update}."

    def _saved_weights(self, progress: Progress, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
        """Return the best model's weights from the checkpoint that is resumed from, or from that of its update."""
        if checkpoint.best is not None and bytes_hash(serialised(checkpoint.best)) == progress.best_sha256:
            return checkpoint.best
        try:
            weights = self.checkpoints.load(progress.best_update).model
        except Damaged as error:
            reason = f"the checkpoint of that update cannot be used ({error.what})"
        else:
            if progress.best_sha256 in ("", bytes_hash(serialised(weights))):
                return weights
            reason = "the checkpoint of that update has other weights"
        raise RunError(
            self.directory,
            f"the best model (update {progress.best_update}) is damaged, and {reason}",
            "Expected the directory best/ as training wrote it",
            "Put it back and rerun with --resume, or train again into another directory with --out",
        )

    @property
    def _weights_path(self) -> Path:
        return self.directory / "model.safetensors"

    def _present_hash(self) -> str:
        """Return the SHA-256 of the weights that are in ``best/`` now, "" if there are none."""
        try:
            return file_hash(self._weights_path) if self._weights_path.is_file() else ""
        except OSError:
            return ""


def _is_of_an_end(update: int, progress: Progress, settings: TrainerSettings) -> bool:
    """Return True for the label of a bundle that a run of the present length does not write after this update."""
    return update <= progress.update or not settings.evaluates_at(update)
