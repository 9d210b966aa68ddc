"""dlib's face descriptor with a few channels: random params, and the file that dlib would have written for them."""

import math

import numpy as np

from lsap_jax.networks.dlib_face import STRIDES

WIDTHS = (2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 5, 5)


def random_params() -> dict:
    """A network of the real depth, with `WIDTHS` channels in its blocks and 8 numbers in its descriptor."""
    rng = np.random.default_rng(0)

    def conv(size, i, o):
        kernel = rng.normal(size=(size, size, i, o)) / (size * np.sqrt(i))
        return {"kernel": kernel.astype(np.float32), "bias": rng.normal(size=o).astype(np.float32) / 10}

    params = {"mean": np.array([122.75, 117.0, 104.25], np.float32), "stem": conv(7, 3, WIDTHS[0])}
    for i, (before, width) in enumerate(zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)):
        params[f"block{i}"] = {"conv1": conv(3, before, width), "conv2": conv(3, width, width)}
    params["head"] = {"kernel": rng.normal(size=(WIDTHS[-1], 8)).astype(np.float32)}
    return params


def integer(value: int) -> bytes:
    size = max(1, math.ceil(abs(value).bit_length() / 8))
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def number(value: float) -> bytes:
    mantissa, exponent = math.frexp(value)
    return integer(int(mantissa * 2**24)) + integer(exponent - 24)


def string(value: str) -> bytes:
    return integer(len(value)) + value.encode()


def shape(version: int, *sizes: int) -> bytes:
    return b"".join(map(integer, (version, *sizes)))


def tensor(values: np.ndarray) -> bytes:
    sizes = (*values.shape, *(1,) * (4 - values.ndim))
    return shape(2, *sizes) + values.astype("<f4").tobytes()


NOTHING = shape(2, 0, 0, 0, 0)
RATES = number(1.0) * 4


def layer(kind: str, fields: bytes = b"") -> bytes:
    """A computing layer with the flags and empty tensors of training."""
    return string(kind) + fields + b"100" + NOTHING * 3


def convolution(params: dict, stride: int, padding: int) -> list[bytes]:
    """A convolution and an affine layer that together do what `params` says."""
    kernel = params["kernel"].transpose(3, 2, 0, 1)
    gamma = np.linspace(0.5, 2, len(kernel), dtype=np.float32)
    first, beta = kernel / gamma[:, None, None, None], params["bias"] - 0.25 * gamma
    weights = np.concatenate([first.reshape(-1), np.full(len(kernel), 0.25)])
    o, i, h, w = kernel.shape
    geometry = b"".join(map(integer, (o, h, w, stride, stride, padding, padding)))
    conv = tensor(weights) + geometry + shape(1, o, i, h, w) + shape(1, 1, o, 1, 1) + RATES
    affine = tensor(np.concatenate([gamma, beta])) + shape(1, 1, o, 1, 1) * 2 + integer(0)
    return [layer("con_4", conv), layer("affine_", affine)]


def pooling(kind: str, window: int, stride: int) -> bytes:
    return layer(kind, integer(window) * 2 + integer(stride) * 2 + integer(0) * 2)


def serialise(params: dict) -> bytes:
    """`dlib_face_recognition_resnet_model_v1.dat`, with these params."""
    layers = [*convolution(params["stem"], 2, 0), layer("relu_"), pooling("max_pool_2", 3, 2)]
    for i, stride in enumerate(STRIDES):
        block = params[f"block{i}"]
        layers += [*convolution(block["conv1"], stride, 2 - stride), layer("relu_"), *convolution(block["conv2"], 1, 1)]
        layers += [pooling("avg_pool_2", 2, 2)] if stride == 2 else []
        layers += [layer("add_prev_"), layer("relu_")]
    head = params["head"]["kernel"]
    linear = (
        b"".join(map(integer, head.shape[::-1])) + tensor(head) + shape(1, *head.shape, 1, 1) + shape(1, 0, 0, 0, 0)
    )
    layers += [pooling("avg_pool_2", 0, 1), layer("fc_2", linear + integer(1) + RATES)]
    layers[0] += integer(1)  # the first layer also stores how many samples it makes of one

    size = integer(150) * 2
    mean = b"".join(number(float(c)) for c in params["mean"])
    versions = integer(2) * (len(layers) - 1) + integer(1) * 33 + integer(3)  # 33 tags and skips
    loss = integer(1) + string("loss_metric_2") + number(0.04) + number(0.6)
    return loss + versions + string("input_rgb_image_sized") + mean + size + b"".join(layers)
