"""Golden cases: outputs of the reference implementations under weights made from key names.

A case is a folder of tests/fixtures: `keys*.json` lists every state-dict key of the reference with its
shape, dtype and the rule that makes its value; `expected.npz` holds outputs (and inputs that no rule
makes), NCHW as the reference has them, names ending `_f64` from float64 runs. No weights are stored:
each is a pure function of its key name, so a checkpoint in the reference's own names can be built here,
read by the project's converters, and the results compared.
"""

import functools
import json
import pathlib
import zlib

import numpy as np

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def normal(key: str, shape, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Standard normal numbers that depend on `key` alone, scaled and shifted in float32."""
    noise = np.asarray(_random(key).randn(*shape)).astype(np.float32)
    return np.asarray(np.float32(shift) + np.float32(scale) * noise, np.float32).reshape(shape)


def _random(key: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(f"0:{key}".encode()))


def _value(key, shape, dtype, rule, expected):
    match rule["kind"]:
        case "normal":
            value = normal(key, shape, rule.get("scale", 1.0), rule.get("shift", 0.0))
        case "abs_normal":
            value = np.float32(rule.get("shift", 0.0)) + np.float32(rule.get("scale", 1.0)) * np.abs(normal(key, shape))
        case "const":
            value = np.full(shape, rule["value"])
        case "keep":
            value = np.asarray(rule["value"])
        case "file":
            value = expected[rule["name"]]
        case kind:
            raise ValueError(kind)
    return np.asarray(value, dtype=dtype).reshape(shape)


@functools.cache
def state_dict(case: str, keys: str = "keys.json") -> dict[str, np.ndarray]:
    """The reference's state dict of a case: {key: array} in the reference's own names and layouts."""
    listed = json.loads((FIXTURES / case / keys).read_text())
    return {k: _value(k, tuple(shape), dtype, rule, expected(case)) for k, shape, dtype, rule in listed}


@functools.cache
def expected(case: str) -> dict[str, np.ndarray]:
    """The recorded inputs and outputs of a case."""
    with np.load(FIXTURES / case / "expected.npz") as file:
        return {k: file[k] for k in file.files}


def image_u8(name: str, shape) -> np.ndarray:
    """The smooth picture (B, C, H, W) of a name, sides multiples of 32: integers alone, so the same everywhere."""
    random = _random(f"image:{name}")
    *batch, h, w = shape
    total = np.zeros(shape, np.int64)
    for cells, weight in ((4, 8), (16, 5), (32, 3)):
        corners = random.randint(0, 256, size=(*batch, cells + 1, cells + 1)).astype(np.int64)
        step_y, step_x = h // cells, w // cells
        (y, ty), (x, tx) = np.divmod(np.arange(h), step_y), np.divmod(np.arange(w), step_x)
        ty = ty[:, None]
        c00, c01, c10, c11 = (corners[:, :, y + i][:, :, :, x + j] for i in (0, 1) for j in (0, 1))
        upper, lower = c00 * (step_x - tx) + c01 * tx, c10 * (step_x - tx) + c11 * tx
        total += weight * ((upper * (step_y - ty) + lower * ty) // (step_y * step_x))
    noisy = total // 16 + random.randint(-6, 7, size=shape)
    return np.clip((noisy - 128) * 2 + 128, 0, 255).astype(np.uint8)


def to_float(image_u8: np.ndarray) -> np.ndarray:
    """(B, 3, H, W) uint8 -> (B, H, W, 3) float32 in [-1, 1]."""
    return nhwc(image_u8).astype(np.float32) / np.float32(127.5) - np.float32(1)


def nhwc(x: np.ndarray) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C)."""
    return np.transpose(x, (0, 2, 3, 1))


def assert_close(got, want, tolerance: float = 1e-4) -> None:
    """Largest difference at most `tolerance` times the largest magnitude wanted."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, wanted {want.shape}"
    error, scale = np.abs(got - want).max(), np.abs(want).max()
    assert error <= tolerance * scale, (
        f"off by {error:.3g} where the scale is {scale:.3g} (allowed {tolerance:g} of it)"
    )


def assert_close_l2(got, want, tolerance: float) -> None:
    """Relative L2 distance at most `tolerance`: for gradients, where leaky ReLU signs may flip in float32."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, wanted {want.shape}"
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error <= tolerance, f"relative L2 distance {error:.3g} (allowed {tolerance:g})"
