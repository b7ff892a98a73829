from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from freerun.data.codec import Codec
from freerun.data.normalisation import normalise
from freerun.data.tokenizers import CharTokenizer, WhitespaceTokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.symbols import EOS, NUM_SPECIAL

texts = st.text(max_size=20)
tokens = st.lists(st.text(min_size=1, max_size=3), max_size=12, unique=True)


@given(tokens)
def test_vocabulary_round_trip(words):
    vocabulary = Vocabulary(words)
    assert Vocabulary.from_json(vocabulary.to_json(), "x") == vocabulary
    assert vocabulary.tokens(vocabulary.ids(words)) == words
    assert vocabulary.ids(words) == list(range(NUM_SPECIAL, len(vocabulary)))


@given(tokens, tokens)
def test_equal_hashes_mean_equal_vocabularies(one, other):
    assert (Vocabulary(one).hash == Vocabulary(other).hash) == (one == other)


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 5)), st.integers(1, 6))
def test_vocabulary_holds_the_frequent_tokens(counts, minimum):
    vocabulary = Vocabulary.from_counts(counts, minimum)
    assert {token for token in counts if token in vocabulary} == {t for t, n in counts.items() if n >= minimum}
    kept = [counts[token] for token in vocabulary.tokens(range(NUM_SPECIAL, len(vocabulary)))]
    assert kept == sorted(kept, reverse=True)


@given(texts, st.booleans(), st.sampled_from([CharTokenizer(), WhitespaceTokenizer()]))
def test_codec_round_trip(text, reverse, tokenizer):
    vocabulary = Vocabulary(dict.fromkeys(tokenizer.tokens(normalise(text))))
    codec = Codec(tokenizer, vocabulary, reverse=reverse)
    ids = codec.encode(text)
    assert ids[-1] == EOS and ids.count(EOS) == 1
    assert codec.decode(ids) == codec.decode([*ids, 4, 0]) == codec.tokens(text)
    assert codec.unknown(text) == []


@given(texts)
def test_char_text_is_the_inverse_of_tokens(text):
    assert CharTokenizer().text(CharTokenizer().tokens(text)) == text


@given(texts)
def test_whitespace_text_is_the_inverse_of_tokens(text):
    tokenizer = WhitespaceTokenizer()
    assert tokenizer.tokens(tokenizer.text(tokenizer.tokens(text))) == tokenizer.tokens(text)


@given(texts, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD", "none"]), st.sampled_from(["keep", "lower"]))
def test_normalising_twice_changes_nothing(text, form, case):
    once = normalise(text, form, case)
    assert normalise(once, form, case) == once
