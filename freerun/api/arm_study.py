"""``freerun.study``: arms trained under several seeds, and which differences are real."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun.api.checks import AnyPath, Progress, as_sections, check_progress, optional_path
from freerun.arguments import as_path
from freerun.config import StudyConfig
from freerun.device_name import check_device_name
from freerun.diagnostics.plain import as_values
from freerun.errors import MissingExtraError, UserError
from freerun.experiment.overlap import Overlap, checked_overlap
from freerun.files import write_atomic
from freerun.lock import inner_lock, only_writer
from freerun.log import log
from freerun.models.device import choose_device
from freerun.studies.analysis import Analysis, analyse
from freerun.studies.plan import StudyPlan, load_study, prepare_directory
from freerun.studies.results import Result, read_result
from freerun.studies.runner import train_all

__all__ = ["StudyResult", "study"]


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        directory: of the study.
        settings: of the study.
        analysis: the arms, their comparisons with the control, and ``statements`` in words.
        overlap: how many of the reported sources the runs were trained or selected on.
        results: those of the finished runs.
    """

    directory: Path
    settings: StudyConfig
    analysis: Analysis
    overlap: Overlap
    results: Sequence[Result]

    def as_json(self) -> dict[str, Any]:
        """Return the analysis as JSON values; None for undefined ones."""
        return {**as_values(self.analysis), "reported_on": self.overlap.as_json()}


def study(
    config: AnyPath | Mapping[str, Any],
    out: AnyPath | None = None,
    *,
    device: str | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Train every arm under every seed, evaluate the runs, and compare the arms with the control.

    Finished runs are stored in ``results/`` and not run again; a stopped run is resumed.

    Args:
        config: a TOML file (docs/study.md), or its content as a dict, with paths relative to the working directory.
        out: the directory of the study. Default: runs/<stem of the file>.
        device: "auto", "cpu", "cuda" or "cuda:N", on which all arms are trained. Default: as their configurations say.
        progress: called with the number of sequences evaluated and of all, while a trained model is evaluated.

    Returns:
        The analysis and what it is based on; the directory has it as analysis.json and, with the extra ``report``, as
        report.html.

    Raises:
        TypeError: an argument of another type.
        UserError: an error in the study or in any arm, a directory of another study, a run that cannot be trained, or
            another process that runs this study.
        Interrupted: a signal stopped it; call it again to resume.
    """
    check_progress(progress)
    if device is not None:
        choose_device(check_device_name(device))
    directory = optional_path("out", out)
    source = as_sections("config", config) if isinstance(config, Mapping) else as_path("config", config)
    if directory is None:
        if isinstance(source, Mapping):
            raise UserError("out", "no directory for a study without a file", "Expected a directory", "Pass out")
        directory = Path("runs") / source.stem
    plan = load_study(source, directory)
    with only_writer(inner_lock(directory)):
        return _study(plan, progress, device)


def _study(plan: StudyPlan, progress: Progress | None, device: str | None) -> StudyResult:
    settings = plan.settings
    # bad pairs are an error before the first training, not after it
    overlap = checked_overlap(settings.pairs, [arm.config.data for arm in plan.arms.values()])
    prepare_directory(plan)
    waiting = [run for run in plan.runs if read_result(run.result, run.config_hash) is None]
    log.info(f"{len(plan.runs)} runs, {len(plan.runs) - len(waiting)} of them finished before; in {plan.directory}.")
    train_all(waiting, settings, progress, device)
    stored = (read_result(run.result, run.config_hash) for run in plan.runs)
    results = [result for result in stored if result is not None]
    analysis = analyse(results, list(plan.arms), settings.control, settings.metric, settings.target_error)
    study_result = StudyResult(plan.directory, settings, analysis, overlap, results)
    _write_report(study_result)
    return study_result


def _write_report(study_result: StudyResult) -> None:
    directory = study_result.directory
    write_atomic(directory / "analysis.json", json.dumps(study_result.as_json(), indent=1) + "\n")
    try:
        from freerun.report.study_page import study_page
    except MissingExtraError as error:  # a study is complete without its plots
        log.info(f"No report.html: {error}")
        return
    overlap, target = str(study_result.overlap), study_result.settings.target_error
    page = study_page(directory.name, study_result.analysis, study_result.results, overlap, target)
    write_atomic(directory / "report.html", page)
    log.info(f"Wrote {directory / 'report.html'}: open it in a browser.")
