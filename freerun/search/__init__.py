"""Search over a Stepper, written once and in NumPy: greedy, beam, sampling, ensembles, forced prefixes and targets."""

from __future__ import annotations

from freerun.search.beam import beam_search
from freerun.search.bound import LengthBound, length_bound
from freerun.search.ensemble import EnsembleStepper
from freerun.search.hypothesis import Hypothesis
from freerun.search.sampling import sample
from freerun.search.score import Forced, counted_tokens, score_targets
from freerun.search.stepper import Stepper

__all__ = [
    "EnsembleStepper",
    "Forced",
    "Hypothesis",
    "LengthBound",
    "Stepper",
    "beam_search",
    "counted_tokens",
    "length_bound",
    "sample",
    "score_targets",
]
