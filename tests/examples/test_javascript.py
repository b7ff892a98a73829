"""The examples' JavaScript against the Python that it repeats: same ids, same outputs, same ties."""

from __future__ import annotations

import itertools
import random
import unicodedata
from pathlib import Path

import pytest

from freerun.data.codec import Codec
from freerun.data.tokenizers import make_tokenizer
from freerun.data.vocabulary import Vocabulary
from freerun.search.beam import beam_search
from freerun.search.bound import LengthBound
from tests.javascript import EXAMPLES, answers, program, run
from tests.steppers import TableStepper, batch, bounds

ANSWER = Path(__file__).parent / "answer.mjs"
SOURCE = [5, 4, 2]

FORMS, CASES, KINDS = ("NFC", "NFD", "NFKC", "NFKD", "none"), ("keep", "lower"), ("char", "whitespace")
# everything that Python or JavaScript take for white space, and what else is easy to get wrong
WHITE_SPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
WORDS = ["", " ", "ab", "𝒜b👩‍👩‍👧", "ΑΣ ΟΔΟΣ", "İI", "İ\u0327", "é", "e\u0301", "ﬁ", "Å", "ǅ", "__proto__ constructor"]


def test_the_modules_pass_their_own_tests():
    run([program("node"), "--test"], EXAMPLES / "browser")


# ---------------------------------------------------------------------------------------------------------------- text


def random_texts(count):
    """Texts of any characters that Unicode had given a meaning when Python was built."""
    chance = random.Random(1)
    letters = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) not in ("Cn", "Cs", "Co")]
    return ["".join(chance.choices(letters, k=8)) + chance.choice(WHITE_SPACE) + "a" for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_become_the_same_ids(kind):
    texts = [*WORDS, *(f"a{space}b" for space in WHITE_SPACE), *random_texts(150)]
    vocabulary = ["a", "b", "é", "ab", "σ", "ς", "i\u0307", "__proto__"]
    questions, expected = [], []
    for form, case, text in itertools.product(FORMS, CASES, texts):
        reverse = len(text) % 2 == 0
        codec = Codec(make_tokenizer(kind), Vocabulary(vocabulary), form, case, reverse)
        settings = {"tokens": kind, "normalisation": form, "case": case, "reverse": reverse}
        questions.append({"kind": "encode", "settings": settings, "vocabulary": vocabulary, "text": text})
        unknown = list(dict.fromkeys(codec.unknown(text)))
        expected.append({"tokens": codec.tokens(text), "ids": codec.encode(text), "unknown": unknown})
    assert answers(ANSWER, questions) == expected


@pytest.mark.parametrize(("kind", "text"), [("char", "abb"), ("whitespace", "a b b")])
def test_ids_become_text(kind, text):
    settings = {"tokens": kind, "normalisation": "NFC", "case": "keep", "reverse": False}
    question = {"kind": "decode", "settings": settings, "vocabulary": ["a", "b"], "ids": [4, 5, 5]}
    assert answers(ANSWER, [question]) == [text]


def test_the_length_bound_is_the_same():
    cases = itertools.product((0, 5, 20), (0.0, 0.7, 7.0, 1.1), (None, 0, 9), (0, 1, 7, 30))
    questions = [
        {"kind": "bound", "bound": {"longest_target": longest, "largest_ratio": ratio, "fixed": fixed}, "length": n}
        for longest, ratio, fixed, n in cases
    ]
    expected = [int(LengthBound(**each["bound"]).of(bounds(each["length"] + 1))[0]) for each in questions]
    assert answers(ANSWER, questions) == expected


# -------------------------------------------------------------------------------------------------------------- search


def beam_question(stepper, beam_size, bound):
    stepper.start(*batch([SOURCE]))
    table = stepper.table.astype(float).tolist()
    start = int(stepper.states[0])
    return {"kind": "beam", "table": table, "start": start, "beamSize": beam_size, "bound": bound}


def beam_answer(stepper, beam_size, bound):
    found = beam_search(
        stepper, *batch([SOURCE]), max_lengths=bounds(bound), beam_size=beam_size, num_hypotheses=beam_size
    )
    hypotheses = [
        {"ids": list(h.ids), "scores": list(h.token_scores), "score": h.score, "truncated": h.truncated}
        for h in found[0]
    ]
    # searching on after the end would find the same, later
    return {"found": hypotheses, "rowsFed": stepper.rows_fed}


@pytest.mark.parametrize("levels", [None, 2, 3], ids=["distinct", "many ties", "some ties"])
def test_beam_search_finds_the_same_to_the_last_bit(levels):
    questions, expected = [], []
    for seed, (beam_size, bound) in enumerate(itertools.product((1, 2, 3, 5, 8), (0, 1, 3, 6, 20))):
        for vocabulary_size, likelier_end in ((5, 0.0), (7, 1.5), (12, -2.0)):
            bias = {2: likelier_end} if levels is None else None
            stepper = TableStepper(vocabulary_size, seed, levels, bias, size=97)
            questions.append(beam_question(stepper, beam_size, bound))
            expected.append(beam_answer(stepper, beam_size, bound))
    assert answers(ANSWER, questions) == expected
    flat = [hypothesis for each in expected for hypothesis in each["found"]]
    assert any(h["truncated"] for h in flat) and not all(h["truncated"] for h in flat)
