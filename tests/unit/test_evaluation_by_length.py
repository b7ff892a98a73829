"""Figures by source length, against the same figures computed on the sources of each band alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.data.codec import Codec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.evaluation.by_length import by_source_length, length_bands
from freerun.evaluation.free_running_metrics import FreeRunningMetrics
from freerun.evaluation.items import group_pairs
from freerun.evaluation.searcher_evaluation import Evaluation, TeacherForced

CODEC = Codec(CharTokenizer(), Vocabulary("abc"))
SOURCES = ["a", "b", "ab", "bc", "abc", "bca", "aaaa", "bbbb", "cccc", "abcab"]
LENGTHS = [len(source) for source in SOURCES]
OUTPUTS = [source if index % 3 else source + "c" for index, source in enumerate(SOURCES)]


def evaluation(sources, outputs):
    """A model with index + 1 nats, and one right token of two, for each source."""
    items = group_pairs([Pair(text, text, n) for n, text in enumerate(sources)], CODEC, CODEC)
    nll = np.array([SOURCES.index(source) + 1.0 for source in sources])
    each = np.ones(len(sources))
    unknown = np.array([float(source.startswith("b")) for source in sources])
    teacher = TeacherForced(nll, 2 * each, each, unknown, 3 * each)
    truncated = np.array([output.endswith("cc") for output in outputs])
    free = FreeRunningMetrics(items, CODEC, [list(output) for output in outputs], truncated)
    return Evaluation(items, teacher, free, [], 1)


def test_a_band_has_the_figures_of_its_sources_alone():
    bands = by_source_length(evaluation(SOURCES, OUTPUTS), LENGTHS, bands=4)
    assert [(band.shortest, band.longest, band.sources) for band in bands] == [(1, 2, 4), (3, 5, 6)]
    for band in bands:
        rows = [n for n, length in enumerate(LENGTHS) if band.shortest <= length <= band.longest]
        alone = evaluation([SOURCES[n] for n in rows], [OUTPUTS[n] for n in rows]).metrics()
        for name, interval in band.metrics.items():
            assert (interval.value, interval.low, interval.high) == pytest.approx(
                (alone[name], alone[f"{name}.low"], alone[f"{name}.high"]), nan_ok=True
            )


def test_all_figures_are_there():
    bands = by_source_length(evaluation(SOURCES, OUTPUTS), LENGTHS)
    expected = {"nll.teacher", "symbol_error_rate.free", "bleu.free", "chrf.free"}
    assert all(expected <= band.metrics.keys() for band in bands)


@pytest.mark.parametrize(
    ("lengths", "bands", "expected"),
    [
        ([4], 8, [(4, 4)]),
        ([0, 0, 7], 8, [(0, 0), (7, 7)]),
        ([1, 2, 3, 4], 2, [(1, 2), (3, 4)]),
        ([1, 1, 1, 2, 3, 4], 2, [(1, 1), (2, 4)]),
        ([1, 1, 1, 1, 2, 2, 2, 2, 3], 2, [(1, 3)]),
    ],
)
def test_bands_hold_about_as_many_sources_each(lengths, bands, expected):
    assert length_bands(np.array(lengths), bands) == expected


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(1, 10))
def test_every_source_is_in_one_band(lengths, bands):
    found = length_bands(np.array(lengths), bands)
    assert len(found) <= bands
    assert all(low <= high for low, high in found)
    assert all(high < low for (_, high), (low, _) in pairwise(found))
    assert all(sum(low <= length <= high for low, high in found) == 1 for length in lengths)
    assert all(any(length == end for length in lengths) for ends in found for end in ends)
