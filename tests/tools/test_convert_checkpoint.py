import importlib.util
import pathlib

import jax
import numpy as np
import pickled
import pytest
import tiny
import torch_encoders
from golden import assert_close, expected, nhwc, state_dict, to_float

import lsap_jax as lj
from lsap_jax.checkpoints import store
from lsap_jax.generators import files
from lsap_jax.networks import discriminators

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A PyTorch file with NVIDIA's names, as a state dict saved by its code is."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    path.write_bytes(pickled.pytorch_file({"g_ema": state_dict("g_nv64_tiny"), "d": state_dict("g_nvdisc64_tiny")}))
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
def test_an_encoder(tool, checkpoint, tmp_path, capsys):
    encoder, out = tmp_path / "idinvert.pth", tmp_path / "e.npz"
    encoder.write_bytes(pickled.pytorch_file(torch_encoders.idinvert()))
    assert tool.main([str(encoder), str(out)]) == 0  # a file with an encoder alone needs no flag
    assert "encoder idinvert with head dense, input rgb of 64 pixels, 3 rows of W+" in capsys.readouterr().out
    E, want = lj.load_encoder(out), lj.load_encoder(encoder)
    assert (E.arch, E.generator) == (want.arch, "")
    jax.tree.map(np.testing.assert_array_equal, E.variables, want.variables)
    sizes = []
    for flags in ([], ["--float16"]):
        assert tool.main([str(encoder), str(out), "--encoder", *flags]) == 0
        sizes.append(out.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    capsys.readouterr()
    for flags, message in (([], "say which it is: head="), (["--head", "e4e"], "latent_avg is missing")):
        encoder.write_bytes(pickled.pytorch_file(torch_encoders.psp(1)))
        assert tool.main([str(encoder), str(out), *flags]) == 1
        assert message in capsys.readouterr().err
    assert tool.main([str(checkpoint), str(out), "--encoder"]) == 1
    assert "tiny.pt: no encoder found" in capsys.readouterr().err


@pytest.mark.fast
def test_an_encoder_of_a_generator(tool, tmp_path, capsys):
    G, encoder, out = tiny.generator(), tmp_path / "w.pt", tmp_path / "e.npz"
    files.save(tmp_path / "g.npz", G)
    encoder.write_bytes(pickled.pytorch_file(torch_encoders.w()))
    assert tool.main([str(encoder), str(out), "--generator", str(tmp_path / "g.npz")]) == 1
    assert "latent_avg has shape (16,)" in capsys.readouterr().err
    narrow = {k: v[:16] if k.startswith("linear.") else v for k, v in torch_encoders.w().items()}
    encoder.write_bytes(pickled.pytorch_file(narrow))
    assert tool.main([str(encoder), str(out), "--generator", str(tmp_path / "g.npz")]) == 0
    E = lj.load_encoder(out)
    assert (E.arch.num_ws, E.generator) == (G.num_ws, G.fingerprint)
    np.testing.assert_array_equal(E.start[3], G.w_avg)


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
