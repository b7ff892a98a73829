"""The two searchers: one through steppers, and one with a greedy decoder of its own."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from freerun.errors import ConfigError
from freerun.search.batches import pad
from freerun.search.beam import beam_search
from freerun.search.forced_scoring import score_targets
from freerun.search.hypothesis import Hypothesis
from freerun.search.methods import Beam, Greedy, Sampling
from freerun.search.sampling import sample
from freerun.search.searcher import DirectSearcher, StepperSearcher, score_in_batches, search_in_batches
from freerun.symbols import EOS
from tests.steppers import TableStepper

SOURCES = [[4, 5, EOS], [5, EOS], [4, EOS], [5, 4, 4, EOS]]
BOUNDS = [6, 3, 0, 9]


def searcher():
    return StepperSearcher(lambda: TableStepper(8))


class Decoder:
    """A greedy decoder that counts what it is given."""

    def __init__(self):
        self.calls = []

    def __call__(self, sources, bounds):
        self.calls.append((sources, bounds))
        return [Hypothesis((4,), -1.0, (-1.0,), -1.0, True) for _ in sources]


def padded():
    return *pad(SOURCES), {"max_lengths": np.array(BOUNDS)}


@pytest.mark.parametrize("settings", [Greedy(), Beam(), Beam(3, 2, 0.6), Beam(2, early_stop=True)])
@pytest.mark.parametrize("prefix", [[], [4]])
def test_a_searcher_does_what_beam_search_does(settings, prefix):
    sources, bounds = ([SOURCES[0], SOURCES[1]], [6, 3])
    beam = settings if isinstance(settings, Beam) else Beam()
    prefixes = [prefix] * 2 if prefix else None
    expected = beam_search(TableStepper(8), *pad(sources), beam, max_lengths=np.array(bounds), prefixes=prefixes)
    assert searcher().search(sources, bounds, settings, prefix) == expected


def test_samples_belong_to_the_numbers_of_their_sources():
    settings = Sampling(3, 0.8, seed=5)
    ids, lengths, options = padded()
    expected = sample(TableStepper(8), ids, lengths, settings, **options, rows=np.array([7, 1, 0, 3]))
    assert searcher().search(SOURCES, BOUNDS, settings, rows=[7, 1, 0, 3]) == expected
    assert searcher().search(SOURCES, BOUNDS, settings) == sample(TableStepper(8), ids, lengths, settings, **options)
    assert searcher().search(SOURCES, BOUNDS, settings) != expected


def test_scores_are_those_of_the_stepper():
    targets = [[4, EOS], [5, 6, EOS], [EOS], [4, 4, EOS]]
    ids, lengths, _ = padded()
    expected = score_targets(TableStepper(8), ids, lengths, targets)
    for each in (searcher(), DirectSearcher(Decoder(), searcher())):
        assert [x.tolist() for x in each.score(SOURCES, targets).log_probs] == [x.tolist() for x in expected.log_probs]


@pytest.mark.parametrize(
    ("settings", "prefix", "is_decoded"),
    [
        (Greedy(), [], True),
        (Beam(), [], True),
        (Beam(early_stop=True), [], True),
        (Greedy(), [4], False),
        (Beam(2), [], False),
        (Beam(num_hypotheses=2), [], False),
        (Beam(length_penalty=0.5), [], False),  # its rank scores are others
        (Beam(length_penalty=-0.5), [], False),
        (Sampling(temperature=0.0), [], False),
        (Sampling(), [], False),
    ],
)
def test_only_greedy_search_is_left_to_the_decoder(settings, prefix, is_decoded):
    decoder = Decoder()
    sources, bounds = SOURCES[:2], [6, 3]
    outputs = DirectSearcher(decoder, searcher()).search(sources, bounds, settings, prefix, [3, 8])
    assert decoder.calls == ([(sources, bounds)] if is_decoded else [])
    if is_decoded:
        assert [[each.ids for each in hypotheses] for hypotheses in outputs] == [[(4,)], [(4,)]]
    else:
        assert outputs == searcher().search(sources, bounds, settings, prefix, [3, 8])


class BeamDecoder:
    """A beam decoder that counts what it is given."""

    def __init__(self):
        self.calls = []

    def __call__(self, sources, bounds, settings):
        self.calls.append((sources, bounds, settings))
        return [[Hypothesis((5,), -2.0, (-2.0,), -2.0, True)] for _ in sources]


@pytest.mark.parametrize(
    ("settings", "prefix", "by"),
    [
        (Greedy(), [], "decoder"),
        (Beam(), [], "decoder"),
        (Beam(early_stop=True), [], "decoder"),
        (Beam(2), [], "beam decoder"),
        (Beam(num_hypotheses=2), [], "beam decoder"),
        (Beam(3, 2, -0.6, early_stop=True), [], "beam decoder"),
        (Beam(length_penalty=0.5), [], "fallback"),  # one output, ranked
        (Beam(length_penalty=-0.5), [], "fallback"),
        (Greedy(), [4], "fallback"),
        (Beam(2), [4], "fallback"),
        (Sampling(), [], "fallback"),
        (Sampling(3), [], "fallback"),
        (Sampling(temperature=0.0), [], "fallback"),
    ],
)
def test_a_beam_decoder_has_the_beams_of_several_without_a_prefix(settings, prefix, by):
    decoder, beam_decoder = Decoder(), BeamDecoder()
    sources, bounds = SOURCES[:2], [6, 3]
    direct = DirectSearcher(decoder, searcher(), beam_decoder)
    outputs = direct.search(sources, bounds, settings, prefix, [3, 8])
    assert decoder.calls == ([(sources, bounds)] if by == "decoder" else [])
    assert beam_decoder.calls == ([(sources, bounds, settings)] if by == "beam decoder" else [])
    if by == "fallback":
        assert outputs == searcher().search(sources, bounds, settings, prefix, [3, 8])
    else:
        assert [[each.ids for each in hypotheses] for hypotheses in outputs] == [[(4 + (by != "decoder"),)]] * 2


def test_a_beam_decoder_has_no_negative_bounds_and_no_empty_calls():
    beam_decoder = BeamDecoder()
    direct = DirectSearcher(Decoder(), searcher(), beam_decoder)
    with pytest.raises(ConfigError, match=r"^max_length: the value is -2\. Expected 0 or more tokens\."):
        direct.search(SOURCES, [3, -2, 1, -1], Beam(2))
    assert direct.search([], [], Beam(2)) == []
    assert beam_decoder.calls == []


@pytest.mark.parametrize("settings", [Greedy(), Beam(2), Sampling()])
def test_a_negative_bound_is_rejected_by_every_searcher(settings):
    decoder = Decoder()
    for each in (searcher(), DirectSearcher(decoder, searcher())):
        with pytest.raises(ConfigError, match=r"^max_length: the value is -2\. Expected 0 or more tokens\."):
            each.search(SOURCES, [3, -2, 1, -1], settings)
    assert decoder.calls == []


@pytest.mark.parametrize("settings", [Greedy(), Beam(2), Sampling()])
def test_no_sources_give_no_hypotheses(settings):
    decoder = Decoder()
    for each in (searcher(), DirectSearcher(decoder, searcher())):
        assert each.search([], [], settings) == []
        assert list(search_in_batches(each, [], [], settings)) == list(score_in_batches(each, [], [])) == []
    assert decoder.calls == []


def test_each_thread_has_one_stepper():
    created = []
    shared = StepperSearcher(lambda: created.append(threading.get_ident()) or TableStepper(8))
    expected = shared.search(SOURCES, BOUNDS, Beam(2))
    found = []
    thread = threading.Thread(target=lambda: found.append(shared.search(SOURCES, BOUNDS, Beam(2))))
    thread.start()
    thread.join()
    shared.score(SOURCES, SOURCES)
    assert found == [expected]
    assert len(created) == len(set(created)) == 2


@pytest.mark.parametrize("settings", [Greedy(), Beam(2, 2), Sampling(2, seed=3)])
@pytest.mark.parametrize("batch_size", [1, 4, 512])
def test_batches_change_no_hypothesis(settings, batch_size):
    whole, outputs = searcher().search(SOURCES, BOUNDS, settings, rows=[9, 8, 7, 6]), {}
    for batch, hypotheses in search_in_batches(
        searcher(), SOURCES, BOUNDS, settings, rows=[9, 8, 7, 6], batch_size=batch_size
    ):
        assert len(batch) * settings.width <= max(batch_size, settings.width)
        outputs.update(zip(batch.tolist(), hypotheses, strict=True))
    assert [outputs[n] for n in range(4)] == whole
