import importlib.util
import pathlib
from collections import OrderedDict

import jax
import numpy as np
import pickled
import pytest
from golden import assert_close, expected, nhwc, state_dict, to_float

import lsap_jax as lj
from lsap_jax.checkpoints import store
from lsap_jax.networks import discriminators

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytorch_file(tree):
    """The bytes of a PyTorch file with nested dicts of float32 arrays."""
    storages = {}

    def rebuilt(value):
        if isinstance(value, dict):
            return {k: rebuilt(v) for k, v in value.items()}
        key, value = str(len(storages)), np.asarray(value, order="C")
        storages[key] = value
        stride = tuple(step // 4 for step in value.strides)
        args = (pickled.storage(key, value.size), 0, value.shape, stride, False, OrderedDict())
        return pickled.Call(pickled.Name("torch._utils", "_rebuild_tensor_v2"), args)

    return pickled.torch_file(rebuilt(tree), storages)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A PyTorch file with NVIDIA's names, as a state dict saved by its code is."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    path.write_bytes(pytorch_file({"g_ema": state_dict("g_nv64_tiny"), "d": state_dict("g_nvdisc64_tiny")}))
    return path


@pytest.mark.fast
def test_a_generator(tool, checkpoint, tmp_path, capsys):
    out = tmp_path / "tiny.npz"
    assert tool.main([str(checkpoint), str(out), "--licence", "test"]) == 0
    assert "64 pixels, 10 rows of W+, fingerprint" in capsys.readouterr().out
    G, e = lj.load_generator(out), expected("g_nv64_tiny")
    assert_close(G.synthesize(e["in_ws"]), nhwc(e["image_ws"]))
    np.testing.assert_array_equal(G.w_avg, state_dict("g_nv64_tiny")["mapping.w_avg"])
    meta = store.load(out)[1]
    assert (meta["licence"], meta["source"], len(meta["sha256"])) == ("test", "tiny.pt", 64)
    assert lj.load_generator(checkpoint).fingerprint == G.fingerprint


@pytest.mark.fast
def test_a_discriminator(tool, checkpoint, tmp_path, capsys):
    out = tmp_path / "d.npz"
    assert tool.main([str(checkpoint), str(out), "--discriminator"]) == 0
    assert "resnet discriminator, 64 pixels" in capsys.readouterr().out
    e = expected("g_nvdisc64_tiny")
    D = discriminators.load(out)
    logits = jax.jit(lambda D, images: D(images))(D, to_float(e["in_x_u8"][:1]))
    assert_close(logits[:, None], e["logits_b1"])


@pytest.mark.fast
def test_errors_are_one_line(tool, checkpoint, tmp_path, capsys):
    (tmp_path / "page.pt").write_text("<html>over quota</html>")
    (tmp_path / "folder.npz").mkdir()
    for arguments, message in (
        ([tmp_path / "none.pt", tmp_path / "o.npz"], "none.pt"),
        ([tmp_path / "page.pt", tmp_path / "o.npz"], "page.pt"),
        ([checkpoint, tmp_path / "o.bin"], "o.bin: name the output .npz"),
        ([checkpoint, tmp_path / "folder.npz"], "folder.npz: cannot be written"),
    ):
        assert tool.main([str(a) for a in arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("convert_checkpoint: ")
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o.npz").exists()
