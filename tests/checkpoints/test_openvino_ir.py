"""The reader of OpenVINO IR: values, connections, and every way in which a file can be bad."""

import numpy as np
import pytest
from openvino_networks import Network

from lsap_jax.checkpoints import openvino_ir
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def small():
    """x @ weight.T, plus a reshaped bias."""
    net = Network("small")
    x = net.add("Parameter", name="x", shape="1, 3", element_type="f32")
    weight = net.constant(WEIGHT, "weight")
    product = net.add("MatMul", x, weight, name="product", transpose_b="true")
    bias = net.add("Reshape", net.constant(np.float32([7, 8]), "bias"), net.constant(np.int64([1, 2])))
    net.add("Add", product, bias, name="sum")
    return net


def test_reads_layers_constants_and_edges():
    net = small()
    graph = openvino_ir.read(net.xml, net.binary)
    types = [layer.type for layer in graph.layers.values()]
    assert types == ["Parameter", "Const", "MatMul", "Const", "Const", "Reshape", "Add"]
    weight = graph.constant("weight")
    np.testing.assert_array_equal(weight.value, WEIGHT)
    assert weight.value.dtype == np.float32
    (product,) = graph.of_type("MatMul")
    assert product.attributes == {"transpose_b": "true"}
    assert [layer.name for layer in graph.inputs(product)] == ["x", "weight"]
    assert graph.consumer(product, "Add").name == "sum"
    np.testing.assert_array_equal(graph.operand(graph.consumer(product, "Add")), [7, 8])
    np.testing.assert_array_equal(graph.operand(product), WEIGHT)


@pytest.mark.parametrize(
    "value", [np.float32(2.5), np.zeros((0, 3), np.float32), np.float16([1, 2]), np.int32([[3]]), np.array([True])]
)
def test_element_types_and_shapes(value):
    net = Network()
    net.constant(np.float32(0))
    net.constant(value, "value")
    read = openvino_ir.read(net.xml, net.binary).constant("value").value
    np.testing.assert_array_equal(read, value)
    assert read.shape == value.shape
    assert read.dtype == value.dtype


def test_what_a_graph_does_not_have():
    net = small()
    graph = openvino_ir.read(net.xml, net.binary)
    with pytest.raises(CheckpointError, match=r"'small'.*no constant 'm.input.input'"):
        graph.constant("m.input.input")
    with pytest.raises(CheckpointError, match="no PReLU reads layer 'sum'"):
        graph.consumer(graph.of_type("Add")[0], "PReLU")
    with pytest.raises(CheckpointError, match="'x' has no constant operand"):
        graph.operand(graph.of_type("Parameter")[0])
    with pytest.raises(CheckpointError, match="'product' is a MatMul"):
        _ = graph.of_type("MatMul")[0].value


@pytest.mark.parametrize("kept", [0, 10, 39])
def test_truncated_binary(kept):
    net = small()
    with pytest.raises(CheckpointError, match=r"constant .*truncated"):
        openvino_ir.read(net.xml, net.binary[:kept])


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_truncated_xml(kept):
    net = small()
    with pytest.raises(CheckpointError, match="malformed or truncated XML"):
        openvino_ir.read(net.xml[:kept], net.binary)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE net [<!ENTITY a "0000000000"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE net SYSTEM "file:///etc/hostname">',
        "<!DOCTYPE net>",
    ],
)
def test_document_types_are_refused(declared, encoding):
    net = small()
    head = f'<?xml version="1.0" encoding="{encoding}"?>{declared}'
    xml = net.xml.decode().replace('<?xml version="1.0"?>', head).encode(encoding)
    with pytest.raises(CheckpointError, match="document type 'net'"):
        openvino_ir.read(xml, net.binary)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"element_type": "bf16"}, "element type 'bf16'"),
        ({"size": 20}, "20 bytes declared, but f32 of shape"),
        ({"shape": "2, -3"}, "shape is ' -3'"),
        ({"offset": "-24"}, "offset is '-24'"),
        ({"offset": 10**30}, "truncated"),
        ({"shape": "4000000000, 4000000000, 4000000000"}, "bytes declared"),
        ({"size": "²"}, "size is '²'"),
    ],
)
def test_constants_that_lie(changed, message):
    net = Network()
    net.constant(WEIGHT, "weight", **changed)
    with pytest.raises(CheckpointError, match=message) as raised:
        openvino_ir.read(net.xml, net.binary)
    assert "'weight'" in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version="10"', 'version="11"', "version='11'"),
        ("net", "model", "<model"),
        ('from-layer="0"', 'from-layer="99"', "an edge names layer '99'"),
        ('to-layer="2"', 'to-layer="77"', "an edge names layer '77'"),
        ('to-port="1"', "", "lacks 'to-port'"),
        ('to-port="1"', 'to-port="one"', "to-port is 'one'"),
        ('type="MatMul"', "", r"id '2'\) lacks 'type'"),
        ('element_type="f32" shape="2, 3"', 'shape="2, 3"', "lacks .'element_type'."),
    ],
)
def test_malformed_networks(old, new, message):
    net = small()
    xml = net.xml.decode()
    assert old in xml
    with pytest.raises(CheckpointError, match=message):
        openvino_ir.read(xml.replace(old, new).encode(), net.binary)
