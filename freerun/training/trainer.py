"""The training loop.

The loop is a pure function of its settings and the seed, cut at any update: everything it knows is in ``Progress``, the
weights and the optimiser, so a run that goes on from a checkpoint writes the same bytes as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from freerun.data.batching import Batch, make_batch, plan_epoch
from freerun.data.corpus import Corpus
from freerun.errors import Interrupted, TrainingError
from freerun.files import write_atomic
from freerun.forcing.batch import TrainingBatch, Update
from freerun.forcing.loss import Losses
from freerun.forcing.strategy import Strategy
from freerun.models.seq2seq import Seq2Seq
from freerun.training.checkpoint import Checkpoint, Checkpoints
from freerun.training.journal import Journal
from freerun.training.optimisers import load_optimiser_state, optimiser_tensors
from freerun.training.precision import autocast
from freerun.training.schedules import Schedule
from freerun.training.signals import StopRequest

__all__ = ["BatchOrder", "Measured", "Progress", "Reporter", "Selection", "Trainer", "TrainerSettings", "WriteBundle"]

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class TrainerSettings:
    """How long training goes on and what happens how often. Every ``*_every`` counts updates; 0: only at the end."""

    updates: int
    seed: int
    accumulate: int = 1
    clip_norm: float = 1.0
    precision: str = "fp32"
    journal_every: int = 50
    checkpoint_every: int = 500
    evaluate_every: int = 1000
    patience: int = 10
    average: int = 0


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: metrics by name, and (source, reference, free run) of a few examples."""

    metrics: Metrics
    examples: Sequence[tuple[str, str, str]] = ()


class Evaluate(Protocol):
    """Measures a model on the development pairs: on the fixed sample, or on all of them."""

    def __call__(self, model: Seq2Seq, everything: bool, check: Callable[[], None]) -> Measured:
        """``check`` is called between batches and may raise to stop."""
        ...


class WriteBundle(Protocol):
    """Writes the bundle folder ``name`` ("best" or "last") with the given weights and metrics."""

    def __call__(self, name: str, weights: Mapping[str, Tensor], metrics: Metrics, update: int) -> None: ...


class Reporter(Protocol):
    """Tells a person, or a dashboard, how training goes."""

    def updated(self, update: int, figures: Mapping[str, float]) -> None:
        """Called at each journal line with its figures."""
        ...

    def ticked(self, update: int, pairs: int) -> None:
        """Called after every update with the pairs seen since training started here."""
        ...

    def evaluated(self, update: int, measured: Measured, is_best: bool) -> None:
        """Called after each evaluation."""
        ...

    def said(self, text: str) -> None:
        """One line of news."""
        ...


@dataclass(frozen=True)
class Selection:
    """Which of two models is better: by ``metric``, ties by nll.teacher, then the earlier one."""

    metric: str
    higher_is_better: bool = False

    def better(self, new: Metrics, old: Metrics | None) -> bool:
        """Whether ``new`` is strictly better than ``old`` (None: there is none yet)."""
        return old is None or self._key(new) < self._key(old)

    def _key(self, metrics: Metrics) -> tuple[float, float]:
        value = metrics[self.metric]
        return (-value if self.higher_is_better else value), metrics.get("nll.teacher", math.inf)


@dataclass
class Progress:
    """Where a run is: with weights and optimiser, all that it needs to go on."""

    update: int = 0
    epoch: int = 0
    batch: int = 0
    evaluated: int = -1
    stale: int = 0
    best_update: int = -1
    best: dict[str, float] | None = None
    last: dict[str, float] | None = None
    interval: dict[str, list[float]] = field(default_factory=dict)
    journal_size: int = 0

    def add(self, name: str, total: float, count: float) -> None:
        """Add to a figure of the present journal interval."""
        entry = self.interval.setdefault(name, [0.0, 0.0])
        entry[0] += total
        entry[1] += count


class BatchOrder:
    """The batches of every epoch: a pure function of (seed, epoch), so that any place in it can be gone back to."""

    def __init__(self, corpus: Corpus, seed: int, batch_size: int | None, batch_tokens: int | None) -> None:
        self.corpus = corpus
        self._options = (batch_size, batch_tokens, seed)
        self._epoch = -1
        self._plan: list[Any] = []
        self.batches_per_epoch = len(self._of(0))

    def take(self, progress: Progress) -> Batch:
        """The next batch; moves ``progress`` past it."""
        plan = self._of(progress.epoch)
        batch = make_batch(self.corpus, plan[progress.batch])
        progress.batch += 1
        if progress.batch == len(plan):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        return batch

    def _of(self, epoch: int) -> list[Any]:
        if epoch != self._epoch:
            batch_size, batch_tokens, seed = self._options
            lengths = self.corpus.sources.lengths, self.corpus.targets.lengths
            self._plan = plan_epoch(
                *lengths, batch_size=batch_size, batch_tokens=batch_tokens, seed=seed, epoch=epoch
            )
            self._epoch = epoch
        return self._plan


class _StopNow(Exception):
    """Leaves an evaluation when a signal came."""


class Trainer:
    """Runs the loop: batches, losses, updates, evaluations, checkpoints, journal."""

    def __init__(
        self,
        model: Seq2Seq,
        strategy: Strategy,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        order: BatchOrder,
        settings: TrainerSettings,
        selection: Selection,
        evaluate: Evaluate,
        write_bundle: WriteBundle,
        folder: Path,
        checkpoints: Checkpoints,
        reporters: Sequence[Reporter] = (),
        describe: Callable[[Batch], list[dict[str, str]]] = lambda _: [],
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.optimizer = optimizer
        self.schedule = schedule
        self.order = order
        self.settings = settings
        self.selection = selection
        self.evaluate = evaluate
        self.write_bundle = write_bundle
        self.folder = folder
        self.checkpoints = checkpoints
        self.reporters = reporters
        self.describe = describe
        self.progress = Progress()
        self.learning_rate = float(optimizer.param_groups[0]["lr"])
        self.journal = Journal(folder / "journal.jsonl")
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._started = self._interval_started = time.perf_counter()
        self._pairs_here = 0

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> Progress:
        """Train to the end.

        Raises:
            Interrupted: a signal came; a checkpoint was written.
            TrainingError: a loss or gradient is not finite.
        """
        self._started = self._interval_started = time.perf_counter()
        try:
            while not self._finished(stop):
                self._update()
                if self.progress.update % self.settings.journal_every == 0:
                    self._write_interval()
                for reporter in self.reporters:
                    reporter.ticked(self.progress.update, self._pairs_here)
            self._conclude(stop)
        except _StopNow:
            self._stop(stop.signal)
        finally:
            self.journal.close()
        return self.progress

    def _finished(self, stop: StopRequest) -> bool:
        """Do what is due between two updates, and tell whether the run is over."""
        progress = self.progress
        if self._evaluation_is_due():
            self._evaluate(stop)
            self.save_checkpoint()
        elif self._checkpoint_is_due():
            self.save_checkpoint()
        if stop:
            raise _StopNow
        return progress.update >= self.settings.updates or self._out_of_patience()

    def _evaluation_is_due(self) -> bool:
        update, every = self.progress.update, self.settings.evaluate_every
        at_end = update >= self.settings.updates
        return update != self.progress.evaluated and update > 0 and (at_end or (every > 0 and update % every == 0))

    def _checkpoint_is_due(self) -> bool:
        update, every = self.progress.update, self.settings.checkpoint_every
        due = every > 0 and update > 0 and update % every == 0 and update != self.progress.evaluated
        return due and update not in self.checkpoints.scheduled()[-1:]

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.stale

    # -- one update --------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """One optimiser step: forward and backward over the accumulated batches, clip, check, step."""
        number = self.progress.update + 1
        batches = [self.order.take(self.progress) for _ in range(self.settings.accumulate)]
        self.optimizer.zero_grad(set_to_none=True)
        loss, parts = self._backward(number, batches)
        norm = self._clip()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._not_finite(number, batches, loss, norm)
        rate = self.learning_rate * self.schedule(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.progress.update = number
        self._count(batches, loss, norm, parts)

    def _backward(self, number: int, batches: Sequence[Batch]) -> tuple[float, list[Losses]]:
        """Gradients of the sum over terms of weight * sum / count, each count taken over all the batches.

        With one term the batches can go one after another, divided once at the end; several terms have counts of their
        own, so that their graphs are kept until all counts are known.
        """
        kept: list[Losses] = []
        for part, batch in enumerate(batches):
            losses = self._losses(Update(number, self.settings.seed, part), batch)
            if len(batches) > 1 and len(losses.terms) == 1:
                (term,) = losses.terms.values()
                (term.weight * term.sum).backward()  # type: ignore[no-untyped-call]
            kept.append(losses)
        counts = {name: sum(losses.terms[name].count for losses in kept) for name in kept[0].terms}
        total = sum(
            (term.weight / counts[name]) * term.sum for losses in kept for name, term in losses.terms.items()
        )
        assert isinstance(total, Tensor)
        if total.requires_grad and not (len(batches) > 1 and len(counts) == 1):
            total.backward()  # type: ignore[no-untyped-call]
        elif len(counts) == 1:
            self._divide_gradients(next(iter(counts.values())))
        return total.item(), kept

    def _losses(self, update: Update, batch: Batch) -> Losses:
        device = self.model.decoder.output_bias.device
        with autocast(self.settings.precision, device.type):
            return self.strategy.losses(self.model, TrainingBatch.of(batch, device), update)

    def _divide_gradients(self, count: float) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(count)

    def _clip(self) -> float:
        """The norm of all gradients before clipping (Pascanu et al. 2013); no clipping at clip_norm 0."""
        limit = self.settings.clip_norm or math.inf
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))

    def _count(self, batches: Sequence[Batch], loss: float, norm: float, parts: Sequence[Losses]) -> None:
        pairs = sum(batch.num_pairs for batch in batches)
        self._pairs_here += pairs
        self.progress.add("loss", loss, 1)
        self.progress.add("gradient_norm", norm, 1)
        self.progress.add("pairs", pairs, 0)
        self.progress.add("target_tokens", sum(batch.num_tokens for batch in batches), 0)
        for losses in parts:
            for name, (total, count) in losses.figures.items():
                self.progress.add(name, total, count)

    def _not_finite(self, number: int, batches: Sequence[Batch], loss: float, norm: float) -> TrainingError:
        """Save the batches for inspection; the weights are still those before this update."""
        path = self.folder / f"not-finite-update-{number}.json"
        pairs = [pair for batch in batches for pair in self.describe(batch)]
        content = {"update": number, "loss": str(loss), "gradient_norm": str(norm), "pairs": pairs}
        write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1))
        return TrainingError(
            f"update {number}",
            f"the loss is {loss} and the norm of the gradients {norm}; the update was not made",
            "Expected finite numbers",
            f"Look at the batch in {path}; a lower training.learning_rate, a longer warm-up or a smaller "
            "training.clip_norm usually helps",
        )

    # -- journal -----------------------------------------------------------------------------------------------------

    def _write_interval(self) -> None:
        """The figures since the last journal line: sums as they are, everything else as a mean."""
        progress = self.progress
        now = time.perf_counter()
        figures = {name: total / count if count else int(total) for name, (total, count) in progress.interval.items()}
        figures["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        figures["epoch"] = round(progress.epoch + progress.batch / self.order.batches_per_epoch, 6)
        figures["pairs_per_second"] = round(figures["pairs"] / max(now - self._interval_started, 1e-9), 1)
        figures["seconds"] = round(now - self._started, 3)
        self.journal.write("update", progress.update, **figures)
        progress.interval = {}
        self._interval_started = now
        for reporter in self.reporters:
            reporter.updated(progress.update, figures)

    # -- evaluation and bundles --------------------------------------------------------------------------------------

    def _evaluate(self, stop: StopRequest) -> None:
        progress = self.progress
        measured = self._measure(False, stop)
        is_best = self.selection.better(measured.metrics, progress.best)
        progress.evaluated = progress.update
        progress.last = dict(measured.metrics)
        progress.stale = 0 if is_best else progress.stale + 1
        if is_best:
            progress.best_update, progress.best = progress.update, dict(measured.metrics)
            self.write_bundle("best", self.model.state_dict(), measured.metrics, progress.update)
        self.write_bundle("last", self.model.state_dict(), measured.metrics, progress.update)
        self._write_evaluation(measured, is_best)

    def _measure(self, everything: bool, stop: StopRequest) -> Measured:
        def check() -> None:
            if stop:
                raise _StopNow

        return self.evaluate(self.model, everything, check)

    def _write_evaluation(self, measured: Measured, is_best: bool, **more: Any) -> None:
        examples = [{"source": s, "reference": r, "free_run": f} for s, r, f in measured.examples]
        seconds = round(time.perf_counter() - self._started, 3)
        self.journal.write(
            "evaluation", self.progress.update, **measured.metrics, best=is_best, examples=examples, **more, seconds=seconds
        )
        for reporter in self.reporters:
            reporter.evaluated(self.progress.update, measured, is_best)
        self._interval_started = time.perf_counter()  # an evaluation's time is not training's

    def _conclude(self, stop: StopRequest) -> None:
        """Try the average of the last checkpoints, then measure the best model on all development pairs."""
        progress = self.progress
        weights: Mapping[str, Tensor] | None = self._average_if_better(stop)
        if weights is None:
            weights = self._weights_of_best()
        final = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(dict(weights))
        measured = self._measure(True, stop)
        self.model.load_state_dict(final)
        self.write_bundle("best", weights, measured.metrics, progress.best_update)
        self._write_evaluation(measured, True, final=True, best_update=progress.best_update)
        reason = "patience" if progress.update < self.settings.updates else "complete"
        self.journal.write("stop", progress.update, reason=reason, seconds=round(time.perf_counter() - self._started, 3))

    def _average_if_better(self, stop: StopRequest) -> Mapping[str, Tensor] | None:
        """The mean of the last ``average`` checkpoints' weights where it beats the best model on the sample."""
        updates = self.checkpoints.scheduled()[-self.settings.average :] if self.settings.average > 1 else []
        if len(updates) < 2:
            return None
        mean = average([self.checkpoints.load(update).model for update in updates])
        final = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(mean)
        measured = self._measure(False, stop)
        self.model.load_state_dict(final)
        is_best = self.selection.better(measured.metrics, self.progress.best)
        self._write_evaluation(measured, is_best, averaged=updates)
        if not is_best:
            return None
        self.progress.best, self.progress.best_update = dict(measured.metrics), self.progress.update
        return mean

    def _weights_of_best(self) -> Mapping[str, Tensor]:
        return load_file(self.folder / "best" / "model.safetensors")

    # -- stopping and going on ---------------------------------------------------------------------------------------

    def save_checkpoint(self, scheduled: bool = True) -> None:
        """Write the present state; a scheduled checkpoint is also an event of the journal."""
        if scheduled:
            self.journal.write("checkpoint", self.progress.update)
        self.progress.journal_size = self.journal.size()
        model = self.model.state_dict()
        optimizer = optimiser_tensors(self.optimizer, self._names)
        state = dataclasses.asdict(self.progress)
        self.checkpoints.save(self.progress.update, Checkpoint(model, optimizer, state), scheduled)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint; the journal forgets what came after it."""
        state = {key: value for key, value in checkpoint.state.items() if key != "scheduled"}
        self.progress = Progress(**state)
        self.model.load_state_dict(dict(checkpoint.model))
        parameters = dict(self.model.named_parameters())
        load_optimiser_state(self.optimizer, checkpoint.optimizer, parameters)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * self.schedule(max(1, self.progress.update))
        self.journal.cut_back(self.progress.journal_size)
        self.journal.write("resume", self.progress.update)

    def _stop(self, signal: int) -> None:
        """Write a checkpoint, if this update has none yet, and the last bundle; then tell who called."""
        if self.progress.update not in self.checkpoints.scheduled():
            self.save_checkpoint(scheduled=False)
        self.write_bundle("last", self.model.state_dict(), self.progress.last or {}, self.progress.update)
        seconds = round(time.perf_counter() - self._started, 3)
        self.journal.write("stop", self.progress.update, reason="signal", signal=signal, seconds=seconds)
        raise Interrupted(signal)


def average(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several models' weights, summed in fp64 (Junczys-Dowmunt et al. 2016)."""
    names = models[0]
    return {
        name: (sum((model[name].double() for model in models), torch.zeros_like(names[name], dtype=torch.float64)) / len(models)).to(
            names[name].dtype
        )
        for name in names
    }
