"""What a study takes from the journal of a run."""

from __future__ import annotations

import hashlib
import json
import os
from types import SimpleNamespace

from freerun.evaluation.items import EvaluationSet, Item
from freerun.studies import runner


def test_the_time_of_a_run_is_that_of_all_its_processes():
    events = [
        {"event": "update", "seconds": 5.0},
        {"event": "stop", "seconds": 6.0},
        {"event": "resume"},
        {"event": "update", "seconds": 2.0},
    ]
    assert runner._seconds(events) == 8.0


def test_journal_means_are_those_of_the_last_quarter():
    events = [{"event": "update", "update": update, "loss": float(update), "seconds": 1.0} for update in range(1, 9)]
    assert runner._journal_means(events, 8) == {"loss": 7.5}


def test_a_divergence_of_an_earlier_process_is_not_this_ones(tmp_path):
    path = tmp_path / "not-finite-update-7.json"
    path.write_text(json.dumps({"update": 7, "loss": "nan", "gradient_norm": 1.0}))
    os.utime(path, (1000.0, 1000.0))
    run = SimpleNamespace(directory=tmp_path)
    assert runner._divergence(run, 1001.0) is None
    assert runner._divergence(run, 999.0) == "update 7: loss nan, gradient norm 1.0"


def test_the_hash_of_sources_tells_their_features_apart():
    def hash_of(*features):
        return runner._sources_hash(EvaluationSet([Item("walk", features=each) for each in features]))

    assert len({hash_of(None), hash_of(""), hash_of("V"), hash_of("V", "N"), hash_of("N", "V")}) == 5
    # as in the results of earlier versions
    assert hash_of(None, None) == hashlib.sha256(b"walk\nwalk").hexdigest()
