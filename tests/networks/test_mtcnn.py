import jax
import numpy as np
import pytest

from lsap_jax import pretrained
from lsap_jax.checkpoints import convert_mtcnn
from lsap_jax.errors import CheckpointError
from lsap_jax.networks import mtcnn

pnet, rnet, onet = jax.jit(mtcnn.pnet), jax.jit(mtcnn.rnet), jax.jit(mtcnn.onet)


def state_dicts() -> dict[str, dict[str, np.ndarray]]:
    """Random tensors under PyTorch's names, in its shapes."""
    rng = np.random.default_rng(0)
    state_dicts = {}
    for net, layers in convert_mtcnn._SHAPES.items():
        state_dicts[net] = {}
        for layer, shape in layers.items():
            state_dicts[net][f"{layer}.weight"] = rng.normal(size=shape).astype(np.float32) / np.sqrt(
                np.prod(shape[1:])
            )
            if not layer.startswith("prelu"):
                state_dicts[net][f"{layer}.bias"] = rng.normal(size=shape[:1]).astype(np.float32)
    return state_dicts


@pytest.fixture(scope="module")
def params():
    return convert_mtcnn.from_state_dicts(state_dicts())


@pytest.mark.fast
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("size", [3, 4, 7, 10])
def test_pooling_windows_hang_over_the_edge(size, window):
    x = np.random.default_rng(0).normal(size=(2, size, size + 1, 3)).astype(np.float32)
    starts = [range(0, n - window + 2, 2) for n in x.shape[1:3]]  # as long as the window is not wholly outside
    want = [[x[:, i : i + window, j : j + window].max(axis=(1, 2)) for j in starts[1]] for i in starts[0]]
    np.testing.assert_array_equal(mtcnn.max_pool(x, window), np.moveaxis(np.array(want), 2, 0))


@pytest.mark.fast
@pytest.mark.parametrize("size", [(12, 12), (13, 24), (37, 30)])
def test_pnet_does_not_see_the_canvas(params, size):
    h, w = size
    image = np.random.default_rng(1).normal(size=(1, h, w, 3)).astype(np.float32)
    canvas = np.zeros((1, 40, 40, 3), np.float32)
    canvas[:, :h, :w] = image
    alone, alone_offsets = pnet(params["pnet"], image, np.array(size))
    placed, placed_offsets = pnet(params["pnet"], canvas, np.array(size))
    rows, columns = alone.shape[1:]
    assert (rows, columns) == (-(-(h - 2) // 2) - 4, -(-(w - 2) // 2) - 4)
    np.testing.assert_allclose(placed[:, :rows, :columns], alone, atol=1e-5)
    np.testing.assert_allclose(placed_offsets[:, :rows, :columns], alone_offsets, atol=1e-4)
    assert np.all(placed[:, rows:] == 0)
    assert np.all(placed[:, :, columns:] == 0)
    assert np.isfinite(placed_offsets).all()


@pytest.mark.fast
def test_a_window_of_pnet_is_the_patch_it_names(params):
    image = np.random.default_rng(2).normal(size=(1, 30, 30, 3)).astype(np.float32)
    whole, _ = pnet(params["pnet"], image, np.array([30, 30]))
    for i, j in ((0, 0), (3, 5), (9, 9)):
        patch = image[:, 2 * i : 2 * i + 12, 2 * j : 2 * j + 12]
        np.testing.assert_allclose(
            pnet(params["pnet"], patch, np.array([12, 12]))[0][0, 0, 0], whole[0, i, j], atol=1e-5
        )


@pytest.mark.fast
def test_shapes_and_ranges(params):
    rng = np.random.default_rng(3)
    scores, offsets = rnet(params["rnet"], rng.normal(size=(5, 24, 24, 3)).astype(np.float32))
    assert scores.shape == (5,)
    assert offsets.shape == (5, 4)
    scores, offsets, landmarks = onet(params["onet"], rng.normal(size=(5, 48, 48, 3)).astype(np.float32))
    assert scores.shape == (5,)
    assert offsets.shape == (5, 4)
    assert landmarks.shape == (5, 5, 2)
    assert np.all((scores > 0) & (scores < 1))


@pytest.mark.fast
def test_the_flattened_layer_reads_features_column_by_column(params):
    # PyTorch: features (C, H, W) -> permute(2, 1, 0) -> flatten; ours: (H, W, C) -> flatten.
    features = np.random.default_rng(4).normal(size=(64, 3, 3)).astype(np.float32)
    want = state_dicts()["rnet"]["dense4.weight"] @ features.transpose(2, 1, 0).reshape(-1)
    got = features.transpose(1, 2, 0).reshape(-1) @ params["rnet"]["dense4"]["kernel"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
def test_conversion_refuses_what_is_not_mtcnn():
    for change, message in (
        (lambda s: s["rnet"].pop("dense4.bias"), r"rnet\.pt: tensor 'dense4\.bias' is missing"),
        (lambda s: s["onet"].update(extra=np.zeros(1)), r"onet\.pt: unknown tensors \['extra'\]"),
        (
            lambda s: s["pnet"].update({"conv1.weight": np.zeros((10, 3, 5, 5))}),
            r"'conv1\.weight' has shape \(10, 3, 5, 5\)",
        ),
    ):
        changed = state_dicts()
        change(changed)
        with pytest.raises(CheckpointError, match=message):
            convert_mtcnn.from_state_dicts(changed)
    with pytest.raises(CheckpointError, match=r"no rnet\.pt, onet\.pt among \['pnet\.pt'\]"):
        convert_mtcnn.convert({"facenet_pytorch/data/pnet.pt": b""})
    with pytest.raises(CheckpointError):
        convert_mtcnn.convert({f"{net}.pt": b"no weights" for net in ("pnet", "rnet", "onet")})


@pytest.mark.weights("mtcnn")
def test_outputs_are_the_reference_implementations():
    params, meta = pretrained.load("mtcnn")
    assert meta["kind"] == "mtcnn"

    def ramp(size: int) -> np.ndarray:
        y, x, c = np.mgrid[:size, :size, :3].astype(np.float32)
        return np.sin(0.7 * x + 0.3 * y * y / size + c)[None]

    # Recorded from facenet-pytorch 2.6.0 under PyTorch 2.13.
    probability, offsets = pnet(params["pnet"], ramp(13), np.array([13, 13]))
    np.testing.assert_allclose(probability[0], [[0.00141, 0.000922], [0.002589, 0.000162]], atol=2e-6)
    np.testing.assert_allclose(offsets[0, 0, 0], [-0.044723, -0.195636, -0.154753, 0.059182], atol=2e-6)
    np.testing.assert_allclose(offsets[0, 1, 1], [0.132975, -0.113309, -0.079592, 0.033426], atol=2e-6)
    scores, offsets = rnet(params["rnet"], ramp(24))
    np.testing.assert_allclose(scores, [0.003125], atol=2e-6)
    np.testing.assert_allclose(offsets, [[0.014688, -0.130622, -0.058895, 0.207564]], atol=2e-6)
    scores, offsets, landmarks = onet(params["onet"], ramp(48))
    np.testing.assert_allclose(scores, [3.351306e-04], atol=2e-6)
    np.testing.assert_allclose(offsets, [[0.026725, -0.345602, 0.051345, 0.052826]], atol=2e-6)
    x, y = [0.456741, 0.741832, 0.518812, 0.340468, 0.500642], [0.118925, 0.102349, 0.475787, 0.705426, 0.717242]
    np.testing.assert_allclose(landmarks[0], np.stack([x, y], axis=1), atol=2e-6)
