"""Using an exported model imports nothing of training: shown by a process that cannot import it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.exported import graph_files, write_model
from tests.unit.test_export import put

HEAVY = ("torch", "pydantic", "typer", "rich", "jinja2", "matplotlib", "sacrebleu", "onnx", "safetensors", "rapidfuzz")
GUARD = f"""
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise AssertionError(f"{{name}} was imported")

sys.meta_path.insert(0, Guard())
"""
USE = """
import freerun

model = freerun.load(sys.argv[1])
texts = ["a b c", "g g"]
print([each.text for each in model.predict_batch(texts)])
for search in (freerun.Beam(3, 2), freerun.Sampling(2)):
    assert model.predict(texts[0], search).hypotheses
assert freerun.load(sys.argv[1], ensemble=[sys.argv[1]]).predict("a").hypotheses
try:
    freerun.load(sys.argv[1] + "x")
except freerun.UserError as error:
    assert "no such directory" in str(error)
assert not set(sys.modules) & set(HEAVY)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_model(tmp_path_factory.mktemp("graphs") / "bundle")
    for name, content in graph_files(made, "fp32").items():
        put(made.directory, name, content)
    return made.directory


def run(code: str, bundle: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True, check=False)


def test_loading_and_predicting_import_nothing_of_training(bundle: Path) -> None:
    found = run(f"{GUARD}HEAVY = {HEAVY!r}\n{USE}", bundle)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("['")


def test_the_guard_would_notice(bundle: Path) -> None:
    assert "torch was imported" in run(f"{GUARD}\nimport torch", bundle).stderr


def test_asking_for_torch_where_there_is_none_says_what_to_install(bundle: Path) -> None:
    hide = "import sys; sys.modules['torch'] = None\n"
    found = run(hide + "import freerun\nfreerun.load(sys.argv[1], runtime='torch')", bundle)
    assert found.stderr.splitlines()[-1].endswith(
        "MissingExtraError: torch: this package is not installed, and running this model with torch needs it. Expected "
        "the extra 'train'. Install it with: pip install 'freerun[train]'."
    )


@pytest.mark.parametrize("command", [["train", "pairs.tsv"], ["diagnose", "model", "pairs.tsv"]])
def test_a_command_that_needs_torch_says_what_to_install(bundle: Path, command: list[str]) -> None:
    code = f"import sys; sys.modules['torch'] = None\nfrom freerun.cli import main\nsys.exit(main({command!r}))"
    found = run(code, bundle)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        "error: torch: this package is not installed, and this command needs it. Expected the extra 'train'. "
        "Install it with: pip install 'freerun[train]'.\n"
    )


def test_a_bundle_can_be_inspected_without_what_measures(bundle: Path) -> None:
    lean = GUARD.replace(repr(HEAVY), repr(("torch", "sacrebleu", "rapidfuzz", "onnxruntime")))
    found = run(f"{lean}\nfrom freerun.cli import main\nsys.exit(main(['inspect', sys.argv[1]]))", bundle)
    assert (found.returncode, found.stderr) == (0, "")
    assert "freerun bundle, version 1" in found.stdout
