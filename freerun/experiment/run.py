"""A training run: from a request, or from a prepared plan, to a trained model in a run directory."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from freerun.build import build_learner, new_model, order_of, selection_of, trainer_settings
from freerun.config import Config, to_toml
from freerun.distributed.ranks import ALONE, Ranks
from freerun.errors import Interrupted, RunError
from freerun.evaluation.baseline import baselines
from freerun.experiment.completed import complete_result
from freerun.experiment.following import grace_of, prepare_followers
from freerun.experiment.initial_model import network_sizes
from freerun.experiment.lengthening import changed_length, explained
from freerun.experiment.origin import changed_device, changed_processes, check_random_numbers, device_of, is_finished
from freerun.experiment.plan import RunPlan, plan_run
from freerun.experiment.prepare import PreparedRun, check_pairs_in_memory, prepared_run
from freerun.experiment.request import DEVICE_KEY, TrainRequest, run_directory
from freerun.experiment.result import TrainResult
from freerun.experiment.run_hooks import RunHooks
from freerun.files import write_atomic
from freerun.loading.torch_model import load_weights
from freerun.lock import inner_lock, only_writer
from freerun.log import log
from freerun.metrics.defined import defined
from freerun.models.device import CPU, choose_device, deterministic, device_label, first_line, is_out_of_memory
from freerun.models.torch_threads import Threads
from freerun.runtime.bundle import read_bundle
from freerun.threads import resolve_threads
from freerun.training.callbacks import Callback
from freerun.training.checkpoint import Checkpoints
from freerun.training.followers import Followers
from freerun.training.journal import Journal, read_journal
from freerun.training.resume import Resumption, choose_checkpoint
from freerun.training.selection import Metrics
from freerun.training.signals import CheckpointRequest, checkpoints_on_signals, stop_on_signals
from freerun.training.tensorboard import TensorBoardCallback, tensorboard_is_installed
from freerun.training.trainer import Trainer
from freerun.version import VERSION

__all__ = ["TrainingRun", "train"]


def train(request: TrainRequest, callbacks: Sequence[Callback] = (), ranks: Ranks = ALONE) -> TrainResult:
    """Plan, prepare and run a training; a run that is complete is returned unchanged.

    ``ranks``: the processes that train together, seen from rank 0; the others ``follow``.

    Raises:
        UserError: something that the user can fix; nothing that was there before is lost.
        RunError: another process or thread trains into this directory.
        Interrupted: a signal stopped the run, which can be resumed.
        RankError, Ended: another process has ended.
    """
    # The lock is taken before the directory is read: files that another process writes are no basis for a plan. A study
    # sends SIGUSR1 only to a training that holds its lock, so the handler comes first.
    with checkpoints_on_signals() as requested, only_writer(inner_lock(run_directory(request))):
        plan = plan_run(request)
        if plan.resumes:
            check_pairs_in_memory(plan)  # also of a complete run, which is not a model of other pairs
        if plan.resumes and not plan.longer and (result := complete_result(plan.directory)):
            Followers(ranks).end()
            return result
        if plan.resumes:
            check_random_numbers(plan.directory)
        # before anything is read
        device = choose_device(plan.config.training.device, DEVICE_KEY, ranks.place.local_rank, ranks.place.local_size)
        if request.resume and not plan.resumes:
            log.info(f"{plan.directory}: no run to resume; starting from the beginning.")
        with Threads(_threads(plan.config.training.threads, ranks)), prepared_run(plan) as prepared:
            try:
                precisions = prepare_followers(prepared, request, ranks, device)
                run = TrainingRun(prepared, device, ranks)
                if "fp32" in precisions:
                    run.learner.precision = "fp32"  # one of the processors has no bf16
                return run.run(callbacks, requested)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                what = f"no memory is left on {device_label(device)} ({first_line(error)})"
            raise RunError(
                plan.directory,
                what,
                "Expected room for the model, its optimizer and evaluations",
                "Free memory and rerun with --resume, or train a smaller model into another directory",
            )


def _threads(number: int, ranks: Ranks) -> int:
    """Return the number of threads: of several processes, each has its share of the cores."""
    if ranks.size == 1:
        return resolve_threads(number)
    threads, variable = number or ranks.place.cores, os.environ.get("OMP_NUM_THREADS")
    if variable not in (None, str(threads)):
        log.info(
            f"OMP_NUM_THREADS is {variable} (torchrun sets it to 1), but each process uses {threads} thread"
            f"{'' if threads == 1 else 's'}, {'as training.threads says' if number else 'its share of the cores'}; "
            "training.threads sets another number."
        )
    return threads


class TrainingRun:
    """A training with everything it needs. Building it writes nothing; ``run`` writes the run directory.

    Only one process may run in a directory: ``train`` holds its lock, and so must any other caller
    (``freerun.lock.only_writer``).
    """

    def __init__(self, prepared: PreparedRun, device: torch.device = CPU, ranks: Ranks = ALONE) -> None:
        self.prepared = prepared
        self.config = prepared.config
        self.directory = prepared.plan.directory
        data = prepared.data
        sizes = network_sizes(self.config.model, data.source, data.target, prepared.init)
        self.model = new_model(self.config, sizes)
        if prepared.init:
            load_weights(self.model, prepared.init)
        self.model.to(device)
        self.order = order_of(self.config.training, data.corpus)
        self.learner = build_learner(self.config, self.model, self.order, ranks)
        self.settings = trainer_settings(self.config, self.order)
        self.checkpoints = Checkpoints(self.directory / "checkpoints", self.config.training.keep)
        self.hooks = RunHooks(self.directory, self.config, data, self.model, prepared.most_frequent)

    def run(self, callbacks: Sequence[Callback] = (), requested: CheckpointRequest | None = None) -> TrainResult:
        """Train to the end, and return the best model's metrics.

        Args:
            callbacks: called while training runs. TensorBoard's is added if it is installed.
            requested: may request checkpoints in addition to the scheduled ones.

        Raises:
            UserError: the run cannot be resumed, or something could not be written.
            Interrupted: a signal stopped the run; a checkpoint was saved.
        """
        self.prepared.write_directory()
        resumption = self._resumption() if self.prepared.plan.resumes else None
        trainer = self._trainer(callbacks)
        if resumption is None:
            self._start(trainer)
        else:
            self._resume(trainer, resumption)
        learner = self.learner
        try:
            with stop_on_signals(grace_of(learner.ranks)) as stop, deterministic(self.model.device, learner.precision):
                progress = trainer.run(stop, requested)
        except Interrupted:
            log.info(f"Stopped at update {trainer.progress.update:,}; checkpoint saved.")
            raise
        metrics = read_bundle(self.directory).metrics
        return TrainResult(self.directory, metrics, progress.update, progress.best_update, self._baselines())

    # -- building -----------------------------------------------------------------------------------------------------

    def _trainer(self, callbacks: Sequence[Callback]) -> Trainer:
        tensorboard = [TensorBoardCallback(self.directory / "tensorboard")] if tensorboard_is_installed() else []
        return Trainer(
            learner=self.learner,
            order=self.order,
            settings=self.settings,
            selection=selection_of(self.config),
            hooks=self.hooks,
            directory=self.directory,
            checkpoints=self.checkpoints,
            callbacks=[*callbacks, *tensorboard],
        )

    def _baselines(self) -> dict[str, Metrics]:
        """Return the trivial baselines' metrics on all development pairs."""
        data = self.prepared.data
        outputs = baselines(data.dev, data.target, self.prepared.most_frequent)
        return {name: defined(each.metrics()) for name, each in outputs.items()}

    # -- starting and resuming ----------------------------------------------------------------------------------------

    def _resumption(self) -> Resumption | None:
        """Return the checkpoint to resume from, None if there is none yet.

        Raises:
            RunError: the length of a finished run was raised, and it has no checkpoint.
        """
        resumption = choose_checkpoint(self.checkpoints, Journal(self.directory / "journal.jsonl"), self.settings)
        if resumption is None and self.prepared.plan.longer and is_finished(self.directory):
            raise RunError(
                self.checkpoints.directory,
                "no checkpoint is left to continue this run from",
                "Expected the checkpoints that training wrote",
                "Put them back, or train into another directory with --out",
            )
        return resumption

    def _resume(self, trainer: Trainer, resumption: Resumption) -> None:
        """Restore the checkpoint, and truncate the journal to it."""
        plan = self.prepared.plan
        for notice in resumption.notices:
            log.info(notice)
        retained = read_journal(trainer.journal.path, resumption.checkpoint.state["journal_size"])
        device = self.model.device.type
        processes = self.learner.ranks.size
        record = changed_length(retained, plan.config) | changed_device(retained, device)
        record |= changed_processes(retained, processes)
        trainer.resume_from(
            resumption.checkpoint, resumption.discarded, is_longer=plan.longer is not None, record=record
        )
        _rewrite_config(plan, self.config)
        place = "" if device == "cpu" else f" on {device_label(self.model.device)}"
        log.info(f"Resuming from update {trainer.progress.update:,}{place}.")
        if "processes" in record:
            each = self.settings.accumulate // processes
            log.info(
                f"From here on {'one process computes' if processes == 1 else f'{processes} processes share'} each "
                f"update, {each} batch{'' if each == 1 else 'es'} each; gradients differ by rounding only."
            )
        if "device" in record:
            log.info(
                f"Until now this run was trained on {device_of(retained)}, from here on {device}: random numbers and "
                "sums are others there, so the result is not that of a run on one device."
            )
        if plan.longer:
            for sentence in explained(plan.longer, self.config, trainer.is_out_of_patience):
                log.info(sentence)

    def _start(self, trainer: Trainer) -> None:
        """Begin with a clean journal."""
        plan = self.prepared.plan
        if plan.resumes:
            log.info(f"{plan.directory}: no checkpoint yet; starting from the beginning.")
            trainer.journal.clear()  # first: then there is nothing that config.toml could contradict
            _rewrite_config(plan, self.config)
        values = {
            "pairs": len(self.prepared.data.corpus),
            "updates": self.settings.updates,
            "parameters": self.model.num_parameters(),
            "precision": self.learner.precision,
            "device": self.model.device.type,
            **({"processes": self.learner.ranks.size} if self.learner.ranks.size > 1 else {}),
            "freerun": VERSION,
            "config": self.config.model_dump(exclude_none=True, mode="json"),
            **self.prepared.hashes,
        }
        trainer.journal.write("start", 0, **values)
        log.info(self._summary())

    def _summary(self) -> str:
        threads, device, ranks = torch.get_num_threads(), self.model.device, self.learner.ranks.size
        place = f"{threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device_label(device)
        if ranks > 1:
            place = f"{ranks} processes, each with {place}" if device.type == "cpu" else f"{ranks} GPUs"
        forcing = self.config.forcing
        strategies = ", then ".join(str(phase["strategy"]) for phase in forcing.phases or [forcing.model_dump()])
        return (
            f"Model: {self.model.num_parameters():,} parameters. {self.settings.updates:,} updates, "
            f"{self.order.batches_per_epoch:,} batches per epoch; {self.learner.precision} on {place}; "
            f"forcing: {strategies}; run directory {self.directory}."
        )


def _rewrite_config(plan: RunPlan, config: Config) -> None:
    """Write the new length into ``config.toml``, after the journal, which is the authority if they differ."""
    if plan.is_outdated:
        path = plan.directory / "config.toml"
        try:
            write_atomic(path, to_toml(config))
        except OSError as error:
            raise RunError(
                path,
                f"this file could not be written ({error.strerror or error})",
                "Expected enough disk space and permission to write",
                "Free disk space, then rerun with --resume",
            ) from error
