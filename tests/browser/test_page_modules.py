"""The modules of freerun/server/page that need no browser, in Node."""

from __future__ import annotations

from pathlib import Path

from tests.javascript import program, run


def test_the_modules_pass_their_own_tests():
    run([program("node"), "--test"], Path(__file__).parent / "page_modules")
