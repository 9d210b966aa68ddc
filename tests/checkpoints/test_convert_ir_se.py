import jax
import numpy as np
import pytest

from lsap_jax.checkpoints import convert_ir_se
from lsap_jax.errors import CheckpointError
from lsap_jax.networks import ir_se
from lsap_jax.networks.ir_se import Stage

pytestmark = pytest.mark.fast


def state_dict(prefix: str = "", channels: int = 3) -> dict[str, np.ndarray]:
    """A narrow ArcFace under the names of `model_ir_se50.pth`."""
    rng = np.random.default_rng(0)
    tensors = {}

    def add(key, *shape):
        tensors[f"{prefix}{key}"] = rng.uniform(0.5, 1, shape).astype(np.float32)

    def norm(key, width):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            add(f"{key}.{leaf}", width)
        tensors[f"{prefix}{key}.num_batches_tracked"] = np.array(7)

    add("input_layer.0.weight", 16, channels, 3, 3)
    norm("input_layer.1", 16)
    add("input_layer.2.weight", 16)
    for i, (before, width) in enumerate([(16, 16), (16, 16), (16, 24), (24, 32), (32, 32)]):
        res = f"body.{i}.res_layer"
        norm(f"{res}.0", before)
        add(f"{res}.1.weight", width, before, 3, 3)
        add(f"{res}.2.weight", width)
        add(f"{res}.3.weight", width, width, 3, 3)
        norm(f"{res}.4", width)
        add(f"{res}.5.fc1.weight", width // 16, width, 1, 1)
        add(f"{res}.5.fc2.weight", width, width // 16, 1, 1)
        if before != width:
            add(f"body.{i}.shortcut_layer.0.weight", width, before, 1, 1)
            norm(f"body.{i}.shortcut_layer.1", width)
    norm("output_layer.0", 32)
    add("output_layer.3.weight", 8, 32 * 2 * 2)
    add("output_layer.3.bias", 8)
    norm("output_layer.4", 8)
    return tensors


def trunk_only(tensors):
    return {k: v for k, v in tensors.items() if "output_layer" not in k}


def test_stages_are_read_off_the_shortcuts():
    assert convert_ir_se.stages_of(state_dict()) == (Stage(16, 2), Stage(24, 1), Stage(32, 2))
    with pytest.raises(CheckpointError, match=r"other\.body\.0"):
        convert_ir_se.stages_of(state_dict(), "other.")


@pytest.mark.parametrize("channels", [3, 6])
def test_a_trunk_inside_an_encoder(channels):
    tensors = trunk_only(state_dict("encoder.", channels)) | {"encoder.styles.0.weight": np.zeros(3)}
    variables = convert_ir_se.convert_backbone(tensors, "encoder.")
    trunk = ir_se.Backbone(convert_ir_se.stages_of(tensors, "encoder."))
    wanted = jax.eval_shape(trunk.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, wanted)
    unit = variables["params"]["unit3"]
    res = "encoder.body.3.res_layer"
    np.testing.assert_array_equal(unit["conv2"]["kernel"], tensors[f"{res}.3.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(unit["squeeze"]["kernel"], tensors[f"{res}.5.fc1.weight"][:, :, 0, 0].T)
    np.testing.assert_array_equal(unit["prelu"]["slope"], tensors[f"{res}.2.weight"])
    np.testing.assert_array_equal(variables["batch_stats"]["unit3"]["norm2"]["var"], tensors[f"{res}.4.running_var"])


def test_the_linear_layer_reads_positions_as_pytorch_does():
    tensors = state_dict()
    kernel = convert_ir_se.convert_arcface(tensors)["params"]["dense"]["kernel"]
    x = np.random.default_rng(1).normal(size=(1, 2, 2, 32)).astype(np.float32)
    want = tensors["output_layer.3.weight"] @ x.transpose(0, 3, 1, 2).reshape(-1)
    np.testing.assert_allclose(x.reshape(-1) @ kernel, want, rtol=1e-4)


def test_a_missing_or_surplus_tensor_is_named():
    tensors = state_dict()
    for key in [k for k in tensors if "num_batches" not in k][::9]:
        with pytest.raises(CheckpointError, match=key.replace(".", r"\.") if "body" not in key else "body|input_layer"):
            convert_ir_se.convert_arcface({k: v for k, v in tensors.items() if k != key})
    with pytest.raises(CheckpointError, match=r"body\.0\.extra"):
        convert_ir_se.convert_backbone(tensors | {"body.0.extra": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"latlayer1\.weight"):
        convert_ir_se.convert_arcface(tensors | {"latlayer1.weight": np.zeros(3)})


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("input_layer.2.weight", (15,)),
        ("body.1.res_layer.1.weight", (16, 16, 3)),
        ("body.3.res_layer.3.weight", (32, 31, 3, 3)),
        ("output_layer.3.weight", (8, 100)),
    ],
)
def test_shapes_must_fit(key, shape):
    with pytest.raises(CheckpointError, match="shape"):
        convert_ir_se.convert_arcface(state_dict() | {key: np.zeros(shape, np.float32)})
