"""freerun.evaluate, diagnose, compare, export and study as functions: what they take, return, reject and print."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import freerun
from freerun.errors import DataError, UserError
from freerun.evaluation.comparison import Comparison
from freerun.runtime.predictor import Predictor

PAIRS = [("ab", "A B"), ("ba", "B A"), ("abab", "A B A B"), ("b", "B"), ("a", "A")]


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def silent(capfd):
    """Nothing was printed when the test ends."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("silent")
def test_pairs_in_memory_are_those_of_a_file(model, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    expected = freerun.evaluate(model, path)
    objects = [SimpleNamespace(source=source, target=target) for source, target in PAIRS]
    for pairs in (PAIRS, iter(PAIRS), (pair for pair in PAIRS), objects, np.array(PAIRS, object)):
        assert freerun.evaluate(model, pairs).metrics == expected.metrics
    assert expected.sources == [source for source, _ in PAIRS]
    assert freerun.diagnose(model, PAIRS).as_json() == freerun.diagnose(model, path).as_json()


@pytest.mark.usefixtures("silent")
def test_an_evaluation_has_what_the_command_prints(model, trained):
    done = []
    result = freerun.evaluate(model, trained / "dev.tsv", progress=lambda *counts: done.append(counts))
    assert result.metrics["sources"] == len(result.outputs) == len(result.sources)
    assert set(result.baselines) == {"copy", "majority"} and result.baselines["copy"]["sequence_accuracy.free"] >= 0
    assert sum(band.sources for band in result.by_source_length()) == result.metrics["sources"]
    assert len(result.worst_examples(2)) == len(result.random_examples(2)) == 2
    assert done[-1][0] == done[-1][1] > 0


@pytest.mark.usefixtures("silent")
def test_a_loaded_predictor_is_a_model(model):
    predictor = freerun.load(model)
    by_path, loaded = freerun.evaluate(model, PAIRS), freerun.evaluate(predictor, PAIRS)
    assert loaded.metrics == by_path.metrics and set(loaded.baselines) == {"copy"}
    assert freerun.diagnose(predictor, PAIRS).as_json() == freerun.diagnose(model, PAIRS).as_json()
    comparison = freerun.compare(predictor, model, PAIRS)
    assert isinstance(comparison, Comparison) and comparison.sources == len(PAIRS)
    assert comparison.as_json()["symbol_error_rate.free"]["difference"] == 0


@pytest.mark.usefixtures("silent")
def test_an_export_returns_its_files_and_what_int8_costs(model, tmp_path):
    result = freerun.export(model, tmp_path / "exported", quantize="int8", max_loss=100, dev=PAIRS)
    assert result.directory == tmp_path / "exported"
    assert result.files == {name: (result.directory / name).stat().st_size for name in result.files}
    assert {"greedy.onnx", "greedy.int8.onnx"} <= set(result.files)
    assert result.int8_loss == json.loads((result.directory / "export.json").read_text())
    assert result.int8_loss["sources"] == len(PAIRS)
    assert freerun.evaluate(result.directory, PAIRS, precision="int8").metrics["sources"] == len(PAIRS)


def test_a_page_is_written_with_the_diagnosis(model, tmp_path):
    diagnosis = freerun.diagnose(model, [("<b>", "A"), *PAIRS], html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert diagnosis.summary[-1].split(".")[0] in page and "<b>" not in page and "pairs in memory" in page


@pytest.mark.parametrize("kind", ["without weights", "several"])
def test_a_predictor_whose_states_cannot_be_read_is_not_diagnosed(model, tmp_path, kind):
    if kind == "several":
        predictor = freerun.load(model, ensemble=[model])
    else:
        predictor = freerun.load(freerun.export(model, tmp_path / "exported").directory)
    with pytest.raises(UserError) as error:
        freerun.diagnose(predictor, PAIRS)
    assert str(error.value) == (
        "model: this Predictor has several models, or one without weights for torch, so no decoder states can be read. "
        "Expected a Predictor of one model with weights, or the path of such a model. Use the run or bundle that it "
        "was exported from."
    )


@pytest.mark.parametrize("runtime", [None, "torch", "onnx"])
def test_a_predictor_is_diagnosed_whatever_runs_it(model, runtime):
    expected = freerun.diagnose(model, PAIRS).as_json()
    freerun.export(model)
    assert freerun.diagnose(freerun.load(model, runtime=runtime), PAIRS).as_json() == expected


@pytest.fixture
def predictor(trained: Path) -> Predictor:
    return freerun.load(trained / "run")


PAIR = 'Expected (source, target), two str, or {"source": str, "target": str}.'
WRONG = [
    (
        lambda p: freerun.evaluate("m", {"a": "b"}),
        "pairs: the value is {'a': 'b'} (dict). Expected a path, or an iter",
    ),
    (lambda p: freerun.evaluate("m", ["ab"]), f"pairs[0]: the value is 'ab' (str). {PAIR}"),
    (
        lambda p: freerun.evaluate("m", [("a", "b", "c", "d")]),
        f"pairs[0]: the value is ('a', 'b', 'c', 'd') (tuple). {PAIR}",
    ),
    (lambda p: freerun.evaluate("m", [("a", "b"), ("a", 1)]), f"pairs[1]: the value is ('a', 1) (tuple). {PAIR}"),
    (lambda p: freerun.evaluate("m", "p", columns=(1, "2")), "columns[1]: the value is '2' (str). Expected an int."),
    (lambda p: freerun.evaluate("m", "p", columns=3), "columns: the value is 3 (int). Expected None or two or three"),
    (
        lambda p: freerun.evaluate("m", "p", length_penalty="1"),
        "length_penalty: the value is '1' (str). Expected a num",
    ),
    (lambda p: freerun.evaluate("m", "p", early_stop=1), "early_stop: the value is 1 (int). Expected True or False."),
    (lambda p: freerun.evaluate("m", "p", progress=1), "progress: the value is 1 (int). Expected None or a function"),
    (lambda p: freerun.compare("m", 7, "p"), "other: the value is 7 (int). Expected a path (str or os.PathLike)."),
    (lambda p: freerun.compare("m", "n", None), "pairs: the value is None. Expected a path (str or os.PathLike) or"),
    (lambda p: freerun.diagnose("m", html=3), "html: the value is 3 (int). Expected a path (str or os.PathLike)."),
    (freerun.export, "model: the value is <freerun.runt"),
    (lambda p: freerun.export("m", 3), "out: the value is 3 (int). Expected a path (str or os.PathLike)."),
    (lambda p: freerun.export("m", max_loss="1"), "max_loss: the value is '1' (str). Expected a number."),
    (lambda p: freerun.study(3), "config: the value is 3 (int). Expected a path (str or os.PathLike)."),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_an_argument_of_another_type_is_a_type_error_that_names_it(predictor, call, message):
    with pytest.raises(TypeError) as error:
        call(predictor)
    assert str(error.value).startswith(message)


UNUSABLE = [
    (lambda p: freerun.evaluate(""), "model: the path is empty. Expected the path of a file or directory. Correct the"),
    (lambda p: freerun.load("a\0b"), "model: the path contains a NUL character."),
    (lambda p: freerun.evaluate(p, freerun.ParallelFiles("", "b")), "pairs.source: the path is empty."),
    (lambda p: freerun.evaluate(p, "nothing.tsv"), "nothing.tsv: no such file."),
    (freerun.evaluate, "pairs: no pairs were given, and a loaded Predictor has no development pairs."),
    (
        lambda p: freerun.evaluate(p, PAIRS, threads=2),
        "threads: this option is given together with a loaded Predictor.",
    ),
    (lambda p: freerun.evaluate(p, PAIRS, max_length=0), "max_length: this option is given together with a loaded"),
    (lambda p: freerun.evaluate(p, PAIRS, columns=(1, 2)), "columns: the value is (1, 2), but pairs in memory have no"),
    (lambda p: freerun.evaluate(p, "p", columns=(0, 2)), "columns[0]: the value is 0. Expected 1 or more."),
    (lambda p: freerun.evaluate(p, []), "pairs: there are no pairs."),
    (lambda p: freerun.evaluate(p, [("a\tb", "c")]), "pairs[0]: the source contains a tab."),
    (lambda p: freerun.export("m", quantize="int4"), "quantize: unknown precision 'int4'."),
    (lambda p: freerun.export("m", max_loss=-1), "max_loss: the value is -1."),
    (lambda p: freerun.export("m", dev="p"), "dev: pairs were given, but without quantize they are not used."),
    (lambda p: freerun.study({"base": "b.toml", "control": "a"}), "out: no directory for a study without a file."),
]


@pytest.mark.parametrize(("call", "message"), UNUSABLE)
def test_what_can_be_fixed_is_a_user_error(predictor, call, message):
    with pytest.raises(UserError) as error:
        call(predictor)
    assert str(error.value).startswith(message)


def test_pairs_without_a_known_token_are_rejected_under_their_name(predictor):
    with pytest.raises(DataError, match=r"^pairs in memory: none of the 3 source tokens is in the model's vocabulary"):
        freerun.diagnose(predictor, [("123", "A")])


@pytest.mark.slow
@pytest.mark.usefixtures("silent")
def test_a_study_of_a_dict_is_run_and_returns_its_analysis(pairs, monkeypatch):
    (pairs / "base.toml").write_text(
        '[data]\ntrain = "train.tsv"\ndev = "dev.tsv"\nsource_tokens = "char"\ntarget_tokens = "whitespace"\n'
        "[model]\nhidden_size = 4\nembedding_size = 4\nnum_layers = 1\n[training]\nupdates = 2\nthreads = 1\n"
    )
    arms = {"teacher": {"strategy": "teacher"}, "professor": {"strategy": "professor", "hidden_size": 4}}
    config = {"base": "base.toml", "control": "teacher", "seeds": [1], "target_error": 0.5, "strategies": arms}
    monkeypatch.chdir(pairs)
    result = freerun.study({**config, "base": Path("base.toml"), "seeds": (1,)}, Path("out"))
    assert [arm.name for arm in result.analysis.arms] == ["teacher", "professor"] and len(result.results) == 2
    assert result.as_json() == json.loads((result.directory / "analysis.json").read_text())
    assert {"undertrained", "updates_to_target"} <= result.as_json()["arms"][0].keys()
    # a directory that an earlier version recorded, with the former names of a setting and of a strategy's key
    record = json.loads(Path("out/study.json").read_text())
    record["settings"]["reach"] = record["settings"].pop("target_error")
    forcing = record["arms"]["professor"]["forcing"]
    forcing["teacher_too"] = forcing.pop("include_teacher_term")
    Path("out/study.json").write_text(json.dumps(record))
    assert freerun.study(config, "out").as_json() == result.as_json()
    with pytest.raises(UserError, match=r"^study: reach: this key was renamed\. Expected target_error\. Write target_"):
        freerun.study({**config, "reach": 0.5}, "out")


@pytest.mark.slow
def test_the_page_runs(capfd, tmp_path, monkeypatch):
    """The blocks of the sections from prediction to studies, on two small runs."""
    monkeypatch.chdir(tmp_path)
    pairs = [("abc", "cba"), ("bca", "acb"), ("cab", "bac"), ("aabb", "bbaa"), ("ccab", "bacc")]
    Path("pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    for name in ("reverse", "curve"):
        freerun.train("pairs.tsv", out=f"runs/{name}", settings=["training.updates=4"])
    capfd.readouterr()
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    section = page.partition("\n## Prediction\n")[2].partition("\n## Notices and progress\n")[0]
    names = {"freerun": freerun, "pairs": pairs}
    for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert len(names["outputs"]) == len(pairs) and names["exported"].files and len(names["study"].results) == 4
    assert capfd.readouterr() == ("\n".join(names["diagnosis"].summary) + "\n", "")
