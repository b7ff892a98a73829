"""The embedding examples print what freerun prints, to the letter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from freerun.cli import main
from freerun.search.bound import LengthBound
from tests import trained
from tests.exported import write_model
from tests.javascript import EXAMPLES, installed, program, run
from tests.networks import network

EMBED = EXAMPLES / "embed"
# unknown ones, an empty one, letters beyond 65,535, loose accents, odd white space, one that is cut off
TEXTS = ["ab", "", "cab", "abcabcabc", "aX", "𝒜b", "e\u0301a", "A B C", "a\u3000b", "a \x1f c", " ", "ÀΣ", "cc" * 40]


LINES = ["ab\tUP", "ab\tREV; UP", "ab\tUP;REV;UP;", "", "\tUP", "cab\t", "cab\tÉ;REV", "cab\tE\u0301;REV", "aX\tX;Y;UP"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    found = trained.bundles(tmp_path_factory, trained.MODELS | trained.WITH_FEATURES)
    # one that never ends: every output is cut off at its bound
    found["endless"] = tmp_path_factory.mktemp("endless") / "bundle"
    write_model(found["endless"], network(2, torch.float32, scale=1.5), bound=LengthBound(0, 0.6))
    assert main(["export", str(found["endless"])]) == 0
    return found


@pytest.fixture(scope="module")
def commands():
    """What runs each example, by its language."""
    return {
        "python": lambda: [sys.executable, "predict.py"],
        "node": lambda: [program("node"), str(installed(EMBED) / "predict.mjs")],
    }


MODELS = [
    *((name, TEXTS) for name in ("characters", "words", "endless")),
    *((name, LINES) for name in trained.WITH_FEATURES),
]


@pytest.mark.parametrize(("name", "texts"), MODELS)
@pytest.mark.parametrize("language", ["python", "node"])
def test_an_example_prints_what_freerun_prints(commands, bundles, language, name, texts, capsys):
    assert main(["predict", str(bundles[name]), *texts]) == 0
    expected = capsys.readouterr().out
    assert len(set(expected.splitlines())) > 4, "the model says the same of everything"
    assert run([*commands[language](), str(bundles[name]), *texts], EMBED).stdout == expected


@pytest.mark.parametrize(("name", "texts"), MODELS)
def test_beam_search_in_node_finds_what_freerun_finds(commands, bundles, name, texts, capsys):
    options = ["--beam-size", "5", "--num-hypotheses", "5", "--json"]
    assert main(["predict", str(bundles[name]), *options, *texts]) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    done = run([*commands["node"](), "--beam-size", "5", str(bundles[name]), *texts], EMBED)
    for found, wanted in zip(map(json.loads, done.stdout.splitlines()), expected, strict=True):
        assert (found["source"], found.get("features")) == (wanted["source"], wanted.get("features"))
        for one, other in zip(found["hypotheses"], wanted["hypotheses"], strict=True):
            assert (one["text"], one["tokens"], one["truncated"]) == (
                other["text"],
                other["tokens"],
                other["truncated"],
            )
            assert one["tokenScores"] == pytest.approx(other["token_scores"], abs=1e-4)
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


WITHOUT_FREERUN = """
import runpy, sys
sys.modules["freerun"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_python_example_needs_no_freerun(bundles, tmp_path):
    script = shutil.copy(EMBED / "predict.py", tmp_path)
    done = run([sys.executable, "-c", WITHOUT_FREERUN, script, str(bundles["characters"]), "ab"], tmp_path)
    assert done.stdout.strip()


def test_node_tells_what_is_wrong(commands, tmp_path):
    done = subprocess.run([*commands["node"](), str(tmp_path), "ab"], capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: config.json: ENOENT.")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "summary",
            "ab",
            '"ab": it has no features. Expected features separated by ";", because the model was trained ',
        ),
        (
            "summary",
            "a\tUP\tUP",
            '"a\\tUP\\tUP": 3 tab-separated fields. Expected at most 2: a source and its features.',
        ),
        (
            "characters",
            "ab\tUP",
            '"ab": it has features, but the model was trained without any. Expected a text alone.',
        ),
    ],
)
def test_node_rejects_features_that_do_not_fit_the_model(commands, bundles, name, line, message):
    done = subprocess.run([*commands["node"](), str(bundles[name]), line], capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize(("name", "line", "has"), [("summary", "ab", "no"), ("characters", "ab\tUP", "a field of")])
def test_python_rejects_features_that_do_not_fit_the_model(commands, bundles, name, line, has):
    command = [*commands["python"](), str(bundles[name]), line]
    done = subprocess.run(command, cwd=EMBED, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: 'ab' has {has} features, contrary to the model\n"
