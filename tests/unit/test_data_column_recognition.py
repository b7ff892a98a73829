"""The third column of a TSV file: one of features, or something else."""

from __future__ import annotations

import datetime
import itertools
import random

import pytest

from freerun.data.column_recognition import FeatureColumn
from tests.conftest import SHARED

LANGUAGES = ["finnish", "german", "hungarian", "spanish", "turkish"]
WORDS = [a + b + c for a in "bdfgklm" for b in "aeiou" for c in "nrst"]


def objection(column, *others):
    return FeatureColumn.measure(column, others).objection()


def inflections(language, lines):
    """The first or, if ``lines`` is few, evenly spread lines of a set of SIGMORPHON 2016: lemma, form, features."""
    with (SHARED / "data" / "inflection-2016" / language / "train.tsv").open(encoding="utf-8") as file:
        for line in itertools.islice(file, lines):
            source, target = line.rstrip("\n").split("\t")
            letters = [token for token in source.split() if not token.startswith("<")]
            features = [token[1:-1] for token in source.split() if token.startswith("<")]
            yield "".join(letters), "".join(target.split()), features


@pytest.mark.shared_data
@pytest.mark.parametrize("lines", [20, 100, 1000, 10_000])
@pytest.mark.parametrize("language", LANGUAGES)
def test_features_of_inflection_are_recognized_and_forms_are_not(language, lines):
    lemmas, forms, features = zip(*inflections(language, lines), strict=True)
    for separator in ";|,+":
        column = [separator.join(each) for each in features]
        if separator == "+" and language == "finnish":
            continue  # some of its features contain a plus
        assert objection(column, lemmas, forms) == ""
        assert objection(forms, lemmas, column)
        assert objection(lemmas, forms, column)
    if lines >= 1000:  # in fewer lines, spaces may be those of a text
        assert objection([" ".join(each) for each in features], lemmas, forms) == ""
        assert objection([";".join(each[:1]) for each in features], lemmas, forms) in ("", VALUE)


VALUE = "has the same value on every line"


@pytest.mark.shared_data
@pytest.mark.parametrize("lines", [20, 100, 1000, 10_000])
def test_no_text_of_other_data_looks_like_features(lines):
    sets = [path for path in sorted((SHARED / "data").glob("**/train.tsv")) if "inflection" not in str(path)]
    assert len(sets) >= 10
    for path in sets:
        with path.open(encoding="utf-8") as file:
            sides = zip(*(line.rstrip("\n").split("\t") for line in itertools.islice(file, lines)), strict=True)
        source, target = map(list, sides)
        assert objection(source, target), path
        assert objection(target, source), path


def several(values):
    return [values[number % len(values)] for number in range(len(WORDS))]


@pytest.mark.parametrize(
    "column",
    [
        several(["V;PST", "V;PRS", "N;SG", "N;PL;GEN", ""]),
        several(["V", "N", "ADJ"]),
        several(["", "PL"]),
        several(["en-us", "en-gb"]),
        several(["V PST", "V PRS 3", "N"]),
        several(["+N+Sg", "+N+Pl", "+V+Past"]),
        several(["Case=Nom|Number=Sing", "Case=Gen|Gender=Fem,Masc", "_"]),
        several([" V ; PST ", "V;PRS;"]),
    ],
)
def test_columns_of_features(column):
    assert objection(column, WORDS, WORDS) == ""


def test_few_lines_suffice_if_features_are_separated():
    assert objection(["V;PST", "V;PRS"], ["a", "b"]) == ""
    assert objection(["V PST", "V PRS"], ["a", "b"]) and objection(["V", "N"], ["a", "b"])


DAYS = [str(datetime.date(2024, 1, 1) + datetime.timedelta(days=day)) for day in range(90)]
ATTRIBUTION = [f"CC-BY 2.0 (France) Attribution: tatoeba.org #{n} (CM) & #{n + 7} (sacredceltic)" for n in range(140)]
RANDOM = random.Random(1)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([f"id{n}" for n in range(140)], "has 140 different values on 140 lines, and 140 of them occur once"),
        (several([f"{n / 10:.1f}" for n in range(30)]), "consists of numbers (30 of 30 different values)"),
        (several(["1", "2", "3", "4", "5"]), "consists of numbers (5 of 5 different values)"),
        (several(DAYS), "consists of numbers (90 of 90 different values)"),
        (several([f"{day}T10:30:00" for day in DAYS]), "consists of numbers (90 of 90 different values)"),
        (several([""]), "is empty"),
        (several(["deu"]), VALUE),
        (several(["V;PST", "PST;V"]), VALUE),
        (ATTRIBUTION, "has 140 different texts on 140 lines"),
        ([f"the {word} of {word}s, {word}er" for word in WORDS], "of them occur once"),
        ([f"{word};{word}er" for word in WORDS], "of them occur once"),
        ([" ".join(RANDOM.sample(WORDS[:40], 6)) for _ in range(140)], "has 140 different texts on 140 lines"),
        (several(["walk walk run", "run jump run"]), "repeats a word in 140 of 140 lines"),
        ([word[:2] + "a" for word in WORDS], "begins like another column on 140 of 140 lines"),
    ],
)
def test_columns_of_something_else(column, reason):
    assert reason in objection(column, WORDS, WORDS)
