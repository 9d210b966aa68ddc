"""OpenVINO IR written by hand: small networks in the format's own terms."""

import numpy as np

ELEMENT_TYPES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "bool": "boolean"}


class Network:
    """Layers in the order of `add`; constants follow each other in the `.bin`."""

    def __init__(self, name="net", version="10"):
        self.head = f'name="{name}" version="{version}"'
        self.layers: list[str] = []
        self.edges: list[str] = []
        self.binary = b""

    def add(self, kind, *inputs, name="", **attributes):
        """A layer that reads the layers `inputs`; its id."""
        index = len(self.layers)
        data = " ".join(f'{k}="{v}"' for k, v in attributes.items())
        self.layers.append(
            f'<layer id="{index}" name="{name or f"{kind}_{index}"}" type="{kind}" version="opset1">'
            f"<data {data}/></layer>"
        )
        for port, source in enumerate(inputs):
            self.edges.append(f'<edge from-layer="{source}" from-port="0" to-layer="{index}" to-port="{port}"/>')
        return index

    def constant(self, value, name="", **changed):
        """A constant; `changed` overrides attributes."""
        value = np.asarray(value)
        attributes = {
            "element_type": ELEMENT_TYPES[value.dtype.name],
            "shape": ", ".join(map(str, value.shape)),
            "offset": len(self.binary),
            "size": value.nbytes,
        }
        self.binary += value.tobytes()
        return self.add("Const", name=name, **{**attributes, **changed})

    @property
    def xml(self):
        body = f"<layers>{''.join(self.layers)}</layers><edges>{''.join(self.edges)}</edges>"
        return f'<?xml version="1.0"?><net {self.head}>{body}</net>'.encode()
