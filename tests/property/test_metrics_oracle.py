"""The oracle of edit distance against brute force over all endings, on tiny strings."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.metrics.oracle import Oracle
from freerun.symbols import EOS, UNK
from tests.oracle_outputs import correct_tokens, edit_distance
from tests.oracle_outputs import reachable as reachable_by_the_book

TOKENS = (4, 5)
# a reference may have unknown tokens, which no output has
REFERENCES = st.lists(st.lists(st.sampled_from((*TOKENS, UNK)), max_size=3), min_size=1, max_size=3)


def oracle(*references):
    rows = [[np.array([*reference, EOS]) for reference in each] for each in references]
    return Oracle(rows, 6)


def distance(output, references):
    return min(edit_distance(output, reference) for reference in references)


def endings(longest):
    for length in range(longest + 1):
        yield from (list(each) for each in itertools.product((*TOKENS, UNK), repeat=length))


def best(prefix, references):
    """The least distance that any ending of the prefix comes to, also one that cannot be written."""
    return min(distance([*prefix, *ending], references) for ending in endings(3))


@settings(max_examples=60, deadline=None)
@given(REFERENCES, st.lists(st.sampled_from(TOKENS), max_size=4))
def test_optimal_tokens_are_those_of_brute_force(references, prefix):
    made = oracle(references)
    for token in prefix:
        made.advance(np.array([token]))
    reachable = best(prefix, references)
    assert made.reachable_B[0] == reachable
    assert made.distances_B[0] == distance(prefix, references)
    expected = {token for token in TOKENS if best([*prefix, token], references) == reachable}
    expected |= {EOS} if distance(prefix, references) == reachable else set()
    assert set(np.flatnonzero(made.optimal_BV()[0])) == expected
    by_the_book = reachable_by_the_book(prefix, references), set(correct_tokens(prefix, references, 6))
    assert by_the_book == (reachable, expected)
    assert {token for token in (EOS, UNK, *TOKENS) if made.allows_B(np.array([token]))[0]} == expected


@given(REFERENCES, st.lists(st.sampled_from(TOKENS), max_size=6))
def test_regrets_add_up_to_the_edit_distance(references, output):
    made = oracle(references)
    reachable, regrets = [made.reachable_B[0]], []
    for token in output:
        optimal = made.optimal_BV()[0, token]
        made.advance(np.array([token]))
        reachable.append(made.reachable_B[0])
        regrets.append(reachable[-1] - reachable[-2])
        assert regrets[-1] == (0 if optimal else 1)
    assert reachable[0] == 0
    ending = made.distances_B[0] - reachable[-1]
    assert made.optimal_BV()[0, EOS] == (ending == 0)
    assert sum(regrets) + ending == distance(output, references)


@given(
    st.lists(REFERENCES, min_size=2, max_size=4),
    st.lists(st.lists(st.sampled_from(TOKENS), min_size=4, max_size=4), min_size=4, max_size=4),
)
def test_rows_do_not_disturb_each_other(references, outputs):
    together, alone = oracle(*references), [oracle(each) for each in references]
    for t in range(4):
        tokens = [output[t] for output in outputs[: len(references)]]
        together.advance(np.array(tokens))
        for row, (one, token) in enumerate(zip(alone, tokens, strict=True)):
            one.advance(np.array([token]))
            assert (together.optimal_BV()[row] == one.optimal_BV()[0]).all()
            assert together.allows_B(np.full(len(alone), token))[row] == one.allows_B(np.array([token]))[0]
            assert together.distances_B[row] == one.distances_B[0]
            assert together.reachable_B[row] == one.reachable_B[0]


def test_where_only_an_unknown_token_is_right_nothing_is():
    made = oracle([[4, UNK, 5]], [[UNK], [5]], [[UNK, UNK]])
    assert [np.flatnonzero(row).tolist() for row in made.optimal_BV()] == [[4], [5], []]
    made.advance(np.array([4, 5, 4]))
    assert [np.flatnonzero(row).tolist() for row in made.optimal_BV()] == [[], [EOS], []]
    assert made.allows_B(np.array([UNK, EOS, UNK])).tolist() == [False, True, False]
    made.advance(np.array([4, EOS, 4]))  # in the place of the unknown token: one edit, and 5 is right after it
    assert np.flatnonzero(made.optimal_BV()[0]).tolist() == [5]
    assert made.reachable_B[0] == 1
