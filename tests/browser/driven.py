"""Chromium as the browser tests drive it, or why they cannot."""

from __future__ import annotations

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
