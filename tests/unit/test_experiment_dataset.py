"""The data of a run: which sources are held out, what leaks, and the warnings about unknown tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from freerun.config import parse_config
from freerun.data.readers import read_pairs
from freerun.data.split import held_out_sources
from freerun.errors import DataError
from freerun.experiment import dataset
from freerun.experiment.data_source import DataSource
from freerun.experiment.dataset import choose_text, load_data, write_held_out
from freerun.forcing.registry import settings_of
from tests.notices import logged_notices

LETTERS = [a + b for a in "abcdefghij" for b in "klmnopqrst"]


def load(pairs, codecs=None, max_sources=2000, dev=None, **data):
    """The data of a file with these pairs, and the configuration."""
    Path("pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    data = {"train": "pairs.tsv", "source_tokens": "char", "target_tokens": "char", **data}
    if dev is not None:
        Path("dev.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in dev), encoding="utf-8")
        data["dev"] = "dev.tsv"
    config = parse_config({"data": data, "evaluation": {"max_sources": max_sources}}, "test", settings_of)
    return load_data(config, DataSource.open(config.data), codecs)


def notices(pairs, **options):
    with logged_notices() as texts:
        load(pairs, **options)
    return texts


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ids_of(corpus):
    return {tuple(corpus.sources[row].tolist()) for row in range(len(corpus))}


def held_out_ids(data):
    return {tuple(data.source.encode(text)) for text in data.dev.sources}


TRIPLES = [(text, "y") for n in range(400) for text in (f"w{n} x", f"w{n}  x", f" w{n} x")]


@pytest.mark.parametrize("tokens", ["whitespace", "char", "sentencepiece:30"])
def test_sources_that_differ_in_whitespace_are_on_one_side(tokens):
    data = load(TRIPLES, source_tokens=tokens)
    words = {tuple(text.split()) for text in data.dev.sources}
    assert len(words) == 20  # 5 % of the sources that can be distinguished
    trained = {tuple(data.source.text(data.source.decode(ids)).split()) for ids in ids_of(data.corpus)}
    assert not words & trained and len(words | trained) == 400
    assert not held_out_ids(data) & ids_of(data.corpus)
    assert data.report.same_as_held_out == 0


@pytest.mark.parametrize(("composed", "apart"), [("NFC", "NFD"), ("NFKC", "NFKD")])
def test_composed_characters_and_their_parts_hold_out_the_same_sources(composed, apart):
    """So that results in both forms can be compared."""
    pairs = [(f"\u00e9{text}", "x") for text in LETTERS] + [(f"e\u0301{text}", "x") for text in LETTERS]
    first, second = (load(pairs, normalisation=form) for form in (composed, apart))
    assert len(first.dev) == len(second.dev) == 5
    assert [each.replace("e\u0301", "\u00e9") for each in second.dev.sources] == first.dev.sources
    assert len(first.corpus) == len(second.corpus) == 190


def test_the_split_of_sources_without_such_twins_is_unchanged():
    """The hash of a source in its collapsed form is what it was, so that recorded splits hold."""
    held = held_out_sources(LETTERS)
    assert sorted(text for text in LETTERS if text in held) == ["bk", "cr", "gt", "hk", "im"]
    assert sorted(load([(text, "x") for text in LETTERS]).dev.sources) == ["bk", "cr", "gt", "hk", "im"]


def test_pairs_that_become_the_ids_of_a_held_out_source_are_left_out():
    # a letter that occurs once is unknown, and all unknown letters are one id
    pairs = [*((text, "y") for text in LETTERS), *((f"a{chr(0x4E00 + n)}", "y") for n in range(300))]
    with logged_notices() as said:
        data = load(pairs, minimum_count=2)
    held_out = [text for text in data.dev.sources if text[1] >= "\u4e00"]
    assert held_out  # so the others of them leak
    left_out = 300 - len(held_out)
    assert data.report.same_as_held_out == left_out
    assert data.report.read == data.report.kept + left_out == len(data.corpus) + left_out
    assert not held_out_ids(data) & ids_of(data.corpus)
    assert f"Training pairs: {data.report}." in said
    assert str(data.report).endswith(f"0 with a long target, {left_out} with the tokens of a held-out source")
    assert any(line.startswith(f"{left_out} training pairs left out: the model reads the same token") for line in said)


def test_nothing_is_left_out_without_a_reason_or_for_development_pairs_of_ones_own():
    with logged_notices() as said:
        assert load([(text, "y") for text in LETTERS]).report.same_as_held_out == 0
    assert not any("left out" in line for line in said)
    data = load([(text, "y") for text in LETTERS], dev=[(text, "y") for text in LETTERS])
    assert len(data.corpus) == 100 and data.report.same_as_held_out == 0


def test_no_pair_left_is_an_error_that_says_why():
    pairs = [(chr(0x4E00 + n), "y") for n in range(50)]
    with pytest.raises(DataError) as caught:
        load(pairs, minimum_count=2, max_source_length=3)
    assert str(caught.value) == (
        "pairs.tsv: 48 of 48 training pairs have the source tokens of a held-out source, so no pair is left. Expected "
        "sources that the model can distinguish. Lower data.minimum_count, choose other source tokens, leave out "
        "--init if its model lacks these tokens, or give the evaluation pairs with --dev."
    )
    with pytest.raises(DataError, match=r"50 of 51 training pairs .* source, and the other 1 are too long, so no"):
        load([*pairs, ("yyyyyy", "y"), ("a", "y")], minimum_count=2, max_source_length=3, held_out=0.02)


def overlap_warnings(pairs, **options):
    return [line for line in notices(pairs, **options) if "development sources (" in line]


def test_sources_in_training_and_development_pairs_are_counted_as_the_model_reads_them():
    train = [("Ab", "y"), ("Ab", "z"), ("cd", "y"), ("a  b", "y")]
    dev = [("ab", "y"), ("cd", "y"), ("cd", "z"), ("ef", "y"), ("dc", "y")]
    (found,) = overlap_warnings(train, dev=dev, source_case="lower")
    assert found == (
        "warning: 2 of 4 development sources (50.0 %) are training sources too, as the model reads them. On these, "
        "metrics measure what it remembers, not how it does on new sources, and the best model is chosen by them. "
        "Remove them from one of the two."
    )
    assert "1 of 4 development sources (25.0 %)" in overlap_warnings(train, dev=dev)[0]
    assert "1 of 1 development sources" in overlap_warnings(train, dev=[("a b", "y")], source_tokens="whitespace")[0]
    # a training pair that is left out teaches nothing; and held-out sources are no training sources
    assert overlap_warnings([("ab", "y"), ("abc", "z")], dev=[("abc", "z")], max_source_length=2) == []
    assert overlap_warnings(TRIPLES) == []


def header_warnings(pairs, **options):
    return [line for line in notices(pairs, **options) if "header" in line]


def test_a_header_is_warned_of_in_both_files():
    pairs = [(text, text.upper()) for text in LETTERS]
    (found,) = header_warnings([("Lemma", "inflected_form"), *pairs], dev=pairs)
    assert found == (
        'warning: pairs.tsv: the first line looks like a header ("Lemma" and "inflected_form"), but it is read as a '
        "pair. If it is a header, remove it, for example with: tail -n +2"
    )
    assert header_warnings(pairs, dev=pairs) == []
    assert header_warnings(pairs, dev=[("source", "target"), *pairs])[0].startswith("warning: dev.tsv: the first line")


def test_the_written_pairs_are_the_held_out_ones_each_time(tmp_path):
    data = load(TRIPLES, source_tokens="whitespace")
    config = parse_config({"data": {"train": "pairs.tsv"}}, "test", settings_of)
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_held_out(config.data, DataSource.open(config.data), tmp_path / name)
        written.append((tmp_path / name / "dev.tsv").read_bytes())
    assert written[0] == written[1]
    pairs = list(read_pairs(tmp_path / "one" / "dev.tsv"))
    assert len(pairs) == 60 and {" ".join(pair.source.split()) for pair in pairs} == {
        " ".join(source.split()) for source in data.dev.sources
    }


def test_a_sampled_source_has_all_its_references():
    pairs = [(f" w{n}", "a") for n in range(90)] + [(f"w{n}", "b") for n in range(90)] + [("x", "c")]
    data = load(pairs[-1:], dev=pairs[:-1], source_tokens="whitespace", max_sources=30)
    assert len(data.sample) == 30 and len(data.dev) == 90
    assert all(item.texts == ["a", "b"] for item in data.sample.items)
    places = [data.dev.items.index(item) for item in data.sample.items]
    assert places == sorted(places)
    again = load(pairs[-1:], dev=pairs[:-1], source_tokens="whitespace", max_sources=30)
    assert again.sample.sources == data.sample.sources


def test_the_sample_of_distinct_sources_is_unchanged():
    data = load([("x", "y")], dev=[(text, "y") for text in LETTERS], max_sources=5)
    assert data.sample.sources == ["fo", "gr", "hr", "ik", "jt"]


def warnings(pairs, **options):
    lines = notices(pairs, **options)
    return [line for line in lines if line.startswith("warning") and "not in the vocabulary" in line]


def test_a_warning_says_which_development_tokens_are_unknown_from_1_percent_on():
    train = [(text, "abc") for text in LETTERS]
    rare = [("ab", "abcQ")] * 1
    # 4 tokens and the end a target: 1 of 100 tokens is no more than 1 %, 1 of 96 is
    exact = [*rare, *((f"{text}", "abca") for text in LETTERS[:19])]
    assert sum(len(target) + 1 for _, target in exact) == 100
    assert warnings(train, dev=exact) == []
    (found,) = warnings(train, dev=[*rare, *((text, "abc" + "a" * (n < 15)) for n, text in enumerate(LETTERS[:19]))])
    assert found == (
        "warning: development pairs: 1 of 96 target tokens (1.0 %) are not in the vocabulary: 'Q' (1). The model can "
        "never write them, and teacher-forced metrics leave them out. Train on more data, lower data.minimum_count, "
        "choose smaller data.target_tokens (char or sentencepiece:N), or give the targets the training data's spelling "
        "and Unicode form."
    )


def test_one_percent_of_unknown_training_tokens_is_no_reason_for_a_warning():
    train = [(text, "abc" + "Q" * (n == 0)) for n, text in enumerate(LETTERS)]
    assert warnings(train, dev=[("ab", "abc")], minimum_count=2) == []


def test_a_warning_names_training_tokens_that_are_too_rare():
    train = [(text, f"ab{'QX'[n]}" if n < 2 else "ab") for n, text in enumerate(LETTERS[:20])]
    (found,) = warnings(train, dev=[("ab", "ab")], minimum_count=2)
    # 20 targets of 2 tokens and the end, 2 of them with one more
    assert found.startswith(
        "warning: training pairs of pairs.tsv: 2 of 62 target tokens (3.2 %) are not in the vocabulary: "
        "'Q' (1), 'X' (1)."
    )
    assert warnings(train, dev=[("ab", "ab")]) == []


def test_at_most_ten_tokens_are_named_and_pairs_that_were_held_out_are_called_so():
    pairs = [(text, "ab" + chr(0x4E00 + n)) for n, text in enumerate(LETTERS)]
    training, held_out = warnings(pairs, minimum_count=2, held_out=0.2)
    assert "held-out pairs of pairs.tsv: 20 of 80 target tokens (25.0 %)" in held_out
    assert held_out.count("(1)") == 10 and "and 10 others" in held_out
    assert "training pairs of pairs.tsv: 80 of 320 target tokens" in training
    assert training.count("(1)") == 10


ROWS = [f"word{n}\tw o r d {n % 3}" for n in range(60)]  # letters for the sources, words for the targets


@pytest.mark.parametrize(
    ("set_keys", "expected", "reason"),
    [
        ({}, {"source_tokens": "char", "target_tokens": "whitespace"}, ""),
        ({"shared_vocabulary": True}, dict.fromkeys(("source_tokens", "target_tokens"), "char"), "Both sides: char, "),
        (
            {"shared_vocabulary": True, "target_tokens": "whitespace"},
            dict.fromkeys(("source_tokens", "target_tokens"), "whitespace"),
            "Both sides: whitespace, because data.shared_vocabulary = true needs the same tokens.",
        ),
    ],
)
def test_a_shared_vocabulary_gets_the_same_tokens_on_both_sides(set_keys, expected, reason):
    Path("pairs.tsv").write_text("\n".join(ROWS) + "\n")
    config = parse_config({"data": {"train": "pairs.tsv", **set_keys}}, "test", settings_of)
    with logged_notices() as said:
        assert choose_text(config.data, DataSource.open(config.data)) == expected
    assert any(line.startswith(reason) for line in said)
    assert any(line.startswith("Both sides") for line in said) == bool(reason)


def test_subwords_are_finer_than_words_and_more_of_them_than_fewer():
    specs = ["whitespace", "sentencepiece:1000", "char", "sentencepiece:8000"]
    assert sorted(specs, key=dataset._fineness) == ["char", "sentencepiece:8000", "sentencepiece:1000", "whitespace"]
