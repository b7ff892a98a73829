"""The page of examples/browser in a real browser, with bundles that were trained and exported here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from freerun.cli import main
from tests import trained
from tests.browser.driven import asked_of, await_outputs, chromium, click, said, set_text, wait
from tests.javascript import EXAMPLES, installed, program, run
from tests.trained import HOSTILE, change_config, once

pytestmark = pytest.mark.slow

PAGE = EXAMPLES / "browser"
SOURCES = {"characters": ["ab", "cab", "bcaX", "𝒜b", "e\u0301"], "words": ["A B C", "a\u3000b", "A X b", " ", "c c"]}

WITH_FEATURES = [("ab", "UP"), ("cab", "REV;; UP;UP"), ("cab", "E\u0301;REV"), ("bc", ""), ("aX", "X;UP;Y")]


class Quiet(SimpleHTTPRequestHandler):
    """A static server without a word on standard error."""

    def log_message(self, *_):
        pass


class Site:
    """A built page on a port of this machine."""

    def __init__(self, folder):
        self.folder = folder
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """For good; a second time does nothing."""
        self.server.shutdown()
        self.server.server_close()


def build(out, bundle=None, examples=""):
    environment = {"OUT": str(out), "EXAMPLES": examples, "BUNDLE": str(bundle or "")}
    run([program("npm"), "run", "--silent", "build"], installed(PAGE), environment)
    return out


@pytest.fixture(scope="module")
def browser():
    with chromium(performance="ALL") as driver:
        yield driver


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return trained.bundles(tmp_path_factory, trained.MODELS | trained.WITH_FEATURES)


@pytest.fixture(scope="module")
def pages(bundles, tmp_path_factory):
    """The built page of each bundle."""
    examples = {name: "ab\tUP|cab\tREV;UP" if name in trained.WITH_FEATURES else "ab|cab" for name in bundles}
    return {
        name: once(tmp_path_factory, f"page-{name}", partial(build, bundle=bundle, examples=examples[name]))
        for name, bundle in bundles.items()
    }


@pytest.fixture
def serve(browser):
    """Serves folders, and opens them in the browser."""
    started = []

    def opened(folder):
        started.append(Site(folder))
        visit(browser, started[-1])
        return started[-1]

    yield opened
    for site in started:
        site.stop()


@pytest.fixture(scope="module")
def site(pages):
    """The page of the first bundle, served to all tests that need no other."""
    served = Site(pages["characters"])
    yield served
    served.stop()


@pytest.fixture
def characters(browser, site):
    """That page, opened and empty; nothing may be said on the console, nobody else be asked."""
    if browser.current_url == site.address:
        browser.execute_script("""
            const numbers = document.getElementById("numbers");
            if (numbers.checked) numbers.click();
            document.getElementById("precision").value = "fp32";""")
        set_text(browser, "")
        wait(browser, "return document.getElementById('results').hidden")
    else:  # loading it takes longer than most tests
        visit(browser, site)
    yield browser
    assert browser.get_log("browser") == []
    assert asked_of(browser) <= {site.address.rstrip("/")}


# ------------------------------------------------------------------------------------------------------------- helpers


def visit(browser, site):
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(site.address)
    wait(browser, "return !document.getElementById('source').disabled || document.getElementById('error').textContent")


def outputs(browser):
    """What the page shows: [{text, score, tokens, scores, percents}]."""
    return browser.execute_script("""
        const own = (node) => [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("");
        return [...document.querySelectorAll("#outputs li")].map((item) => {
          const tokens = [...item.querySelectorAll(".token")];
          const text = [...item.querySelector(".text").childNodes].filter((n) => !n.matches?.(".end, .cut"));
          return {
            score: Number(item.dataset.score),
            text: text.map((n) => n.nodeType === 3 ? n.data : own(n)).join(""),
            tokens: tokens.filter((t) => !t.classList.contains("end")).map(own),
            scores: tokens.map((t) => Number(t.dataset.score)),
            percents: tokens.map((t) => [t.title, t.dataset.percent, t.querySelector(".unseen").textContent]),
            truncated: item.querySelector(".cut") !== null,
          };
        });""")


def expected(bundle, text, capsys, *options):
    capsys.readouterr()
    assert main(["predict", str(bundle), text, "--beam-size", "5", "--num-hypotheses", "5", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)["hypotheses"]


def assert_same(shown, wanted):
    assert [each["text"] for each in shown] == [each["text"] for each in wanted]
    for one, other in zip(shown, wanted, strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["truncated"] == other["truncated"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["scores"] == pytest.approx(other["token_scores"], abs=1e-4)


# --------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", ["characters", "words"])
def test_the_outputs_are_those_of_freerun(browser, serve, pages, bundles, name, capsys):
    site = serve(pages[name])
    seen = set()
    for text in SOURCES[name]:
        set_text(browser, text)
        await_outputs(browser, text)
        assert_same(outputs(browser), expected(bundles[name], text, capsys))
        seen.add(outputs(browser)[0]["text"])
    assert len(seen) > 2, "the model says the same of everything"
    assert browser.get_log("browser") == []
    assert asked_of(browser) == {site.address.rstrip("/")}


def test_int8_is_a_choice_where_it_is_there(characters, bundles, capsys):
    set_text(characters, "cab")
    await_outputs(characters, "cab")
    before = outputs(characters)[0]["score"]
    characters.find_element("css selector", "#precision option[value=int8]").click()
    wait(characters, f"return Number(document.querySelector('#outputs li').dataset.score) !== {before!r}")
    await_outputs(characters, "cab")
    assert_same(outputs(characters), expected(bundles["characters"], "cab", capsys, "--precision", "int8"))


@pytest.mark.parametrize("name", list(trained.WITH_FEATURES))
def test_a_model_with_features_has_a_field_for_them(browser, serve, pages, bundles, name, capsys):
    serve(pages[name])
    assert "characters and features to characters" in said(browser, "model")
    assert said(browser, "known-features") == "Separated by “;”. Known: “REV”, “UP”, “É”."
    seen = set()
    for text, features in WITH_FEATURES:
        set_text(browser, text)
        set_text(browser, features, "features")
        await_outputs(browser, text, features)
        assert_same(outputs(browser), expected(bundles[name], f"{text}\t{features}", capsys))
        seen.add(outputs(browser)[0]["text"])
    assert len(seen) > 2, "the model says the same of everything"
    assert said(browser, "note").endswith("“X”, “Y”: not among the model’s features, so mapped to UNK.")
    assert browser.get_log("browser") == []


def test_features_are_read_by_int8_graphs_too(browser, serve, pages, bundles, capsys):
    serve(pages["summary"])
    browser.find_element("css selector", "#precision option[value=int8]").click()
    click(browser, "#examples button:last-child")
    await_outputs(browser, "cab", "REV;UP")
    assert_same(outputs(browser), expected(bundles["summary"], "cab\tREV;UP", capsys, "--precision", "int8"))
    assert browser.find_element("css selector", "#examples button").text == "ab UP"


def test_changing_the_features_predicts_again(browser, serve, pages):
    serve(pages["summary"])
    set_text(browser, "abc")
    await_outputs(browser, "abc")
    field = browser.find_element("id", "features")
    field.send_keys("UP")
    await_outputs(browser, "abc", "UP")
    browser.execute_script("arguments[0].value = 'REV'", field)  # without an event
    field.send_keys("\ue007")  # Enter
    await_outputs(browser, "abc", "REV")


def test_a_model_without_features_has_no_field_for_them(characters):
    assert not characters.find_element("id", "features").is_displayed()


def test_typing_predicts_and_the_newest_text_wins(characters, bundles, capsys):
    field = characters.find_element("id", "source")
    field.send_keys("cabab")
    await_outputs(characters, "cabab")
    field.send_keys("\b\b\b")
    await_outputs(characters, "ca")
    assert_same(outputs(characters), expected(bundles["characters"], "ca", capsys))
    assert said(characters, "announcement").startswith("Best output: ")
    assert "ms" in said(characters, "time")


def test_a_long_search_gives_way(characters):
    assert characters.execute_script("""
        const field = document.getElementById("source"), list = document.getElementById("outputs");
        const shown = [];
        new MutationObserver(() => shown.push(list.dataset.source)).observe(list, {childList: true});
        const type = (text) => { field.value = text; document.getElementById("form").requestSubmit(); };
        type("abc".repeat(300));
        type("cab".repeat(300));
        type("ba");
        return new Promise((resolve) => {
          const isOver = () => list.dataset.source === "ba";
          const look = () => (isOver() ? setTimeout(() => resolve(shown), 300) : setTimeout(look, 5));
          look();
        });""") == ["ba"]


def test_an_empty_text_has_no_outputs(characters):
    set_text(characters, "ab")
    await_outputs(characters, "ab")
    set_text(characters, "")
    wait(characters, "return document.getElementById('results').hidden")


def test_an_empty_text_ends_a_long_search(characters):
    assert characters.execute_script("""
        const field = document.getElementById("source"), results = document.getElementById("results");
        const type = (text) => { field.value = text; document.getElementById("form").requestSubmit(); };
        type("abc".repeat(300));
        type("");
        return new Promise((resolve) => setTimeout(() => resolve(results.hidden), 1500));""")


def test_an_example_is_clicked(characters):
    labels = [button.text for button in characters.find_elements("css selector", "#examples button")]
    assert labels == ["ab", "cab"]
    click(characters, "#examples button:last-child")
    await_outputs(characters, "cab")
    assert characters.switch_to.active_element.get_attribute("id") == "source"


def test_probabilities_are_shaded_and_told(characters):
    set_text(characters, "ab")
    await_outputs(characters, "ab")
    for title, percent, unseen in outputs(characters)[0]["percents"]:
        assert title == f"probability {percent}"
        assert unseen.strip().removeprefix("the end ") == percent
        assert percent.endswith("%")
    transparencies = characters.execute_script("""
        return [...document.querySelectorAll("#outputs .token")].map((token) => [
          Number(token.dataset.score), Number(getComputedStyle(token).backgroundColor.match(/[\\d.]+/g)[3] ?? 1)])""")
    ordered = [alpha for _, alpha in sorted(transparencies)]
    assert ordered == sorted(ordered) and ordered[0] < ordered[-1]


def test_numbers_are_shown_on_demand(characters):
    set_text(characters, "ab")
    await_outputs(characters, "ab")
    content = "return getComputedStyle(document.querySelector('#outputs .token'), '::after').content"
    assert characters.execute_script(content) == "none"
    click(characters, "#numbers")
    assert outputs(characters)[0]["percents"][0][1] in characters.execute_script(content)


def test_int8_is_no_choice_where_it_is_not_there(browser, serve, pages):
    serve(pages["words"])
    assert not browser.find_element("id", "precision").is_displayed()


def test_it_works_when_the_server_is_gone(browser, serve, pages, bundles, capsys):
    serve(pages["characters"]).stop()
    set_text(browser, "bca")
    await_outputs(browser, "bca")
    assert_same(outputs(browser), expected(bundles["characters"], "bca", capsys))
    assert browser.get_log("browser") == []
    # the 8-bit graphs were not requested while the server was there
    browser.find_element("css selector", "#precision option[value=int8]").click()
    wait(browser, "return document.getElementById('error').textContent")
    assert "encoder.int8.onnx: could not be fetched" in said(browser, "error")
    assert browser.find_element("id", "precision").get_attribute("value") == "fp32"
    set_text(browser, "ab")
    await_outputs(browser, "ab")
    assert said(browser, "error") == ""


# ------------------------------------------------------------------------------------------------------------ messages


def test_tokens_and_texts_are_text_and_not_markup(characters):
    set_text(characters, "ccc")
    await_outputs(characters, "ccc")
    assert HOSTILE in outputs(characters)[0]["tokens"]
    set_text(characters, HOSTILE)
    await_outputs(characters, HOSTILE)
    assert "“<”" in said(characters, "note")
    assert characters.find_elements("css selector", "main img") == []


def test_unknown_characters_are_named_and_a_case_is_offered(characters):
    set_text(characters, "aXüb")
    await_outputs(characters, "aXüb")
    assert said(characters, "note") == "“X”, “ü”: not in the model’s vocabulary, so mapped to UNK."
    set_text(characters, "CAB")
    await_outputs(characters, "CAB")
    assert characters.find_element("css selector", "#note button").text == "Change to lower case"
    click(characters, "#note button")
    await_outputs(characters, "cab")
    assert said(characters, "note") == ""


def test_a_text_that_is_too_long_is_refused(characters):
    set_text(characters, "a" * 1001)
    wait(characters, "return document.getElementById('note').textContent")
    assert said(characters, "note").startswith("The text has 1,001 tokens, and this page accepts at most 1,000.")
    assert not characters.find_element("id", "results").is_displayed()


def renamed(config):
    config["version"] = 99


def with_pieces(config):
    config["source"]["tokens"] = "sentencepiece:80"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "model/: there is no bundle next to this page"),
        (lambda model: (model / "step.onnx").unlink(), "step.onnx: could not be fetched (status 404)"),
        (lambda model: change_config(model, renamed), "config.json: this bundle has version 99"),
        (lambda model: change_config(model, with_pieces), 'config.json: the source has "sentencepiece:80" tokens'),
        (lambda model: (model / "step.onnx").write_bytes(b"x"), "step.onnx: its SHA-256 is not the one in config.json"),
        (lambda model: spoil(model, "encoder.onnx"), "encoder.onnx: onnxruntime cannot run this graph"),
    ],
)
def test_a_bundle_that_cannot_be_used_is_told(browser, serve, pages, tmp_path, damage, message):
    folder = shutil.copytree(pages["words"], tmp_path / "dist", copy_function=link)
    damage(folder / "model")
    serve(folder)
    assert message in said(browser, "error")
    assert said(browser, "model") == "No model"
    assert not browser.find_element("id", "source").is_enabled()


def link(source, target):
    """Not a copy of what is large and stays as it is."""
    return os.link(source, target) if source.endswith(".wasm") else shutil.copy(source, target)


def spoil(model, name):
    (model / name).write_bytes(b"no graph")
    change_config(model, lambda config: None)


# --------------------------------------------------------------------------------------------------------------- build


def refused(bundle, out):
    environment = {**os.environ, "BUNDLE": str(bundle), "OUT": str(out)}
    command = [program("node"), "build.mjs"]
    done = subprocess.run(command, cwd=installed(PAGE), env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    return done.stderr


def test_a_build_needs_a_bundle_with_graphs(bundles, tmp_path):
    assert "there is no config.json" in refused(tmp_path, tmp_path / "dist")
    run_folder = bundles["words"].parent / "run"
    assert "Run: freerun export" in refused(run_folder, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_a_build_touches_nothing_else_in_its_folder(bundles, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    build(tmp_path, bundles["words"])
    assert (tmp_path / "model" / "step.onnx").exists()
    build(tmp_path)
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "mine.txt").read_text() == "mine"
