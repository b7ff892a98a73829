"""A pickled predictor: small, loaded again where it is unpickled, and never another model."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
import threading

import pytest

import freerun
from freerun import loading
from freerun.errors import BundleError
from freerun.runtime.bundle import read_bundle
from freerun.runtime.predictor import Predictor
from tests.trained import bundles

TEXTS = ["A B", "C", "B A C", ""]
BEAM = freerun.Beam(beam_size=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The bundle of a model with attention and of one without, and the run of the former."""
    found = bundles(tmp_path_factory)
    return {**found, "run": found["words"].parent / "run"}


@pytest.fixture(autouse=True)
def nothing_loaded_yet():
    loading._loaded_again.cache_clear()
    yield
    loading._loaded_again.cache_clear()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("run", {}),
        ("run", {"runtime": "torch", "threads": 2}),
        ("words", {"runtime": "onnx", "threads": 3}),
        ("words", {"max_length": 1}),
        ("characters", {}),
        ("characters", {"precision": "int8"}),
        ("run", {"ensemble": ["words", "run"], "mean": "geometric"}),
    ],
)
def test_a_pickle_predicts_the_same(models, name, options, monkeypatch):
    if "ensemble" in options:
        options = {**options, "ensemble": [models[each] for each in options["ensemble"]]}
    model = freerun.load(models[name], digest=read_bundle(models[name]).digest, **options)
    content = pickle.dumps(model)
    assert len(content) < 1500
    asked = []
    load_bundles = loading.load_bundles
    monkeypatch.setattr(loading, "load_bundles", lambda *given: asked.append(given) or load_bundles(*given))
    again = pickle.loads(content)
    for search in (freerun.Beam(), BEAM):
        assert again.predict_batch(TEXTS, search) == model.predict_batch(TEXTS, search)
    ((paths, mean, threads, max_length, runtime, precision, device, digest),) = asked
    assert device == "cpu"
    assert paths == [models[name], *options.get("ensemble", [])]
    assert (mean, threads) == (options.get("mean", "arithmetic"), options.get("threads", 0))
    assert (max_length, runtime) == (options.get("max_length"), options.get("runtime"))
    assert (precision, digest) == (options.get("precision", "fp32"), read_bundle(models[name]).digest)


def test_a_pickle_names_the_absolute_path(models, monkeypatch, tmp_path):
    monkeypatch.chdir(models["run"].parent)
    content = pickle.dumps(freerun.load("run"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(content).predict("A B") == freerun.load(models["run"]).predict("A B")


def test_settings_of_a_program_are_pickled_too(models):
    model = freerun.load(models["words"])
    model.batch_size, model.longest_source = 7, 5
    again = pickle.loads(pickle.dumps(model))
    assert (again.batch_size, again.longest_source) == (7, 5)
    other = pickle.loads(pickle.dumps(freerun.load(models["words"])))
    assert (other.batch_size, other.longest_source) != (7, 5)
    assert (again.batch_size, again.longest_source) == (7, 5), "objects of several pickles are independent"


def test_a_process_that_is_not_forked_maps_over_a_predictor(models):
    for name in ("run", "words"):
        model = freerun.load(models[name])
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            found = pool.map(model.predict, TEXTS * 3, chunksize=2)
        assert found == [model.predict(text) for text in TEXTS * 3]


def test_a_model_is_loaded_once_for_many_pickles(models, monkeypatch):
    """Each chunk of ``Pool.map`` comes with a pickle of its function, and so of the model."""
    content, loads = pickle.dumps(freerun.load(models["run"]).predict), []
    load_bundles = loading.load_bundles
    monkeypatch.setattr(loading, "load_bundles", lambda *given: loads.append(given) or load_bundles(*given))
    predicts = [pickle.loads(content) for _ in range(5)]
    assert len(loads) == 1
    assert {predict("A B").text for predict in predicts} == {freerun.load(models["run"]).predict("A B").text}
    assert len({id(predict.__self__) for predict in predicts}) == 5


@pytest.mark.parametrize("member", [0, 1])
def test_a_bundle_that_was_replaced_is_no_longer_that_of_the_pickle(models, tmp_path, member):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        shutil.copytree(models["words"], path)
    before = read_bundle(paths[member]).digest
    content = pickle.dumps(freerun.load(paths[0], ensemble=[paths[1]]))
    config = paths[member] / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(BundleError) as error:
        pickle.loads(content)
    assert str(error.value) == (
        f'{paths[member]}: its digest is {read_bundle(paths[member]).digest}. Expected "{before}". It was replaced '
        "after the Predictor was loaded: load it again."
    )


def test_a_bundle_that_is_gone_is_told(models, tmp_path):
    shutil.copytree(models["words"], tmp_path / "m")
    content = pickle.dumps(freerun.load(tmp_path / "m"))
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(BundleError, match=f"{tmp_path / 'm'}: no such directory"):
        pickle.loads(content)


def test_a_link_to_another_model_is_noticed(models, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(models["words"])
    content = pickle.dumps(freerun.load(link))
    link.unlink()
    link.symlink_to(models["characters"])
    with pytest.raises(BundleError, match="It was replaced after the Predictor was loaded"):
        pickle.loads(content)


def test_a_predictor_that_was_built_by_hand_says_why_it_cannot_be_pickled(models):
    loaded = freerun.load(models["words"])
    built = Predictor(searcher=loaded.searcher, source=loaded.source, target=loaded.target, bound=loaded.bound)
    with pytest.raises(TypeError) as error:
        pickle.dumps(built)
    assert str(error.value) == (
        "Predictor: not loaded from a bundle, so a pickle cannot record where to load it from. Expected a "
        "Predictor that freerun.load returned. Load one from a bundle, or create it in each process."
    )
    assert copy.copy(built).predict("A B") == built.predict("A B")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", ["words", "characters", "run"])
def test_a_copy_shares_the_model_and_nothing_else(models, name, duplicate, monkeypatch):
    model = freerun.load(models[name])
    model.batch_size, model.longest_source = 3, 9
    monkeypatch.setattr(loading, "load_bundles", None)  # nothing is loaded
    other = duplicate(model)
    assert other is not model
    assert (other.batch_size, other.longest_source, other.bound) == (3, 9, model.bound)
    assert (other.source, other.searcher) == (model.source, model.searcher)
    assert other._load_again == model._load_again
    assert other.predict_batch(TEXTS, BEAM) == model.predict_batch(TEXTS, BEAM)
    assert other.predict_batch(TEXTS) == model.predict_batch(TEXTS)
    other.batch_size = 4
    assert model.batch_size == 3


def test_copies_and_pickles_may_be_used_in_several_threads(models):
    model, found = freerun.load(models["run"]), []
    others = [copy.copy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    threads = [
        threading.Thread(target=lambda each=each: found.append(each.predict_batch(TEXTS, BEAM))) for each in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [model.predict_batch(TEXTS, BEAM)] * 3
