"""``freerun train``: pairs in, a trained model out."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freerun.architecture import ATTENTIONS, Architecture
from freerun.build import (
    learner_of,
    model_sizes,
    new_model,
    order_of,
    selection_of,
    trainer_settings,
)
from freerun.commands.console import ConsoleReporter, say
from freerun.commands.tables import metrics_table
from freerun.config import (
    Config,
    DataConfig,
    ModelConfig,
    merge,
    parse_config,
    read_toml,
    shown,
    strategies_of,
    to_toml,
)
from freerun.data.batching import Batch
from freerun.errors import BundleError, ConfigError, Interrupted, RunError, UserError
from freerun.evaluation.baseline import baselines, most_frequent_target
from freerun.evaluation.evaluate import evaluate
from freerun.experiment.automatic import Choice, choose_before_data, choose_length, choose_sizes
from freerun.experiment.begun import check_begun, is_over
from freerun.experiment.lengthening import changed_length, explained
from freerun.experiment.plan import RunPlan, TrainRequest, clean_up_run, plan_run, run_folder
from freerun.experiment.prepare import DataSource, TrainingData, choose_tokens, load_data, write_held_out
from freerun.experiment.spool import Spool, found_spool, spool_pairs
from freerun.files import write_atomic
from freerun.loading.torch_model import load_weights, sizes_as_dict, sizes_of
from freerun.lock import inner_lock, only_writer
from freerun.metrics.defined import defined
from freerun.models.seq2seq import Seq2Seq
from freerun.models.stepper import TorchStepper
from freerun.models.torch_threads import Threads
from freerun.runtime.bundle import WEIGHTS, Bundle, read_bundle
from freerun.runtime.writing import BundleParts, write_bundle
from freerun.search.bound import LengthBound
from freerun.search.searcher import StepperSearcher
from freerun.search.settings import Beam
from freerun.threads import resolve_threads
from freerun.training.checkpoint import Checkpoints, serialised
from freerun.training.journal import Journal, read_journal
from freerun.training.resume import Resumption, choose_checkpoint
from freerun.training.selection import Metrics
from freerun.training.signals import CheckpointRequest, checkpoints_on_signals, stop_on_signals
from freerun.training.tensorboard import TensorBoardReporter, tensorboard_is_installed
from freerun.training.trainer import Measured, Reporter, Trainer
from freerun.version import VERSION

__all__ = ["TrainResult", "train"]

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class TrainResult:
    """The run folder, and the best model's figures on all development pairs."""

    folder: Path
    metrics: Metrics


def train(request: TrainRequest) -> TrainResult:
    """Plan, read the data, choose what was left open, build, train, and tell what to do next.

    Raises:
        UserError: anything that the user can fix; nothing that was there before is lost.
        RunError: another process or thread trains into this folder.
        Interrupted: a signal stopped the run, which can be gone on with.
    """
    # The lock is taken before anything in the directory is read: what another process writes is no base for a plan. A
    # study sends SIGUSR1 only to a training that holds its lock, so the handler comes first.
    with checkpoints_on_signals() as wanted, only_writer(inner_lock(run_folder(request))):
        return _train(request, wanted)


def _train(request: TrainRequest, wanted: CheckpointRequest) -> TrainResult:
    plan = plan_run(request)
    if plan.resumes and not plan.longer and (done := _complete(plan.folder)) and _has_its_best(plan.folder):
        say(f"{plan.folder}: this run is complete ({done}); there is nothing to go on with.")
        _tell_next_steps(plan.folder)
        return TrainResult(plan.folder, read_bundle(plan.folder).metrics)
    if plan.resumes:
        check_begun(plan.folder)
    if request.resume and not plan.resumes:
        say(f"{plan.folder}: no run to go on with; starting from the beginning.")
    with Threads(resolve_threads(plan.config.training.threads)):
        return _carry_out(plan, wanted)


def _carry_out(plan: RunPlan, wanted: CheckpointRequest) -> TrainResult:
    """Train as planned."""
    start = _initial_bundle(plan)
    with _spooled(plan) as spool:
        plan = _naming_copies(plan, spool)
        pairs = DataSource.open(spool.reading, say, spool.name)
        hashes = {**pairs.hashes, **_hash_of(start)}
        if plan.resumes:
            _refuse_changed_data(plan.folder, hashes)
        config, data = _settle(plan, pairs, start)
        most_frequent = most_frequent_target(lambda: (pair.target for pair in pairs.train()))
        run = _Run(plan.folder, config, data, start, most_frequent)
        _begin_folder(plan, config, pairs, spool)
    resumption = run.resumption() if plan.resumes else None
    if plan.longer and resumption is None and is_over(plan.folder):
        raise RunError(
            plan.folder / "checkpoints",
            "no checkpoint is left to continue this run from",
            "Expected the checkpoints that training wrote",
            "Put them back, or train into another directory with --out",
        )
    trainer = run.trainer(resumption.update if resumption else 0)
    _go_on_or_start(trainer, plan, hashes, run, resumption)
    try:
        with stop_on_signals() as stop:
            progress = trainer.run(stop, wanted)
    except Interrupted:
        say(f"Stopped at update {trainer.progress.update:,}; a checkpoint is written.")
        _tell_next_steps(plan.folder)
        raise
    best = read_bundle(plan.folder)
    say(f"Done: {progress.update:,} updates; the best model is that of update {progress.best_update:,}.\n")
    print(metrics_table(best.metrics, run.baseline_figures()), flush=True)
    _tell_next_steps(plan.folder)
    return TrainResult(plan.folder, best.metrics)


# -- configuration and data -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _spooled(plan: RunPlan) -> Iterator[Spool]:
    """The run's pairs in files that can be read again; copies go away unless the run begins."""
    data = plan.config.data
    spool = found_spool(plan.folder, data) if plan.resumes else spool_pairs(plan.folder, data, say)
    try:
        yield spool
    finally:
        spool.discard()


def _naming_copies(plan: RunPlan, spool: Spool) -> RunPlan:
    """The plan with the run's copies, where there are any, in place of pipes."""
    if not spool.recorded:
        return plan
    data = DataConfig.model_validate({**plan.config.data.model_dump(), **spool.recorded})
    raw = merge(plan.raw, {"data": spool.recorded})
    return replace(plan, raw=raw, config=plan.config.model_copy(update={"data": data}))


def _settle(plan: RunPlan, pairs: DataSource, start: Bundle | None) -> tuple[Config, TrainingData]:
    """Fill in what was left open: tokens always, sizes and length where there is no configuration file."""
    known = _nested(_settings_of_bundle(start)) if start else {"data": choose_tokens(plan.config.data, pairs, say)}
    raw = merge(plan.raw, known)
    automatic = choose_before_data(raw, plan.trust.settings_of) if plan.automatic else {}
    config = _parsed(plan, merge(automatic, raw))
    data = load_data(config, pairs, say, (start.source, start.target) if start else None)
    if plan.automatic:
        raw, config = _take(plan, raw, choose_sizes(data, raw, plan.trust.settings_of))
        raw, config = _take(plan, raw, choose_length(config, data, plan.raw))
    return config, data


def _take(plan: RunPlan, raw: Mapping[str, Any], choice: Choice) -> tuple[dict[str, Any], Config]:
    """Put what was chosen under what was set, and tell why."""
    for reason in choice.reasons:
        say(reason)
    complete = merge(_nested(choice.values), raw)
    return complete, _parsed(plan, complete)


def _parsed(plan: RunPlan, raw: Mapping[str, Any]) -> Config:
    return parse_config(raw, plan.where, plan.trust.settings_of, plan.origins)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key path as sections."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        section, _, key = path.partition(".")
        nested.setdefault(section, {})[key] = value
    return nested


def _initial_bundle(plan: RunPlan) -> Bundle | None:
    """The bundle that --init names; its sizes and codecs are the run's."""
    if not plan.config.training.init:
        return None
    bundle = read_bundle(Path(plan.config.training.init))
    bundle.check_weights()
    _refuse_other_sizes(plan, bundle)
    return bundle


def _refuse_other_sizes(plan: RunPlan, bundle: Bundle) -> None:
    """Nothing that was set may contradict the bundle."""
    has = _settings_of_bundle(bundle)
    problems = []
    for section in ("data", "model"):
        for key, value in dict(plan.raw.get(section, {})).items():
            name = f"{section}.{key}"
            if name in has and value not in (has[name], "auto"):
                problems.append((name, value, has[name]))
    if problems:
        told = "; ".join(f"{name} is {shown(value)} here and {shown(other)} there" for name, value, other in problems)
        raise ConfigError.single(
            plan.where,
            f"the configuration contradicts the bundle {bundle.folder} that training starts from: {told}",
            "Expected the bundle's own values",
            "Leave these keys out, or start without --init",
        )


def _settings_of_bundle(bundle: Bundle) -> dict[str, Any]:
    """What a bundle says of the keys of a configuration."""
    model, source, target = bundle.model, bundle.config["source"], bundle.config["target"]
    kept = {
        f"model.{key}": value for key, value in model.items() if key in ModelConfig.model_fields and key != "attention"
    }
    spec = ATTENTIONS[model["attention"]]
    attention = {"model.attention": spec.kind, **({"model.attention_score": spec.score} if spec.score else {})}
    return {
        **kept,
        **attention,
        "model.reverse_source": source["reverse"],
        "data.source_tokens": source["tokens"],
        "data.target_tokens": target["tokens"],
        "data.normalisation": source["normalisation"],
        "data.source_case": source["case"],
    }


def _hash_of(start: Bundle | None) -> dict[str, str]:
    return {} if start is None else {"init_sha256": start.weights_hash}


def _begin_folder(plan: RunPlan, config: Config, pairs: DataSource, spool: Spool) -> None:
    """The run folder with its complete configuration, by which a run is known; then held-out and copied pairs."""
    folder = plan.folder
    try:
        if not plan.resumes:
            clean_up_run(folder)
            write_atomic(folder / "config.toml", to_toml(config))
        # also of a run that is resumed: the file has no hash, and the pairs have
        write_held_out(config.data, pairs, folder)
        spool.publish()
    except OSError as error:
        raise RunError(
            folder,
            f"this folder cannot be written ({error.strerror or error})",
            "Expected a place for the run",
            "Choose another with --out",
        ) from error


def _refuse_changed_data(folder: Path, hashes: Mapping[str, str]) -> None:
    events = read_journal(folder / "journal.jsonl")
    before = events[0] if events else {}
    names = {"train_sha256": "training pairs", "dev_sha256": "development pairs", "init_sha256": "initial model"}
    changed = [(names[key], before[key], value) for key, value in hashes.items() if before.get(key, value) != value]
    if changed:
        told = "; ".join(f"the {name} (SHA-256 was {old[:12]}..., is now {new[:12]}...)" for name, old, new in changed)
        raise RunError(
            folder,
            f"the data of this run has changed since it was started: {told}",
            "Expected the very same files",
            "Put them back to go on, or train into another folder with --out",
        )


def _complete(folder: Path) -> str:
    """Why a run is over, or nothing when it can go on."""
    if not is_over(folder):
        return ""
    last = read_journal(folder / "journal.jsonl")[-1]
    reason = {"complete": "all updates made", "patience": "no improvement any more"}
    return f"update {last['update']:,}, {reason[last['reason']]}"


def _has_its_best(folder: Path) -> bool:
    """Return True if a complete run's best bundle is whole; otherwise say why not: the run concludes again.

    Raises:
        RunError: it is not, and there is no checkpoint to conclude from.
    """
    try:
        bundle = read_bundle(folder / "best")
        bundle.checked_bytes(WEIGHTS)
        final = [event for event in read_journal(folder / "journal.jsonl") if event.get("final")]
        if not final or final[-1].get("best_sha256") in (None, bundle.weights_hash):
            return True
        where, what = folder / "best", "its weights are not those that training ended with"
    except BundleError as error:
        where, what = Path(error.where), error.what
    if not Checkpoints(folder / "checkpoints", 1).updates():
        raise RunError(
            where,
            f"{what}, and no checkpoint is left to restore it from",
            "Expected the directory best/ as training wrote it",
            "Put it back, or train again into another directory with --out",
        )
    say(f"{where}: {what}. Repeating the end of this run from its newest checkpoint.")
    return False


# -- building ---------------------------------------------------------------------------------------------------------


class _Run:
    """The objects of one run, made from its configuration and data."""

    def __init__(
        self, folder: Path, config: Config, data: TrainingData, start: Bundle | None, most_frequent: str
    ) -> None:
        self.folder = folder
        self.config = config
        self.data = data
        self.most_frequent = most_frequent
        self.sizes = sizes_of(start) if start else self._new_sizes()
        self.model = new_model(config, self.sizes)
        if start:
            load_weights(self.model, start)
        self.bound = LengthBound(data.report.longest_target, data.corpus.largest_ratio)
        # made before the folder is: what is wrong with the configuration is told without leaving one behind
        self.order = order_of(config.training, data.corpus)
        self.learner = learner_of(config, self.model, self.order)
        self.settings = trainer_settings(config, self.order)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.training.keep)

    def _new_sizes(self) -> Architecture:
        return model_sizes(self.config.model, len(self.data.source.vocabulary), len(self.data.target.vocabulary))

    def resumption(self) -> Resumption | None:
        """The checkpoint to resume from, None if there is none yet."""
        return choose_checkpoint(self.checkpoints, Journal(self.folder / "journal.jsonl"), self.settings)

    def trainer(self, start: int) -> Trainer:
        """The loop with everything it needs; ``start`` is the update that it resumes from."""
        return Trainer(
            self.learner,
            self.order,
            self.settings,
            selection_of(self.config),
            self,
            self.folder,
            self.checkpoints,
            self._reporters(self.settings.updates, start),
        )

    def evaluate(self, model: Seq2Seq, everything: bool, check: Callable[[], None]) -> Measured:
        """Figures on the development pairs, and the three fixed examples."""
        items = self.data.dev if everything else self.data.sample
        options = self.config.evaluation
        evaluation = evaluate(
            StepperSearcher(lambda: TorchStepper(model)),
            items,
            self.data.source,
            self.data.target,
            bound=self.bound,
            search=Beam(options.beam_size, length_penalty=options.length_penalty, early_stop=options.early_stop),
            progress=lambda done, total: check(),
        )
        shown = zip(items.items[:NUM_EXAMPLES], evaluation.free.texts, strict=False)
        examples = [(item.source, item.texts[0], text) for item, text in shown]
        return Measured(defined(evaluation.metrics()), () if everything else examples)

    def read_label(self, name: str) -> tuple[int, str] | None:
        """The update of the bundle ``best`` or ``last``, and the SHA-256 of its weights; None if it is damaged."""
        try:
            bundle = read_bundle(self.folder / name)
        except UserError:
            return None
        update = bundle.config["training"].get("update")
        return (update, bundle.weights_hash) if type(update) is int else None

    def write_bundle(self, name: str, weights: Mapping[str, Tensor], metrics: Metrics, update: int) -> str:
        """Replace the bundle ``best`` or ``last``; returns the SHA-256 of its weights."""
        parts = BundleParts(
            self.data.source,
            self.data.target,
            self.bound,
            sizes_as_dict(self.sizes),
            self._told(update),
            self.most_frequent,
            serialised(weights),
            metrics,
            VERSION,
        )
        try:
            return write_bundle(self.folder / name, parts)
        except OSError as error:
            raise RunError(
                self.folder / name,
                f"this bundle could not be written ({error.strerror or error}); the one before it and all checkpoints "
                "are untouched",
                "Expected room and permission to write",
                "Make room, then go on with --resume",
            ) from error

    def baseline_figures(self) -> dict[str, Metrics]:
        """The trivial baselines on all development pairs."""
        found = baselines(self.data.dev, self.data.target, self.most_frequent)
        return {name: defined(outputs.metrics()) for name, outputs in found.items()}

    def _told(self, update: int) -> dict[str, Any]:
        """What a bundle tells of how it was made; no paths, for they mean nothing elsewhere."""
        settings = self.config.model_dump(exclude_none=True, mode="json")
        settings["data"] = {k: v for k, v in settings["data"].items() if k not in ("train", "dev")}
        settings["training"] = {k: v for k, v in settings["training"].items() if k != "init"}
        corpus = self.data.corpus
        return {
            **settings,
            "update": update,
            "pairs": len(corpus),
            "sources": corpus.num_sources,
            "parameters": self.model.num_parameters(),
        }

    def _reporters(self, updates: int, start: int) -> Sequence[Reporter]:
        reporters: list[Reporter] = [ConsoleReporter(updates, start)]
        if tensorboard_is_installed():
            reporters.append(TensorBoardReporter(self.folder / "tensorboard", start, say))
        return reporters

    def describe(self, batch: Batch) -> list[dict[str, str]]:
        """The pairs of a batch as texts."""
        source, target = self.data.source, self.data.target
        return [
            {"source": source.text(source.decode(s.tolist())), "target": target.text(target.decode(t.tolist()))}
            for s, t in zip(batch.source, batch.target_out, strict=True)
        ]


def _go_on_or_start(
    trainer: Trainer, plan: RunPlan, hashes: Mapping[str, str], run: _Run, resumption: Resumption | None
) -> None:
    """From the newest whole checkpoint, or from the beginning with a clean journal."""
    if resumption is not None:
        for notice in resumption.notices:
            say(notice)
        kept = read_journal(trainer.journal.path, resumption.checkpoint.state["journal_size"])
        record = changed_length(kept, plan.config)
        trainer.go_on_from(resumption.checkpoint, resumption.discarded, plan.longer is not None, record)
        _rewrite_config(plan, run.config)
        say(f"Going on from update {trainer.progress.update:,}.")
        if plan.longer:
            for sentence in explained(plan.longer, run.config, trainer.is_out_of_patience):
                say(sentence)
        return
    if plan.resumes:
        say(f"{plan.folder}: no checkpoint yet; starting from the beginning.")
        trainer.journal.clear()  # first: then there is nothing that config.toml could contradict
        _rewrite_config(plan, run.config)
    precision, parameters = trainer.learner.precision, run.model.num_parameters()
    figures = {
        "pairs": len(run.data.corpus),
        "updates": trainer.settings.updates,
        "parameters": parameters,
        "precision": precision,
        "freerun": VERSION,
        "config": run.config.model_dump(exclude_none=True, mode="json"),
        **hashes,
    }
    trainer.journal.write("start", 0, **figures)
    number = torch.get_num_threads()
    threads = f"{number} thread{'s' if number > 1 else ''}"
    forcing = run.config.forcing
    strategies = ", then ".join(str(phase["strategy"]) for phase in forcing.phases or [forcing.model_dump()])
    say(
        f"Model: {parameters:,} parameters. {trainer.settings.updates:,} updates, "
        f"{trainer.order.batches_per_epoch:,} batches an epoch; {precision} on {threads}; "
        f"forcing: {strategies}; run folder {plan.folder}."
    )


def _rewrite_config(plan: RunPlan, config: Config) -> None:
    """Write the new length into ``config.toml``, after the journal, which is believed where they differ."""
    if plan.is_outdated:
        try:
            write_atomic(plan.folder / "config.toml", to_toml(config))
        except OSError as error:
            raise RunError(
                plan.folder / "config.toml",
                f"it could not be written ({error.strerror or error})",
                "Expected room and permission to write",
                "Make room, then resume with --resume",
            ) from error


def _tell_next_steps(folder: Path) -> None:
    """The exact commands to go on with."""
    raw = read_toml(folder / "config.toml")
    dev = raw["data"].get("dev")
    pairs = folder / "dev.tsv" if dev is None else dev
    name = shlex.quote(str(folder))
    say("")
    if (folder / "best").exists():
        say(f"  freerun predict {name} 'some text'")
        evaluation = f" {shlex.quote(str(pairs))}" if not isinstance(pairs, dict) else ""
        say(f"  freerun evaluate {name}{evaluation}")
    own = any(":" in strategy for strategy in strategies_of(raw))
    say(f"  freerun train --resume --out {name}{' --trust-code' if own else ''}")
