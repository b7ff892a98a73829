from __future__ import annotations

import pytest

from freerun.data.split import held_out_sources, hold_out
from freerun.errors import DataError

SOURCES = [f"word {number}" for number in range(1000)]


def test_hold_out_takes_its_share():
    count = sum(hold_out(source, 0.2) for source in SOURCES)
    assert 150 < count < 250
    assert not any(hold_out(source, 0.0) for source in SOURCES)
    assert all(hold_out(source, 1.0) for source in SOURCES)


def test_hold_out_depends_on_the_seed():
    assert [hold_out(s, 0.2) for s in SOURCES] != [hold_out(s, 0.2, seed=1) for s in SOURCES]


@pytest.mark.parametrize(
    ("share", "most", "count"), [(0.05, 2000, 50), (0.05, 20, 20), (0.0001, 9, 1), (1.0, 2000, 999)]
)
def test_count_of_held_out_sources(share, most, count):
    held = held_out_sources(SOURCES * 2, fraction=share, limit=most, seed=3)
    assert (held.count, held.total) == (count, 1000)
    assert sum(source in held for source in SOURCES) == count


def test_the_default_is_the_contract():
    assert held_out_sources(SOURCES).count == 50
    assert held_out_sources(str(number) for number in range(50_000)).count == 2000


def test_membership_does_not_depend_on_order_or_repetition():
    held = held_out_sources(SOURCES)
    other = held_out_sources(SOURCES[::-1] + SOURCES[:500])
    seeded = held_out_sources(SOURCES, seed=1)
    assert [s in held for s in SOURCES] == [s in other for s in SOURCES]
    assert [s in held for s in SOURCES] != [s in seeded for s in SOURCES]


def test_sources_that_differ_in_whitespace_are_one():
    variants = [text for n in range(100) for text in (f"w{n} x", f" w{n}  x", f"w{n}\u00a0x\u3000")]
    held = held_out_sources(variants, fraction=0.2)
    assert (held.count, held.total) == (20, 100)
    sides = [[text in held for text in variants[n : n + 3]] for n in range(0, 300, 3)]
    assert all(len(set(each)) == 1 for each in sides)
    assert sum(each[0] for each in sides) == 20
    assert all(hold_out(f"w{n} x", 0.3) == hold_out(f" w{n}  x", 0.3) for n in range(100))


def test_two_sources_are_one_for_each_side():
    held = held_out_sources(["a", "b"])
    assert ("a" in held) != ("b" in held)


@pytest.mark.parametrize(("sources", "what"), [([], "0 distinct sources"), (["a", "a"], "1 distinct source, too few")])
def test_too_few_sources(sources, what):
    with pytest.raises(DataError, match=rf"x\.tsv: {what}.*--dev"):
        held_out_sources(sources, location="x.tsv")
