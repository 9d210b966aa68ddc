"""Reader of OpenVINO IR version 10: an `.xml` with layers and edges, a `.bin` with the constants.

Facts of the format (OpenVINO's documentation, "Intermediate Representation"): `<layer id name type>` holds `<data>`
with the attributes; a `Const` layer's `<data>` gives `offset`, `size` (bytes), `shape` and `element_type` of its raw
little-endian values in the `.bin`; `<edge from-layer from-port to-layer to-port>` connects ports.

Nothing is executed, and a document type declaration (with which XML can define entities that expand without bound) is
refused.
"""

import dataclasses
import math
import xml.etree.ElementTree as ET

import numpy as np

from lsap_jax.errors import CheckpointError

_DTYPES = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "i64": "<i8",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "i1",
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "u8": "u1",
    "boolean": "?",
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One operation.

    Attributes:
      id: its number in the file.
      name: its label; constants keep the exporting framework's parameter names where it knew them.
      type: the operation, such as "Const", "MatMul", "Convolution".
      attributes: of its `<data>` element, as text.
      inputs: (layer id, output port) of what flows in, in the order of the input ports.
      constant: the array of a "Const" (a read-only view into the `.bin`), else None.
    """

    id: str
    name: str
    type: str
    attributes: dict[str, str]
    inputs: tuple[tuple[str, str], ...]
    constant: np.ndarray | None = None

    @property
    def value(self) -> np.ndarray:
        """The array of a "Const"; CheckpointError for any other layer."""
        if self.constant is None:
            raise CheckpointError(f"layer {self.name!r} is a {self.type}, not a constant")
        return self.constant


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network: its layers by id, in the order of the file (every layer after its inputs)."""

    name: str
    layers: dict[str, Layer]

    def of_type(self, kind: str) -> list[Layer]:
        """Layers of one type, in order."""
        return [layer for layer in self.layers.values() if layer.type == kind]

    def constant(self, name: str) -> Layer:
        """The constant called `name`; CheckpointError if there is none."""
        for layer in self.layers.values():
            if layer.type == "Const" and layer.name == name:
                return layer
        raise CheckpointError(f"{self.name}: no constant {name!r}; this is not the network that was expected")

    def inputs(self, layer: Layer) -> list[Layer]:
        """What flows into a layer, in the order of its ports."""
        return [self.layers[source] for source, _ in layer.inputs]

    def consumer(self, layer: Layer, kind: str) -> Layer:
        """The first layer of type `kind` that reads `layer`; CheckpointError if there is none."""
        for other in self.layers.values():
            if other.type == kind and any(source == layer.id for source, _ in other.inputs):
                return other
        raise CheckpointError(f"{self.name}: no {kind} reads layer {layer.name!r}; this is not the network expected")

    def operand(self, layer: Layer) -> np.ndarray:
        """The constant operand of a layer, looking through `Reshape`; CheckpointError if there is none."""
        for source in self.inputs(layer):
            if source.type == "Reshape":
                source = self.inputs(source)[0]
            if source.constant is not None:
                return source.constant
        raise CheckpointError(f"{self.name}: layer {layer.name!r} has no constant operand")


def read(xml: bytes, binary: bytes) -> Graph:
    """Read a network.

    Args:
      xml: the contents of the `.xml`.
      binary: the contents of the `.bin`.

    Raises:
      CheckpointError: if the XML is malformed, declares a document type, is of another version than 10, or names
        layers or constants that are not there (as with a truncated `.bin`).
    """
    try:
        root = ET.fromstring(xml, parser=ET.XMLParser(target=_Builder()))
    except ET.ParseError as error:
        raise CheckpointError(f"OpenVINO IR: malformed or truncated XML ({error})") from error
    name = f"OpenVINO network {root.get('name', '?')!r}"
    if root.tag != "net" or root.get("version") != "10":
        raise CheckpointError(f"{name}: <{root.tag} version={root.get('version')!r}>; <net version='10'> is read here")
    sources: dict[str, dict[int, tuple[str, str]]] = {}
    for edge in root.iterfind("edges/edge"):
        target = sources.setdefault(_attribute(name, edge, "to-layer"), {})
        port = _integer(name, "to-port", _attribute(name, edge, "to-port"))
        target[port] = (_attribute(name, edge, "from-layer"), _attribute(name, edge, "from-port"))
    layers = {}
    for element in root.iterfind("layers/layer"):
        data = element.find("data")
        layer = Layer(
            id=_attribute(name, element, "id"),
            name=_attribute(name, element, "name"),
            type=_attribute(name, element, "type"),
            attributes={} if data is None else dict(data.attrib),
            inputs=tuple(source for _, source in sorted(sources.get(element.get("id", ""), {}).items())),
        )
        if layer.type == "Const":
            layer = dataclasses.replace(layer, constant=_constant(name, layer, binary))
        layers[layer.id] = layer
    graph = Graph(name, layers)
    for target, ports in sources.items():
        for layer_id in (target, *(source for source, _ in ports.values())):
            if layer_id not in layers:
                raise CheckpointError(f"{name}: an edge names layer {layer_id!r}, which is not there")
    return graph


class _Builder(ET.TreeBuilder):
    """Builds the tree, and stops at a document type declaration before any entity of it is read."""

    def doctype(self, name, pubid, system):
        raise CheckpointError(f"OpenVINO IR: the XML declares a document type {name!r}; refused, networks have none")


def _constant(network: str, layer: Layer, binary: bytes) -> np.ndarray:
    where = f"{network}, constant {layer.name!r}"
    missing = {"offset", "size", "shape", "element_type"} - layer.attributes.keys()
    if missing:
        raise CheckpointError(f"{where}: <data> lacks {sorted(missing)}")
    offset, size = (_integer(where, key, layer.attributes[key]) for key in ("offset", "size"))
    shape = tuple(_integer(where, "shape", d) for d in layer.attributes["shape"].split(",") if d.strip())
    kind = layer.attributes["element_type"]
    if kind not in _DTYPES:
        raise CheckpointError(f"{where}: element type {kind!r} is not read here ({', '.join(_DTYPES)} are)")
    dtype = np.dtype(_DTYPES[kind])
    count = math.prod(shape)
    if count * dtype.itemsize != size:
        raise CheckpointError(
            f"{where}: {size} bytes declared, but {kind} of shape {shape} takes {count * dtype.itemsize}"
        )
    if offset + size > len(binary):
        raise CheckpointError(
            f"{where}: bytes {offset}..{offset + size} of a .bin of {len(binary)}; truncated, or of another network"
        )
    return np.frombuffer(binary, dtype, count, offset).reshape(shape)


def _attribute(where: str, element: ET.Element, key: str) -> str:
    value = element.get(key)
    if value is None:
        raise CheckpointError(f"{where}: a <{element.tag}> (id {element.get('id')!r}) lacks {key!r}")
    return value


def _integer(where: str, key: str, text: str) -> int:
    """A number that counts something: at least 0."""
    if not text.strip().isdecimal() or not text.isascii():
        raise CheckpointError(f"{where}: {key} is {text!r}, not a number")
    return int(text)
