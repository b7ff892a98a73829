from __future__ import annotations

import sys

import pytest

from freerun.data.tokenizers import (
    CharTokenizer,
    SentencePieceTokenizer,
    WhitespaceTokenizer,
    make_tokenizer,
    parse_tokens_spec,
    train_sentencepiece,
)
from freerun.data.vocabulary import Vocabulary
from freerun.errors import BundleError, ConfigError, MissingExtraError

TEXTS = [
    f"the {adjective} {noun} {verb} {number}"
    for adjective in ("old", "new", "red", "quiet")
    for noun in ("house", "horse", "garden", "machine")
    for verb in ("falls", "stands", "waits", "breaks")
    for number in ("once", "twice")
]


def train(size: int = 28) -> bytes:
    return train_sentencepiece(iter(TEXTS), size, "data.source_tokens")


def spec_error(spec: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_tokens_spec(spec, "data.source_tokens")
    return str(caught.value)


def test_char_tokens_are_code_points():
    tokenizer = CharTokenizer()
    assert tokenizer.tokens("e\u0301 \U0001f600") == ["e", "\u0301", " ", "\U0001f600"]
    assert tokenizer.text(["a", " ", "b"]) == "a b"


def test_whitespace_tokens():
    tokenizer = WhitespaceTokenizer()
    assert tokenizer.tokens("  a\u3000bc \xa0d ") == ["a", "bc", "d"]
    assert tokenizer.tokens(" ") == []
    assert tokenizer.text(["a", "bc"]) == "a bc"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("char", ("char", None)), ("whitespace", ("whitespace", None)), ("sentencepiece:12", ("sentencepiece", 12))],
)
def test_specifications(spec, expected):
    assert parse_tokens_spec(spec, "x") == expected


def test_bad_specifications():
    expected = "Expected char, whitespace or sentencepiece:N"
    assert spec_error("chars").startswith(f'data.source_tokens: "chars". {expected}')
    assert spec_error("chars").endswith("The closest match is 'char'.")
    assert "Write 'char'" in spec_error("char:7")
    for spec in ("sentencepiece", "sentencepiece:", "sentencepiece:0", "sentencepiece:-3", "sentencepiece:8k"):
        assert spec_error(spec).startswith(f'data.source_tokens: "{spec}". {expected}')
    for size in ("²", "1000001", "99999999999999999999", "9" * 5000):
        found = spec_error(f"sentencepiece:{size}")
        assert found.endswith("at most 1,000,000. Give the number of subwords after the colon.") and len(found) < 300
    assert parse_tokens_spec("sentencepiece:0001000000", "x") == ("sentencepiece", 1_000_000)


def test_make_tokenizer():
    assert make_tokenizer("char").spec == "char"
    assert make_tokenizer("whitespace").spec == "whitespace"
    assert make_tokenizer("sentencepiece:28", train()).spec == "sentencepiece:28"
    with pytest.raises(BundleError, match=r"m: sentencepiece:28 has no model\."):
        make_tokenizer("sentencepiece:28", None, "m")


def test_sentencepiece_trains_the_same_model_silently(capfd):
    assert train() == train()
    assert capfd.readouterr() == ("", "")


def test_sentencepiece_tokens_and_vocabulary_agree():
    model = train()
    tokenizer, vocabulary = SentencePieceTokenizer(model, "sentencepiece:28"), Vocabulary.from_sentencepiece(model)
    assert len(vocabulary) == 4 + 28 - 1  # the unknown piece is UNK
    for text in TEXTS:
        assert all(token in vocabulary for token in tokenizer.tokens(text))
        assert tokenizer.text(tokenizer.tokens(text)) == text
    assert tokenizer.tokens("") == []


def test_sentencepiece_keeps_unknown_characters_and_control_words():
    tokenizer = SentencePieceTokenizer(train(), "sentencepiece:28")
    tokens = tokenizer.tokens("the 日本 </s>")
    assert "日本" in tokens
    assert tokenizer.text(tokens) == "the 日本 </s>"


def test_sentencepiece_does_not_normalise():
    model = train_sentencepiece(iter(["ﬁne ﬁsh", "ﬁsh ﬁne"]), 8, "x")
    assert any("ﬁ" in token for token in Vocabulary.from_sentencepiece(model).tokens(range(4, 11)))


def test_sentencepiece_sizes_out_of_reach_name_the_possible_ones():
    with pytest.raises(ConfigError) as caught:
        train(5000)
    assert str(caught.value).startswith(
        "data.source_tokens: sentencepiece:5000 is too large for these texts. Expected at most "
    )
    possible = int(str(caught.value).split("at most ")[1].split()[0])
    assert len(train(possible)) > 0
    assert f"Write sentencepiece:{possible} or less." in str(caught.value)
    with pytest.raises(ConfigError, match="Expected at least 22 subwords, one for each character"):
        train(3)
    assert len(train(22)) > 0


def test_sentencepiece_of_nothing():
    with pytest.raises(ConfigError, match="sentencepiece:8 cannot be trained on empty texts"):
        train_sentencepiece(iter(["", " "]), 8, "x")


@pytest.mark.parametrize("model", [b"", b"garbage", b"\0" * 100])
def test_a_damaged_model(model):
    with pytest.raises(BundleError, match=r"m/source_vocabulary\.model: this is not a SentencePiece model"):
        SentencePieceTokenizer(model, "sentencepiece:28", "m/source_vocabulary.model")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'freerun\[subword\]'"):
        train()
