"""The page as text: whole, closed to the outside, and safe whatever the data says."""

from __future__ import annotations

import functools
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from freerun.data.features import FeatureCodec
from freerun.data.vocabulary import Vocabulary
from freerun.diagnostics.diagnosis import diagnose
from freerun.diagnostics.projection import project
from freerun.diagnostics.record import EncodedPairs, Recorder
from freerun.errors import MissingExtraError
from freerun.evaluation.items import EvaluationSet, Item
from freerun.report.aligned_examples import chosen_examples, edit_distances_of, examples
from freerun.report.diagnosis_page import Clouds, embedded_json, rendered_page
from freerun.report.plots import contexts_plot, excess_plot
from freerun.search.bound import LengthBound
from freerun.symbols import EOS
from tests.planted import (
    BOUND,
    JUNK,
    SOURCE,
    TARGET,
    Planted,
    derails,
    errs_at_random,
    items_of,
    never_errs,
    recorded,
    words,
)

ATTACK = "</script><img src=x onerror=alert(1)>"


ONE_IN_FIVE = errs_at_random(0.2)


@functools.cache
def page(rule=ONE_IN_FIVE, count=40, source=None):
    items = items_of(*words(count))
    if source is not None:
        items = EvaluationSet([Item(source, ["ab"], [list("ab")]), *items.items[1:]])
    found = diagnose(Planted(EncodedPairs.of(items, SOURCE, TARGET), rule), items, SOURCE, TARGET, bound=BOUND)
    shown = examples(found.recorded, items, SOURCE, TARGET, chosen_examples(found.recorded))
    clouds = Clouds(None, 0, project(np.eye(4)), ["a", "b", ATTACK, "$x"])
    return rendered_page("<model>", "<dev>.tsv", found.measures, clouds, shown), shown


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.inside = tag

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)


def test_text_of_the_data_cannot_become_markup():
    text, _ = page(source=ATTACK)
    read = Reader(text)
    assert "img" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert read.tags.count("script") == 2
    assert json.loads(read.scripts[0])[0]["source"].endswith(">") or ATTACK in [
        each["source"] for each in json.loads(read.scripts[0])
    ]
    assert "&lt;model&gt;" in text and "<model>" not in text and "<dev>" not in text


@pytest.mark.parametrize("value", [ATTACK, "<!--", "]]>", "a\u2028b\u2029c", "&lt;"])
def test_embedded_json_is_the_same_value_without_markup(value):
    text = embedded_json([value])
    assert json.loads(text) == [value]
    assert not re.search("[<>&\u2028\u2029]", text)


def test_nothing_is_fetched():
    text, _ = page()
    assert not re.findall(r"(?:src|href)=\"(?!#|data:,|\w+-)[^\"]*\"", text)
    assert {url for url in re.findall(r"https?://[^\s\"'<]+", text) if "www.w3.org" not in url} == set()
    assert "default-src 'none'" in text


def test_ids_are_of_one_thing_each():
    identifiers = [value for name, value in Reader(page()[0]).attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    meant = re.findall(r"(?:url\(#|href=\"#)([^\")]+)", page()[0])
    assert meant and set(meant) <= set(identifiers)


def test_the_page_is_the_same_every_time():
    assert page.__wrapped__()[0] == page()[0]


def test_a_model_that_never_errs_has_a_page_too():
    text, shown = page(never_errs, 25)
    assert len(shown) == 25
    assert "recovery-table" not in text and "makes no error on 25 sources" in text


def test_plots_take_the_colour_of_the_page():
    svg = contexts_plot(project(np.eye(3)), ["a", "b", "c"])
    assert "currentColor" in svg and "#000000" not in svg and "#ffffff" not in svg
    assert svg.startswith("<svg role=") and svg.rstrip().endswith("</svg>")


def test_scripts_that_matplotlib_has_no_font_for_are_drawn():
    svg = contexts_plot(project(np.eye(3)), ["日本語", 'id="q"', "#000000"])
    assert all(text in svg for text in ("日本語", 'id="q"', "#000000"))


def test_examples_are_the_worst_and_others():
    found, _ = recorded(errs_at_random(0.2), *words(80))
    edits = edit_distances_of(found)
    chosen = chosen_examples(found, 20)
    assert len(set(chosen.tolist())) == 20
    assert sorted(edits[chosen[:10]])[::-1] == sorted(edits)[::-1][:10]
    assert chosen[10:].tolist() == sorted(chosen[10:])


def test_an_example_is_what_was_recorded():
    # the reference is abcd: a wrong token in place of b, an end too early
    written = [*TARGET.encode("azc")[:-1], EOS, EOS]
    found, _ = recorded(lambda source, prefix, optimal: written[len(prefix)], ["abcd", "abxd"])
    items = items_of(["abcd", "abxd"])
    (example,) = examples(found, items, SOURCE, TARGET, np.array([0]), history)
    assert example["edits"] == 2 and example["firstError"] == 2 and not example["truncated"]
    assert example["output"] == "azc" and example["references"] == ["abcd", "abxd"]
    assert example["columns"] == [[0, 0], [1, 1], [2, 2], [3, -1], [4, 3]]
    assert (example["free"], example["freeError"]) == (["a", "z", "c", "⏎"], [0, 1, 0, 1])
    assert example["reference"] == ["a", "b", "c", "d", "⏎"]
    assert example["forced"] == ["a", "z", "c", "⏎", "⏎"]
    assert example["forcedError"] == [0, 1, 0, 1, 0]
    assert example["freeProbability"] == [90] * 4
    assert example["forcedProbability"] == [90, 1, 90, 1, 90]
    assert example["nll"] == pytest.approx(-4 * np.log(0.9), abs=1e-3)
    # 100 reads "1", "0", "0", end; EOS stays last when the source is reversed for the model
    assert example["sourceTokens"] == ["1", "0", "0", "⏎"]
    assert example["attention"][1] == [1, 2, 3, 4]


def test_an_unknown_token_has_no_probability():
    found, _ = recorded(lambda source, prefix, optimal: optimal[0], ["axc"])
    (example,) = examples(found, items_of(["axc"]), SOURCE, TARGET, np.array([0]))
    assert example["reference"] == ["a", "<unk>", "c", "⏎"]
    assert example["forcedProbability"] == [90, None, 90, 90]


def history(sources, lengths, fed):
    """In place of attention weights: the places of the source, a hundredth each."""
    assert (sources == JUNK).sum() >= 0
    return np.broadcast_to(np.arange(1, sources.shape[1] + 1) / 100, (*fed.shape, sources.shape[1]))


def test_attention_is_turned_into_reading_order():
    found, _ = recorded(never_errs, "ab")
    (example,) = examples(found, items_of("ab"), replace(SOURCE, reverse=True), TARGET, np.array([0]), history)
    assert example["attention"][0] == [3, 2, 1, 4]


def test_endless_outputs_are_shown_in_part():
    subjects = EncodedPairs.of(items_of("ab"), SOURCE, TARGET)
    found = Recorder(Planted(subjects, derails), LengthBound(0, 0.0, fixed=300)).record(subjects)
    (example,) = examples(found, items_of("ab"), SOURCE, TARGET, np.array([0]), history)
    assert example["truncated"] and example["edits"] >= 299
    assert {len(example[name]) for name in ("free", "freeProbability", "freeError", "attention")} == {200}


def test_principal_components_keep_distances_of_a_plane():
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(20, 2)) * (3, 1)
    turned = plane @ np.linalg.qr(generator.normal(size=(5, 5)))[0][:2]
    found = project(turned)
    between = np.linalg.norm(plane[:, None] - plane, axis=2)
    assert np.allclose(np.linalg.norm(found.points[:, None] - found.points, axis=2), between)
    assert sum(found.explained) == pytest.approx(1.0) and found.explained[0] > found.explained[1]
    assert project(np.ones((1, 3))).points.tolist() == [[0.0, 0.0]]
    assert project(np.arange(3.0)[:, None]).explained[1] == 0.0


def test_a_missing_matplotlib_is_answered_with_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "freerun.report"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'freerun\[report\]'"):
        __import__("freerun.report.plots")


def test_gaps_stand_for_what_is_undefined():
    found, _ = recorded(never_errs, *words(20))
    from freerun.diagnostics.excess_error import excess_error

    assert "nan" not in excess_plot(excess_error(found).curve).lower()


# ------------------------------------------------------------------------------------------------------------ features

WITH_FEATURES = replace(SOURCE, features=FeatureCodec(";", Vocabulary(["PST", "V"])))


def items_with_features(*features):
    """The source 100 with each of these features."""
    return EvaluationSet([Item("100", ["ab"], [list("ab")], each) for each in features])


def found_with_features(source, *features):
    items = items_with_features(*features)
    pairs = EncodedPairs.of(items, source, TARGET)
    return Recorder(Planted(pairs, never_errs), BOUND).record(pairs), items


def test_an_example_shows_its_features():
    found, items = found_with_features(WITH_FEATURES, "V;PST", "", ["V"])
    shown = examples(found, items, WITH_FEATURES, TARGET, np.arange(3))
    assert [each["features"] for each in shown] == ["V;PST", "", "V"]
    assert {each["source"] for each in shown} == {"100"}
    found, items = found_with_features(SOURCE, "V;PST")
    assert examples(found, items, SOURCE, TARGET, np.arange(1))[0]["features"] is None


@pytest.mark.parametrize("reverse", [False, True])
def test_features_in_the_memory_are_the_last_columns_of_the_attention(reverse):
    source = replace(WITH_FEATURES, reverse=reverse)
    found, items = found_with_features(source, "V;PST", "", "V;other")

    def attention(ids, lengths, fed):
        """The places of the memory, a hundredth each: those of the longest source, and of two features."""
        assert (lengths == 4).all() and ids.shape == (3, 6)
        return np.broadcast_to(np.arange(1, 7) / 100, (*fed.shape, 6))

    shown = examples(found, items, source, TARGET, np.arange(3), attention)
    letters = [3, 2, 1, 4] if reverse else [1, 2, 3, 4]
    assert [each["attention"][0] for each in shown] == [[*letters, 5, 6], letters, [*letters, 5, 6]]
    tokens = ["1", "0", "0", "⏎"]
    assert [each["sourceTokens"] for each in shown] == [[*tokens, "PST", "V"], tokens, [*tokens, "<unk>", "V"]]


def test_a_summary_of_features_adds_no_column():
    found, items = found_with_features(WITH_FEATURES, "V;PST")
    (example,) = examples(found, items, WITH_FEATURES, TARGET, np.array([0]), history_of_the_source)
    assert example["attention"][0] == [1, 2, 3, 4] and example["sourceTokens"] == ["1", "0", "0", "⏎"]


def history_of_the_source(sources, lengths, fed):
    return np.broadcast_to(np.arange(1, lengths.max() + 1) / 100, (*fed.shape, lengths.max()))
