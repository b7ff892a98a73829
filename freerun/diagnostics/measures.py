"""All measures of one model on one set."""

from __future__ import annotations

from typing import NamedTuple

from freerun.diagnostics.by_position import AtPosition, InBand
from freerun.diagnostics.excess_error import ExcessError
from freerun.diagnostics.identity import Identity
from freerun.diagnostics.prefix_switch import Switch
from freerun.diagnostics.recovery import Recovery
from freerun.diagnostics.road_exam import AtRate
from freerun.diagnostics.state_divergence import StateDivergence

__all__ = ["Measures"]


class Measures(NamedTuple):
    """The measures. Those that are None or empty could not be computed, and the summary says so."""

    identity: Identity
    excess_error: ExcessError
    recovery: Recovery
    prefix_switch: list[Switch]
    road_exam: list[AtRate]
    state_divergence: StateDivergence | None
    by_position: list[AtPosition]
    by_source_length: list[InBand]
    sources: int
