"""The diagnosis: all measures of one model on one set, from one recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from freerun.data.codec import Codec
from freerun.diagnostics.by_position import by_position, by_source_length
from freerun.diagnostics.excess_error import excess_error
from freerun.diagnostics.identity import identity
from freerun.diagnostics.measures import Measures
from freerun.diagnostics.plain import as_values
from freerun.diagnostics.prefix_switch import prefix_switch, switch_lengths
from freerun.diagnostics.record import EncodedPairs, Recorded, Recorder
from freerun.diagnostics.recovery import recovery
from freerun.diagnostics.road_exam import MAX_SOURCES, RATES, road_exam
from freerun.diagnostics.state_divergence import (
    States,
    StatesOf,
    state_divergence,
    states_after_errors,
)
from freerun.diagnostics.summary import error_rows, summary
from freerun.evaluation.items import EvaluationSet
from freerun.html_table import html_table
from freerun.search.bound import LengthBound
from freerun.search.stepper import Stepper

__all__ = ["Diagnosis", "diagnose"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The measures, and the recorded outputs and decoder states that they are computed from."""

    measures: Measures
    recorded: Recorded
    states: States | None

    @property
    def summary(self) -> list[str]:
        """The measures in words, one or two sentences each."""
        return summary(self.measures)

    def __repr__(self) -> str:
        return f"Diagnosis({self.summary[0]})"

    def as_json(self) -> dict[str, Any]:
        """Return the measures as JSON values, the summary first; None for undefined values."""
        return {"summary": self.summary, **as_values(self.measures)}

    def _repr_html_(self) -> str:
        """Return the summary and the step error rates as HTML, for notebooks."""
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.summary)
        header, *rows = error_rows(self.measures.excess_error)
        return f"<ul>{items}</ul>{html_table(header, rows)}"


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
    """Run greedy search in every way that the measures need.

    Args:
        stepper: the model.
        items: sources with their references.
        source: encodes sources.
        target: encodes references.
        bound: the maximum output length.
        states_of: reads the decoder's states; without it, their divergence is not measured.
        progress: called with the number of runs done and the expected number of all.
    """
    recorder, pairs = Recorder(stepper, bound), EncodedPairs.of(items, source, target)
    done = 0
    total = len(pairs) + len(pairs.targets)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    recorded = recorder.record(pairs, tick)
    total += len(switch_lengths(recorded)) * len(pairs) + len(RATES) * min(len(pairs), MAX_SOURCES)
    states = None if states_of is None else states_after_errors(recorded, states_of)
    lengths = [len(source.tokens(text)) for text in items.sources]
    measures = Measures(
        identity=identity(recorded),
        excess_error=excess_error(recorded),
        recovery=recovery(recorded),
        prefix_switch=prefix_switch(recorded, recorder, tick),
        road_exam=road_exam(recorded, recorder, tick),
        state_divergence=None if states is None else state_divergence(states),
        by_position=by_position(recorded),
        by_source_length=by_source_length(recorded, lengths),
        sources=len(pairs),
    )
    return Diagnosis(measures, recorded, states)
