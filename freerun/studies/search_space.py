"""The settings that tuning tries, and what the trials so far suggest: Optuna's tree-structured Parzen estimator.

The search space lies around a configuration that is known to do well: each range holds its value, which is the first
trial. A suggestion is a function of the seed, the trial's number and the results of the trials before it (TPE, Bergstra
et al. 2011), so a tuning that was stopped continues as if it had not been.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from freerun.config import Config
from freerun.errors import MissingExtraError
from freerun.experiment.recipes import RECIPES, embedding_size_for
from freerun.studies.trials import Trial

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
except ModuleNotFoundError as missing:
    raise MissingExtraError("optuna", "tune", "freerun tune") from missing

__all__ = ["FEWEST_FOR_IMPORTANCES", "SearchSpace"]

_STEP: Final = 0.05
"""Between neighbouring dropout rates."""
_STEPS: Final = 5
"""Steps of a rate on either side of its value."""
_RANDOM_TRIALS: Final = 6
"""Trials, the first included, before suggestions follow from results."""
FEWEST_FOR_IMPORTANCES: Final = 8
"""With fewer trials, importances would be noise."""
_HIGHEST_RATE: Final = 0.8
_SOURCE_FORM: Final = "data.normalisation.source"


class SearchSpace:
    """Ranges around a complete configuration.

    Args:
        config: its values are the first trial's.
        fixed: key paths that the user has set; they are not searched.
        higher_is_better: of the metric.
        source_forms: the Unicode forms to try for sources. Targets keep theirs: error rates count tokens, and those of
            another form are others.
    """

    def __init__(
        self, config: Config, fixed: Collection[str], higher_is_better: bool, source_forms: Sequence[str] = ()
    ) -> None:
        self.higher_is_better = higher_is_better
        self._sets_embedding_size = "model.embedding_size" not in fixed
        self._tied_output = config.model.tied_output
        ranges = _ranges(config)
        if "model.attention_score" in fixed or config.model.input_feeding:
            ranges.pop("model.attention", None)  # they are Luong's
        if config.model.attention == "none":
            del ranges["model.memory_dropout"]
        if source_forms and not any(key.startswith("data.normalisation") for key in fixed):
            ranges[_SOURCE_FORM] = CategoricalDistribution(source_forms)
        self._target_form = config.data.forms.target
        self.ranges: Mapping[str, BaseDistribution] = {key: each for key, each in ranges.items() if key not in fixed}
        values = {f"{name}.{key}": value for name, section in config for key, value in section}
        values[_SOURCE_FORM] = config.data.forms.source
        self.start: Mapping[str, Any] = {key: values[key] for key in self.ranges}
        recipe = {key: values[key] for key in RECIPES[0].settings() if key not in fixed and key not in self.ranges}
        self.kept: Mapping[str, Any] = {key: value for key, value in recipe.items() if value is not None}
        """The rest of the recipe, for every trial: another size alone could choose another recipe."""

    def suggest(self, trials: Sequence[Trial], seed: int) -> dict[str, Any]:
        """Return the settings of the next trial, by key path."""
        # a sampler of its own for each trial: nothing has to be stored between them
        own_seed = (seed * 1_000_003 + len(trials)) % 2**32
        sampler = optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=own_seed)
        with _quiet():
            study = self._study(trials, sampler)
            chosen = study.ask(dict(self.ranges)).params
        settings = {key: _rounded(chosen[key]) for key in self.ranges}
        if "model.hidden_size" in settings and self._sets_embedding_size:
            settings["model.embedding_size"] = embedding_size_for(settings["model.hidden_size"], self._tied_output)
        if _SOURCE_FORM in settings:
            settings["data.normalisation.target"] = self._target_form
        return settings

    def importances(self, trials: Sequence[Trial]) -> dict[str, float]:
        """Return how much each setting decides whether a trial is among the best (PED-ANOVA, Watanabe et al. 2023).

        They sum to 1; the largest is first. Empty for fewer than ``FEWEST_FOR_IMPORTANCES`` finished trials, and if all
        have the same result.
        """
        values = [trial.value for trial in trials if trial.value is not None]
        if len(values) < FEWEST_FOR_IMPORTANCES or min(values) == max(values):
            return {}
        with _quiet():
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(self._study(trials), evaluator=evaluator)

    def _study(self, trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
        study = optuna.create_study(direction="maximize" if self.higher_is_better else "minimize", sampler=sampler)
        for trial in trials:
            failed = trial.value is None
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                    params={key: trial.settings.get(key, self.start[key]) for key in self.ranges},
                    distributions=dict(self.ranges),
                    value=trial.value,
                )
            )
        return study


def _ranges(config: Config) -> dict[str, BaseDistribution]:
    model, training = config.model, config.training
    ranges: dict[str, BaseDistribution] = {
        "model.hidden_size": _sizes(model.hidden_size),
        "model.num_layers": IntDistribution(max(1, model.num_layers - 1), model.num_layers + 1),
        "model.dropout": _rates(model.dropout),
        "model.embedding_unit_dropout": _rates(model.embedding_unit_dropout),
        "model.memory_dropout": _rates(model.memory_dropout),
        "training.learning_rate": FloatDistribution(
            _rounded(training.learning_rate / 4), _rounded(training.learning_rate * 4), log=True
        ),
        "training.label_smoothing": _rates(training.label_smoothing, 2),
    }
    kinds = ["bahdanau", "luong"]
    if model.attention in kinds:
        ranges["model.attention"] = CategoricalDistribution(kinds)
    if (batch := training.batch_size) is not None:
        ranges["training.batch_size"] = CategoricalDistribution([max(1, batch // 2), batch, 2 * batch])
    return ranges


def _sizes(size: int) -> IntDistribution:
    """Return half to twice the size, in quarters."""
    step = max(1, size // 4)
    return IntDistribution(max(1, size - 2 * step), size + 4 * step, step=step)


def _rates(rate: float, steps: int = _STEPS) -> FloatDistribution:
    below = min(steps, int(rate / _STEP + 1e-9))
    above = max(0, min(steps, int((_HIGHEST_RATE - rate) / _STEP + 1e-9)))
    # sums of steps may miss 0 by a hair, on the side of rates that no model can have
    lowest = abs(round(rate - below * _STEP, 9))
    return FloatDistribution(_rounded(lowest), _rounded(rate + above * _STEP), step=_STEP)


def _rounded(value: Any) -> Any:
    """Return a number with three digits, as a person would write it; anything else unchanged."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave Optuna's messages out within the block."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "Target and region quantiles", UserWarning)  # few different results
            yield
    finally:
        optuna.logging.set_verbosity(level)
