import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_encoder

import lsap_jax as lj
from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError
from lsap_jax.networks import encoder_files


def same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_round_trip(tmp_path):
    E = tiny_encoder.encoder(head="w+").replace(generator="0123456789abcdef")
    path = tmp_path / "e.npz"
    encoder_files.save(path, E, {"licence": "test"}, np.float32)
    back = encoder_files.load(path)
    assert same((back.variables, back.start), (E.variables, E.start))
    assert (back.arch, back.name, back.generator) == (E.arch, "tiny", "0123456789abcdef")
    assert store.load(path)[1]["licence"] == "test"
    public = lj.load_encoder(path)
    assert isinstance(public, lj.Encoder)
    assert public.name == str(path)


def test_float16_rounds_weights_alone(tmp_path):
    E, path = tiny_encoder.encoder(), tmp_path / "e.npz"
    encoder_files.save(path, E)
    back, stored = encoder_files.load(path), store.load(path)[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(stored["variables"]["params"])} == {np.dtype(np.float16)}
    assert {leaf.dtype for leaf in jax.tree.leaves((back.variables, back.start))} == {jnp.dtype(jnp.float32)}
    assert same(back.variables["batch_stats"], E.variables["batch_stats"])
    assert same(back.start, E.start)
    rounded = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), E.variables["params"])
    assert same(back.variables["params"], rounded)
    large = E.replace(variables={**E.variables, "params": jax.tree.map(lambda x: x * 1e6, E.variables["params"])})
    with pytest.raises(CheckpointError, match="too large"):
        encoder_files.save(tmp_path / "large.npz", large)
    assert not (tmp_path / "large.npz").exists()


def test_damaged_files_name_the_leaf(tmp_path):
    path = tmp_path / "e.npz"
    encoder_files.save(path, tiny_encoder.encoder(), dtype=np.float32)
    tree, meta = store.load(path)
    flat = store.flatten(tree)
    key = "variables/params/head/style3/conv1/bias"
    for change, message in (
        ({k: v for k, v in flat.items() if k != key}, f"{key} is missing"),
        (flat | {"variables/params/head/extra": np.zeros(3)}, "head/extra is not a weight"),
        (flat | {key: np.zeros(5, np.float32)}, rf"{key} has shape \(5,\) where \(6,\)"),
        (flat | {key: np.full(6, np.nan, np.float32)}, f"{key} has NaN"),
        (flat | {"start": np.zeros((3, 8), np.float32)}, "start has shape"),
    ):
        store.save(path, store.unflatten(change), meta)
        with pytest.raises(CheckpointError, match=message):
            lj.load_encoder(path)
    for architecture in ({**meta["architecture"], "trunk": "vit"}, {**meta["architecture"], "depth": 3}):
        store.save(path, tree, {**meta, "architecture": architecture})
        with pytest.raises(CheckpointError, match="does not know"):
            lj.load_encoder(path)


def test_files_that_hold_no_encoder(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.npz: no such file"):
        lj.load_encoder(tmp_path / "none.npz")
    with pytest.raises(CheckpointError, match="none: no such file, and no encoder of this name"):
        lj.load_encoder("none")
    from lsap_jax.generators import files

    files.save(tmp_path / "g.npz", tiny.generator())
    with pytest.raises(CheckpointError, match="holds a 'generator', not an encoder"):
        lj.load_encoder(tmp_path / "g.npz")
    (tmp_path / "page.pt").write_text("<html>over quota</html>")
    with pytest.raises(CheckpointError, match=r"page\.pt"):
        lj.load_encoder(tmp_path / "page.pt")
