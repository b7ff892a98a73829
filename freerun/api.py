"""The functions of ``import freerun``: each is one call of what the commands call too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from freerun.arguments import as_list, as_path, check_int, check_text, wrong_type
from freerun.commands.diagnose import diagnose_bundle, items_of
from freerun.commands.evaluate import evaluate_predictor
from freerun.data.readers import describe
from freerun.diagnostics.diagnosis import Diagnosis
from freerun.evaluation.evaluate import Evaluation
from freerun.experiment.pairs_spec import pairs_to_read
from freerun.experiment.plan import TrainRequest
from freerun.experiment.run import TrainResult
from freerun.experiment.run import train as run_training
from freerun.loading import load
from freerun.runtime.bundle import read_bundle

__all__ = ["diagnose", "evaluate", "load", "train"]


def train(
    config: str | Path,
    out: str | Path | None = None,
    dev: str | Path | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    trust_code: bool = False,
) -> TrainResult:
    """Train as ``freerun train`` does: ``config`` is a TOML configuration or a file of pairs.

    Args:
        config: CONFIG.toml, or pairs.
        out: the run folder.
        dev: development pairs.
        settings: "key.path=value", as with --set.
        resume: go on with the run in ``out``.
        trust_code: import the strategy "module:Class" that the run in ``out`` names, also if nobody named it here.

    Returns:
        The run folder, and the best model's figures on all development pairs.

    Raises:
        TypeError: an argument of another type.
        UserError: anything that you can fix; the message says how.
    """
    for number, setting in enumerate(given := as_list("settings", settings, 'str, for example ["training.seed=3"]')):
        check_text(f"settings[{number}]", setting)
    for name, value in (("resume", resume), ("trust_code", trust_code)):
        if not isinstance(value, bool):
            raise wrong_type(name, value, "True or False")
    paths = as_path("config", config), _path("dev", dev), _path("out", out)
    request = TrainRequest(*paths, tuple(given), resume=resume, trust_code=trust_code)
    return run_training(request)


def evaluate(
    model: str | Path, pairs: str | Path | None = None, beam_size: int = 1, columns: tuple[int, int] | None = None
) -> Evaluation:
    """Measure a model on pairs (default: its run's development pairs); ``Evaluation.metrics()`` has the figures.

    ``columns`` are those of source and target in a TSV file, counted from 1 (default: those of the model's run).
    Says on standard error if more than 1 % of the target tokens are unknown to the model.

    Raises:
        TypeError: an argument of another type.
        UserError: bad pairs, or a bundle that cannot be used.
    """
    folder = as_path("model", model)
    check_int("beam_size", beam_size)
    place = pairs_to_read([folder], _path("pairs", pairs), columns)
    return evaluate_predictor(load(folder), place, beam_size, model=model)


def diagnose(model: str | Path, pairs: str | Path | None = None, columns: tuple[int, int] | None = None) -> Diagnosis:
    """Compare a model on right prefixes and on its own (default: on its run's development pairs).

    ``columns`` are those of ``evaluate``.

    Returns:
        The measures (``.measures``, as JSON values ``.as_json()``), and the runs that they were made of.

    Raises:
        TypeError: an argument of another type.
        UserError: bad pairs, pairs of which the model knows no symbol, a bundle that cannot be used.
    """
    folder = as_path("model", model)
    place = pairs_to_read([folder], _path("pairs", pairs), columns)
    bundle = read_bundle(folder)
    return diagnose_bundle(bundle, items_of(bundle, place), describe(place.location))[0]


def _path(name: str, value: str | Path | None) -> Path | None:
    return None if value is None else as_path(name, value)
