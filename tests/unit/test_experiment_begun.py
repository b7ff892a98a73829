"""Which version began a run, and what may be continued or compared."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from freerun.errors import RunError
from freerun.experiment.begun import Begun, begun_with, check_begun, check_study_begun, is_over
from freerun.studies.results import Result, read_result, write_result
from freerun.version import VERSION

OLD, NEW = "0.1.0", "0.2.0"
RESULT = Result(
    arm="a",
    seed=1,
    config_hash="hash",
    failed=None,
    sources_hash="",
    ratios={},
    scores={},
    curve=[],
    updates=1,
    seconds=1.0,
    journal={},
)


def write_journal(folder, *events):
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.mark.parametrize("version", [NEW, "0.2.1", "0.10.0", "1.0"])
def test_versions_are_compared_as_numbers(version, tmp_path):
    write_journal(tmp_path, {"event": "start", "update": 0, "freerun": version})
    check_begun(tmp_path)
    check_begun(tmp_path / "nothing begun")


def test_the_journal_names_the_version_and_whether_training_ended_by_itself(tmp_path):
    assert begun_with(tmp_path) is None and not is_over(tmp_path)
    start = {"event": "start", "update": 0, "freerun": "0.1.7"}
    for stop, over in (
        ({"event": "update", "update": 4}, False),
        ({"event": "stop", "update": 4, "reason": "signal"}, False),
        ({"event": "stop", "update": 4, "reason": "signam"}, False),  # a bit was flipped
        ({"event": "stop", "update": 4, "reason": "complete"}, True),
        ({"event": "stop", "update": 4, "reason": "patience"}, True),
    ):
        write_journal(tmp_path, start, stop)
        assert (begun_with(tmp_path), is_over(tmp_path)) == ("0.1.7", over)


@pytest.mark.parametrize(
    "runs",
    [
        {"a-1": Begun(OLD, True), "b-1": Begun(OLD, True)},
        {"a-1": Begun(NEW, True), "b-1": Begun(NEW, False), "b-2": Begun(None, False)},
        {"a-1": Begun(None, False)},
    ],
)
def test_a_study_of_one_version_goes_on(runs, tmp_path):
    check_study_begun(tmp_path, runs)


@pytest.mark.parametrize(
    ("other", "is_over"), [(None, False), (NEW, True), (NEW, False), (OLD, False), ("1.0.0", True)]
)
def test_a_study_of_two_versions_is_rejected(other, is_over, tmp_path):
    runs = {f"a-{seed}": Begun(OLD, True) for seed in range(1, 6)} | {"b-1": Begun(other, is_over)}
    with pytest.raises(RunError) as error:
        check_study_begun(tmp_path, runs)
    more = 3 if other == OLD else 2
    assert str(error.value) == (
        f"{tmp_path}: this study was begun with freerun 0.1.0 (a-1, a-2, a-3 and {more} more), which has other "
        f"random numbers than freerun {VERSION}, and was not finished with it (b-1). Expected runs of one version, so "
        "that all arms share initial weights and dropout under one seed. Finish the study with freerun 0.1.0, or start "
        "again in another directory with --out."
    )


def test_a_result_names_the_version_and_without_one_it_is_of_0_1_0(tmp_path):
    path = tmp_path / "a-1.json"
    write_result(path, RESULT)
    assert read_result(path, "hash") == RESULT and RESULT.freerun == VERSION
    path.write_text(json.dumps({key: value for key, value in asdict(RESULT).items() if key != "freerun"}))
    assert read_result(path, "hash").freerun == OLD
