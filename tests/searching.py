"""``beam_search`` and ``sample`` with the settings as keywords: tests vary one at a time."""

from __future__ import annotations

from freerun.search import beam, sampling
from freerun.search.methods import Beam, Sampling


def beam_search(stepper, source_ids, lengths, *, max_lengths, prefix=None, **settings):
    return beam.beam_search(stepper, source_ids, lengths, Beam(**settings), max_lengths=max_lengths, prefixes=prefix)


def sample(stepper, source_ids, lengths, *, max_lengths, rows=None, prefix=None, **settings):
    return sampling.sample(
        stepper, source_ids, lengths, Sampling(**settings), max_lengths=max_lengths, rows=rows, prefixes=prefix
    )
