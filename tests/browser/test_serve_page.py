"""The page of ``freerun serve`` in a real browser, with models that were trained and exported here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from freerun.cli import main
from tests import trained
from tests.browser.driven import asked_of, await_outputs, chromium, click, said, set_text, wait
from tests.javascript import installed
from tests.trained import HOSTILE

pytestmark = pytest.mark.slow

AXE = Path(__file__).parent / "page_audit"
KEY = "an-api-key-of-this-test"
WIDTHS = (380, 768, 1280)


class Service:
    """The command, and its address."""

    def __init__(self, *arguments, port=0):
        self.arguments = arguments
        self.start(port)

    def start(self, port):
        command = [sys.executable, "-m", "freerun", "serve", *map(str, self.arguments), "--port", str(port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.address, self.port = found[0] + "/", int(found[1])
                return
        raise AssertionError("the service ended before it had an address")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stderr.close()


@contextmanager
def running(*arguments):
    service = Service(*arguments)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def browser():
    with chromium(performance="ALL") as driver:
        yield driver


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return trained.bundles(tmp_path_factory, trained.MODELS | trained.WITH_FEATURES)


@pytest.fixture(scope="module")
def service(bundles):
    """All models; "words" comes first."""
    names = sorted(bundles, key=lambda name: name != "words")
    with running(*(f"{name}={bundles[name]}" for name in names)) as started:
        yield started


@pytest.fixture
def page(browser, service):
    """The page, opened; nothing may be logged to its console, and no other host be asked."""
    visit(browser, service.address)
    yield browser
    assert browser.get_log("browser") == []
    assert asked_of(browser) <= {service.address.rstrip("/")}


# ------------------------------------------------------------------------------------------------------------- helpers


def visit(browser, address, model=None):
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(f"{address}#model={model}" if model else address)
    wait(browser, "return document.querySelector('#source:enabled, dialog[open]')")


def predicted(browser, text, features=""):
    """The outputs that the page shows for a text: [{text, tokens, score}]."""
    set_text(browser, text)
    if features:
        set_text(browser, features, "features")
    await_outputs(browser, text, features)
    return outputs(browser)


def outputs(browser):
    return browser.execute_script("""
        const own = (node) => [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join("");
        return [...document.querySelectorAll("#outputs li")].map((item) => {
          const text = [...item.querySelector(".text").childNodes].filter((n) => !n.matches?.(".end, .cut"));
          return {
            text: text.map((n) => n.nodeType === 3 ? n.data : own(n)).join(""),
            tokens: [...item.querySelectorAll(".token:not(.end)")].map(own),
            score: Number(item.dataset.score),
          };
        });""")


def set_option(browser, name, number):
    """Change the number of outputs, or the size of the beam."""
    browser.execute_script(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('change'))",
        name,
        str(number),
    )


def expected(bundle, text, capsys, number=5):
    capsys.readouterr()
    options = ["--beam-size", "5", "--num-hypotheses", str(number), "--json"]
    assert main(["predict", str(bundle), text, *options]) == 0
    hypotheses = json.loads(capsys.readouterr().out)["hypotheses"]
    keys = ("text", "tokens")
    return [{key: each[key] for key in keys} | {"score": pytest.approx(each["score"], abs=1e-4)} for each in hypotheses]


def await_text(browser, name, text, seconds=20):
    wait(browser, f"return document.getElementById('{name}').textContent.includes(arguments[0])", text, seconds=seconds)


def is_shown(browser, name):
    return browser.find_element("id", name).is_displayed()


def paste(browser, text, field="source"):
    """Paste as the keyboard does; True if the browser itself is left to put the text into the field."""
    return browser.execute_script(
        "const data = new DataTransfer(); data.setData('text/plain', arguments[0]);"
        "return document.getElementById(arguments[1]).dispatchEvent("
        "new ClipboardEvent('paste', {clipboardData: data, cancelable: true, bubbles: true}))",
        text,
        field,
    )


def rows(browser):
    """The texts of the table's cells, without warnings."""
    return browser.execute_script("""
        const own = (cell) => [...cell.childNodes].filter((node) => !node.matches?.(".soft"));
        const text = (cell) => own(cell).map((node) => node.textContent).join("");
        return [...document.querySelectorAll("#table-rows tr")].map((row) => [...row.cells].map(text));""")


def warnings(browser):
    """The warnings in each row of the table."""
    return browser.execute_script("""
        const texts = (row) => [...row.querySelectorAll(".soft")].map((each) => each.textContent);
        return [...document.querySelectorAll("#table-rows tr")].map(texts);""")


def copied(browser):
    """The rows that the button copies."""
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    click(browser, "#copy")
    await_text(browser, "copy", "Copied")
    text = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    return [line.split("\t") for line in text.splitlines()]


def narrowest(browser, selector):
    """The least width and height of elements."""
    return browser.execute_script(
        "const boxes = [...document.querySelectorAll(arguments[0])].map(each => each.getBoundingClientRect());"
        "return [Math.min(...boxes.map(box => box.width)), Math.min(...boxes.map(box => box.height))]",
        selector,
    )


def predict_lines(browser, text):
    set_text(browser, text, "lines")
    click(browser, "#start")
    wait(browser, "return !document.getElementById('start').disabled")


# --------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", ["words", "characters"])
def test_the_outputs_are_those_of_freerun(browser, service, bundles, name, capsys):
    visit(browser, service.address, name)
    texts = {"words": ["A B C", "c a\u3000b", "A X b"], "characters": ["ab", "cab", "𝒜b", "e\u0301"]}[name]
    for text in texts:
        assert predicted(browser, text) == expected(bundles[name], text, capsys)
    assert browser.get_log("browser") == []
    assert asked_of(browser) == {service.address.rstrip("/")}


def test_typing_predicts_and_the_newest_text_wins(page, bundles, capsys):
    field = page.find_element("id", "source")
    field.send_keys("A B C A B")
    await_outputs(page, "A B C A B")
    field.send_keys("\b" * 6)
    await_outputs(page, "A B")
    assert outputs(page) == expected(bundles["words"], "A B", capsys)
    assert said(page, "announcement").startswith("Best output: ")
    assert said(page, "time").endswith(" ms")
    field.send_keys("\b" * 3)
    wait(page, "return document.getElementById('results').hidden")


def test_a_late_answer_is_dropped_and_its_request_aborted(page):
    shown, aborted = page.execute_async_script("""
        const done = arguments[0], list = document.getElementById("outputs"), shown = [], fetched = window.fetch;
        let aborted = 0;
        window.fetch = async (path, options) => {
          options.signal.addEventListener("abort", () => (aborted += 1));
          const answer = await fetched(path, {...options, signal: undefined});
          if (options.body.includes('"A"')) await new Promise((resolve) => setTimeout(resolve, 500));
          return answer;
        };
        new MutationObserver(() => shown.push(list.dataset.source)).observe(list, {childList: true});
        const type = (text) => {
          document.getElementById("source").value = text;
          document.getElementById("form").requestSubmit();
        };
        type("A");
        setTimeout(() => type("B"), 100);
        setTimeout(() => done([shown, aborted]), 1000);""")
    assert (shown, aborted) == (["B"], 1)


def test_the_numbers_of_outputs_and_of_the_beam_are_a_choice(page, bundles, capsys):
    predicted(page, "A B")
    set_option(page, "hypotheses", 2)
    wait(page, "return document.querySelectorAll('#outputs li').length === 2")
    assert outputs(page) == expected(bundles["words"], "A B", capsys, 2)
    set_option(page, "hypotheses", 7)
    wait(page, "return document.querySelectorAll('#outputs li').length === 7")
    assert page.find_element("id", "beam").get_attribute("value") == "7"
    set_option(page, "beam", 1_000_000)
    assert page.find_element("id", "beam").get_attribute("value") == "100"
    set_option(page, "beam", 1)
    wait(page, "return document.querySelectorAll('#outputs li').length === 1")


def test_a_model_is_chosen_and_its_address_names_it(page, service, bundles, capsys):
    names = page.execute_script("return [...document.getElementById('name').options].map(each => each.value)")
    assert sorted(names) == sorted(bundles)
    assert "Bahdanau attention: space-separated tokens to characters" in said(page, "model")
    click(page, "#name option[value=characters]")
    await_text(page, "model", "characters to space-separated tokens")
    assert page.current_url == f"{service.address}#model=characters"
    assert page.title == "characters – freerun"
    assert predicted(page, "cab") == expected(bundles["characters"], "cab", capsys)


def test_an_address_that_names_a_model_shows_it_on_an_open_page(page, bundles, capsys):
    page.execute_script("location.hash = 'model=characters'")
    await_text(page, "model", "characters to space-separated tokens")
    assert page.find_element("id", "name").get_attribute("value") == "characters"
    assert predicted(page, "cab") == expected(bundles["characters"], "cab", capsys)
    page.execute_script("location.hash = 'model=unheard-of'")
    assert page.find_element("id", "name").get_attribute("value") == "characters"


def test_the_model_has_a_card_and_metrics(page, bundles):
    click(page, "#about summary")
    metrics = json.loads((bundles["words"] / "metrics.json").read_text("utf-8"))
    shown = page.execute_script(
        "return [...document.querySelectorAll('#metric-rows tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert {name for name, _, _ in shown} == {re.sub(r"\.(low|high)$", "", name) for name in metrics}
    values = {name: value for name, value, _ in shown}
    assert float(values["nll.teacher"]) == pytest.approx(metrics["nll.teacher"], rel=1e-3)
    assert "6,668" in said(page, "facts")
    click(page, "#about details summary")
    assert page.find_element("css selector", "#card h3").text.startswith("A sequence-to-sequence model")
    assert page.execute_script("return document.querySelectorAll('#card td').length") > 20


def test_a_model_with_features_has_a_field_for_them(browser, service, bundles, capsys):
    visit(browser, service.address, "sequence")
    assert said(browser, "known-features") == "Separated by “;”. Known: “REV”, “UP”, “É”."
    for text, features in [("ab", "UP"), ("cab", "REV;; UP;UP"), ("aX", "X;UP;Y")]:
        assert predicted(browser, text, features) == expected(bundles["sequence"], f"{text}\t{features}", capsys)
    assert said(browser, "note").endswith("“X”, “Y”: not among the model’s features, so mapped to UNK.")
    assert browser.get_log("browser") == []


def test_models_without_features_have_no_field_for_them(page):
    assert not is_shown(page, "features")


def test_unknown_tokens_are_named_and_a_case_is_offered(browser, service):
    visit(browser, service.address, "characters")
    predicted(browser, "CAB")
    assert said(browser, "note").startswith("“C”, “A”, “B”: not in the model’s vocabulary")
    click(browser, "#note button")
    await_outputs(browser, "cab")
    assert said(browser, "note") == ""


def test_probabilities_are_shown_as_numbers_on_demand(page):
    predicted(page, "A B")
    content = "return getComputedStyle(document.querySelector('#outputs .token'), '::after').content"
    assert page.execute_script(content) == "none"
    click(page, "#numbers")
    assert "%" in page.execute_script(content)


# ----------------------------------------------------------------------------------------------------------- attention


def heat(browser):
    """The labels of the attention's rows and columns, and the weights."""
    return browser.execute_script("""
        const first = (each) => each.firstChild.textContent;
        const labels = (selector) => [...document.querySelectorAll(selector)].map(first);
        const rows = [...document.querySelectorAll("#heat tbody tr")];
        return [labels("#heat tbody th"), labels("#heat thead th"),
          rows.map((row) => [...row.querySelectorAll("td")].map((cell) => Number(cell.style.getPropertyValue("--p"))))];
        """)


def test_attention_is_a_table_of_the_chosen_output(page):
    shown = predicted(page, "A B C")
    for rank, each in enumerate(shown, 1):
        click(page, f"#outputs li:nth-child({rank}) button")
        written, read, weights = heat(page)
        assert (written, read) == ([*each["tokens"], "⏎"], ["a", "b", "c", "⏎"])
        assert all(sum(row) == pytest.approx(1, abs=1e-3) and len(row) == 4 for row in weights)
        assert f"Output {rank}:" in said(page, "attention-note")
    assert page.execute_script(
        "return [...document.querySelectorAll('#outputs button')].map(each => each.ariaPressed).join()"
    ).endswith("false,true")


def test_a_long_text_has_outputs_without_attention(page):
    predicted(page, "A B C " * 100)
    assert "too long to show the attention" in said(page, "heat")
    predicted(page, "A B")
    assert heat(page)[1] == ["a", "b", "⏎"]


def test_a_model_without_attention_shows_none(browser, service):
    visit(browser, service.address, "characters")
    predicted(browser, "ab")
    assert not is_shown(browser, "attention")
    assert browser.find_elements("css selector", "#outputs button") == []


# ---------------------------------------------------------------------------------------------------------- many lines


def test_pasted_lines_become_a_table(page, bundles, capsys):
    assert paste(page, "A B")  # one line stays in its field
    assert not is_shown(page, "lines")
    set_text(page, "A ")
    page.execute_script("document.getElementById('source').setSelectionRange(2, 2)")
    assert not paste(page, "B\nC\n\nc a b\n")
    assert page.find_element("id", "lines").get_attribute("value") == "A B\nC\n\nc a b"
    assert not is_shown(page, "source")
    click(page, "#start")
    await_text(page, "progress-text", "Done: 4 lines")
    best = [expected(bundles["words"], text, capsys)[0]["text"] for text in ("A B", "C", "c a b")]
    assert [row[:2] for row in rows(page)] == [["A B", best[0]], ["C", best[1]], ["", ""], ["c a b", best[2]]]
    assert all(row[2].endswith("%") or row[0] == "" for row in rows(page))


def test_pasted_lines_follow_those_that_are_there(page):
    click(page, "#many")
    set_text(page, "A\nB", "lines")
    click(page, "#many")
    set_text(page, "")
    assert not paste(page, "C\nB A\n")
    assert page.find_element("id", "lines").get_attribute("value") == "A\nB\nC\nB A"


def test_a_table_is_copied_as_tsv(page, bundles, capsys):
    click(page, "#many")
    predict_lines(page, "A B\nC")
    header, *lines = copied(page)
    assert header == ["Source", "Output", "Probability", "Note"]
    for line, text in zip(lines, ("A B", "C"), strict=True):
        (best, *_) = expected(bundles["words"], text, capsys)
        source, output, _probability, note = line
        assert (source, output, note) == (text, best["text"], "")
    await_text(page, "copy", "Copy as TSV")


def test_a_table_is_copied_where_there_is_no_clipboard(page):
    click(page, "#many")
    predict_lines(page, "A B")
    page.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
        "document.addEventListener('copy', () => (window.copied = document.activeElement.value))"
    )
    click(page, "#copy")
    await_text(page, "copy", "Copied")
    assert page.execute_script("return window.copied").startswith("Source\tOutput\tProbability\tNote\nA B\t")


def test_a_browser_that_does_not_copy_is_named_below_the_title(page):
    click(page, "#many")
    predict_lines(page, "A B")
    page.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined}); document.execCommand = () => false"
    )
    click(page, "#copy")
    await_text(page, "copy-note", "did not allow copying")
    assert said(page, "copy") == "Copy as TSV"


def test_what_a_model_does_not_know_is_named_in_its_row(browser, service):
    visit(browser, service.address, "sequence")
    click(browser, "#many")
    predict_lines(browser, "ab\tUP\naXX\tZ\ncab")
    unknown = "“X”: not in the model’s vocabulary, so mapped to UNK."
    features = "“Z”: not among the model’s features, so mapped to UNK."
    assert warnings(browser) == [[], [unknown, features], []]
    assert [row[-1] for row in copied(browser)] == ["Note", "", f"{unknown} {features}", ""]


def test_many_lines_are_many_requests_with_progress_and_can_be_cancelled(page):
    click(page, "#many")
    page.execute_script("""
        const fetched = window.fetch;
        window.sizes = [];
        window.fetch = (path, options) => {
          const size = JSON.parse(options.body).texts.length;
          return window.sizes.push(size) < 3 ? fetched(path, options) : new Promise((_, reject) => {
            options.signal.addEventListener("abort", () => reject(options.signal.reason));
          });
        };""")
    set_text(page, "A B\n" * 240, "lines")
    click(page, "#start")
    await_text(page, "progress-text", "100 of 240 lines")
    wait(page, "return window.sizes.length === 3")
    assert page.find_element("id", "progress").get_attribute("value") == "100"
    assert page.switch_to.active_element.get_attribute("id") == "cancel"
    click(page, "#cancel")
    await_text(page, "progress-text", "Canceled after 100 of 240 lines")
    assert page.execute_script("return window.sizes") == [50, 50, 50]
    assert len(rows(page)) == 100
    assert not is_shown(page, "progress")
    assert page.switch_to.active_element.get_attribute("id") == "start"


def test_lines_have_features_of_their_own(browser, service, bundles, capsys):
    visit(browser, service.address, "sequence")
    click(browser, "#many")
    set_text(browser, "REV", "features")
    predict_lines(browser, "ab\tUP\ncab")
    wanted = [expected(bundles["sequence"], line, capsys)[0]["text"] for line in ("ab\tUP", "cab\tREV")]
    assert [row[:3] for row in rows(browser)] == [["ab", "UP", wanted[0]], ["cab", "REV", wanted[1]]]


def test_a_line_that_is_rejected_costs_the_others_nothing(browser, bundles):
    with running(f"words={bundles['words']}", "--max-characters", "20", "--max-texts", "2") as small:
        visit(browser, small.address)
        click(browser, "#many")
        predict_lines(browser, f"A B\n{'A ' * 20}\nC\n\nB")
        shown = rows(browser)
        assert [bool(row[2]) for row in shown] == [True, False, True, False, True]
        assert shown[1][1] == "Too long: at most 20 characters are allowed."
        assert [row[-1] for row in copied(browser)[1:]] == ["", shown[1][1], "", "", ""]
        error = browser.find_element("css selector", "#table-rows .wrong")
        assert error.value_of_css_property("user-select") == "auto"
        assert narrowest(browser, "#table-rows tr")[1] > 25


def test_the_servers_words_about_a_line_name_that_line(page):
    page.execute_script("""
        const fetched = window.fetch;
        const rejection = () => new Response('{"detail": "text 1 cannot be read."}', {status: 422});
        window.fetch = async (path, options) => options.body.includes("C C") ? rejection() : fetched(path, options);""")
    click(page, "#many")
    predict_lines(page, "A\n\nB\nC C")
    assert rows(page)[3][1] == "line 4 cannot be read."
    assert page.execute_script("return document.querySelector('#table-rows .wrong').lang") == "en"


def test_the_first_line_returns_to_the_field(page):
    click(page, "#many")
    set_text(page, "A B\nC", "lines")
    click(page, "#many")
    await_outputs(page, "A B")
    assert not is_shown(page, "lines")


def test_each_mode_keeps_its_text(page):
    def switched(field):
        click(page, "#many")
        return page.find_element("id", field).get_attribute("value")

    click(page, "#many")
    set_text(page, "A B\nC", "lines")
    assert switched("source") == "A B"
    set_text(page, "B")
    assert switched("lines") == "A B\nC"
    set_text(page, "C\nA", "lines")
    assert switched("source") == "B"
    set_text(page, "")
    assert switched("lines") == "C\nA"
    assert switched("source") == "C"
    set_text(page, "", "lines")
    assert switched("lines") == "C"


# -------------------------------------------------------------------------------------------------------------- errors


def test_a_text_beyond_a_limit_is_a_message_without_words_of_the_api(browser, bundles):
    with running(f"words={bundles['words']}", "--max-characters", "20", "--max-cost", "1000") as small:
        visit(browser, small.address)
        set_text(browser, "A " * 20)
        await_text(browser, "error", "Too long: at most 20 characters are allowed.")
        assert not is_shown(browser, "results")
        set_option(browser, "beam", 100)
        set_text(browser, "A B")
        await_text(browser, "error", "This text is too long for this beam size. Use a smaller")
        set_option(browser, "beam", 5)
        await_outputs(browser, "A B")
        assert said(browser, "error") == ""


def test_any_other_problem_is_shown_in_the_servers_words(page):
    page.execute_script("""
        window.fetch = async () => new Response(JSON.stringify({detail: "No."}), {status: 422});""")
    set_text(page, "A")
    await_text(page, "error", "No.")
    assert page.execute_script("return document.querySelector('#error span').lang") == "en"


def test_a_server_that_is_gone_is_tried_again_until_it_is_back(browser, bundles):
    service = Service(f"words={bundles['words']}")
    try:
        visit(browser, service.address)
        predicted(browser, "A")
        service.stop()
        set_text(browser, "A B")
        await_text(browser, "wait", "The server cannot be reached; trying again.")
        service.start(service.port)
        await_outputs(browser, "A B")
        assert said(browser, "wait") == ""
    finally:
        service.stop()


def test_a_busy_server_is_tried_again_when_it_says(page):
    page.execute_script("""
        const fetched = window.fetch;
        window.fetch = async () => {
          window.fetch = fetched;
          return new Response("{}", {status: 503, headers: {"Retry-After": "1"}});
        };""")
    set_text(page, "A")
    await_text(page, "wait", "The server is busy; trying again in 1 s.")
    await_outputs(page, "A")
    assert said(page, "wait") == ""
    assert float(said(page, "time").removesuffix(" ms")) < 900  # without the wait


def test_an_empty_text_ends_the_waiting(page):
    page.execute_script("window.fetch = async () => new Response('{}', {status: 503})")
    set_text(page, "A")
    await_text(page, "wait", "busy")
    set_text(page, "")
    wait(page, "return document.getElementById('wait').textContent === ''")


def test_a_key_is_asked_for_and_kept_in_this_tab(browser, bundles, tmp_path):
    (tmp_path / "keys").write_text(f"{KEY}\n")
    (tmp_path / "keys").chmod(0o600)
    with running(f"words={bundles['words']}", "--api-key-file", tmp_path / "keys") as closed:
        visit(browser, closed.address)
        field = browser.find_element("id", "key")
        assert browser.switch_to.active_element == field
        notes = {"not-the-key-at-all": "did not accept", "schlüssel": "ASCII letters, digits", "a b": "without spaces"}
        for wrong, note in notes.items():
            field.send_keys(wrong + "\ue007")
            await_text(browser, "key-note", note)
            browser.execute_script("arguments[0].value = ''", field)
        field.send_keys("\ue00c")  # Escape
        await_text(browser, "error", "requires an API key")
        click(browser, "#error button")
        wait(browser, "return document.querySelector('dialog[open]')")
        field.send_keys(KEY + "\ue007")
        wait(browser, "return !document.getElementById('source').disabled")
        predicted(browser, "A")
        browser.refresh()
        wait(browser, "return !document.getElementById('source').disabled")
        assert browser.execute_script("return [Object.keys(localStorage), sessionStorage.length]") == [[], 1]
        assert KEY not in browser.page_source


# ------------------------------------------------------------------------------------------------------- hostile texts


def test_tokens_and_texts_are_text_and_not_markup(browser, service):
    visit(browser, service.address, "characters")
    assert HOSTILE in predicted(browser, "ccc")[0]["tokens"]
    predicted(browser, HOSTILE)
    assert "“<”" in said(browser, "note")
    click(browser, "#many")
    predict_lines(browser, f"ccc\n{HOSTILE}")
    assert HOSTILE in rows(browser)[0][1] and rows(browser)[1][0] == HOSTILE
    assert browser.find_elements("css selector", "main img") == []
    assert browser.get_log("browser") == []


def test_control_characters_and_overrides_are_numbers(browser, service):
    visit(browser, service.address, "words")
    predicted(browser, "A \u202eB\u0007")
    assert heat(browser)[1] == ["a", "U+202EbU+0007", "⏎"]


def test_scripts_are_only_those_of_the_page(browser, service):
    visit(browser, service.address)
    browser.execute_script("""
        window.violations = [];
        const note = (event) => window.violations.push(event.effectiveDirective);
        document.addEventListener("securitypolicyviolation", note);
        const script = document.createElement("script");
        try { script.textContent = "window.ran = true"; } catch { window.violations.push("trusted-types"); }
        document.body.append(script);
        document.body.setAttribute("style", "color: red");
        new Image().src = "http://127.0.0.1:9/x.png";""")
    wait(browser, "return window.violations.length >= 3")
    assert browser.execute_script("return window.ran") is None
    violations = set(browser.execute_script("return window.violations"))
    assert {"trusted-types", "style-src-attr", "img-src"} <= violations


# ------------------------------------------------------------------------------------------- language and appearance


def test_the_page_is_in_korean_for_koreans(service):
    with chromium(languages="ko-KR,ko", performance="ALL") as browser:
        visit(browser, service.address)
        assert browser.execute_script("return document.documentElement.lang") == "ko"
        assert browser.find_element("css selector", "label[for=source]").text == "입력"
        predicted(browser, "A B X")
        assert said(browser, "note") == "모델의 어휘에 없어 UNK로 처리한 토큰: “x”"
        assert said(browser, "announcement").startswith("가장 좋은 출력: ")
        click(browser, "#many")
        predict_lines(browser, f"A B\n{'A' * 300}\nX")
        assert said(browser, "progress-text") == "완료: 3줄"
        assert warnings(browser)[2] == ["모델의 어휘에 없어 UNK로 처리한 토큰: “x”"]
        for width in WIDTHS:
            emulate(browser, "light", width)
            assert narrowest(browser, "#table-head th, #table-rows td")[0] > 40
            height = browser.execute_script("return document.querySelector('#table-head').offsetHeight")
            assert height < 40, "a title is broken"
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        texts = browser.execute_script("return [...document.querySelectorAll('[data-say]')].map(e => e.textContent)")
        assert all(texts) and "undefined" not in texts
        assert browser.get_log("browser") == []


def emulate(browser, theme, width=1280):
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def audit(browser):
    """Serious and critical faults that axe-core finds: [(rule, elements)]."""
    script = (installed(AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
    browser.execute_script(script)
    found = browser.execute_async_script("axe.run(document).then(arguments[0])")["violations"]
    serious = [each for each in found if each["impact"] in {"serious", "critical"}]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_use_it(browser, service, theme):
    emulate(browser, theme)
    try:
        visit(browser, service.address, "sequence")
        click(browser, "#numbers")
        predicted(browser, "abX", "UP;Z")
        for summary in browser.find_elements("css selector", "#about summary"):
            summary.click()
        assert audit(browser) == []
        click(browser, "#many")
        predict_lines(browser, "ab\tUP\ncab")
        assert audit(browser) == []
        browser.execute_script("document.getElementById('key-dialog').showModal()")
        assert audit(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_screen(browser, service, width):
    emulate(browser, "light", width)
    try:
        visit(browser, service.address)
        predicted(browser, " ".join("ABC" * 30))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", WIDTHS)
def test_names_in_the_documentation_are_in_one_piece(browser, service, width):
    emulate(browser, "light", width)
    try:
        browser.get(f"{service.address}docs")
        heights = "return [...document.querySelectorAll('tbody th code')].map(each => each.getClientRects().length)"
        assert set(browser.execute_script(heights)) == {1}
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_scroll_bar_moves_nothing(page):
    assert page.execute_script("return getComputedStyle(document.documentElement).scrollbarGutter") == "stable"


def test_buttons_of_outputs_have_names_of_their_own(page):
    predicted(page, "A B")
    names = page.execute_script("return [...document.querySelectorAll('#outputs button')].map(each => each.ariaLabel)")
    assert names == [f"Show the attention of output {rank}" for rank in range(1, 6)]


def test_the_colors_are_a_choice_that_is_remembered(page):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(background)
    click(page, "#theme option[value=dark]")
    dark = page.execute_script(background)
    assert dark != light
    page.refresh()
    wait(page, "return document.documentElement.dataset.theme === 'dark'")
    assert page.execute_script(background) == dark
    page.execute_script("localStorage.clear()")


def test_it_works_with_the_keyboard_alone(page):
    assert page.switch_to.active_element.get_attribute("id") == "source"
    predicted(page, "A B")
    seen = []
    for _ in range(30):
        page.switch_to.active_element.send_keys("\ue004")  # Tab
        focused = page.switch_to.active_element
        seen.append(focused.get_attribute("id") or focused.tag_name)
    assert {"many", "numbers", "hypotheses", "beam", "button", "heat", "summary", "theme", "name"} <= set(seen)
