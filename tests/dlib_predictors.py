"""A small shape predictor: random params, and the file that dlib would have written for them, byte by byte."""

import numpy as np
from dlib_networks import integer


def random_predictor(landmarks: int = 68, forests: int = 2, trees: int = 3, depth: int = 2, pixels: int = 400) -> dict:
    """Params of the shapes that `checkpoints.dlib_shape_file.load` gives; thresholds and leaves of 16-bit floats."""
    rng = np.random.default_rng(0)
    splits = 2**depth - 1
    leaves = rng.normal(size=(forests, trees, splits + 1, landmarks, 2)) / 100
    return {
        "mean": rng.uniform(0.2, 0.8, (landmarks, 2)).astype(np.float32),
        "anchors": rng.integers(0, landmarks, (forests, pixels)).astype(np.int32),
        "deltas": rng.uniform(-0.2, 0.2, (forests, pixels, 2)).astype(np.float32),
        "pixels": rng.integers(0, pixels, (forests, trees, splits, 2)).astype(np.int32),
        "thresholds": rng.uniform(-60, 60, (forests, trees, splits)).astype(np.float16).astype(np.float32),
        "leaves": leaves.astype(np.float32),
    }


def floats(values: np.ndarray) -> bytes:
    """Floats as dlib writes them, without low bytes of zero in their mantissas."""
    written = []
    for value in np.ravel(values).tolist():
        mantissa, exponent = np.frexp(value)
        mantissa, exponent = int(mantissa * 2**24), int(exponent) - 24
        while mantissa and mantissa % 256 == 0:
            mantissa, exponent = mantissa // 256, exponent + 8
        written.append(integer(mantissa) + integer(exponent if mantissa else 0))
    return b"".join(written)


def matrix(values: np.ndarray) -> bytes:
    return integer(-values.size) + integer(-1) + floats(values)


def vector(parts: list[bytes]) -> bytes:
    return integer(len(parts)) + b"".join(parts)


def serialise(params: dict) -> bytes:
    """`shape_predictor_68_face_landmarks.dat`, with these params."""

    def split(pixels, threshold):
        return integer(int(pixels[0])) + integer(int(pixels[1])) + floats(threshold)

    def tree(c, t):
        splits = [split(*one) for one in zip(params["pixels"][c, t], params["thresholds"][c, t], strict=True)]
        return vector(splits) + vector([matrix(leaf) for leaf in params["leaves"][c, t]])

    forests, trees = params["thresholds"].shape[:2]
    return b"".join(
        [
            integer(1),
            matrix(params["mean"]),
            vector([vector([tree(c, t) for t in range(trees)]) for c in range(forests)]),
            vector([vector([integer(int(i)) for i in anchors]) for anchors in params["anchors"]]),
            vector([vector([floats(delta) for delta in deltas]) for deltas in params["deltas"]]),
        ]
    )
