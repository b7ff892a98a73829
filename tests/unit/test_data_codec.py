from __future__ import annotations

import pytest

from freerun.data.codec import Codec, build_codecs
from freerun.data.readers import Pair
from freerun.data.tokenizers import CharTokenizer, WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.errors import ConfigError, DataError
from freerun.symbols import BOS, EOS, PAD, UNK

PAIRS = [Pair("Ab", "X Y", 1), Pair("aB", "x", 2), Pair("b\u0308", "X", 3)]
SETTINGS = {
    "source_tokens": "char",
    "target_tokens": "whitespace",
    "minimum_count": 1,
    "source_form": "NFC",
    "target_form": "NFC",
    "source_case": "keep",
    "reverse_source": False,
    "shared_vocabulary": False,
}


def build(pairs=PAIRS, **changes) -> tuple[Codec, Codec]:
    return build_codecs(lambda: iter(pairs), **{**SETTINGS, **changes})


def codec(**changes) -> Codec:
    return Codec(CharTokenizer(), Vocabulary("abc"), **changes)


def test_encode_ends_with_eos():
    assert codec().encode("abx") == [4, 5, UNK, EOS]
    assert codec().encode("") == [EOS]


def test_encode_reversed():
    assert codec(reverse=True).encode("abc") == [6, 5, 4, EOS]
    assert codec(reverse=True).tokens("abc") == ["a", "b", "c"]
    assert codec(reverse=True).encode_tokens(["a", "b"]) == [5, 4, EOS]


def test_case_and_form_come_before_the_tokens():
    assert codec(case="lower").encode("ABC") == codec().encode("abc")
    assert codec(normalisation="NFKC").encode("\uff41") == [4, EOS]
    assert codec().encode("\uff41") == [UNK, EOS]


@pytest.mark.parametrize("reverse", [False, True])
def test_decode_stops_at_eos_and_drops_padding(reverse):
    decoded = codec(reverse=reverse).decode([BOS, 4, PAD, 5, UNK, EOS, 6, PAD])
    assert decoded == (["<unk>", "b", "a"] if reverse else ["a", "b", "<unk>"])
    assert codec().decode([]) == []
    assert codec().decode([6]) == ["c"]


def test_text_and_unknown():
    words = Codec(WhitespaceTokenizer(), Vocabulary(["a"]), case="lower")
    assert words.text(["a", "b"]) == "a b"
    assert words.unknown("A c b c") == ["c", "b", "c"]


def test_built_codecs():
    source, target = build()
    assert source.vocabulary.tokens(range(4, 9)) == ["b", "A", "B", "a", "\u0308"]
    assert target.vocabulary.tokens(range(4, 7)) == ["X", "Y", "x"]
    assert (source.tokenizer.spec, target.tokenizer.spec) == ("char", "whitespace")
    assert not source.reverse


def test_built_codecs_take_over_the_settings():
    source, target = build(
        source_case="lower", reverse_source=True, source_form="NFD", target_form="NFD", minimum_count=2
    )
    assert (source.case, source.reverse, source.normalisation) == ("lower", True, "NFD")
    assert (target.case, target.reverse, target.normalisation) == ("keep", False, "NFD")
    assert source.vocabulary.tokens(range(4, 6)) == ["b", "a"]  # b thrice; the diaeresis stands apart, once
    assert target.vocabulary.tokens(range(4, 5)) == ["X"]
    assert (len(source.vocabulary), len(target.vocabulary)) == (6, 5)


@pytest.mark.parametrize(
    ("target", "form", "written"),
    [("\ud55c", "NFD", "\ud55c"), ("\u1112\u1161\u11ab", "NFD", "\u1112\u1161\u11ab"), ("\ud55c", "none", "\ud55c")],
)
def test_outputs_have_the_form_of_the_training_texts(target, form, written):
    """The model writes letters; the text has the syllables of the targets, if these have any."""
    _, codec = build([Pair("a", target, 1), Pair("b", "c", 2)], target_form=form, target_tokens="char")
    ids = codec.encode(target)
    assert len(ids) == (2 if form == "none" else 4)
    assert codec.text(codec.decode(ids)) == written
    assert codec.written == ("NFC" if (form, target) == ("NFD", "\ud55c") else "none")


def test_shared_vocabulary_has_both_sides():
    source, target = build(target_tokens="char", shared_vocabulary=True, source_case="lower")
    assert source.vocabulary is target.vocabulary
    assert set("abXYx ") <= set(source.vocabulary.tokens(range(4, len(source.vocabulary))))
    assert "A" not in source.vocabulary


def test_shared_vocabulary_needs_one_tokenisation():
    with pytest.raises(ConfigError, match="source_tokens 'char' and target_tokens 'whitespace'"):
        build(shared_vocabulary=True)


def test_sentencepiece_codecs_share_a_model_when_asked():
    words = [f"{a}{b}" for a in ("wal", "jum", "tal", "loo") for b in ("king", "ped", "ks")]
    pairs = [Pair(f"the {word} house", f"la maison {word} tombe", 1) for word in words]
    changes = {"source_tokens": "sentencepiece:28", "target_tokens": "sentencepiece:28"}
    source, target = build(pairs, **changes)
    assert source.vocabulary != target.vocabulary
    assert target.text(target.decode(target.encode("la maison tombe"))) == "la maison tombe"
    source, target = build(pairs, shared_vocabulary=True, **changes)
    assert source.vocabulary is target.vocabulary
    assert source.unknown("the maison") == []


def test_errors_name_the_key():
    with pytest.raises(ConfigError, match=r'data\.target_tokens: "words"'):
        build(target_tokens="words")
    with pytest.raises(ConfigError, match=r"data\.source_tokens: sentencepiece:9999"):
        build(source_tokens="sentencepiece:9999")
    with pytest.raises(DataError, match=r"data\.minimum_count: no target token occurs 3 times\."):
        build(minimum_count=3)
    with pytest.raises(DataError, match="targets: all targets are empty"):
        build([Pair("a", "", 1)])


def test_a_source_side_without_tokens_is_allowed():
    source, _ = build([Pair("", "a", 1)])
    assert source.encode("") == [EOS]
