"""All measures of one model on one set, from one recording."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from freerun.data.codec import Codec
from freerun.diagnostics.by_position import by_position, by_source_length
from freerun.diagnostics.excess_error import excess_error
from freerun.diagnostics.identity import identity
from freerun.diagnostics.measures import Measures
from freerun.diagnostics.plain import as_values
from freerun.diagnostics.prefix_switch import prefix_switch, switch_lengths
from freerun.diagnostics.record import Recorded, Recorder, Subjects
from freerun.diagnostics.recovery import recovery
from freerun.diagnostics.road_exam import MOST_SOURCES, RATES, road_exam
from freerun.diagnostics.state_divergence import (
    States,
    StatesOf,
    state_divergence,
    states_after_errors,
)
from freerun.diagnostics.summary import summary
from freerun.evaluation.items import EvaluationSet
from freerun.search.bound import LengthBound
from freerun.search.stepper import Stepper

__all__ = ["Diagnosis", "diagnose"]

Progress = Callable[[int, int], None]


class Diagnosis(NamedTuple):
    """The measures, and the runs and states that they were made of."""

    measures: Measures
    recorded: Recorded
    states: States | None

    def as_json(self) -> dict[str, Any]:
        """The measures as JSON values, the summary first; undefined figures are null."""
        return {"summary": summary(self.measures), **as_values(self.measures)}


def diagnose(
    stepper: Stepper,
    items: EvaluationSet,
    source: Codec,
    target: Codec,
    *,
    bound: LengthBound,
    states_of: StatesOf | None = None,
    progress: Progress = lambda done, total: None,
) -> Diagnosis:
    """Run the model in all ways that the measures ask for (greedy).

    Args:
        stepper: the model.
        items: sources with their references.
        source: encodes sources.
        target: encodes references.
        bound: most tokens an output.
        states_of: reads the decoder's states; without it their divergence is left out.
        progress: called with the number of runs done and, as far as is known, of all.
    """
    recorder, subjects = Recorder(stepper, bound), Subjects.of(items, source, target)
    done = 0
    total = len(subjects) + len(subjects.targets)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    recorded = recorder.record(subjects, tick)
    total += len(switch_lengths(recorded)) * len(subjects) + len(RATES) * min(len(subjects), MOST_SOURCES)
    states = None if states_of is None else states_after_errors(recorded, states_of)
    lengths = [len(source.tokens(text)) for text in items.sources]
    measures = Measures(
        identity(recorded),
        excess_error(recorded),
        recovery(recorded),
        prefix_switch(recorded, recorder, tick),
        road_exam(recorded, recorder, tick),
        None if states is None else state_divergence(states),
        by_position(recorded),
        by_source_length(recorded, lengths),
        len(subjects),
    )
    return Diagnosis(measures, recorded, states)
