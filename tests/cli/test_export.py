from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from freerun.api import model_export
from freerun.files import bytes_hash
from freerun.onnx_export.greedy_graph import greedy_graph
from freerun.runtime import compiled_arrays
from freerun.runtime.bundle import GRAPHS, read_bundle
from tests.cli.conftest import Freerun
from tests.compiled import needs_compiler
from tests.trained import bundles

FP32 = [*(f"{name}.onnx" for name in GRAPHS), "greedy.npz"]
INT8 = [*(f"{name}.int8.onnx" for name in GRAPHS), "greedy.int8.npz"]
TEXTS = ("abc", "ba", "gfedcb")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, in a folder with the dev pairs that it names."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def content(folder: Path) -> dict[str, str]:
    return {path.name: bytes_hash(path.read_bytes()) for path in folder.iterdir()}


def test_an_exported_run_predicts_and_scores_as_before(freerun: Freerun, run: Path, trained: Path) -> None:
    commands = [
        ["predict", *TEXTS],
        ["predict", *TEXTS, "--num-hypotheses", 3],
        ["predict", *TEXTS, "--sample", "--seed", 4],
        ["score", trained / "dev.tsv"],
    ]
    before = [freerun(command, run, *rest).out for command, *rest in commands]
    assert freerun("export", run).code == 0
    for (command, *rest), old in zip(commands, before, strict=True):
        new = freerun(command, run, *rest).out
        if command == "score":
            assert [float(line) for line in new.split()] == pytest.approx(
                [float(line) for line in old.split()], abs=1e-4
            )
        else:
            assert [line.split("\t")[::2] for line in new.splitlines()] == [
                line.split("\t")[::2] for line in old.splitlines()
            ]
    assert freerun("predict", run, *TEXTS, "--runtime", "torch").out == before[0]


def test_export_says_what_it_wrote(freerun: Freerun, run: Path) -> None:
    result = freerun("export", run)
    assert result.out.splitlines()[0] == f"Wrote {run / 'best'}:"
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == FP32
    value = json.loads(freerun("export", run, "--json").out)
    assert value == {
        "folder": str(run / "best"),
        "files": {name: (run / "best" / name).stat().st_size for name in FP32},
    }


def test_exporting_again_changes_nothing(freerun: Freerun, run: Path) -> None:
    freerun("export", run)
    before = content(run / "best")
    assert before.keys() >= {"model.safetensors", "config.json", "README.md", "metrics.json", *FP32}
    freerun("export", run)
    assert content(run / "best") == before


def test_a_bundle_of_its_own_has_no_weights_and_does_everything(freerun: Freerun, run: Path, trained: Path) -> None:
    out, before = run.parent / "small", content(run / "best")
    assert freerun("export", run, "--out", out).code == 0
    assert content(run / "best") == before
    assert not (out / "model.safetensors").exists()
    assert freerun("predict", out, *TEXTS).out == freerun("predict", run, *TEXTS).out
    assert freerun("score", out, trained / "dev.tsv").code == 0
    figures = [json.loads(freerun("evaluate", model, trained / "dev.tsv", "--json").out) for model in (out, run)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-4)
    assert json.loads(freerun("inspect", out, "--json").out)["graphs"] == {"weights": read_bundle(run).weights_hash}
    again = freerun("export", out)
    assert again.code == 2 and "was exported without model.safetensors" in again.err
    assert freerun("export", run, "--out", out).code == 0  # an earlier export may be replaced


@pytest.mark.parametrize("command", ["diagnose", "predict --runtime torch"])
def test_what_needs_torch_says_why_a_bundle_of_graphs_will_not_do(
    freerun: Freerun, run: Path, trained: Path, command: str
) -> None:
    out = run.parent / "small"
    freerun("export", run, "--out", out)
    name, *options = command.split()
    result = freerun(name, out, trained / "dev.tsv" if name == "diagnose" else "abc", *options)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {out}: this bundle was exported without model.safetensors, so torch cannot")


def test_int8_is_measured_and_used_when_asked_for(freerun: Freerun, run: Path, trained: Path) -> None:
    dev = trained / "dev.tsv"
    result = freerun("export", run, "--quantize", "int8", "--dev", dev, "--max-loss", 100)
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()[1:]][:8] == [*FP32, *INT8]
    record = json.loads((run / "best" / "export.json").read_text())
    for precision in ("fp32", "int8"):
        figures = json.loads(freerun("evaluate", run, dev, "--json", "--precision", precision).out)
        assert record[precision]["symbol_error_rate.free"] == pytest.approx(figures["symbol_error_rate.free"])
    card = (run / "best" / "README.md").read_text()
    assert "`--precision int8` against fp32, on 20 development sources, greedy search." in card
    assert f"| sequence_accuracy.free | {record['fp32']['sequence_accuracy.free']:.4f} |" in card
    assert freerun("predict", run, *TEXTS, "--precision", "int8").code == 0
    (run / "best" / "README.md").write_text(card.replace("Forcing strategy", "My own words"))
    before = content(run / "best")
    again = freerun("export", run)
    assert again.code == 0
    assert f"{run / 'best'}: the int8 graphs are kept, because they belong to the same weights." in again.err
    assert [line.split()[0] for line in again.out.splitlines()[1:]] == [*FP32, *INT8]
    assert content(run / "best") == before
    assert "My own words" in (run / "best" / "README.md").read_text()


def test_int8_graphs_of_a_model_with_attention_are_kept(
    freerun: Freerun, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = bundles(tmp_path_factory)["words"].parent
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    quantize = ("--quantize", "int8", "--dev", made / "pairs.tsv", "--max-loss", 100)
    assert freerun("export", run, *quantize).code == 0
    before = content(run / "best")
    result = freerun("export", run)
    kept = f"{run / 'best'}: the int8 graphs are kept, because they belong to the same weights."
    assert kept in result.err
    assert content(run / "best") == before and "greedy.int8.npz" in before
    # an earlier version had no arrays for such a model
    (run / "best" / "greedy.int8.npz").unlink()
    config = json.loads((run / "best" / "config.json").read_text())
    del config["files"]["greedy.int8.npz"]
    (run / "best" / "config.json").write_text(json.dumps(config))
    assert kept in freerun("export", run).err
    assert "greedy.int8.onnx" in content(run / "best") and "greedy.int8.npz" not in content(run / "best")


def test_int8_graphs_of_a_bundle_beside_are_kept_too(freerun: Freerun, run: Path, trained: Path) -> None:
    out, quantize = run.parent / "small", ("--quantize", "int8", "--dev", trained / "dev.tsv", "--max-loss", 100)
    assert freerun("export", run, "--out", out, *quantize).code == 0
    before = content(out)
    assert freerun("export", run, "--out", out).code == 0
    assert content(out) == before and "greedy.int8.npz" in before


def _other_weights(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["graphs"]["weights"] = "0" * 64
    (bundle / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_other_weights, "encoder.int8.onnx: this graph belongs to other weights"),
        (lambda bundle: (bundle / "export.json").write_text("{}"), "export.json: KeyError('difference')"),
        (lambda bundle: (bundle / "export.json").write_text("[]"), "export.json: TypeError("),
        (lambda bundle: (bundle / "export.json").unlink(), "export.json"),
        (lambda bundle: (bundle / "step.int8.onnx").write_bytes(b"x"), "step.int8.onnx"),
    ],
    ids=["weights", "record", "list", "missing", "graph"],
)
def test_int8_graphs_that_are_not_of_these_weights_are_left_out_and_said(
    freerun: Freerun, run: Path, trained: Path, change: Callable[[Path], object], reason: str
) -> None:
    quantize = ("--quantize", "int8", "--dev", trained / "dev.tsv", "--max-loss", 100)
    assert freerun("export", run, *quantize).code == 0
    change(run / "best")
    result = freerun("export", run)
    assert result.code == 0
    assert f"{run / 'best'}: the int8 graphs are dropped (" in result.err and reason in result.err
    assert "Write them again with --quantize int8." in result.err
    assert not any((run / "best" / name).exists() for name in (*INT8, "export.json"))
    assert "int8" not in (run / "best" / "README.md").read_text()


def test_int8_that_loses_too_much_is_refused_and_nothing_is_written(
    freerun: Freerun, run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(run / "best")
    record = {
        "fp32": {"sequence_accuracy.free": 0.75},
        "int8": {"sequence_accuracy.free": 0.7375},
        "difference": {"sequence_accuracy.free": {"value": -0.0125}},
    }
    monkeypatch.setattr(model_export, "_loss", lambda *_: record)
    result = freerun("export", run, "--quantize", "int8", "--dev", trained / "dev.tsv")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"error: {run / 'best'}: int8 loses 1.25 points of sequence accuracy on 20 sources (75.00 to 73.75); nothing "
        "was written. Expected a loss of 1 points at most. Allow more with --max-loss, or leave out --quantize.\n"
    )
    assert content(run / "best") == before
    assert freerun("export", run, "--quantize", "int8", "--dev", trained / "dev.tsv", "--max-loss", 1.24).code == 2


def test_a_run_measures_int8_on_its_own_development_pairs(freerun: Freerun, run: Path) -> None:
    assert freerun("export", run, "--quantize", "int8", "--max-loss", 100).code == 0
    assert json.loads((run / "best" / "export.json").read_text())["sources"] == 20


def test_a_bundle_needs_to_be_told_on_what_int8_is_measured(freerun: Freerun, run: Path) -> None:
    result = freerun("export", run / "best", "--quantize", "int8")
    assert result.code == 2
    assert "no pairs were named, and this is not a run directory" in result.err


@pytest.mark.parametrize("option", [("--max-loss", 1), ("--dev", "dev.tsv")])
def test_options_of_int8_alone_are_a_mistake(freerun: Freerun, run: Path, option: tuple[object, ...]) -> None:
    result = freerun("export", run, *option)
    assert result.code == 2
    what = f"error: export: {option[0]} without --quantize. It requires --quantize."
    assert result.err == f"{what} Add --quantize, or remove {option[0]}.\n"


def occupied(run: Path) -> Path:
    (run.parent / "mine").mkdir()
    (run.parent / "mine" / "thesis.txt").write_text("all of it")
    return run.parent / "mine"


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (occupied, "something is there"),
        (lambda run: run / "best", "this is the bundle itself"),
        (lambda run: run / "config.toml", "something is there"),
        (lambda run: run, "this is the bundle itself"),
        (lambda run: run / "last", "something is there"),
    ],
)
def test_nothing_of_the_users_is_overwritten(
    freerun: Freerun, run: Path, place: Callable[[Path], Path], what: str
) -> None:
    out = place(run)
    result = freerun("export", run, "--out", out)
    assert result.code == 2
    assert result.err == (
        f"error: {out}: {what}. Expected a new directory, or an earlier export to replace. Choose another --out.\n"
    )
    assert out.exists() and (run / "best" / "model.safetensors").exists()


def test_what_somebody_put_beside_a_bundle_stays(freerun: Freerun, run: Path) -> None:
    (run / "best" / "notes").mkdir()
    (run / "best" / "notes" / "ideas.txt").write_text("mine")
    assert freerun("export", run).code == 0
    assert (run / "best" / "notes" / "ideas.txt").read_text() == "mine"
    out = run.parent / "small"
    freerun("export", run, "--out", out)
    assert not (out / "notes").exists()
    (out / "ideas.txt").write_text("mine")
    result = freerun("export", run, "--out", out)
    assert result.code == 2 and f"{out}: something is there." in result.err
    assert (out / "ideas.txt").read_text() == "mine"


def test_graphs_that_disagree_with_torch_are_not_written(
    freerun: Freerun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(run / "best")
    monkeypatch.setattr(
        "freerun.onnx_export.decoder_nodes.DecoderStep._logits",
        lambda self, graph, output, *_: graph.op("Add", output, output),
    )
    result = freerun("export", run)
    assert result.code == 2
    assert "greedy.onnx and torch differ by " in result.err and "in a token's log-probability" in result.err
    assert content(run / "best") == before


@needs_compiler
def test_arrays_that_disagree_with_the_graphs_are_not_written(
    freerun: Freerun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, output = content(run / "best"), compiled_arrays._output
    monkeypatch.setattr(compiled_arrays, "_output", lambda *how: {name: -array for name, array in output(*how).items()})
    result = freerun("export", run)
    assert result.code == 2
    assert "greedy.npz and step.onnx differ by " in result.err
    assert content(run / "best") == before


def test_int8_graphs_that_disagree_with_each_other_are_not_written(
    freerun: Freerun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(run / "best")
    other_range = lambda weights, arithmetic, limit: greedy_graph(weights, arithmetic, 100 * limit)  # noqa: E731
    monkeypatch.setattr("freerun.onnx_export.graph_files.greedy_graph", other_range)
    result = freerun("export", run, "--quantize", "int8", "--max-loss", 100)
    assert result.code == 2
    assert "greedy.int8.onnx and step.int8.onnx differ by " in result.err and "Expected at most 0.05." in result.err
    assert content(run / "best") == before


def test_an_export_without_its_packages_says_what_to_install(
    freerun: Freerun, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_export.importlib.util, "find_spec", lambda name: None)
    result = freerun("export", run)
    assert result.code == 2
    assert result.err == (
        "error: onnx: this package is not installed, and freerun export needs it. Expected the extra 'train'. "
        "Install it with: pip install 'freerun[train]'.\n"
    )
