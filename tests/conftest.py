"""Configuration of all tests: hypothesis without a deadline, torch on one thread, and optional data."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

SHARED = Path(os.environ.get("FREERUN_SHARED") or Path(__file__).parents[2] / "shared")

# A busy machine is no failure.
hypothesis.settings.register_profile("freerun", deadline=None)
hypothesis.settings.load_profile("freerun")


# A shell starts its background jobs with SIGINT ignored, nohup with SIGHUP, and their children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small models are no faster with more; tests that need no torch do not load it for this."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_runtest_setup(item):
    if item.get_closest_marker("shared_data") and not SHARED.is_dir():
        pytest.skip(f"{SHARED} is missing: set FREERUN_SHARED to the directory with the datasets")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """The exported bundles of tests/trained.py, by name."""
    from tests.trained import MODELS, WITH_FEATURES, bundles

    return bundles(tmp_path_factory, {**MODELS, **WITH_FEATURES})


@pytest.fixture(scope="session")
def service(tmp_path_factory, bundles):
    """A service with all of these bundles and no key, shared by the tests that do not change it."""
    from tests.serving import Service

    models = [f"{name}={path}" for name, path in bundles.items()]
    languages = [part for name in bundles for part in ("--languages", f"{name}=from-{name}:to-{name}")]
    with Service(*models, *languages, log=tmp_path_factory.mktemp("service") / "log") as service:
        yield service
