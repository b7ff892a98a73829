"""The configuration: TOML, validated as a whole before anything starts.

Every key has one default, in ``sections``. All errors are reported at once, each with its key path and, for an unknown
key, the closest valid name. The settings of a forcing strategy are validated with the rest: the caller passes
``forcing``, a function from a strategy's name to the pydantic model of its settings.
"""

from __future__ import annotations

from freerun.config.check import ForcingSettings, check_values, parse_config
from freerun.config.raw import (
    absolute_paths,
    apply_overrides,
    changed_keys,
    flatten,
    merge,
    override,
    read_toml,
    strategies_of,
    to_toml,
)
from freerun.config.renamed import with_former_names, with_new_names
from freerun.config.sections import (
    ALTERNATIVES,
    HIGHER_IS_BETTER,
    Config,
    ConstantSchedule,
    CosineSchedule,
    DataConfig,
    EvaluationConfig,
    FilePair,
    ForcingConfig,
    HalvingSchedule,
    InverseSqrtSchedule,
    ModelConfig,
    SideForms,
    TrainingConfig,
)
from freerun.config.study_config import StudyConfig
from freerun.text import shown

__all__ = [
    "ALTERNATIVES",
    "HIGHER_IS_BETTER",
    "Config",
    "ConstantSchedule",
    "CosineSchedule",
    "DataConfig",
    "EvaluationConfig",
    "FilePair",
    "ForcingConfig",
    "ForcingSettings",
    "HalvingSchedule",
    "InverseSqrtSchedule",
    "ModelConfig",
    "SideForms",
    "StudyConfig",
    "TrainingConfig",
    "absolute_paths",
    "apply_overrides",
    "changed_keys",
    "check_values",
    "flatten",
    "merge",
    "override",
    "parse_config",
    "read_toml",
    "shown",
    "strategies_of",
    "to_toml",
    "with_former_names",
    "with_new_names",
]
