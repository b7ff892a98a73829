"""The training loop: updates, evaluations, checkpoints, journal.

The loop is a pure function of its settings and the seed, cut at any update: everything it knows is in ``Progress``, the
weights and the optimiser, so a run that goes on from a checkpoint writes the same bytes as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from freerun.data.batching import Batch
from freerun.errors import Interrupted, RunError, TrainingError
from freerun.files import bytes_hash, file_hash, write_atomic
from freerun.models.seq2seq import Seq2Seq
from freerun.training.checkpoint import Checkpoint, Checkpoints, Damaged, serialised
from freerun.training.journal import Journal
from freerun.training.learner import Learner, NotFinite, Step
from freerun.training.order import BatchOrder
from freerun.training.progress import Progress
from freerun.training.selection import Metrics, Selection
from freerun.training.signals import CheckpointRequest, StopRequest

__all__ = ["Host", "Measured", "Reporter", "Trainer", "TrainerSettings", "average"]


@dataclass(frozen=True)
class TrainerSettings:
    """How long training goes on and what happens how often. Every ``*_every`` counts updates; 0: only at the end.

    ``accumulate`` batches make an update; training ends early after ``patience`` evaluations without a better one
    (0: never); the weights of the last ``average`` scheduled checkpoints are averaged at the end (0: none).
    """

    updates: int
    accumulate: int = 1
    journal_every: int = 50
    checkpoint_every: int = 500
    evaluate_every: int = 1000
    patience: int = 10
    average: int = 0

    def evaluates_at(self, update: int) -> bool:
        """Return True if there is an evaluation after this update, however long the run is."""
        return self.evaluate_every > 0 and update > 0 and update % self.evaluate_every == 0


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: metrics by name, and (source, reference, free run) of a few examples."""

    metrics: Metrics
    examples: Sequence[tuple[str, str, str]] = ()


class Host(Protocol):
    """What the loop asks for: it knows tensors and numbers, its host knows texts and bundles."""

    def evaluate(self, model: Seq2Seq, everything: bool, check: Callable[[], None]) -> Measured:
        """Measure a model on the development pairs, on the fixed sample or on all of them.

        ``check`` is called between batches and may raise to stop.
        """
        ...

    def write_bundle(self, name: str, weights: Mapping[str, Tensor], metrics: Metrics, update: int) -> str:
        """Replace the bundle folder ``name`` ("best" or "last"); returns the SHA-256 of its weights."""
        ...

    def read_label(self, name: str) -> tuple[int, str] | None:
        """Return the update of a bundle and the SHA-256 that it names for its weights; None if it cannot be read."""
        ...

    def describe(self, batch: Batch) -> list[dict[str, str]]:
        """The pairs of a batch as texts, for a person to look at."""
        ...


class Reporter(Protocol):
    """Tells a person, or a dashboard, how training goes."""

    def updated(self, update: int, figures: Mapping[str, float]) -> None:
        """Called at each journal line with its figures."""
        ...

    def ticked(self, update: int) -> None:
        """Called after every update."""
        ...

    def evaluated(self, update: int, measured: Measured, is_best: bool) -> None:
        """Called after each evaluation."""
        ...

    def said(self, text: str) -> None:
        """One line of news."""
        ...

    def close(self) -> None:
        """Called when training ends or is stopped."""
        ...


class _StopNow(Exception):
    """Leaves the loop, or an evaluation, when a signal came."""


class Trainer:
    """Updates, evaluations, checkpoints, journal."""

    def __init__(
        self,
        learner: Learner,
        order: BatchOrder,
        settings: TrainerSettings,
        selection: Selection,
        host: Host,
        folder: Path,
        checkpoints: Checkpoints,
        reporters: Sequence[Reporter] = (),
    ) -> None:
        self.learner = learner
        self.order = order
        self.settings = settings
        self.selection = selection
        self.host = host
        self.folder = folder
        self.checkpoints = checkpoints
        self.reporters = reporters
        self.progress = Progress()
        self.journal = Journal(folder / "journal.jsonl")
        self._started = self._interval_started = time.perf_counter()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest, wanted: CheckpointRequest | None = None) -> Progress:
        """Train to the end; ``wanted`` may ask for checkpoints in addition to the scheduled ones.

        Raises:
            Interrupted: a signal came; a checkpoint was written.
            TrainingError: a loss or gradient is not finite.
            RunError: something could not be written.
        """
        self._started = self._interval_started = time.perf_counter()
        wanted = wanted or CheckpointRequest()
        try:
            while not self._finished(stop, wanted):
                self._update()
                if self.progress.update % self.settings.journal_every == 0:
                    self._write_interval()
                # the terminal may have gone with the signal: first the checkpoint
                for reporter in [] if stop else self.reporters:
                    reporter.ticked(self.progress.update)
            self._conclude(stop)
            if wanted.take():
                self._say(f"Training has ended; its last checkpoint is that of update {self.progress.update:,}.")
        except _StopNow:
            self._stop(stop.signal)
        finally:
            for reporter in self.reporters:
                reporter.close()
        return self.progress

    def _finished(self, stop: StopRequest, wanted: CheckpointRequest) -> bool:
        """Do what is due between two updates, and return True if the run is over."""
        if self._evaluation_is_due() and self.settings.evaluates_at(self.progress.update):
            self._evaluate(stop)
            self.save_checkpoint(with_best=self.settings.average > 1 and self._is_over())
        elif self._evaluation_is_due():
            self._evaluate_at_the_end(stop)
        elif self._checkpoint_is_due():
            self.save_checkpoint()
        if self.progress.update > 0 and wanted.take():
            self._save_now()
        if stop:
            raise _StopNow
        return self._is_over()

    def _is_over(self) -> bool:
        return self.progress.update >= self.settings.updates or self.is_out_of_patience

    def _evaluation_is_due(self) -> bool:
        update, settings = self.progress.update, self.settings
        return update != self.progress.evaluated and (settings.evaluates_at(update) or update >= settings.updates > 0)

    def _evaluate_at_the_end(self, stop: StopRequest) -> None:
        """Evaluate where a longer run would not.

        The checkpoint is written before, because a run that is made longer continues from it and has to know nothing of
        this evaluation. The journal has the event where an evaluation's checkpoint always has it.
        """
        if self.progress.update not in self.checkpoints.updates():
            self.save_checkpoint(scheduled=False, with_best=True)
        self._evaluate(stop)
        self.journal.write("checkpoint", self.progress.update)

    def _save_now(self) -> None:
        """Write a checkpoint that a signal asked for, unless this update has one."""
        if self.progress.update not in self.checkpoints.updates():
            self.save_checkpoint(scheduled=False)
        self._say(f"Saved the checkpoint of update {self.progress.update:,}, as SIGUSR1 asked; training continues.")

    def _say(self, text: str) -> None:
        for reporter in self.reporters:
            reporter.said(text)

    def _checkpoint_is_due(self) -> bool:
        update, every = self.progress.update, self.settings.checkpoint_every
        due = every > 0 and update > 0 and update % every == 0
        return due and update not in self.checkpoints.scheduled()[-1:]

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the last ``patience`` evaluations found no better model."""
        return 0 < self.settings.patience <= self.progress.stale

    # -- updates and the journal --------------------------------------------------------------------------------------

    def _update(self) -> None:
        number = self.progress.update + 1
        if (phase := self.learner.phase(number)) != self.learner.phase(self.progress.update):
            self.journal.write("phase", self.progress.update, strategy=phase)
            self._say(f"From update {number:,} on: {phase}.")
        batches = [self.order.take(self.progress) for _ in range(self.settings.accumulate)]
        try:
            step = self.learner.update(number, batches)
        except NotFinite as found:
            raise self._not_finite(number, batches, found) from None
        self.progress.update = number
        self._count(batches, step)

    def _count(self, batches: Sequence[Batch], step: Step) -> None:
        self.progress.add("loss", step.loss, 1)
        self.progress.add("gradient_norm", step.gradient_norm, 1)
        self.progress.add("pairs", sum(batch.num_pairs for batch in batches), 0)
        self.progress.add("target_tokens", sum(batch.num_tokens for batch in batches), 0)
        for figures in step.figures:
            for name, (total, count) in figures.items():
                self.progress.add(name, total, count)

    def _not_finite(self, number: int, batches: Sequence[Batch], found: NotFinite) -> TrainingError:
        """Save the batches for inspection; the weights are still those before this update."""
        path = self.folder / f"not-finite-update-{number}.json"
        pairs = [pair for batch in batches for pair in self.host.describe(batch)]
        loss, norm = str(found.loss), str(found.gradient_norm)
        others = {name: str(value) for name, value in found.others.items()}
        told = "".join(f", {name} is {value}" for name, value in others.items() if not name.startswith("nll"))
        content = {"update": number, "loss": loss, "gradient_norm": norm, **others, "pairs": pairs}
        try:
            write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1))
            where = f"Look at the batch in {path}"
        except OSError as error:
            where = f"The batch could not be saved in {path} ({error.strerror or error})"
        return TrainingError(
            f"update {number}",
            f"the loss is {loss} and the norm of the gradients {norm}{told}; the update was not made",
            "Expected finite numbers",
            f"{where}; train again with a lower training.learning_rate, a longer warm-up or a smaller "
            "training.clip_norm",
        )

    def _write_interval(self) -> None:
        """The figures since the last journal line: sums as they are, everything else as a mean."""
        progress = self.progress
        now = time.perf_counter()
        figures = progress.take_interval()
        figures["learning_rate"] = self.learner.learning_rate
        figures["epoch"] = round(progress.epoch + progress.batch / self.order.batches_per_epoch, 6)
        figures["pairs_per_second"] = round(figures["pairs"] / max(now - self._interval_started, 1e-9), 1)
        figures["seconds"] = self._seconds()
        self.journal.write("update", progress.update, **figures)
        self._interval_started = now
        for reporter in self.reporters:
            reporter.updated(progress.update, figures)

    def _seconds(self) -> float:
        return round(time.perf_counter() - self._started, 3)

    # -- evaluation and bundles ---------------------------------------------------------------------------------------

    def _evaluate(self, stop: StopRequest) -> None:
        progress, weights = self.progress, self.learner.model.state_dict()
        measured = self._measure(False, stop)
        is_best = self.selection.better(measured.metrics, progress.best)
        progress.evaluated = progress.update
        progress.last = dict(measured.metrics)
        progress.stale = 0 if is_best else progress.stale + 1
        if is_best:
            progress.best_update, progress.best = progress.update, dict(measured.metrics)
            progress.best_sha256 = self.host.write_bundle("best", weights, measured.metrics, progress.update)
        self.host.write_bundle("last", weights, measured.metrics, progress.update)
        self._write_evaluation(measured, is_best)
        for reporter in self.reporters:
            reporter.evaluated(progress.update, measured, is_best)

    def _measure(self, everything: bool, stop: StopRequest) -> Measured:
        def check() -> None:
            if stop:
                raise _StopNow

        return self.host.evaluate(self.learner.model, everything, check)

    def _measure_with(self, weights: Mapping[str, Tensor], everything: bool, stop: StopRequest) -> Measured:
        with _borrowed(self.learner.model, weights):
            return self._measure(everything, stop)

    def _write_evaluation(self, measured: Measured, is_best: bool, **more: Any) -> None:
        examples = [{"source": s, "reference": r, "free_run": f} for s, r, f in measured.examples]
        figures = {**measured.metrics, "best": is_best, "examples": examples, **more, "seconds": self._seconds()}
        self.journal.write("evaluation", self.progress.update, **figures)
        self._interval_started = time.perf_counter()  # an evaluation's time is not training's

    def _conclude(self, stop: StopRequest) -> None:
        """Try the average of the last checkpoints, then measure the best model on all development pairs."""
        progress = self.progress
        weights = self._average_if_better(stop) or self._weights_of_best()
        measured = self._measure_with(weights, True, stop)
        written = self.host.write_bundle("best", weights, measured.metrics, progress.best_update)
        self._write_evaluation(measured, True, final=True, best_update=progress.best_update, best_sha256=written)
        reason = "patience" if progress.update < self.settings.updates else "complete"
        self.journal.write("stop", progress.update, reason=reason, seconds=self._seconds())

    def _average_if_better(self, stop: StopRequest) -> Mapping[str, Tensor] | None:
        """The mean of the last ``average`` checkpoints' weights where it beats the best model on the sample."""
        number = self.settings.average
        # the one at the end is not scheduled where a longer run has none
        saved = sorted({*self.checkpoints.scheduled(), self.progress.update})
        updates = saved[-number:] if number > 1 else []
        if len(updates) < 2:
            return None
        mean = average([self.checkpoints.load(update).model for update in updates])
        measured = self._measure_with(mean, False, stop)
        is_best = self.selection.better(measured.metrics, self.progress.best)
        self._write_evaluation(measured, is_best, averaged=updates)
        self._tell_average(updates, measured, is_best)
        if not is_best:
            return None
        self.progress.best, self.progress.best_update = dict(measured.metrics), self.progress.update
        return mean

    def _tell_average(self, updates: Sequence[int], measured: Measured, is_best: bool) -> None:
        value = measured.metrics[self.selection.metric]
        found = f"{self.selection.metric} {'undefined' if value is None else f'{value:.4f}'}"
        self._say(
            f"The mean of the checkpoints of updates {', '.join(map(str, updates))}: {found}, "
            f"{'better than the best model, and taken' if is_best else 'no better than the best model'}."
        )

    def _weights_of_best(self) -> Mapping[str, Tensor]:
        path = self._best_weights
        try:
            content = path.read_bytes()
            if bytes_hash(content) != self.progress.best_sha256:
                raise ValueError("the SHA-256 differs from the one at its evaluation")
            return load_tensors(content)
        except (OSError, SafetensorError, ValueError) as error:
            raise RunError(
                path,
                f"the weights of the best model, that of update {self.progress.best_update}, cannot be read ({error})",
                "Expected the folder best/ as training wrote it",
                "Put it back and go on with --resume, or train again into another folder with --out",
            ) from error

    # -- stopping and going on ----------------------------------------------------------------------------------------

    def save_checkpoint(self, scheduled: bool = True, with_best: bool = False) -> None:
        """Write the present state; a scheduled checkpoint is also an event of the journal.

        ``with_best``: it holds the best model's weights too, because what follows may replace them in ``best/``.
        """
        if scheduled:
            self.journal.write("checkpoint", self.progress.update)
        self.progress.journal_size = self.journal.size()
        self.progress.journal_sha256 = self.journal.hash(self.progress.journal_size)
        best = self._kept_best() if with_best else None
        checkpoint = Checkpoint(*self.learner.state(), dataclasses.asdict(self.progress), best=best)
        self.checkpoints.save(self.progress.update, checkpoint, scheduled)

    def _kept_best(self) -> Mapping[str, Tensor] | None:
        """The best model's weights; None if there is none, it is the present one, or ``best/`` has another already."""
        if self.progress.best_update in (-1, self.progress.update):
            return None
        try:
            return self._weights_of_best()
        except RunError:
            return None  # written at the end of the run before a crash, and now again

    def go_on_from(
        self,
        checkpoint: Checkpoint,
        discarded: Sequence[int] = (),
        is_longer: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Take up the state of a checkpoint: cut the journal back to it, and remove the ``discarded`` checkpoints.

        ``is_longer``: the run is made longer now, so what was written at its end before will not be written again.
        ``record`` is added to the journal's event.

        Raises:
            RunError: it is not of this model, the journal is not that of the checkpoint, or the best model is damaged
                and no checkpoint has its weights.
        """
        state = {key: value for key, value in checkpoint.state.items() if key != "scheduled"}
        try:
            self.progress = Progress(**state)
            self.learner.load(checkpoint.model, checkpoint.optimizer, checkpoint.strategy, self.progress.update)
        except (TypeError, KeyError, RuntimeError) as error:
            raise RunError(
                self.checkpoints.folder,
                f"the newest checkpoint does not fit this run ({' '.join(str(error).split())})",
                "Expected a checkpoint that this run wrote, with this version of freerun",
                "Train again into another folder with --out",
            ) from error
        self._restore_best(checkpoint, is_longer)
        self.journal.resume(self.progress.journal_size, self.progress.update, **(record or {}))
        self.checkpoints.remove(discarded)
        if self.progress.evaluated == self.progress.update:
            # an evaluation may be the last one: nothing would write this bundle again
            self.host.write_bundle("last", checkpoint.model, self.progress.last or {}, self.progress.update)

    def _restore_best(self, checkpoint: Checkpoint, is_longer: bool) -> None:
        """Make sure that the best bundle is the one that ``Progress`` means, or one that the run will write again."""
        progress = self.progress
        if progress.best_update < 0:
            return
        label, present = self.host.read_label("best"), self._hash_of_best()
        if not progress.best_sha256 and label == (progress.best_update, present):
            progress.best_sha256 = present  # resumed from an earlier version's checkpoint: the bundle's own hash
        if label == (progress.best_update, progress.best_sha256) and present == progress.best_sha256:
            return
        if label is not None and label[0] > progress.best_update and not (is_longer and self._is_of_an_end(label[0])):
            return  # written after this checkpoint, so the run comes to it again
        is_whole = present != "" and present == progress.best_sha256
        weights = self._weights_of_best() if is_whole else self._saved_weights_of_best(checkpoint)
        progress.best_sha256 = self.host.write_bundle("best", weights, progress.best or {}, progress.best_update)
        reason = "what the end of the shorter run wrote is undone" if is_longer else "damaged"
        self._say(f"{self.folder / 'best'}: {reason}; restored from the weights of update {progress.best_update}.")

    def _is_of_an_end(self, update: int) -> bool:
        """Return True for the label of a bundle that a run of the present length does not write after this update."""
        return update <= self.progress.update or not self.settings.evaluates_at(update)

    def _saved_weights_of_best(self, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
        """The weights of the best model, from the checkpoint that is resumed from or from that of its update."""
        progress = self.progress
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
            self.folder / "best",
            f"the best model, that of update {progress.best_update}, is damaged, and {reason}",
            "Expected the directory best/ as training wrote it",
            "Put it back and resume with --resume, or train again into another directory with --out",
        )

    @property
    def _best_weights(self) -> Path:
        return self.folder / "best" / "model.safetensors"

    def _hash_of_best(self) -> str:
        """SHA-256 of the best bundle's weights as they are now, "" if there are none."""
        try:
            return file_hash(self._best_weights) if self._best_weights.is_file() else ""
        except OSError:
            return ""

    def _stop(self, signal: int) -> None:
        """Write a checkpoint, if this update has none yet, and the last bundle; then tell who called."""
        progress = self.progress
        if progress.update not in self.checkpoints.updates():
            self.save_checkpoint(scheduled=False)
        measured = progress.last if progress.evaluated == progress.update else None
        self.host.write_bundle("last", self.learner.model.state_dict(), measured or {}, progress.update)
        self.journal.write("stop", progress.update, reason="signal", signal=signal, seconds=self._seconds())
        raise Interrupted(signal)


@contextmanager
def _borrowed(model: Seq2Seq, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the model has these weights; its own come back whatever happens."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(dict(weights))
    try:
        yield
    finally:
        model.load_state_dict(own)


def average(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several models' weights, summed in fp64 (Junczys-Dowmunt et al. 2016)."""

    def mean(name: str) -> Tensor:
        total = sum((model[name].double() for model in models), torch.zeros((), dtype=torch.float64))
        return (total / len(models)).to(models[0][name].dtype)

    return {name: mean(name) for name in models[0]}
