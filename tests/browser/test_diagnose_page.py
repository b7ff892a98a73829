"""The page of ``freerun diagnose`` in a real browser: it draws, sorts, filters and explains, in silence."""

from __future__ import annotations

import pytest

from freerun.cli import main
from tests.browser.driven import chromium, click
from tests.unit.test_report_diagnose import ATTACK


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """A tiny model with attention, diagnosed; one of the sources is an attack."""
    folder = tmp_path_factory.mktemp("page")
    names = ["ab", "ba", "abc", "cab", "bca", "cc", "aab", "bbc", "acb", "cba", "abab", "bcbc"]
    (folder / "train.tsv").write_text("".join(f"{name}\t{' '.join(name.upper())}\n" for name in names))
    (folder / "dev.tsv").write_text(f"{ATTACK}\tA B\nab\tB A\nab\tC C C\ncab\tC A B\n\tA\nbcbcbcbc\tB\n")
    arguments = ["train", str(folder / "train.tsv"), "--dev", str(folder / "dev.tsv"), "--out", str(folder / "run")]
    settings = {
        "training.updates": 5,
        "training.batch_size": 4,
        "model.hidden_size": 8,
        "model.embedding_size": 8,
        "model.attention": "luong",
        "training.threads": 1,
    }
    assert main([*arguments, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]) == 0
    assert main(["diagnose", str(folder / "run"), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.fixture
def opened(browser, page_of):
    browser.get_log("browser")
    browser.get("about:blank")  # so that nothing of the last visit is kept
    browser.get(page_of.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def texts(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)", selector
    )


def column(browser, number):
    return texts(browser, f"#rows td:nth-child({number})")


def test_plots_are_drawn(opened):
    assert len(texts(opened, "figure svg")) >= 5
    widths = opened.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert all(width > 200 for width in widths)
    assert len(texts(opened, ".summary li")) == 6


def test_sources_are_text_and_not_markup(opened):
    assert ATTACK in column(opened, 1)
    assert opened.find_elements("css selector", "img") == []


def test_examples_are_sorted(opened):
    click(opened, "th[data-key=edits] button")
    edits = [int(cell) for cell in column(opened, 3)]
    assert edits == sorted(edits, reverse=True) and len(set(edits)) > 1
    click(opened, "th[data-key=edits] button")
    assert [int(cell) for cell in column(opened, 3)] == sorted(edits)
    assert opened.find_element("css selector", "th[data-key=edits]").get_attribute("aria-sort") == "ascending"
    click(opened, "th[data-key=source] button")
    sources = column(opened, 1)
    assert sources.index("ab") < sources.index("cab")
    click(opened, "th[data-key=nll] button")
    likelihoods = [float(cell) for cell in column(opened, 5)]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_examples_are_filtered(opened):
    every = len(column(opened, 1))
    opened.find_element("css selector", "#filter").send_keys("CaB")
    assert column(opened, 1) == ["cab"]
    assert texts(opened, "#count") == [f"1 of {every} examples"]


def test_an_example_is_shown_token_by_token(opened):
    opened.find_element("css selector", "#filter").send_keys("bcbcbcbc")
    click(opened, "#rows tr")
    assert texts(opened, "#detail h3") == ["bcbcbcbc", "Attention"]
    assert texts(opened, "#detail table:first-of-type tr th")[:3] == ["reference", "teacher-forced", "free-running"]
    reference = texts(opened, "#detail .scroll:first-of-type tr:first-child td")
    assert [token for token in reference if token != "·"] == ["B", "⏎"]
    edits = int(column(opened, 3)[0])
    wrong = texts(opened, "#detail .scroll:first-of-type tr:nth-child(3) .error")
    assert bool(wrong) == (edits > 0)
    assert len(texts(opened, "#detail .first")) == (1 if edits else 0)
    assert opened.find_element("css selector", "#rows tr").get_attribute("aria-selected") == "true"


def test_rows_can_be_chosen_by_key(opened):
    opened.execute_script("document.querySelectorAll('#rows tr')[1].focus()")
    name = column(opened, 1)[1]
    opened.switch_to.active_element.send_keys("\n")
    assert texts(opened, "#detail h3")[0] == name


@pytest.fixture(scope="module")
def page_with_features(tmp_path_factory):
    """A model whose attention reads features, one of which is an attack."""
    folder = tmp_path_factory.mktemp("features")
    lines = [f"{name}\t{name.upper()}\tV;{ATTACK}\n{name}\t{name}\tV;PST\n" for name in ("ab", "ba", "abc", "cab")]
    (folder / "train.tsv").write_text("".join(lines))
    arguments = ["--dev", str(folder / "train.tsv"), "--columns", "1,2,3", "--out", str(folder / "run")]
    settings = (
        ["updates=3", "threads=1", "batch_size=4"],
        ["hidden_size=8", "attention=luong", "feature_encoder=sequence"],
    )
    chosen = [f"{section}.{each}" for section, own in zip(("training", "model"), settings, strict=True) for each in own]
    options = [part for each in chosen for part in ("--set", each)]
    assert main(["train", str(folder / "train.tsv"), *arguments, *options]) == 0
    assert main(["diagnose", str(folder / "run"), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html"


def test_features_are_shown_next_to_their_source_and_in_the_attention(browser, page_with_features):
    browser.get_log("browser")
    browser.get(page_with_features.as_uri())
    assert f"ab V;{ATTACK}" in column(browser, 1)
    assert browser.find_elements("css selector", "img") == []
    browser.find_element("css selector", "#filter").send_keys("pst")
    assert sorted(column(browser, 1)) == [f"{name} V;PST" for name in ("ab", "abc", "ba", "cab")]
    row = column(browser, 1).index("cab V;PST")
    click(browser, f"#rows tr:nth-child({row + 1})")
    assert texts(browser, "#detail h3")[0] == "cab V;PST"
    head = texts(browser, "#detail .scroll:last-of-type tr:first-child th")[1:]
    assert head[:4] == ["c", "a", "b", "⏎"] and sorted(head[4:]) == ["PST", "V"]
    cells = texts(browser, "#detail .scroll:last-of-type tr:nth-child(2) td")
    assert len(cells) == 6
    assert browser.get_log("browser") == []
