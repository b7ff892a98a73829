"""From configuration to objects: the one place where configuration and classes meet."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from freerun.architecture import Architecture, attention_name, feature_encoder_for
from freerun.config import (
    HIGHER_IS_BETTER,
    Config,
    ConstantSchedule,
    CosineSchedule,
    EvaluationConfig,
    HalvingSchedule,
    InverseSqrtSchedule,
    ModelConfig,
    TrainingConfig,
)
from freerun.data.codec import Codec
from freerun.data.training_pairs import TrainingPairs
from freerun.distributed.ranks import ALONE, Ranks
from freerun.errors import ConfigError
from freerun.forcing.phases import Phases
from freerun.forcing.registry import strategy_named
from freerun.forcing.strategy import Objective, Strategy
from freerun.memory import check_fits
from freerun.models.dropout import DropoutRates
from freerun.models.initialise import initialise
from freerun.models.seq2seq import Seq2Seq
from freerun.runtime.limits import Limits
from freerun.search.methods import Beam
from freerun.training import schedules
from freerun.training.learner import Learner
from freerun.training.optimizers import make_optimizer
from freerun.training.order import BatchOrder
from freerun.training.precision import choose_precision
from freerun.training.selection import Selection
from freerun.training.settings import TrainerSettings

__all__ = [
    "build_learner",
    "model_sizes",
    "new_model",
    "objective_of",
    "order_of",
    "schedule_of",
    "search_of",
    "selection_of",
    "strategy_of",
    "trainer_settings",
    "updates_of",
]


_COPIES = {"sgd": 2, "adam": 4, "adamw": 4}
"""Numbers in memory per parameter: itself, its gradient, and the optimizer's state."""


def model_sizes(config: ModelConfig, source: Codec, target: Codec) -> Architecture:
    """Return the dimensions of the network that ``[model]`` and the codecs' vocabularies describe."""
    feature_vocabulary = 0 if source.features is None else len(source.features.vocabulary)
    return Architecture(
        source_vocabulary=len(source.vocabulary),
        target_vocabulary=len(target.vocabulary),
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        cell=config.cell,
        bidirectional=config.bidirectional,
        context=config.context,
        attention=attention_name(config.attention, config.attention_score),
        tied_output=config.tied_output,
        input_feeding=config.input_feeding,
        feature_vocabulary=feature_vocabulary,
        feature_encoder=(config.feature_encoder or feature_encoder_for(config.attention)) if feature_vocabulary else "",
    )


def dropout_rates(config: ModelConfig) -> DropoutRates:
    """Return the dropout rates of a configuration, whose keys have the same names."""
    return DropoutRates(**{each.name: getattr(config, each.name) for each in fields(DropoutRates)})


def new_model(config: Config, sizes: Architecture) -> Seq2Seq:
    """Build a model with its initial weights.

    Raises:
        ConfigError: it does not fit in memory.
    """
    options = config.model
    network = (
        f"a network with hidden_size = {options.hidden_size:,}, embedding_size = {options.embedding_size:,} and "
        f"num_layers = {options.num_layers:,}"
    )
    parameters = Limits(sizes).numbers
    check_fits("model", network, parameters, _COPIES[config.training.optimizer], "Choose smaller dimensions")
    try:
        model = Seq2Seq(sizes, dropout_rates(options), config.training.backend)
    except (RuntimeError, MemoryError) as error:
        raise ConfigError.single(
            "model",
            f"{network} does not fit in memory ({(str(error).splitlines() or ['no reason given'])[0]})",
            "Expected dimensions that fit in this machine's memory",
            "Choose smaller dimensions",
        ) from error
    forget_bias = None if options.forget_bias == "drawn" else options.forget_bias
    initialise(model, config.training.seed, options.initialisation, options.initial_range, forget_bias)
    return model


def objective_of(config: TrainingConfig, order: BatchOrder) -> Objective:
    """Build the token loss that strategies share."""
    per_batch = order.tokens_per_batch if config.normalise == "tokens" else order.pairs_per_batch
    return Objective(config.label_smoothing, config.normalise, per_batch)


def strategy_of(config: Config, objective: Objective) -> Strategy:
    """Build the forcing strategy with its settings, or the phases of several."""
    section = config.forcing.model_dump(exclude_none=True)
    if config.forcing.phases is None:
        return _strategy(section, objective)
    phases = [dict(phase) for phase in config.forcing.phases]
    ends = [phase.pop("until", None) for phase in phases]
    names = [phase["strategy"] for phase in phases]
    return Phases([_strategy(phase, objective) for phase in phases], names, ends, objective)


def _strategy(settings: dict[str, Any], objective: Objective) -> Strategy:
    kind = strategy_named(settings.pop("strategy"))
    return kind(kind.Settings.model_validate(settings), objective)


def updates_of(config: TrainingConfig, order: BatchOrder) -> int:
    """Return the length of the training in updates, whether it was set in updates or in epochs."""
    if config.updates is not None:
        return config.updates
    assert config.epochs is not None
    return max(1, round(config.epochs * updates_per_epoch(config, order)))


def updates_per_epoch(config: TrainingConfig, order: BatchOrder) -> float:
    """Return the number of optimizer steps per epoch."""
    return order.batches_per_epoch / config.accumulate


def schedule_of(config: TrainingConfig, order: BatchOrder) -> schedules.Schedule:
    """Build the learning-rate schedule."""
    match config.schedule:
        case ConstantSchedule(warmup=warmup):
            return schedules.constant(warmup)
        case InverseSqrtSchedule(warmup=warmup):
            return schedules.inverse_sqrt(warmup)
        case CosineSchedule(warmup=warmup, final=final):
            return schedules.cosine(updates_of(config, order), warmup, final)
        case HalvingSchedule(warmup=warmup, start_epoch=start, every_epochs=every):
            return schedules.halving(updates_per_epoch(config, order), start, every, warmup)


def selection_of(config: Config) -> Selection:
    """Return the metric by which the best model is chosen."""
    metric = config.evaluation.select_on
    return Selection(metric, metric in HIGHER_IS_BETTER)


def order_of(config: TrainingConfig, corpus: TrainingPairs) -> BatchOrder:
    """Build the order of the batches."""
    return BatchOrder(corpus, config.seed, config.batch_size, config.batch_tokens, config.accumulate)


def build_learner(config: Config, model: Seq2Seq, order: BatchOrder, ranks: Ranks = ALONE) -> Learner:
    """Build the learner: the model with everything that its updates need.

    ``ranks``: the processes that compute each update together.

    Raises:
        ConfigError: bf16 is requested and the CPU does not have it, or a phase of forcing would never begin.
    """
    training = config.training
    _check_phases(config, updates_of(training, order))
    strategy = strategy_of(config, objective_of(training, order))
    if ranks.size > 1:
        _check_own_sums(strategy)
    return Learner(
        model=model,
        strategy=strategy,
        optimizer=make_optimizer(training.optimizer, model.parameters(), training.learning_rate, training.weight_decay),
        schedule=schedule_of(training, order),
        seed=training.seed,
        clip_norm=training.clip_norm,
        precision=choose_precision(training.precision, config.model.hidden_size, str(model.device)),
        updates_per_epoch=updates_per_epoch(training, order),
        cosine_every=training.journal_every,
        ranks=ranks,
    )


def _check_own_sums(strategy: Strategy) -> None:
    """Check that a strategy with parameters of its own says what processes have to add up."""
    for each in strategy.strategies if isinstance(strategy, Phases) else [strategy]:
        kind = type(each)
        if kind.own_loss is not Strategy.own_loss and kind.own_sums is Strategy.own_sums:
            raise ConfigError.single(
                "forcing.strategy",
                f"{kind.__name__} has a loss of its own (own_loss), and does not return its sums (own_sums)",
                "Expected both where several processes train, or each would train parameters of its own",
                "Add own_sums, see docs/forcing/your-own.md, or train with one process",
            )


def _check_phases(config: Config, updates: int) -> None:
    """Check that every phase except the last ends before training does."""
    for number, phase in enumerate(config.forcing.phases or [], start=1):
        if phase.get("until", 0) >= updates:
            raise ConfigError.single(
                f"forcing.phases[{number}].until",
                f"the value is {phase['until']:,}, and training ends at update {updates:,}, so the next phase never "
                "begins",
                f"Expected less than {updates:,}",
                "Lower it, or train longer",
            )


def search_of(config: EvaluationConfig) -> Beam:
    """Return the search of evaluations during a training."""
    return Beam(config.beam_size, length_penalty=config.length_penalty, early_stop=config.early_stop)


def trainer_settings(config: Config, order: BatchOrder) -> TrainerSettings:
    """Return the numbers of ``[training]`` and ``[evaluation]`` that the loop reads."""
    training, evaluation = config.training, config.evaluation
    return TrainerSettings(
        updates=updates_of(training, order),
        accumulate=training.accumulate,
        journal_every=training.journal_every,
        checkpoint_every=training.checkpoint_every,
        evaluate_every=evaluation.every,
        patience=evaluation.patience,
        average=training.average,
    )
