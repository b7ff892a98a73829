"""Chromium as the browser tests drive it, or why they cannot; and what those of pages with outputs have in common."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

from tests.javascript import missing

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def chromium(languages=None, **logs):
    """A headless browser that keeps its console, and further ``logs`` (name: level); its user reads ``languages``."""
    if not (BROWSER and DRIVER):
        missing("no chromium and chromedriver on the PATH (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # as root, and where /dev/shm is small, it would not start otherwise
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(argument)
    if languages:
        options.add_experimental_option("prefs", {"intl.accept_languages": languages})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", **logs})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def wait(browser, condition, *arguments, seconds=20):
    """Return the value of a script once it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.02).until(
        lambda driver: driver.execute_script(condition, *arguments)
    )


def asked_of(browser):
    """Every server that was asked for something, as the browser's own protocol tells it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {"/".join(url.split("/")[:3]) for url in sent if url != "about:blank"}


def set_text(browser, text, field="source"):
    """As typing does; the driver's own keys cannot write every character."""
    browser.execute_script(
        "const field = document.getElementById(arguments[1]); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input'))",
        text,
        field,
    )


def await_outputs(browser, text, features=""):
    """Wait until the page shows the outputs for a text."""
    wait(
        browser,
        "const {source, features} = document.getElementById('outputs').dataset;"
        "const results = document.getElementById('results');"
        "return source === arguments[0] && features === arguments[1] && !results.hidden"
        " && !results.classList.contains('waiting')",
        text,
        features,
    )


def said(browser, name):
    """The text of the element with an id."""
    return browser.execute_script("return document.getElementById(arguments[0]).textContent", name)


def click(browser, selector):
    browser.find_element("css selector", selector).click()
