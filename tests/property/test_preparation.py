"""Preparation works on thousands of lines at once: the same texts, ids and groups as one line at a time."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from freerun.data.codec import Codec
from freerun.data.corpus import _number_groups
from freerun.data.normalisation import normalise
from freerun.data.readers import ParallelFiles, read_pairs
from freerun.data.row_hashes import row_hashes
from freerun.data.split import HeldOut, _hash, held_out_hashes, held_out_sources
from freerun.data.tokenizers import make_tokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import DataError
from freerun.preparation import blocks, sides
from freerun.preparation.blocks import BadBlock, blocks_of, texts_of
from freerun.preparation.counting import Reading, Tally, TokenCounts, count_block, counts_of
from freerun.preparation.grouping import group_sources, runs_bytes, runs_name
from freerun.preparation.sides import count_tokens, encode_texts, normalised

relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
LETTERS = st.sampled_from(
    [
        "a",
        "b",
        "é",
        "e\u0301",
        "ǆ",
        "ΣΑΣ",
        "ΑΣ",
        "İ",
        "가",
        " ",
        "  ",
        "\u3000",
        "\u2028",
        "\x0b",
        "\r",
        "𝄞",
        "\xa0",
        "ﬁ",
        "",
    ]
)
FIELD = st.lists(LETTERS, max_size=5).map("".join)
BYTES = st.one_of(
    FIELD.map(str.encode),
    st.sampled_from([b"\t", b"\t", b"\t", b"\n", b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"\0", b"\xff", b"{", b'"']),
)


def outcome(function):
    try:
        return function()
    except (DataError, BadBlock):
        return "rejected"


def read(location, columns):
    return [(pair.source, pair.target, pair.features) for pair in read_pairs(location, columns)]


def parse(location, columns, separator=None):
    found = []
    for block in blocks_of(location):
        texts = texts_of(block, columns, separator)
        features = [None] * len(texts) if texts.features is None else texts.features
        found += zip(texts.sources, texts.targets, features, strict=True)
    return found or "rejected"


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "MAX_BLOCK_LINES", 3)
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", 40)
    monkeypatch.setattr(blocks, "_READ_BYTES", 7)
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 1000)


@relaxed
@given(content=st.lists(BYTES, max_size=30).map(b"".join), columns=st.sampled_from([None, (1, 2), (2, 1), (1, 3)]))
@example(content=b"a\tb\nc\td\te\nf\n", columns=None)
@example(content=b"a\tb\nc\td\te\nf\n", columns=(1, 2))
@example(content=b"a\0\tb\n", columns=None)
@example(content=b"a\tb\n\xffa\tb\n", columns=None)
@example(content=b"a\tb\tc\nd\te\n", columns=(1, 2))
def test_tsv_is_read_and_rejected_as_line_by_line(small_blocks, tmp_path, content, columns):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    assert outcome(lambda: parse(path, columns)) == outcome(lambda: read(path, columns))


@relaxed
@given(rows=st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1, max_size=12), ending=st.sampled_from(["\n", "\r\n"]))
def test_good_tsv_is_accepted(small_blocks, tmp_path, rows, ending):
    path = tmp_path / "pairs.tsv.gz"
    lines = ["\t".join(row) + ending for row in rows]
    path.write_bytes(gzip.compress("".join(lines).encode()))
    found = parse(path, (1, 2, 3), ";")
    assert found == read(path, (1, 2, 3))
    assert len(found) == len(rows)


@relaxed
@given(left=st.lists(FIELD, max_size=9), right=st.lists(FIELD, max_size=9), ends=st.booleans())
def test_parallel_files_are_read_and_rejected_as_line_by_line(small_blocks, tmp_path, left, right, ends):
    location = ParallelFiles(tmp_path / "source.txt", tmp_path / "target.txt")
    location.source.write_text("\n".join(left) + "\n" * ends, newline="")
    location.target.write_text("\n".join(right) + "\n" * ends, newline="")
    assert outcome(lambda: parse(location, None)) == outcome(lambda: read(location, None))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), FIELD, st.sampled_from(["a\tb", "a\nb", "\ud800", "x\0"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["source", "target", "features", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
OBJECT = st.fixed_dictionaries(
    {"source": st.one_of(FIELD, FIELD, JSON), "target": st.one_of(FIELD, st.lists(FIELD, max_size=3), JSON)},
    optional={"features": JSON},
)


@relaxed
@given(lines=st.lists(st.one_of(OBJECT, OBJECT, OBJECT, JSON).map(json.dumps), max_size=5))
@example(lines=['{"source": "a", "target": "b"}', '{"source": "a", "target": []}'])
@example(lines=['{"source": "a", "target": ["b\\tc"]}'])
@example(lines=['{"source": "a", "target": "b", "features": null}'])
@example(lines=['{"source": "a", "target": "b", "features": ["x\\n"]}'])
def test_json_lines_are_read_and_rejected_as_line_by_line(small_blocks, tmp_path, lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    expected = outcome(lambda: read(path, None))
    has_features = expected != "rejected" and {features is None for _, _, features in expected} == {False}
    found = outcome(lambda: parse(path, None, ";" if has_features else None))
    if expected != "rejected" and len({features is None for _, _, features in expected}) == 2:
        expected = "rejected"  # by the checks of features
    assert found == expected


def test_blocks_end_with_their_lines(small_blocks, tmp_path):
    path = tmp_path / "pairs.tsv"
    lines = [f"{'s' * (7 * number % 23)}\tt{number}\n" for number in range(40)]
    path.write_text("".join(lines))
    found = [block.contents[0] for block in blocks_of(path)]
    assert b"".join(found).decode() == "".join(lines)
    assert all(block.endswith(b"\n") and block.count(b"\n") <= 3 for block in found)
    assert [block.is_first for block in blocks_of(path)] == [True] + [False] * (len(found) - 1)


def test_a_long_line_is_rejected_before_it_is_in_memory(small_blocks, tmp_path, monkeypatch):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(BadBlock):
        list(blocks_of(path))
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 10)
    path.write_bytes(b"a\tb\n12345678901\tb\n")
    with pytest.raises(BadBlock):
        parse(path, None)
    path.write_bytes(b"a\tb\n12345678\tb\n")
    assert len(parse(path, None)) == 2


# -- ids ---------------------------------------------------------------------------------------------------------------


@relaxed
@given(
    texts=st.lists(st.lists(LETTERS, max_size=5).map("".join).filter(lambda text: "\r" not in text), max_size=12),
    form=st.sampled_from(["NFC", "NFD", "NFKC", "none"]),
    case=st.sampled_from(["keep", "lower"]),
    spec=st.sampled_from(["char", "whitespace"]),
)
@example(texts=["a \u00a0 b", "c\u00a0d", "e f"], form="NFC", case="keep", spec="whitespace")
@example(texts=["a  b", "c\x0bd", "e f"], form="NFC", case="keep", spec="whitespace")
@example(texts=["a b", "", "e f"], form="NFC", case="keep", spec="whitespace")
def test_ids_are_those_of_the_codec(texts, form, case, spec):
    normal = normalised(texts, form, case)
    assert normal == [normalise(text, form, case) for text in texts]
    counts = count_tokens(normal, spec)
    tokenizer = make_tokenizer(spec)
    assert counts == Counter(token for text in normal for token in tokenizer.tokens(text))
    known = sorted(counts)[::2]  # the others are unknown
    codec = Codec(tokenizer, Vocabulary(known), normalisation=form, case=case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "_TEXTS", 4)
        ids, lengths = encode_texts(normal, codec)
    expected = [codec.encode(text)[:-1] for text in texts]
    assert lengths.tolist() == list(map(len, expected))
    assert ids.tolist() == [number for row in expected for number in row]


def test_subwords_are_those_of_the_tokenizer():
    codec = Codec(_Halves(), Vocabulary(["ab", "c"]))
    ids, lengths = encode_texts(["abc", "", "xab"], codec)
    assert ids.tolist() == [4, 5, 3, 3]
    assert lengths.tolist() == [2, 0, 2]


class _Halves:
    """A tokenizer of two characters each."""

    spec = "sentencepiece:9"

    def tokens(self, text):
        return [text[start : start + 2] for start in range(0, len(text), 2)]

    def text(self, tokens):
        return "".join(tokens)


@relaxed
@given(rows=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=40))
@example(rows=[[0, 1], [1, 0], [0], [0, 0], [], [1, 0]])
def test_rows_have_equal_hashes_if_they_are_equal(rows):
    ids = np.array([number for row in rows for number in row], np.int32)
    hashes = row_hashes((ids, np.array(list(map(len, rows)), np.int64)))
    groups = {tuple(row): hashes[number] for number, row in enumerate(rows)}
    assert [hashes[number] == groups[tuple(row)] for number, row in enumerate(rows)] == [True] * len(rows)
    assert len(set(groups.values())) == len(groups)
    assert not set(hashes.tolist()) & set(row_hashes((ids, np.array(list(map(len, rows)))), purpose=1).tolist())


# -- counts and what is held out ---------------------------------------------------------------------------------------


def reading(**changes):
    values = {
        "columns": None,
        "separator": None,
        "source_form": "NFC",
        "target_form": "NFC",
        "composed_form": "NFC",
        "source_case": "keep",
        "source_tokens": "char",
        "target_tokens": "whitespace",
        "holds_out": True,
    }
    return Reading(**{**values, **changes})


@relaxed
@given(
    numbers=st.lists(st.integers(0, 30), min_size=2, max_size=60),
    fraction=st.sampled_from([0.05, 0.3, 0.9]),
    limit=st.sampled_from([1, 3, 2000]),
    margin=st.sampled_from([0, 64]),
)
def test_the_same_sources_are_held_out_as_in_training(
    small_blocks, tmp_path, numbers, fraction, limit, margin, monkeypatch
):
    monkeypatch.setattr("freerun.preparation.counting._MARGIN", margin)
    path = tmp_path / "pairs.tsv"
    rows = [(f"s{number}{' ' * (place % 2)}", f"t {place}") for place, number in enumerate(numbers)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    sizes = [len(texts_of(block)) for block in blocks_of(path)]
    tally = counted(path, Tally(fraction, limit))
    if outcome(lambda: tally.held_out("pairs")) is None:
        tally = counted(path, Tally(fraction, limit, keeps_all=True))
    expected = outcome(lambda: held_out_sources((s for s, _ in rows), fraction=fraction, limit=limit))
    found = outcome(lambda: tally.held_out("pairs"))
    if not isinstance(expected, HeldOut):
        assert found == expected
        return
    assert found.sources == expected.count
    assert [(pair.source, pair.target) for pair in found.pairs] == [row for row in rows if row[0] in expected]
    first = np.cumsum([0, *sizes])
    places = sorted(int(first[block]) + index for block, each in found.places.items() for index in each)
    assert places == [place for place, (source, _) in enumerate(rows) if source in expected]
    if found.is_exact:
        assert found.total == expected.total
    training = Counter(token for source, target in rows if source not in expected for token in target.split())
    held_out = [row for row in rows if row[0] in expected]
    tally.counts.take_off(counts_of(blocks.Texts([s for s, _ in held_out], [t for _, t in held_out]), reading()))
    assert tally.counts.target == training
    assert all(tally.counts.target.values())


def counted(path, tally):
    """A tally of all blocks of a file."""
    for number, block in enumerate(blocks_of(path)):
        tally.add(number, count_block(block, tally.bounds, reading()))
    return tally


def test_few_candidates_are_kept(tmp_path):
    """Far fewer than all pairs, of few sources or of many."""
    for sources in (1500, 30_000):
        path = tmp_path / f"{sources}.tsv"
        path.write_text("".join(f"s{number % sources}\tt\n" for number in range(60_000)))
        tally = counted(path, Tally(0.05, 2000))
        kept = sum(map(len, tally._candidates.values()))
        assert len(tally.held_out("pairs").pairs) <= kept < 60_000 / 5


def test_candidates_that_were_dropped_too_early_are_noticed(tmp_path, monkeypatch):
    """The only source of the first block that is held out in the end is not the lowest there."""
    monkeypatch.setattr("freerun.preparation.counting._MARGIN", 0)
    names = sorted((f"s{number}" for number in range(60)), key=lambda name: _hash(name, 0))
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{name}\tt\n" for name in [*names[:5], *names[40:]]))
    monkeypatch.setattr(blocks, "MAX_BLOCK_LINES", 5)
    assert counted(path, Tally(0.2, 9)).held_out("pairs") is None
    found = counted(path, Tally(0.2, 9, keeps_all=True)).held_out("pairs")
    assert [pair.source for pair in found.pairs] == names[:5]


def test_the_number_of_very_many_sources_is_estimated(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"s{number}\tt\n" for number in range(30_000)))
    tally = Tally(0.5, 50)
    for number, block in enumerate(blocks_of(path)):
        tally.add(number, count_block(block, tally.bounds, reading()))
    found = tally.held_out("pairs")
    assert not found.is_exact
    assert found.sources == 50
    assert found.total == pytest.approx(30_000, rel=0.35)
    expected = held_out_sources((f"s{number}" for number in range(30_000)), fraction=0.5, limit=50)
    assert {pair.source for pair in found.pairs} == {f"s{n}" for n in range(30_000) if f"s{n}" in expected}


@relaxed
@given(sources=st.lists(FIELD, min_size=1, max_size=10))
def test_hashes_of_many_sources_are_those_of_each(sources):
    sources = [source.replace("\r", "") for source in sources]
    assert held_out_hashes(sources).tolist() == [_hash(source, 0) for source in sources]


def test_counts_are_taken_off():
    counts = TokenCounts()
    counts.add(counts_of(blocks.Texts(["ab", "b"], ["x y", "y"], ["P;Q", "Q"]), reading(separator=";")))
    assert dict(counts.features) == {"P": 1, "Q": 2}
    counts.take_off(counts_of(blocks.Texts(["b"], ["y"], ["Q"]), reading(separator=";")))
    # as dicts: a Counter equals another one that has a count of 0 beside
    assert dict(counts.source) == {"a": 1, "b": 1}
    assert dict(counts.target) == {"x": 1, "y": 1}
    assert dict(counts.features) == {"P": 1, "Q": 1}
    counts.take_off(counts_of(blocks.Texts(["a"], ["x"], ["P"]), reading(separator=";")))
    assert (dict(counts.source), dict(counts.target), dict(counts.features)) == ({"b": 1}, {"y": 1}, {"Q": 1})


def test_targets_that_are_not_composed_are_counted_if_it_matters():
    texts = blocks.Texts(["a", "b"], ["e\u0301", "é"])
    assert counts_of(texts, reading(target_form="NFD", target_tokens="char")).decomposed == 1
    assert counts_of(texts, reading(target_tokens="char")).decomposed == 0


# -- groups ------------------------------------------------------------------------------------------------------------


@relaxed
@given(shards=st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=8), min_size=1, max_size=6))
def test_groups_are_those_in_memory(tmp_path, shards, monkeypatch):
    monkeypatch.setattr("freerun.preparation.grouping._RANGE_HASHES", 5)
    spread = np.uint64(2**60 // 10 * 16)
    for number, rows in enumerate(shards):
        pair = [np.array([row[side] for row in rows], np.uint64) * spread for side in range(2)]
        (tmp_path / runs_name(number)).write_bytes(runs_bytes(*pair))
    done = []
    grouped = group_sources(tmp_path, tmp_path, list(map(len, shards)), done.append)
    groups, starts, members = (
        np.load(tmp_path / name) for name in ("groups.npy", "group_starts.npy", "group_members.npy")
    )
    rows = [row for shard in shards for row in shard]
    expected = _number_groups(np.array([source for source, _ in rows], np.uint64)) if rows else np.zeros(0, int)
    assert grouped.sources == len(set(expected.tolist()))
    assert done == sorted(done)
    assert done[-1] == 1
    for pair, group in enumerate(groups.tolist()):
        same = np.flatnonzero(expected == expected[pair]).tolist()
        assert (members[starts[group - 1] : starts[group]].tolist() if group else [pair]) == same
        assert (group == 0) == (len(same) == 1)
    targets = [target for _, target in rows]
    if targets:
        most = max(Counter(targets).values())
        first = next(place for place, target in enumerate(targets) if targets.count(target) == most)
        assert grouped.most_frequent_target == first
