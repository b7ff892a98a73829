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
    from freerun.api.arm_study import study
    from freerun.api.model_comparison import compare
    from freerun.api.model_diagnosis import diagnose
    from freerun.api.model_evaluation import evaluate
    from freerun.api.model_export import export
    from freerun.api.model_training import train
    from freerun.config import Config
    from freerun.errors import FreerunError, UserError
    from freerun.experiment.result import TrainResult
    from freerun.loading import load
    from freerun.runtime.prediction import Prediction
    from freerun.runtime.predictor import Predictor
    from freerun.search.methods import Beam, Greedy, Sampling
    from freerun.training.callbacks import Callback

__all__ = [
    "Beam",
    "Callback",
    "Config",
    "FreerunError",
    "Greedy",
    "Prediction",
    "Predictor",
    "Sampling",
    "TrainResult",
    "UserError",
    "__version__",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "load",
    "study",
    "train",
]

_PLACES = {
    "load": "freerun.loading",
    "train": "freerun.api.model_training",
    "evaluate": "freerun.api.model_evaluation",
    "Callback": "freerun.training.callbacks",
    "Config": "freerun.config",
    "TrainResult": "freerun.experiment.result",
    "diagnose": "freerun.api.model_diagnosis",
    "compare": "freerun.api.model_comparison",
    "export": "freerun.api.model_export",
    "study": "freerun.api.arm_study",
    "Beam": "freerun.search.methods",
    "Greedy": "freerun.search.methods",
    "Sampling": "freerun.search.methods",
    "Prediction": "freerun.runtime.prediction",
    "Predictor": "freerun.runtime.predictor",
    "FreerunError": "freerun.errors",
    "UserError": "freerun.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'freerun' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
