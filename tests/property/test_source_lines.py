"""Lines ``source<TAB>features``: what is written is read, and everything else is rejected with its line."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun.data.features import FeatureCodec
from freerun.data.source_lines import read_sources, split_line
from freerun.errors import DataError

CODEC = FeatureCodec.build(["V;PST", "N;PL"], ";")
FIELDS = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"])).filter(
    lambda text: not text.startswith("\ufeff")
)
KNOWN = "it has 'N', 'PL', 'PST', 'V'. "


def read(text, name="in.tsv"):
    return list(read_sources(io.BytesIO(text.encode()), name, CODEC))


@given(st.lists(st.tuples(FIELDS, FIELDS)))
def test_a_pair_per_line(pairs):
    assert read("".join(f"{source}\t{features}\n" for source, features in pairs)) == pairs


def test_an_empty_line_is_an_empty_text_and_a_field_may_be_empty():
    assert read("a\tV\n\nb\t\n\tV\n\t\n") == [("a", "V"), "", ("b", ""), ("", "V"), ("", "")]


def test_a_thousand_features_are_one_field():
    features = ";".join(map(str, range(1000)))
    assert read(f"a\t{features}") == [("a", features)]


def test_a_line_without_features_is_named_with_the_known_ones():
    message = (
        'in.tsv:2: "b" has no features. Expected features separated by ";", because the model was trained with them; '
        f"{KNOWN}Add a tab and the features; after the tab, there may be none."
    )
    with pytest.raises(DataError) as caught:
        read("a\tV\nb\n")
    assert str(caught.value) == message


def test_a_line_with_two_tabs_is_named():
    message = (
        "in.tsv:1: 3 tab-separated fields. Expected 2: a source and its features. Remove the extra tab; cut -f1,3 "
        "makes such lines from source<TAB>target<TAB>features."
    )
    with pytest.raises(DataError) as caught:
        read("a\tA\tV\n")
    assert str(caught.value) == message


def test_bytes_that_no_text_has_are_rejected_as_in_other_files():
    with pytest.raises(DataError, match=r"in\.tsv:2: not UTF-8: byte 0xff at byte offset 4"):
        list(read_sources(io.BytesIO(b"a\tV\n\xff\tV\n"), "in.tsv", CODEC))


def test_only_the_first_known_features_are_named():
    many = FeatureCodec.build([f"F{number:02}" for number in range(12)], "+")
    with pytest.raises(DataError, match=r"separated by \"\+\".* 'F08', 'F09' and 2 others\. Add"):
        split_line("a", "text 1", many)
    with pytest.raises(DataError, match="it has none"):
        split_line("a", "text 1", FeatureCodec.build([], ";"))
