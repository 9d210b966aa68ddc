"""A narrow MoCo ResNet under the names of the published checkpoint, made from key names."""

import golden
import numpy as np

PREFIX = "module.encoder_q."
WIDTHS, DEPTHS, STEM = (4, 6, 8, 10), (2, 1, 2, 1), 5


def state_dict() -> dict[str, np.ndarray]:
    tensors = {}

    def conv(key, outputs, inputs, size):
        scale = (2 / (inputs * size * size)) ** 0.5
        tensors[f"{key}.weight"] = golden.normal(f"moco:{key}", (outputs, inputs, size, size), scale)

    def norm(key, width):
        for name, scale, shift in (("weight", 0.2, 1), ("bias", 0.3, 0), ("running_mean", 0.3, 0)):
            tensors[f"{key}.{name}"] = golden.normal(f"moco:{key}.{name}", (width,), scale, shift)
        tensors[f"{key}.running_var"] = 0.5 + np.abs(golden.normal(f"moco:{key}.running_var", (width,)))
        tensors[f"{key}.num_batches_tracked"] = np.array(7)

    conv("conv1", STEM, 3, 7)
    norm("bn1", STEM)
    inputs = STEM
    for layer, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), 1):
        for block in range(depth):
            name = f"layer{layer}.{block}"
            for i, (o, n, size) in enumerate(((width, inputs, 1), (width, width, 3), (4 * width, width, 1)), 1):
                conv(f"{name}.conv{i}", o, n, size)
                norm(f"{name}.bn{i}", o)
            if not block:
                conv(f"{name}.downsample.0", 4 * width, inputs, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    tensors["fc.0.weight"] = np.zeros((inputs, inputs), np.float32)
    return {PREFIX + key: value for key, value in tensors.items()}


def checkpoint() -> dict:
    """With all that the published file has besides the query encoder."""
    others = {"module.encoder_k.conv1.weight": np.zeros(3), "module.queue": np.zeros((4, 8))}
    return {"epoch": 800, "arch": "resnet50", "state_dict": {**state_dict(), **others}, "optimizer": {}}


def images() -> np.ndarray:
    """(2, 256, 256, 3) in [-1, 1]: large patches under fine noise, so that the two differ in what a deep net sees."""
    patches = golden.normal("moco:patches", (2, 3, 4, 4)).repeat(64, 2).repeat(64, 3)
    return golden.nhwc(np.tanh(2 * patches + golden.normal("moco:noise", (2, 3, 256, 256), 0.3)))
