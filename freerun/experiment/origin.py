"""Where a run comes from: the version that started it, whose random numbers may be others, and the kind of device."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun.errors import RunError
from freerun.randomness import STREAMS_SINCE
from freerun.training.journal import read_journal
from freerun.version import VERSION

__all__ = [
    "Origin",
    "changed_device",
    "changed_processes",
    "check_random_numbers",
    "check_study_random_numbers",
    "device_of",
    "is_finished",
    "starting_version",
]


@dataclass(frozen=True)
class Origin:
    """The origin and state of a run: the version that started it, None before its start, and True if it is finished."""

    version: str | None
    is_finished: bool


def starting_version(run: Path) -> str | None:
    """Return the version that started the run in this directory, None if it has not started."""
    events = read_journal(run / "journal.jsonl")
    return str(events[0].get("freerun", "of an unknown version")) if events else None


def is_finished(run: Path) -> bool:
    """Return True if the run's training ended by itself, so that there is nothing to resume."""
    events = read_journal(run / "journal.jsonl")
    last = events[-1] if events else {}
    # by name, because a damaged reason must not end a run
    return last.get("event") == "stop" and last.get("reason") in ("complete", "patience")


def device_of(events: Sequence[Mapping[str, Any]]) -> str:
    """Return the kind of device that the events of a journal end on; earlier versions had only CPUs."""
    return next((str(event["device"]) for event in reversed(events) if "device" in event), "cpu")


def changed_device(events: Sequence[Mapping[str, Any]], device: str) -> dict[str, str]:
    """Return what a ``resume`` event records: the kind of device, if it is another one than before."""
    return {"device": device} if events and device != device_of(events) else {}


def changed_processes(events: Sequence[Mapping[str, Any]], processes: int) -> dict[str, int]:
    """Return what a ``resume`` event records: the number of processes, if it is another one than before."""
    before = next((event["processes"] for event in reversed(events) if "processes" in event), 1)
    return {"processes": processes} if events and processes != before else {}


def check_random_numbers(run: Path) -> None:
    """Check that a run to be resumed was started with this version's random numbers.

    Raises:
        RunError: another version started it, whose initial weights, dropout and samples this one cannot continue.
    """
    version = starting_version(run)
    if version is not None and _has_other_randomness(version):
        raise RunError(
            run,
            f"this run was started with freerun {version}, which has other random numbers than freerun {VERSION}",
            f"Expected a run that freerun {STREAMS_SINCE} or later started",
            f"Resume it with freerun {version}, or start again in another directory with --out",
        )


def check_study_random_numbers(directory: Path, runs: Mapping[str, Origin]) -> None:
    """Check that all runs of a study, by name, share their random numbers; complete studies always do.

    Raises:
        RunError: some were started by a version with other random numbers, and others were not or are not over.
    """
    earlier = {name: run.version for name, run in runs.items() if run.version and _has_other_randomness(run.version)}
    others = [name for name, run in runs.items() if name not in earlier or not run.is_finished]
    if earlier and others:
        versions = " and ".join(sorted({str(version) for version in earlier.values()}))
        raise RunError(
            directory,
            f"this study was started with freerun {versions} ({_some(list(earlier))}), which has other random numbers "
            f"than freerun {VERSION}, and was not finished with it ({_some(others)})",
            "Expected runs of one version, so that all arms share initial weights and dropout under one seed",
            f"Finish the study with freerun {versions}, or start again in another directory with --out",
        )


def _some(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _has_other_randomness(version: str) -> bool:
    """Return True for a version before the present random numbers, or an unknown one."""
    return _numbers(version) < _numbers(STREAMS_SINCE)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
