"""freerun: small, fast sequence-to-sequence models from files of pairs, and how they behave on their own outputs.

    import freerun

    model = freerun.load("runs/demo")
    print(model.predict("phonology").text)

Names are imported when they are first used, so that ``import freerun`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from freerun import version

__version__ = version.VERSION

if TYPE_CHECKING:
    from freerun.api.arm_study import StudyResult, study
    from freerun.api.model_comparison import compare
    from freerun.api.model_diagnosis import diagnose
    from freerun.api.model_evaluation import evaluate
    from freerun.api.model_export import ExportResult, export
    from freerun.api.model_training import train
    from freerun.api.model_tuning import TuneResult, tune
    from freerun.config import Config
    from freerun.data.readers import ParallelFiles
    from freerun.diagnostics.diagnosis import Diagnosis
    from freerun.errors import (
        BundleError,
        ConfigError,
        DataError,
        FreerunError,
        Interrupted,
        MissingExtraError,
        RunError,
        TrainingError,
        UserError,
    )
    from freerun.evaluation.comparison import Comparison
    from freerun.evaluation.predictor_evaluation import ModelEvaluation
    from freerun.experiment.result import TrainResult
    from freerun.loading import load
    from freerun.runtime.prediction import Prediction
    from freerun.runtime.predictor import Predictor
    from freerun.search.methods import Beam, Greedy, Sampling
    from freerun.training.callbacks import Callback, EvaluationResult

__all__ = [
    "Beam",
    "BundleError",
    "Callback",
    "Comparison",
    "Config",
    "ConfigError",
    "DataError",
    "Diagnosis",
    "EvaluationResult",
    "ExportResult",
    "FreerunError",
    "Greedy",
    "Interrupted",
    "MissingExtraError",
    "ModelEvaluation",
    "ParallelFiles",
    "Prediction",
    "Predictor",
    "RunError",
    "Sampling",
    "StudyResult",
    "TrainResult",
    "TrainingError",
    "TuneResult",
    "UserError",
    "__version__",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "load",
    "study",
    "train",
    "tune",
]

_MODULES = {
    "freerun.api.arm_study": ("StudyResult", "study"),
    "freerun.api.model_comparison": ("compare",),
    "freerun.api.model_diagnosis": ("diagnose",),
    "freerun.api.model_evaluation": ("evaluate",),
    "freerun.api.model_export": ("ExportResult", "export"),
    "freerun.api.model_training": ("train",),
    "freerun.api.model_tuning": ("TuneResult", "tune"),
    "freerun.config": ("Config",),
    "freerun.data.readers": ("ParallelFiles",),
    "freerun.diagnostics.diagnosis": ("Diagnosis",),
    "freerun.errors": (
        "BundleError",
        "ConfigError",
        "DataError",
        "FreerunError",
        "Interrupted",
        "MissingExtraError",
        "RunError",
        "TrainingError",
        "UserError",
    ),
    "freerun.evaluation.comparison": ("Comparison",),
    "freerun.evaluation.predictor_evaluation": ("ModelEvaluation",),
    "freerun.experiment.result": ("TrainResult",),
    "freerun.loading": ("load",),
    "freerun.runtime.prediction": ("Prediction",),
    "freerun.runtime.predictor": ("Predictor",),
    "freerun.search.methods": ("Beam", "Greedy", "Sampling"),
    "freerun.training.callbacks": ("Callback", "EvaluationResult"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'freerun' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # so that tab completion offers names that have not been imported yet
