"""The registries of cells and attentions: complete, and known everywhere."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import get_args

import pytest
import torch

from freerun.architecture import (
    ATTENTIONS,
    CELLS,
    FEATURE_ENCODERS,
    Architecture,
    attention_kinds,
    attention_name,
    attention_scores,
    feature_encoder_for,
)
from freerun.config import ModelConfig
from freerun.errors import BundleError
from freerun.models.cells import CELL_FUNCTIONS
from freerun.models.compiled_cells import COMPILED_CELLS
from freerun.models.recurrence import ReferenceLoop, Scan
from freerun.models.seq2seq import Seq2Seq
from freerun.onnx_export import graph_files as exporting
from freerun.onnx_export.cell_nodes import CELL_NODES
from freerun.runtime.schema import first_invalid_value
from freerun.runtime.shapes import expected_shapes
from scripts import architecture_tables
from tests.exported import GraphsOf, write_model
from tests.networks import BOUNDED_CELLS, architecture, layer, network, one_of, with_features


def values_of(key):
    return get_args(ModelConfig.model_fields[key].annotation)


def test_names_are_keys():
    assert [spec.name for spec in CELLS.values()] == list(CELLS)
    assert [spec.name for spec in ATTENTIONS.values()] == list(ATTENTIONS)


def test_configurations_take_what_is_registered():
    assert values_of("cell") == tuple(CELLS)
    assert values_of("attention") == tuple(attention_kinds())
    assert values_of("attention_score") == tuple(attention_scores())


@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_attention_is_named_by_its_kind_and_its_score(name):
    spec = ATTENTIONS[name]
    assert attention_name(spec.kind, spec.score or "general") == name


def test_bundles_take_what_is_registered():
    model = asdict(architecture(5))
    for cell, attention in itertools.product(CELLS, ATTENTIONS):
        fault = first_invalid_value({"model": {**model, "cell": cell, "attention": attention}})
        assert fault is not None and not fault.key.startswith("model."), fault


def test_every_capability_has_its_implementation():
    assert set(CELL_FUNCTIONS) == set(CELLS)
    assert set(COMPILED_CELLS) == {name for name, spec in CELLS.items() if spec.compiled_training}
    assert set(CELL_NODES) == {name for name, spec in CELLS.items() if spec.onnx}
    numbers = [spec.native_code for spec in CELLS.values() if spec.compiled_greedy]
    assert sorted(numbers) == list(range(len(numbers)))


@pytest.mark.parametrize("cell", [name for name, spec in CELLS.items() if not (spec.compiled_training or spec.fused)])
def test_a_cell_without_kernels_falls_back(cell):
    assert all(isinstance(layer(cell, backend=backend).backend, Scan) for backend in ("auto", "fused"))
    assert isinstance(layer(cell, backend="reference").backend, ReferenceLoop)


@pytest.mark.parametrize(("cell", "attention", "bidirectional"), [*itertools.product(CELLS, ATTENTIONS, (False, True))])
def test_the_expected_weights_are_those_of_the_model(cell, attention, bidirectional):
    if bidirectional and ATTENTIONS[attention].needs_equal_sizes:
        return
    sizes = architecture(5, hidden_size=6, cell=cell, attention=attention, bidirectional=bidirectional)
    weights = Seq2Seq(sizes).state_dict()
    assert expected_shapes(sizes) == {name: tuple(value.shape) for name, value in weights.items()}


@pytest.mark.parametrize("kind", FEATURE_ENCODERS)
@pytest.mark.parametrize(("cell", "context"), [*itertools.product(CELLS, ("init", "every_step"))])
def test_the_expected_weights_of_a_model_with_features_are_those_of_the_model(cell, context, kind):
    options = {"cell": cell, "context": context, "attention": "general", "bidirectional": True, "num_layers": 2}
    sizes = architecture(5, hidden_size=6, **options, **with_features(kind))
    shapes = {name: tuple(value.shape) for name, value in Seq2Seq(sizes).state_dict().items()}
    assert expected_shapes(sizes) == shapes
    assert shapes.get("feature_encoder.embedding.weight") == (None if kind == "sequence" else (7, 16))
    assert shapes.get("feature_encoder.projection.weight") == (None if kind == "sequence" else (16, 16))
    assert shapes.get("feature_encoder.entry_embedding.weight") == (None if kind == "summary" else (7, 12))
    width = 16 if kind == "sequence" else 32
    assert [shapes[f"encoder.{side}_layers.0.weight_ih"][1] for side in ("forward", "backward")] == [width] * 2
    assert shapes["decoder.layers.0.weight_ih"][1] == width + 6 * (context == "every_step")


def test_features_are_read_by_attention_too_if_there_is_one():
    assert [feature_encoder_for(kind) for kind in attention_kinds()] == ["summary", "both", "both"]


def test_an_architecture_without_features_does_not_mention_them():
    assert not [name for name in architecture(5).as_json() if "feature" in name]
    for kind in FEATURE_ENCODERS:
        sizes = architecture(5, **with_features(kind))
        assert (sizes.as_json()["feature_vocabulary"], sizes.as_json()["feature_encoder"]) == (7, kind)
        assert Architecture.of(sizes.as_json()) == sizes
    assert Architecture.of(architecture(5).as_json()) == architecture(5)


def test_a_tied_output_is_projected_only_where_the_widths_differ():
    narrow, equal = (architecture(5, hidden_size=6, embedding_size=size, tied_output=True) for size in (5, 6))
    assert "decoder.projection.weight" in Seq2Seq(narrow).state_dict()
    assert "decoder.projection.weight" not in Seq2Seq(equal).state_dict()


@pytest.mark.parametrize(("vocabulary", "has_table"), [(6, True), (7, False)])
def test_a_source_table_takes_no_more_room_than_the_embedding(vocabulary, has_table):
    sizes = replace(architecture(5, embedding_size=6), source_vocabulary=vocabulary)
    assert sizes.has_source_table == has_table


def test_unknown_keys_of_a_bundle_are_left_out():
    sizes = architecture(5)
    assert Architecture.of({**asdict(sizes), "later": 1}) == sizes


def test_the_tables_in_the_documentation_are_those_of_the_registries():
    architecture_tables.main(check=True)


def message(bundle, precision):
    with pytest.raises(BundleError) as error:
        exporting.graph_files(bundle, precision)
    return str(error.value)


@pytest.mark.parametrize("cell", [name for name in CELLS if name not in BOUNDED_CELLS])
def test_outputs_of_any_size_are_not_exported_in_int8(tmp_path, cell):
    bundle = write_model(tmp_path / "bundle", network(1, torch.float32, cell=cell))
    assert exporting.graph_files(bundle, "fp32")
    assert message(bundle, "int8") == (
        f'{bundle.directory}: cell = "{cell}" has outputs of any size, which int8 cannot hold. '
        f"Expected {one_of(BOUNDED_CELLS)}. Export it without --quantize."
    )


def test_what_has_no_nodes_is_rejected_for_export_in_one_sentence(tmp_path, monkeypatch):
    bundle = write_model(tmp_path / "bundle", network(1, torch.float32, attention="dot"))
    monkeypatch.setattr(
        "freerun.architecture.ATTENTIONS", {**ATTENTIONS, "dot": replace(ATTENTIONS["dot"], onnx=False)}
    )
    assert message(bundle, "fp32").startswith(
        f'{bundle.directory}: attention = "dot" has no ONNX export. Expected one of '
    )


@pytest.mark.parametrize("cell", CELLS)
def test_wide_and_shallow_graphs_are_accepted(cell):
    """The bound on a graph's numbers follows from its constants, and a cell may have no recurrent weight."""
    graphs = GraphsOf(network(1, torch.float32, cell=cell, num_layers=1, hidden_size=300, embedding_size=2))
    assert all(graphs.session(name) for name in ("encoder", "step", "greedy"))
