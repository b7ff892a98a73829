"""What a study records of its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from freerun.config import parse_config
from freerun.forcing.registry import settings_of
from freerun.studies import plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["german-inflection", "scan-length"])
def test_keys_that_were_added_since_leave_recorded_studies_valid(name):
    """A study compares complete configurations, so a new key has to be left out unless it is set."""
    recorded = json.loads((ROOT / "docs" / "studies" / name / "study.json").read_text())["arms"]["teacher"]
    config = parse_config({"data": {"train": "t"}}, "here", settings_of)
    found = plan._portable(config)
    hashes = {"train_sha256", "dev_sha256"}
    assert {section: set(values) - hashes for section, values in recorded.items()} == {
        section: set(values) for section, values in found.items()
    }
    set_ = parse_config({"data": {"train": "t"}, "model": {"memory_dropout": 0.1}}, "here", settings_of)
    assert plan._portable(set_)["model"]["memory_dropout"] == 0.1
