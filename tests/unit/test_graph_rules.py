"""Graphs from a stranger: what freerun does not write is rejected before onnxruntime sees it."""

from __future__ import annotations

import itertools
import shutil
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import freerun
from freerun.architecture import ATTENTIONS, Architecture
from freerun.errors import BundleError
from freerun.onnx_export.encoder_graph import encoder_graph
from freerun.onnx_export.graph import FLOAT, Graph, model_of
from freerun.onnx_export.graph_files import graph_files
from freerun.onnx_export.greedy_graph import greedy_graph
from freerun.onnx_export.products import Fp32
from freerun.onnx_export.quantise import Int8
from freerun.onnx_export.step_graph import step_graph
from freerun.runtime.bundle import read_bundle
from freerun.runtime.graph_rules import OPERATORS, check_graph, max_fields
from freerun.runtime.graph_sizes import RULES
from freerun.runtime.graphs import Graphs
from freerun.runtime.onnx_file import GraphError, read_onnx
from tests.exported import GraphsOf, write_model
from tests.networks import CELLS, network
from tests.unit.test_export import put

MAKERS = {
    "encoder": encoder_graph,
    "step": step_graph,
    "greedy": greedy_graph,
}


@pytest.fixture(scope="module", params=["fp32"])
def untouched(tmp_path_factory):
    """A bundle of a model with attention, and its graphs."""
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    bundle = write_model(folder, network(1, torch.float32, scale=1.5, bidirectional=True, attention="concat"))
    for name, content in graph_files(bundle, "fp32").items():
        put(folder, name, content)
    return folder


@pytest.fixture
def bundle(untouched, tmp_path):
    return shutil.copytree(untouched, tmp_path / "bundle")


def message(folder, beam_size=1):
    with pytest.raises(BundleError) as error:
        freerun.load(folder, runtime="onnx").predict("a b", freerun.Beam(beam_size))
    return str(error.value)


def rejected(folder, change, name="greedy"):
    """What is said of a graph after ``change(model)``."""
    path = folder / f"{name}.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    put(folder, path.name, model.SerializeToString())
    found = message(folder, 1 if name == "greedy" else 2)
    expected = ". Expected a graph that freerun exported, of this model's sizes. Export again: freerun export MODEL."
    assert found.startswith(f"{path}: damaged: ") and found.endswith(expected), found
    return found.removeprefix(f"{path}: damaged: ").removesuffix(expected)


# ------------------------------------------------------------------------------------------------------ what is written


def models():
    """Models with every option in every cell, in both precisions."""
    for number, (cell, attention, bidirectional) in enumerate(itertools.product(CELLS, ATTENTIONS, (False, True))):
        if ATTENTIONS[attention].needs_equal_sizes and bidirectional:
            continue
        options = {
            "cell": cell,
            "attention": attention,
            "bidirectional": bidirectional,
            "context": ("init", "every_step")[number % 2],
            "tied_output": number % 3 == 0,
            "input_feeding": ATTENTIONS[attention].feeds_input and number % 4 < 2,
            "embedding_size": (3, 13)[number % 2],
        }
        encoder = "sequence" if ATTENTIONS[attention].reads_memory and number % 2 else "summary"
        for features in ({}, {"feature_vocabulary": 7, "feature_encoder": encoder}):
            yield network(number, torch.float32, **options, **features)


def test_all_that_is_listed_is_written_and_all_that_is_written_is_accepted():
    written = {}
    for model, (name, make) in itertools.product(models(), MAKERS.items()):
        weights = GraphsOf(model).weights
        for arithmetic in (Fp32(), *([Int8()] if weights.sizes.cell_spec.is_bounded else [])):
            file = read_onnx(model_of(make(weights, arithmetic), {}), max_fields(weights.sizes) // 2)
            check_graph(file, name, weights.sizes)
            for node in nodes_of(file.graph):
                written.setdefault(node.operator, set()).update(node.attributes)
    assert written == {name: set(attributes) for name, attributes in OPERATORS.items()}
    assert set(RULES) | {"Loop", "Scan"} == set(OPERATORS)


def nodes_of(graph):
    for node in graph.nodes:
        yield node
        if "body" in node.attributes:
            yield from nodes_of(node.attributes["body"])


def test_many_fields_are_rejected(bundle):
    def change(model):
        model.graph.node.extend([helper.make_node("Add", ["x"] * 9, ["y"])] * 5000)

    assert rejected(bundle, change) == "more than 12,000 fields"


def test_a_deep_model_is_accepted(tmp_path):
    model = network(
        1, torch.float32, num_layers=30, hidden_size=2, embedding_size=2, bidirectional=True, attention="concat"
    )
    weights = GraphsOf(model).weights
    file = read_onnx(model_of(greedy_graph(weights, Int8()), {}), max_fields(weights.sizes) // 2)
    check_graph(file, "greedy", weights.sizes)


@pytest.mark.parametrize(("kind", "attributes"), [("Tile", {}), ("Add", {"axis": 1}), ("Constant", {"value_int": 1})])
def test_the_exporter_writes_nothing_that_is_not_listed(kind, attributes):
    graph = Graph("x")
    value = graph.input("x", FLOAT, ["B"])
    with pytest.raises(ValueError, match=rf"^{kind} .* is not in OPERATORS"):
        graph.op(kind, value, attributes=attributes)


# ---------------------------------------------------------------------------------------------------------- other files


def external(tensor, location):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def first_weight(model):
    return next(each for each in model.graph.initializer if each.name.endswith("weight"))


def body(model):
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    return loop.attribute[0].g


def test_data_in_other_files_are_not_read(bundle, tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"1234" * 1000)
    monkeypatch.chdir(tmp_path)
    expected = "external data in a TensorProto, which freerun never writes"
    for location in ("secret.txt", str(secret), "../secret.txt"):
        assert rejected(bundle, lambda model, to=location: external(first_weight(model), to)) == expected


def test_data_in_other_files_are_not_read_in_bodies_either(bundle):
    def change(model):
        tensor = numpy_helper.from_array(np.ones(9, np.float32), "stolen")
        external(tensor, "secret.txt")
        body(model).initializer.append(tensor)

    assert rejected(bundle, change) == "external data in a TensorProto, which freerun never writes"


def test_onnxruntime_has_no_directory_to_look_in(tmp_path, monkeypatch):
    """The second line of defence: what would happen to a graph that was not rejected."""
    from freerun.runtime.session import open_session

    numbers = np.arange(4096, dtype=np.float32)
    (tmp_path / "secret.txt").write_bytes(numbers.tobytes())
    monkeypatch.chdir(tmp_path)
    tensor = numpy_helper.from_array(numbers, "stolen")
    external(tensor, "secret.txt")
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Gather", ["stolen", "x"], ["y"])], "g", [x], [y], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with pytest.raises(BundleError, match="cannot run this graph"):
        open_session(model.SerializeToString(), 1, "here").run(None, {"x": np.arange(4)})


# ----------------------------------------------------------------------------------------------- operators and versions


def node_of(model, kind):
    return next(node for node in model.graph.node if node.op_type == kind)


def rename(kind, new):
    return lambda model: setattr(node_of(model, kind), "op_type", new)


def add_function(model):
    function = helper.make_function("own", "F", ["x"], ["y"], [helper.make_node("Tanh", ["x"], ["y"])], [])
    model.functions.append(function)


def add_constant_node(model):
    value = numpy_helper.from_array(np.ones(3, np.float32))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=value))


def sparse(model):
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))


def attribute(kind, name, value):
    def change(model):
        node = node_of(model, kind)
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda m: setattr(m.opset_import[0], "version", 21),
            "IR version 9 and opsets '' 21; freerun writes 9",
        ),
        (
            lambda m: setattr(m, "ir_version", 11),
            "IR version 11 and opsets '' 20; freerun writes 9 and '' 20",
        ),
        (
            lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
            "opsets '' 20, 'com.microsoft' 1; freerun writes",
        ),
        (lambda m: m.ClearField("opset_import"), "opsets of no domain; freerun writes"),
        (lambda m: setattr(node_of(m, "Add"), "domain", "own"), "an operator 'Add' of the domain 'own'"),
        (lambda m: setattr(body(m).node[0], "domain", "own"), "an operator 'Gather' of the domain 'own'"),
        (rename("Add", "If"), "an operator 'If', which freerun never writes"),
        (rename("Transpose", "ConstantOfShape"), "an operator 'ConstantOfShape', which freerun never writes"),
        (lambda m: setattr(body(m).node[0], "op_type", "Tile"), "an operator 'Tile', which freerun never writes"),
        (lambda m: setattr(body(m).node[0], "op_type", "a\x1b" * 99), "an operator 'a\\x1ba\\x1b"),
        (add_function, "functions in a ModelProto, which freerun never writes"),
        (add_constant_node, "a tensor in a AttributeProto, which freerun never writes"),
        (lambda m: m.training_info.add(), "training information in a ModelProto, which freerun never writes"),
        (
            lambda m: body(m).initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "own")),
            "the body of a node has its own constants",
        ),
        (sparse, "sparse tensors in a GraphProto, which freerun never writes"),
        (attribute("Transpose", "axis", 1), "an attribute 'axis' of Transpose, which freerun never writes"),
        (
            attribute("LSTM", "hidden_size", 10**9),
            "the attribute 'hidden_size' of LSTM is 1000000000; the model has no",
        ),
        (
            attribute("Transpose", "perm", [1, -2]),
            "the attribute 'perm' of Transpose is -2; the model has no size above",
        ),
        (attribute("Loop", "body", 1), "the attribute 'body' of Loop has another type than freerun writes"),
        (
            attribute("Cast", "to", helper.make_graph([], "g", [], [])),
            "the attribute 'to' of Cast has another type than freerun writes",
        ),
    ],
)
def test_other_operators_attributes_and_versions_are_told(bundle, change, expected):
    assert expected in rejected(bundle, change)


# --------------------------------------------------------------------------------------------------------------- loops


def loop_of(model):
    return node_of(model, "Loop")


def trips(model, name):
    loop_of(model).input[0] = name


def producer(model, name):
    return next(node for node in model.graph.node if name in node.output)


def constant(model, name, array):
    model.graph.initializer.append(numpy_helper.from_array(np.array(array), name))
    return name


def longer_by_two(model):
    producer(model, loop_of(model).input[0]).input[1] = constant(model, "two", np.int64(2))


def one_as_a_list(model):
    producer(model, loop_of(model).input[0]).input[1] = constant(model, "ones", [np.int64(1)])


def longest_of(name):
    def change(model):
        total = producer(model, loop_of(model).input[0])
        producer(model, total.input[0]).input[0] = name

    return change


def with_a_condition(model):
    loop_of(model).input[1] = constant(model, "go", np.bool_(True))


def of_constant_trips(model):
    trips(model, constant(model, "many", np.int64(2**62)))


def nested_loop(model):
    inner = helper.make_graph([], "inner", [], [])
    body(model).node.append(helper.make_node("Loop", ["", ""], ["z"], body=inner))


UNBOUNDED = "a Loop whose number of steps is not max(max_lengths) + 1"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: trips(m, ""), UNBOUNDED),
        (lambda m: trips(m, "max_lengths"), UNBOUNDED),
        (of_constant_trips, UNBOUNDED),
        (with_a_condition, UNBOUNDED),
        (longer_by_two, UNBOUNDED),
        (one_as_a_list, UNBOUNDED),
        (longest_of("lengths"), UNBOUNDED),
        (longest_of("source"), UNBOUNDED),
        (lambda m: m.graph.node.append(loop_of(m)), "2 loops; freerun writes 1 in this graph"),
        (nested_loop, "a node in the body of another one has a body itself"),
    ],
)
def test_a_loop_ends_with_the_length_bound(bundle, change, expected):
    assert rejected(bundle, change) == expected


def test_other_graphs_have_no_loop(bundle):
    loop = node_of(onnx.load(bundle / "greedy.onnx"), "Loop")
    for name in ("encoder", "step"):
        found = rejected(
            shutil.copytree(bundle, bundle.parent / name), lambda model: model.graph.node.append(loop), name
        )
        assert found == "1 loops; freerun writes 0 in this graph"


def test_a_step_scans_nothing(bundle):
    scan = helper.make_node("Scan", ["state"], ["z"], body=helper.make_graph([], "g", [], []), num_scan_inputs=1)
    found = rejected(bundle, lambda model: model.graph.node.append(scan), "step")
    assert found == "a Scan, which freerun never writes in this graph"


# ----------------------------------------------------------------------------------------------------------- constants


def replaced(name_end, change):
    """The array of the first constant whose name ends so, changed."""

    def apply(model):
        tensor = next(each for each in model.graph.initializer if each.name.endswith(name_end))
        array = numpy_helper.to_array(tensor).copy()
        tensor.CopyFrom(numpy_helper.from_array(change(array), tensor.name))

    return apply


def with_value(value):
    def change(array):
        array.flat[array.size // 2] = value
        return array

    return change


def raw(name_end, **fields):
    def apply(model):
        tensor = next(each for each in model.graph.initializer if each.name.endswith(name_end))
        for key, value in fields.items():
            if key == "dims":
                del tensor.dims[:]
                tensor.dims.extend(value)
            else:
                setattr(tensor, key, value)

    return apply


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (replaced("weight", with_value(np.nan)), "weight' has values that are not finite"),
        (replaced("bias", with_value(np.inf)), "bias' has values that are not finite"),
        (replaced("token_gates.0", with_value(-np.inf)), "token_gates.0' has values that are not finite"),
        (replaced("never_written", with_value(-np.inf)), "never_written' has values that are not finite"),
        (replaced("never_written", with_value(np.nan)), "never_written' has values that are not finite"),
        (replaced("never_written", lambda a: a[None]), "never_written' has values that are not finite"),
        (replaced("ints.1", with_value(10**6)), "has the value 1000000, outside -1 to 16"),
        (replaced("ints.1", with_value(-2)), "has the value -2, outside -1 to 16"),
        (replaced("ints.1", with_value(2**63 - 1)), "has the value 9223372036854775807, outside -1 to 16"),
        (raw("goes_on", raw_data=b"\2" * 9), "has the value 2, outside 0 to 1"),
        (replaced("weight", lambda a: a.astype(np.float16)), "weight' has the element type 10"),
        (replaced("weight", lambda a: a.astype(np.float64)), "weight' has the element type 11"),
        (raw("weight", data_type=8), "weight' has the element type 8"),
        (raw("goes_on", dims=[10]), "goes_on' is (10,) and has 9 bytes of data"),
        (raw("goes_on", dims=[2**62, 4]), "goes_on' is (4611686018427387904, 4) and has 9 bytes of data"),
        (raw("goes_on", dims=[0, 2**62]), "goes_on' is (0, 4611686018427387904) and has 9 bytes"),
        (raw("goes_on", dims=[0], raw_data=b""), "goes_on' is (0,) and has 0 bytes"),
        (raw("goes_on", dims=[-3, -3]), "goes_on' is (-3, -3) and has 9 bytes"),
        (raw("goes_on", raw_data=b"\1"), "goes_on' is (9,) and has 1 bytes"),
    ],
)
def test_constants_are_finite_and_no_larger_than_the_model(bundle, change, expected):
    assert expected in rejected(bundle, change)


def test_numbers_whose_sum_overflows_are_finite(bundle):
    model = onnx.load(bundle / "greedy.onnx")
    replaced("weight", lambda array: np.full_like(array, 3e38))(model)
    put(bundle, "greedy.onnx", model.SerializeToString())
    Graphs(read_bundle(bundle)).session("greedy")


# -------------------------------------------------------------------------------------------------- inputs and outputs


def declared(kind, port, **changes):
    def apply(model):
        value = next(each for each in getattr(model.graph, kind) if each.name == port)
        tensor = value.type.tensor_type
        if "type" in changes:
            tensor.elem_type = changes["type"]
        if "rank" in changes:
            del tensor.shape.dim[changes["rank"] :]
        if "size" in changes:
            tensor.shape.dim[-1].dim_value = changes["size"]
        value.name = changes.get("name", port)

    return apply


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "greedy",
            declared("input", "lengths", name="x"),
            "the inputs are 'source', 'x', 'max_lengths', but this model has",
        ),
        (
            "greedy",
            lambda m: m.graph.input.pop(),
            "the inputs are 'source', 'lengths', but this model has 'source', ",
        ),
        (
            "greedy",
            declared("input", "source", type=1),
            "the input source has type 1 and shape ['B', 'S'], but in",
        ),
        (
            "greedy",
            declared("input", "source", rank=1),
            "the input source has type 7 and shape ['B'], but in this",
        ),
        (
            "greedy",
            declared("output", "scores", type=7),
            "the output scores has type 7 and shape ['B', 'T'], but in",
        ),
        ("greedy", declared("output", "tokens", rank=1), "the output tokens has type 7 and shape ['B'], but in"),
        ("greedy", lambda m: m.graph.ClearField("output"), "the outputs are none, but this model has 'tokens', "),
        (
            "encoder",
            declared("output", "state", size=17),
            "the output state has type 1 and shape ['B', 17], but in",
        ),
        (
            "encoder",
            lambda m: m.graph.output.pop(),
            "the outputs are 'state', 'memory', 'keys', but this model has",
        ),
        (
            "step",
            declared("input", "state", size=17),
            "the input state has type 1 and shape ['P', 17], but in this",
        ),
        ("step", declared("input", "keys", rank=3), "the input keys has type 1 and shape ['E', 1, 'S'], but in"),
        (
            "step",
            declared("output", "log_probs", size=10),
            "the output log_probs has type 1 and shape ['N', 10], but",
        ),
        (
            "step",
            declared("output", "ids", type=6),
            "the output ids has type 6 and shape ['N', 'K'], but in this",
        ),
    ],
)
def test_other_inputs_and_outputs_are_told(bundle, name, change, expected):
    assert rejected(bundle, change, name).startswith(expected)


# ----------------------------------------------------------------------------------------------------------- proportion


def appended(*nodes, **constants):
    """Nodes (operator, inputs, output, attributes) before all others, and constants."""

    def apply(model):
        for name, array in constants.items():
            constant(model, name, array)
        for number, (kind, inputs, output, *rest) in enumerate(nodes):
            attributes = rest[0] if rest else {}
            model.graph.node.insert(number, helper.make_node(kind, inputs, [output], **attributes))

    return apply


def doubled(name, times):
    values = [name, *(f"double.{n}" for n in range(times))]
    return [("Concat", [a, a], b, {"axis": 0}) for a, b in itertools.pairwise(values)]


OUT_OF_PROPORTION = "its values grow out of proportion to the model and the inputs"
MISFIT = "the inputs or attributes of "


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (appended(*doubled("lengths", 60)), OUT_OF_PROPORTION),
        (appended(*doubled("constant.ints.1", 40)), OUT_OF_PROPORTION),
        (appended(*doubled("lengths", 15)), OUT_OF_PROPORTION),  # all values together
        (
            appended(*(("Concat", [f"c{n}"] * 100, f"c{n + 1}", {"axis": 0}) for n in range(3)), c0=[1]),
            OUT_OF_PROPORTION,
        ),
        # [B, 1] + [B]: grows with the square of the number of sources
        (
            appended(("Unsqueeze", ["lengths", "one"], "u"), ("Add", ["u", "lengths"], "square"), one=[1]),
            OUT_OF_PROPORTION,
        ),
        # [B, S] x [S, B]
        (
            appended(("Transpose", ["source"], "t", {"perm": [1, 0]}), ("MatMul", ["source", "t"], "square")),
            OUT_OF_PROPORTION,
        ),
        # [S, 1] + [S], in the source's length
        (
            appended(
                ("Shape", ["source"], "s", {"start": 1, "end": 2}),
                ("Squeeze", ["s"], "n"),
                ("Range", ["zero", "n", "single"], "r"),
                ("Unsqueeze", ["r", "one"], "u"),
                ("Mul", ["u", "r"], "square"),
                zero=np.int64(0),
                single=np.int64(1),
                one=[1],
            ),
            OUT_OF_PROPORTION,
        ),
        (appended(("Expand", ["lengths", "sizes"], "e"), sizes=[16] * 7 + [1]), OUT_OF_PROPORTION),
        (appended(("Expand", ["zero", "sizes"], "e"), zero=np.float32(0), sizes=[16] * 8), OUT_OF_PROPORTION),
        (
            appended(("Expand", ["zero", "sizes"], "e"), zero=np.float32(0), sizes=[1] * 9),
            f"{MISFIT}'Expand' (for 'e')",
        ),
        (appended(("Expand", ["zero", "source"], "e"), zero=np.float32(0)), f"{MISFIT}'Expand' (for 'e')"),
        (appended(("Expand", ["zero", "sizes"], "e"), zero=np.float32(0), sizes=[-1]), f"{MISFIT}'Expand' (for 'e')"),
        (appended(("Reshape", ["lengths", "sizes"], "r"), sizes=[7, 13]), f"{MISFIT}'Reshape' (for 'r')"),
        (appended(("Reshape", ["lengths", "lengths"], "r")), f"{MISFIT}'Reshape' (for 'r')"),
        (appended(("Add", ["lengths", "nothing"], "a")), f"{MISFIT}'Add' (for 'a')"),
        (appended(("Add", [], "a")), f"{MISFIT}'Add' (for 'a')"),
        (lambda m: setattr(body(m).output[1], "name", body(m).output[3].name), f"{MISFIT}'Loop' (for 'loop."),
        (appended(("Add", ["source", "max_lengths"], "a")), f"{MISFIT}'Add' (for 'a')"),
        (appended(("Gather", ["source", "source"], "g", {"axis": 5})), f"{MISFIT}'Gather' (for 'g')"),
        (appended(("Tanh", ["lengths"], "source")), "two values are named 'source'"),
        (appended(("Tanh", ["lengths"], "fed")), "two values are named 'fed'"),
        (appended(source=[1]), "two values are named 'source'"),
    ],
)
def test_values_stay_in_proportion(untouched, change, expected):
    model = onnx.load(untouched / "greedy.onnx")
    change(model)
    start = time.process_time()
    # not through onnxruntime: where the check fails, these would fill all memory
    with pytest.raises(GraphError) as error:
        check_graph(read_onnx(model.SerializeToString()), "greedy", Architecture.of(read_bundle(untouched).model))
    assert str(error.value).startswith(expected)
    assert time.process_time() - start < 5


def test_outputs_have_their_shape(bundle):
    def change(model):
        producer(model, "tokens").input[0] = "source"

    assert rejected(bundle, change) == "the output 'tokens' does not have its declared shape"


@pytest.mark.parametrize(("key", "value"), [("hidden_size", 10**9), ("num_layers", 1000), ("embedding_size", 10**9)])
def test_sizes_in_config_json_allow_no_more_than_the_constants_imply(key, value):
    """Else a config.json of 10^9 units would allow values of any size."""
    weights = GraphsOf(network(1, torch.float32, tied_output=True)).weights
    content = model_of(greedy_graph(weights, Fp32()), {})
    sizes = replace(weights.sizes, **{key: value})
    check_graph(read_onnx(content), "greedy", sizes)  # what a loader compares with the weights
    model = onnx.load_from_string(content)
    appended(*doubled("lengths", 20))(model)
    with pytest.raises(GraphError, match=OUT_OF_PROPORTION):
        check_graph(read_onnx(model.SerializeToString()), "greedy", sizes)
