"""``freerun.train``: what ``freerun train`` does, as a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from freerun.arguments import as_list, as_path, check_text, wrong_type
from freerun.experiment.plan import TrainRequest
from freerun.experiment.run import TrainResult
from freerun.experiment.run import train as run_training

__all__ = ["train"]


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


def _path(name: str, value: str | Path | None) -> Path | None:
    return None if value is None else as_path(name, value)
