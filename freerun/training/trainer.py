"""The training loop: updates, evaluations, checkpoints, journal.

The loop is a pure function of its settings and the seed, cut at any update: its whole state is in ``Progress``, the
weights and the optimizer, so a run that is resumed from a checkpoint writes the same bytes as one that never stopped.

The file is over 350 lines because the order of writing journal, checkpoint and bundles, which decides what a resumed
run repeats, is easier to check in one place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from freerun.data.batching import Ids
from freerun.errors import Ended, Interrupted, RankError, RunError, TrainingError, UserError
from freerun.files import write_atomic
from freerun.search.batches import Share
from freerun.training.averaging import average, temporary_weights
from freerun.training.best_model import BestModel
from freerun.training.callbacks import Callback, EvaluationResult
from freerun.training.checkpoint import Checkpoint, Checkpoints
from freerun.training.followers import Followers, own_batches
from freerun.training.hooks import TrainerHooks
from freerun.training.journal import Journal
from freerun.training.learner import Learner, MemoryFull, NotFinite, Step
from freerun.training.order import BatchOrder
from freerun.training.progress import Progress
from freerun.training.selection import Selection
from freerun.training.settings import TrainerSettings
from freerun.training.signals import CheckpointRequest, StopNow, StopRequest

__all__ = ["Trainer"]

_MORE_MEMORY = (
    "Free memory and rerun with --resume; or train again into another directory, with --init to start from these "
    "weights and a lower training.batch_size or training.batch_tokens (training.accumulate makes up for it), "
    "data.max_source_length or data.max_target_length"
)


class Trainer:
    """Updates, evaluations, checkpoints, journal."""

    def __init__(
        self,
        *,
        learner: Learner,
        order: BatchOrder,
        settings: TrainerSettings,
        selection: Selection,
        hooks: TrainerHooks,
        directory: Path,
        checkpoints: Checkpoints,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.followers = Followers(learner.ranks)
        self.learner = learner
        self.order = order
        self.settings = settings
        self.selection = selection
        self.hooks = hooks
        self.directory = directory
        self.checkpoints = checkpoints
        self.callbacks = callbacks
        self.best = BestModel(directory, hooks, checkpoints)
        self.progress = Progress()
        self.journal = Journal(directory / "journal.jsonl")
        self._callback_error: Exception | None = None
        self._started = self._interval_started = time.perf_counter()
        # since the last journal record, in this process and without evaluations
        self._interval_seconds, self._interval_pairs = 0.0, 0

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest, requested: CheckpointRequest | None = None) -> Progress:
        """Train to the end; ``requested`` may request checkpoints in addition to the scheduled ones.

        Raises:
            Interrupted: a signal came; a checkpoint was saved.
            TrainingError: a loss or gradient is not finite.
            RunError: a file could not be written.
            RankError, Ended: another process has ended; a checkpoint was saved.
            Exception: raised by a callback; a checkpoint was saved.
        """
        stop, requested = self.followers.agree(stop, requested or CheckpointRequest())
        try:
            self._run(stop, requested)
        except BaseException:
            self._end()  # the first error is the one to report
            raise
        for error in self._end():
            raise error
        return self.progress

    def _run(self, stop: StopRequest, requested: CheckpointRequest) -> None:
        self._started = self._interval_started = time.perf_counter()
        has_concluded = False
        try:
            self._notify("on_start", self.progress.update, self.settings.updates)
            self.followers.load(self.learner, self.progress.update)
            while not self.run_due_actions(stop, requested):
                self._update()
                metrics = self._write_interval() if self.progress.update % self.settings.journal_every == 0 else {}
                # the terminal may have gone with the signal: first the checkpoint
                if metrics or not stop:
                    self._notify("on_update", self.progress.update, metrics)
            self._conclude(stop)
            has_concluded = True
            if requested.take():
                self._message(f"Training has ended; its last checkpoint is that of update {self.progress.update:,}.")
        except StopNow:
            self._stop(stop.signal)
        except (RankError, Ended):
            if not has_concluded:
                self._save_at_stop("rank")
            raise
        except Exception as error:
            if error is self._callback_error and not has_concluded:
                self._save_at_stop("callback", error=type(error).__name__)
            raise

    def run_due_actions(self, stop: StopRequest, requested: CheckpointRequest) -> bool:
        """Run due evaluations and checkpoints; return True if the run is over."""
        if self._evaluation_is_due() and self.settings.evaluates_at(self.progress.update):
            result, is_best = self._evaluate(stop)
            self.save_checkpoint(with_best=self.settings.average > 1 and self._is_over())
            self._notify("on_evaluation", self.progress.update, result, is_best)
        elif self._evaluation_is_due():
            self._evaluate_at_the_end(stop)
        elif self._checkpoint_is_due():
            self.save_checkpoint()
        if self.progress.update > 0 and requested.take():
            self._save_now()
        if stop:
            raise StopNow
        return self._is_over()

    # -- callbacks ----------------------------------------------------------------------------------------------------

    def _notify(self, method: str, *arguments: Any) -> None:
        """Call a method of all callbacks, and remember an exception as theirs.

        What is saved then has to lead a resumed run to the same bytes: nothing may be in the journal without its part
        of the state. So each event is complete before callbacks hear of it.
        """
        for callback in self.callbacks:
            try:
                getattr(callback, method)(*arguments)
            except Exception as error:
                self._callback_error = error
                raise

    def _message(self, text: str) -> None:
        self._notify("on_message", text)

    def _end(self) -> list[BaseException]:
        """Call ``on_end`` of all callbacks, and return what they raised."""
        errors: list[BaseException] = []
        for callback in self.callbacks:
            try:
                callback.on_end()
            except BaseException as error:  # noqa: BLE001 (for the caller to raise)
                errors.append(error)
        return errors

    def _is_over(self) -> bool:
        return self.progress.update >= self.settings.updates or self.is_out_of_patience

    def _evaluation_is_due(self) -> bool:
        update, settings = self.progress.update, self.settings
        return update != self.progress.evaluated and (settings.evaluates_at(update) or update >= settings.updates > 0)

    def _evaluate_at_the_end(self, stop: StopRequest) -> None:
        """Evaluate at an update where a longer run would not.

        The checkpoint is saved before, because a longer run resumes from it and must not depend on this evaluation. Its
        event still follows that of the evaluation in the journal.
        """
        if self.progress.update not in self.checkpoints.updates():
            self.save_checkpoint(scheduled=False, with_best=True)
        result, is_best = self._evaluate(stop)
        self.journal.write("checkpoint", self.progress.update)
        self._notify("on_evaluation", self.progress.update, result, is_best)

    def _save_now(self) -> None:
        """Save a checkpoint at a signal's request, unless this update has one."""
        if self.progress.update not in self.checkpoints.updates():
            self.save_checkpoint(scheduled=False)
        self._message(
            f"Saved the checkpoint of update {self.progress.update:,}, as requested by SIGUSR1; training continues."
        )

    def _checkpoint_is_due(self) -> bool:
        update, every = self.progress.update, self.settings.checkpoint_every
        due = every > 0 and update > 0 and update % every == 0
        return due and update not in self.checkpoints.scheduled()[-1:]

    @property
    def is_out_of_patience(self) -> bool:
        """Return True if the last ``patience`` evaluations found no better model."""
        return 0 < self.settings.patience <= self.progress.stale

    # -- updates and the journal --------------------------------------------------------------------------------------

    def _update(self) -> None:
        number = self.progress.update + 1
        is_new = (phase := self.learner.phase(number)) != self.learner.phase(self.progress.update)
        if is_new:
            self._message(f"From update {number:,} on: {phase}.")
        position = self.progress.position
        self.followers.train(number, self.settings.next_action(number), self.progress)
        planned: list[Ids] = []
        try:
            planned += [self.order.next(self.progress) for _ in range(self.settings.accumulate)]
            step = self.learner.update(number, own_batches(self.order, planned, self.learner.ranks))
        except NotFinite as error:
            raise self._not_finite(number, planned, error) from None
        except (RankError, Ended):
            self.progress.move_to(position)
            raise
        except MemoryFull as error:
            self.progress.move_to(position)
            self._save_at_stop("memory")
            consequence = f"the update was not applied, and a checkpoint of update {self.progress.update:,} was saved"
            raise error.as_error(f"update {number}", consequence, _MORE_MEMORY) from None
        except UserError:  # a file of prepared pairs is damaged
            self.progress.move_to(position)
            self._save_at_stop("data")
            raise
        if is_new:  # now that a checkpoint cannot be of an update before it
            self.journal.write("phase", self.progress.update, strategy=phase)
        self.progress.update = number
        self._count(planned, step)
        self.followers.after_update(number)

    def _count(self, planned: Sequence[Ids], step: Step) -> None:
        self.progress.add("loss", step.loss, 1)
        self.progress.add("gradient_norm", step.gradient_norm, 1)
        pairs = sum(len(batch) for batch in planned)
        self._interval_pairs += pairs
        self.progress.add("pairs", pairs, 0)
        self.progress.add("target_tokens", sum(self.order.num_tokens(batch) for batch in planned), 0)
        for metrics in step.metrics:
            for name, (total, count) in metrics.items():
                self.progress.add(name, total, count)

    def _not_finite(self, number: int, planned: Sequence[Ids], error: NotFinite) -> TrainingError:
        """Save the batches for inspection; the weights are still those before this update."""
        path = self.directory / f"not-finite-update-{number}.json"
        pairs = [pair for batch in planned for pair in self.hooks.describe(self.order.batch(batch))]
        loss, norm = str(error.loss), str(error.gradient_norm)
        others = {name: str(value) for name, value in error.others.items()}
        details = "".join(f", {name} is {value}" for name, value in others.items() if not name.startswith("nll"))
        content = {"update": number, "loss": loss, "gradient_norm": norm, **others, "pairs": pairs}
        try:
            write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1))
            hint = f"Inspect the batch in {path}"
        except OSError as failure:
            hint = f"The batch could not be saved in {path} ({failure.strerror or failure})"
        return TrainingError(
            f"update {number}",
            f"the loss is {loss} and the gradient norm {norm}{details}; the update was not applied",
            "Expected finite numbers",
            f"{hint}; train again with a lower training.learning_rate, a longer warm-up or a smaller "
            "training.clip_norm",
        )

    def _write_interval(self) -> dict[str, float]:
        """Write and return the metrics since the last journal record: totals as sums, everything else as means."""
        progress = self.progress
        now = time.perf_counter()
        metrics = progress.take_interval()
        metrics["learning_rate"] = self.learner.learning_rate
        metrics["epoch"] = round(self.order.epochs(progress), 6)
        seconds = self._interval_seconds + now - self._interval_started
        metrics["pairs_per_second"] = round(self._interval_pairs / max(seconds, 1e-9), 1)
        metrics["seconds"] = self._seconds()
        self.journal.write("update", progress.update, **metrics)
        self._interval_started, self._interval_seconds, self._interval_pairs = now, 0.0, 0
        return metrics

    def _seconds(self) -> float:
        return round(time.perf_counter() - self._started, 3)

    # -- evaluation and bundles ---------------------------------------------------------------------------------------

    def _evaluate(self, stop: StopRequest) -> tuple[EvaluationResult, bool]:
        """Evaluate the present model on the sample, and write ``last/`` and, if it is better, ``best/``."""
        progress, weights = self.progress, self.learner.model.state_dict()
        result = self._result(False, stop)
        is_best = self.selection.better(result.metrics, progress.best)
        progress.evaluated = progress.update
        progress.last = dict(result.metrics)
        progress.stale = 0 if is_best else progress.stale + 1
        if is_best:
            progress.best_update, progress.best = progress.update, dict(result.metrics)
            progress.best_sha256 = self.hooks.write_bundle("best", weights, result.metrics, progress.update)
        self.hooks.write_bundle("last", weights, result.metrics, progress.update)
        self._write_evaluation(result, is_best)
        return result, is_best

    def _result(
        self, everything: bool, stop: StopRequest, weights: Mapping[str, Tensor] | None = None
    ) -> EvaluationResult:
        """Evaluate the present model, or one with other ``weights``."""
        ranks = self.learner.ranks

        def check() -> None:
            if stop or ranks.own_requests().signal:
                stop.signal = stop.signal or ranks.own_requests().signal
                raise StopNow

        def others() -> list[Any]:
            outcomes = self.followers.outcomes()
            check()  # a signal may have kept another process from computing its share
            return outcomes

        self._interval_seconds += time.perf_counter() - self._interval_started
        self.followers.evaluate(self.learner, everything, weights)
        model = self.learner.model
        with temporary_weights(model, weights) if weights is not None else contextlib.nullcontext():
            return self.hooks.evaluate(model, everything, check, Share(ranks.rank, ranks.size), others)

    def _write_evaluation(self, result: EvaluationResult, is_best: bool, **details: Any) -> None:
        examples = [{"source": s, "reference": r, "free_run": f} for s, r, f in result.examples]
        values = {**result.metrics, "best": is_best, "examples": examples, **details, "seconds": self._seconds()}
        self.journal.write("evaluation", self.progress.update, **values)
        self._interval_started = time.perf_counter()  # an evaluation's time is not training's

    def _conclude(self, stop: StopRequest) -> None:
        """Try the average of the last checkpoints, then evaluate the best model on all development pairs."""
        progress = self.progress
        weights = self._average_if_better(stop) or self.best.weights(progress)
        result = self._result(True, stop, weights)
        sha256 = self.hooks.write_bundle("best", weights, result.metrics, progress.best_update)
        self._write_evaluation(result, True, final=True, best_update=progress.best_update, best_sha256=sha256)
        reason = "patience" if progress.update < self.settings.updates else "complete"
        self.journal.write("stop", progress.update, reason=reason, seconds=self._seconds())
        self.followers.end()

    def _average_if_better(self, stop: StopRequest) -> Mapping[str, Tensor] | None:
        """Return the mean of the last ``average`` checkpoints' weights if it beats the best model on the sample."""
        number = self.settings.average
        # the one at the end is not scheduled where a longer run has none
        saved = sorted({*self.checkpoints.scheduled(), self.progress.update})
        updates = saved[-number:] if number > 1 else []
        if len(updates) < 2:
            return None
        mean = average([self.checkpoints.load(update).model for update in updates])
        result = self._result(False, stop, mean)
        is_best = self.selection.better(result.metrics, self.progress.best)
        self._write_evaluation(result, is_best, averaged=updates)
        self._report_average(updates, result, is_best)
        if not is_best:
            return None
        self.progress.best, self.progress.best_update = dict(result.metrics), self.progress.update
        return mean

    def _report_average(self, updates: Sequence[int], result: EvaluationResult, is_best: bool) -> None:
        value = result.metrics[self.selection.metric]
        metric = f"{self.selection.metric} {'undefined' if value is None else f'{value:.4f}'}"
        self._message(
            f"The mean of the checkpoints of updates {', '.join(map(str, updates))}: {metric}, "
            f"{'better than the best model; now the best' if is_best else 'no better than the best model'}."
        )

    # -- stopping and resuming ----------------------------------------------------------------------------------------

    def save_checkpoint(self, scheduled: bool = True, with_best: bool = False) -> None:
        """Save the present state; a scheduled checkpoint is also an event of the journal.

        ``with_best``: it holds the best model's weights too, because what follows may replace them in ``best/``.
        """
        if scheduled:
            self.journal.write("checkpoint", self.progress.update)
        self._save(scheduled, with_best)
        self._notify("on_checkpoint", self.progress.update, self.checkpoints.path(self.progress.update))

    def _save(self, scheduled: bool, with_best: bool = False) -> None:
        self.progress.journal_size = self.journal.size()
        self.progress.journal_sha256 = self.journal.hash(self.progress.journal_size)
        best = self.best.weights_to_save(self.progress) if with_best else None
        checkpoint = Checkpoint(*self.learner.state(), dataclasses.asdict(self.progress), best=best)
        self.checkpoints.save(self.progress.update, checkpoint, scheduled)

    def resume_from(
        self,
        checkpoint: Checkpoint,
        discarded: Sequence[int] = (),
        is_longer: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Restore the state of a checkpoint, truncate the journal to it, and remove the ``discarded`` checkpoints.

        ``is_longer``: the length of the run was raised, so files written at its former end are not written again.
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
                self.checkpoints.directory,
                f"the newest checkpoint does not fit this run ({' '.join(str(error).split())})",
                "Expected a checkpoint that this run wrote, with this version of freerun",
                "Train again into another directory with --out",
            ) from error
        message = self.best.restore(self.progress, checkpoint, self.settings, is_longer)
        self.journal.resume(self.progress.journal_size, self.progress.update, **(record or {}))
        self.checkpoints.remove(discarded)
        if self.progress.evaluated == self.progress.update:
            # an evaluation may be the last one: nothing would write this bundle again
            self.hooks.write_bundle("last", checkpoint.model, self.progress.last or {}, self.progress.update)
        if message:
            self._message(message)

    def _stop(self, signal: int) -> None:
        """Save the state after a signal, and report the signal."""
        self._save_at_stop("signal", signal=signal)
        self.followers.end(signal)
        raise Interrupted(signal)

    def _save_at_stop(self, reason: str, **details: Any) -> None:
        """Save a checkpoint, if this update has none yet, and the last bundle; callbacks are not called any more."""
        progress = self.progress
        if progress.update not in self.checkpoints.updates():
            self._save(scheduled=False)
        metrics = progress.last if progress.evaluated == progress.update else None
        self.hooks.write_bundle("last", self.learner.model.state_dict(), metrics or {}, progress.update)
        self.journal.write("stop", progress.update, reason=reason, **details, seconds=self._seconds())
