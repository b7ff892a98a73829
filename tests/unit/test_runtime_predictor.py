"""A predictor's scores of targets that cannot be written; which searches a greedy decoder takes over."""

from __future__ import annotations

import pytest

from freerun.data.codec import Codec
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.runtime.predictor import Predictor
from freerun.search.bound import LengthBound
from freerun.search.hypothesis import Hypothesis
from freerun.search.methods import Beam, Greedy, Sampling
from freerun.search.searcher import DirectSearcher, StepperSearcher
from freerun.symbols import UNK
from tests.steppers import TableStepper

CODEC = Codec(CharTokenizer(), Vocabulary("abcd"))
SOURCE, TARGET = Codec(CharTokenizer(), Vocabulary("abc")), Codec(CharTokenizer(), Vocabulary("pqrs"))
TABLE = TableStepper(len(TARGET.vocabulary), bias={UNK: 20.0})
PREDICTOR = Predictor(
    searcher=StepperSearcher(lambda: TABLE), source=SOURCE, target=TARGET, bound=LengthBound(0, 0.0, fixed=5)
)


def alone(source, target):
    """The log-probability of each token after those before it."""
    ids = TARGET.encode(target)
    return [float(TABLE.distribution(SOURCE.encode(source), ids[:n])[token]) for n, token in enumerate(ids)]


def scores(*pairs):
    return list(PREDICTOR.score_stream(Pair(*pair, 1) for pair in pairs))


def test_a_target_with_unknown_tokens_has_no_score():
    (scored,) = scores(("ab", "pXqYX"))
    expected = alone("ab", "pXqYX")
    assert scored.score is None
    assert scored.unknown == ("X", "Y", "X")
    known = [0, 2, 5]
    assert [n for n, each in enumerate(scored.token_scores) if each is not None] == known
    assert [scored.token_scores[n] for n in known] == pytest.approx([expected[n] for n in known], abs=1e-5)


def test_other_targets_are_scored_as_if_alone():
    found = scores(("ab", "pq"), ("c", "Xp"), ("", ""), ("a", "X"), ("abc", "srqp"))
    assert [each.score is None for each in found] == [False, True, False, True, False]
    for pair, each in zip([("ab", "pq"), ("", ""), ("abc", "srqp")], [found[0], found[2], found[4]], strict=True):
        assert each.unknown == ()
        assert each.token_scores == pytest.approx(alone(*pair), abs=1e-5)
        assert each.score == pytest.approx(sum(alone(*pair)), abs=1e-5)
    assert (found[3].unknown, found[3].token_scores[0]) == (("X",), None)


def test_an_unknown_source_token_takes_no_score_away():
    (scored,) = scores(("aZ", "pq"))
    assert scored.score == pytest.approx(sum(alone("aZ", "pq")), abs=1e-5)


@pytest.mark.parametrize(
    ("search", "is_greedy"),
    [
        (Greedy(), True),
        (Beam(), True),
        (Beam(early_stop=True), True),
        (Beam(beam_size=2), False),
        (Beam(num_hypotheses=2), False),
        (Beam(length_penalty=1.0), False),
        (Beam(length_penalty=-1.0), False),
        (Sampling(temperature=0.0), False),
    ],
)
def test_only_plain_greedy_search_takes_the_short_way(search, is_greedy):
    def decoder(sources, bounds):
        assert bounds == [3] * len(sources)
        return [Hypothesis((4, 4, 4, 4), -1.0, (), -1.0, False)] * len(sources)

    searcher = DirectSearcher(decoder, StepperSearcher(lambda: TableStepper(8)))
    predictor = Predictor(searcher=searcher, source=CODEC, target=CODEC, bound=LengthBound(0, 0.0, fixed=3))
    assert (predictor.predict("ab", search).text == "aaaa") is is_greedy
    assert predictor.predict("ab", search, prefix="b").text.startswith("b")
