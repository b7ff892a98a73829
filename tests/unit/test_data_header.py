"""Headers that are taken for one, and pairs that are not."""

from __future__ import annotations

import pytest

from freerun.data.header import SAMPLE_PAIRS, is_named_header, looks_like_header
from freerun.data.readers import read_pairs
from tests.conftest import SHARED

SOUNDS = [(a + b, f"{a.upper()} {b.upper()}") for a in "abcdefgh" for b in "abcdefgh"] * 2


@pytest.mark.parametrize(
    "header",
    [
        ("source", "target"),
        ("lemma", "form"),
        ("word", "pronunciation"),
        ("# Source_Text", "Target-Text"),
        (' "English" ', "'French'"),
        ("en", "fr"),
    ],
)
def test_usual_names_are_a_header(header):
    assert is_named_header(*header)
    assert looks_like_header(header, [])


@pytest.mark.parametrize(
    "pair",
    [
        ("word", "word"),
        ("word", "words"),
        ("form", "forms"),
        ("phoneme", "phonemes"),
        ("source", "S AO R S"),
        ("mot", "word"),
        ("it", "es"),
        ("in", "en"),
        ("wrong", "right"),
        ("", ""),
        ("source", ""),
    ],
)
def test_pairs_with_one_name_are_none(pair):
    assert not is_named_header(*pair)
    assert not looks_like_header(pair, [])


def test_units_that_occur_nowhere_else_are_a_header():
    assert looks_like_header(("orth", "phon"), SOUNDS)  # words: A, B, ... on one side
    letters = [(text, text.upper()) for text, _ in SOUNDS]
    assert looks_like_header(("orth", "phon"), letters) is False  # characters, h and so on, occur: here "h"
    assert looks_like_header(("orth", "phon"), [("аб", "phon x")] * 50)  # only the sources tell
    assert looks_like_header(("orth", "ij_kl"), [(text, target.lower()) for text, target in letters])


def test_rare_units_are_no_header():
    # one unit that occurs is enough
    assert not looks_like_header(("abc", "A phon"), SOUNDS)
    # no closed inventory: every word is new there
    assert not looks_like_header(("orth", "phon"), [(chr(0x4E00 + n), chr(0x5E00 + n)) for n in range(100)])
    # too few pairs to compare with
    assert not looks_like_header(("orth", "phon"), [("a", "A B")] * 49)
    assert looks_like_header(("orth", "phon"), [("a", "A B")] * 50)
    # the same on both sides, or nothing like a name
    assert not looks_like_header(("phon", "PHON"), SOUNDS)
    assert not looks_like_header(("ab", "phon"), SOUNDS)
    assert not looks_like_header(("orth", "фон"), SOUNDS)


@pytest.mark.shared_data
def test_no_real_file_is_said_to_have_a_header():
    files = sorted((SHARED / "data").rglob("*.tsv"))
    assert len(files) >= 30
    for file in files:
        columns = (1, 3) if file.read_text(encoding="utf-8").partition("\n")[0].count("\t") == 2 else None
        pairs = [(pair.source, pair.target) for pair in read_pairs(file, columns)]
        for row in range(0, len(pairs), len(pairs) // 20 + 1):
            others = pairs[max(0, row - SAMPLE_PAIRS // 8) : row] + pairs[row + 1 : row + SAMPLE_PAIRS // 8]
            assert not looks_like_header(pairs[row], others), (file, pairs[row])
        assert not [pair for pair in pairs if is_named_header(*pair)]
        assert looks_like_header(("lemma", "form"), pairs[:SAMPLE_PAIRS])
