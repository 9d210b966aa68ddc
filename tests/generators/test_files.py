import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import lsap_jax as lj
from lsap_jax.checkpoints import store
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.generators import files


@pytest.mark.fast
def test_a_generator_comes_back_as_it_was(tmp_path):
    G = tiny.generator()
    files.save(tmp_path / "g.npz", G, {"licence": "CC0"})
    again = lj.load_generator(tmp_path / "g.npz")
    assert again.arch == G.arch
    assert again.fingerprint == G.fingerprint
    assert again.name == str(tmp_path / "g.npz")
    jax.tree.map(np.testing.assert_array_equal, again.replace(name=G.name), G)
    assert store.load(tmp_path / "g.npz")[1]["licence"] == "CC0"


@pytest.mark.fast
def test_the_fingerprint_sees_weights_and_noise_but_not_names_or_statistics():
    G = tiny.generator()
    assert G.fingerprint == G.replace(name="x", w_avg=G.w_avg + 1).fingerprint
    assert G.fingerprint != tiny.generator(1).fingerprint
    assert G.fingerprint != G.replace(noise=(G.noise[0] + 1, *G.noise[1:])).fingerprint
    tuned = jax.tree.map(lambda x: x, G.params)
    tuned["synthesis"]["b8"]["conv0"]["weight"] = tuned["synthesis"]["b8"]["conv0"]["weight"].at[0, 0, 0, 0].add(1e-3)
    assert G.fingerprint != G.replace(params=tuned).fingerprint


@pytest.mark.fast
def test_what_is_wrong_with_a_file_is_named(tmp_path):
    G = tiny.generator()
    path = tmp_path / "g.npz"
    files.save(path, G)
    tree, meta = store.load(path)

    tree["params"]["synthesis"]["b8"]["conv0"]["weight"][0, 0, 0, 0] = np.nan
    store.save(path, tree, meta)
    with pytest.raises(CheckpointError, match=r"g\.npz: params/synthesis/b8/conv0/weight has NaN"):
        lj.load_generator(path)

    store.save(path, {"x": np.ones(1)}, {"kind": "alignment"})
    with pytest.raises(CheckpointError, match="holds a 'alignment', not a generator"):
        lj.load_generator(path)

    store.save(path, tree, {**meta, "architecture": {"kind": "stylegan9"}})
    with pytest.raises(CheckpointError, match="unknown generator family 'stylegan9'"):
        lj.load_generator(path)


@pytest.mark.fast
def test_wrong_arguments_are_named_with_the_cure():
    G = tiny.generator()
    ws = G.broadcast(G.w_avg[None])
    with pytest.raises(ConfigError, match=r"\(1, 16\).*G\.broadcast"):
        G.synthesize(G.w_avg[None])
    with pytest.raises(ConfigError, match=r"z has shape \(1, 8\)"):
        G.map(jnp.zeros((1, 8)))
    with pytest.raises(ConfigError, match="not conditional"):
        G.map(jnp.zeros((1, 16)), labels=jnp.ones((1, 3)))
    with pytest.raises(ConfigError, match=r"needs \(2, 3\)"):
        tiny.generator(0, label_dim=3).map(jnp.zeros((2, 16)))
    with pytest.raises(ConfigError, match="noise='random'"):
        G.synthesize(ws, noise="random")
    with pytest.raises(ConfigError, match="1 noise maps"):
        G.synthesize(ws, noise=G.noise[:1])
    with pytest.raises(ConfigError, match="noise map 0"):
        G.synthesize(ws, noise=(G.noise[1], *G.noise[1:]))
    with pytest.raises(ConfigError, match=r"blocks 3\.\.9"):
        G.run_blocks(G.initial_features(1), ws, start=3, stop=9)


def test_noise_is_what_the_argument_says():
    G = tiny.generator()
    ws = G.broadcast(G.map(jnp.ones((2, 16))))
    const = G.synthesize(ws)
    np.testing.assert_array_equal(const, G.synthesize(ws, noise=G.noise))
    np.testing.assert_array_equal(const[0], const[1])
    fresh = G.synthesize(ws, noise=jax.random.key(0))
    assert not np.allclose(fresh[0], fresh[1])
    np.testing.assert_array_equal(fresh, G.synthesize(ws, noise=jax.random.key(0)))
    zero = tuple(jnp.zeros_like(n) for n in G.noise)
    np.testing.assert_allclose(G.synthesize(ws, noise="none"), G.synthesize(ws, noise=zero), atol=1e-6)
    each = tuple(jnp.stack([n, 2 * n]) for n in G.noise)
    np.testing.assert_allclose(G.synthesize(ws, noise=each)[:1], const[:1], atol=1e-5)
