"""Models of a service: loaded, looked at, and loaded again."""

from __future__ import annotations

import shutil

import pytest

from freerun.errors import UserError
from freerun.server.serve_settings import DEFAULT_LIMITS
from freerun.server.served_models import ModelLoader, details_of


@pytest.fixture
def paths(bundles, tmp_path):
    """Copies of two bundles, which a test may change."""
    return {name: shutil.copytree(bundles[name], tmp_path / name) for name in ("words", "summary")}


def loader_of(paths):
    loader = ModelLoader(paths, {name: (name, name) for name in paths}, "fp32", 1)
    loader.load()
    return loader


def replace(path, by):
    """Put another bundle in the place of one, as a new export does."""
    shutil.move(path, path.with_name(f"{path.name}-old"))
    shutil.copytree(by, path)


def test_models_are_unchanged_until_their_files_are_replaced(paths, bundles):
    loader = loader_of(paths)
    assert loader.changed() == []
    replace(paths["words"], bundles["characters"])
    assert loader.changed() == ["words"]


def test_only_the_model_that_was_replaced_is_loaded_again(paths, bundles):
    loader = loader_of(paths)
    before = dict(loader.models)
    replace(paths["words"], bundles["characters"])
    models = loader.loaded_again()
    assert models["summary"][0] is before["summary"]
    assert models["words"][0].bundle.digest != before["words"].bundle.digest
    assert loader.models == before
    loader.adopt(models)
    assert loader.models["words"] is models["words"][0]
    assert loader.changed() == []


def test_all_models_are_loaded_again_if_that_is_asked_for(paths):
    loader = loader_of(paths)
    models = loader.loaded_again(all_of_them=True)
    assert all(models[name][0] is not loader.models[name] for name in paths)


def test_a_damaged_replacement_is_rejected_once_and_the_old_models_stay(paths):
    loader = loader_of(paths)
    before = dict(loader.models)
    config = paths["words"] / "config.json"
    content = config.read_bytes()
    config.unlink()
    config.write_bytes(content[:-20])
    assert loader.changed() == ["words"]
    with pytest.raises(UserError):
        loader.loaded_again()
    assert loader.models == before
    assert loader.changed() == []  # it is not tried again before it changes again
    config.write_bytes(content)
    assert loader.changed() == ["words"]
    assert loader.loaded_again()["words"][0].bundle.digest == before["words"].bundle.digest


def test_a_model_that_is_gone_for_a_moment_is_no_change(paths):
    loader = loader_of(paths)
    shutil.move(paths["words"], paths["words"].with_name("moved"))
    assert loader.changed() == []


def test_a_damaged_file_that_only_some_requests_read_is_noticed_when_it_is_loaded(paths):
    for path in paths["words"].glob("*.onnx"):
        path.write_bytes(b"damaged")
    for path in paths["words"].glob("*.npz"):
        path.write_bytes(b"damaged")
    with pytest.raises(UserError):
        loader_of(paths)


def test_details_say_what_a_model_is(bundles):
    loader = loader_of({name: bundles[name] for name in ("words", "summary")})
    words, summary = (details_of(model, DEFAULT_LIMITS) for model in loader.models.values())
    assert words["features"] is None
    assert words["attention"]
    assert not summary["attention"]
    assert sorted(summary["features"]["symbols"]) == ["REV", "UP", "É"]
    assert words["source"]["tokens"] == "whitespace"
    assert words["source"]["vocabulary"] == len(words["source"]["symbols"]) + 4
    assert words["limits"]["max_texts"] == DEFAULT_LIMITS.max_texts
    assert words["digest"] == loader.models["words"].bundle.digest
    assert words["runtime"]["name"] == "compiled"
    assert words["parameters"] > 100
    assert words["languages"] == {"source": "words", "target": "words"}
