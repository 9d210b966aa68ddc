import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from lsap_jax.edit import representation
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import CheckpointError, ConfigError, DirectionError


def truth():
    """The factors' own directions."""
    fingerprint = scenes.generator().fingerprint
    return [
        Direction(name, scenes.axis(name), None, sigma, "sigma", "w", fingerprint, "", {})
        for name, sigma in zip(scenes.NAMES, scenes.SIGMAS, strict=True)
    ]


def test_pairs_differ_by_the_labelled_factor_and_a_killed_run_goes_on(tmp_path):
    G = scenes.generator()
    told = []
    settings = {"count": 23, "shard_size": 10, "side": 32, "batch": 8}
    files = representation.write_pairs(G, truth(), tmp_path, **settings, progress=told.append)
    assert [path.name for path in files] == ["pairs-00000.npz", "pairs-00001.npz", "pairs-00002.npz"]
    assert told == [10, 20, 23]
    pairs = representation.read_pairs(tmp_path)
    assert pairs.names == scenes.NAMES
    assert pairs.images_orig.shape == pairs.images_edit.shape == (23, 32, 32, 3)
    assert pairs.images_orig.dtype == np.uint8
    before, after = (scenes.factors(jnp.asarray(x, jnp.float32) / 127.5 - 1) for x in pairs[:2])
    moved = np.asarray(after - before) / (np.asarray(scenes.HIGH) - np.asarray(scenes.LOW))
    assert (np.abs(moved).argmax(1) == pairs.labels).all()
    assert (moved[np.arange(23), pairs.labels] > 0).all()
    kept, lost = files[0].stat().st_mtime_ns, files[1].read_bytes()
    files[1].unlink()
    representation.write_pairs(G, truth(), tmp_path, **settings)
    assert files[0].stat().st_mtime_ns == kept
    again = representation.read_pairs(tmp_path)
    np.testing.assert_array_equal(again.images_edit, pairs.images_edit)
    assert len(files[1].read_bytes()) == len(lost)
    with pytest.raises(ConfigError, match="another folder"):
        representation.write_pairs(G, truth(), tmp_path, **settings, strength=1.0)
    with pytest.raises(ConfigError, match="side"):
        representation.write_pairs(G, truth(), tmp_path, side=64)
    with pytest.raises(DirectionError, match="found in generator"):
        representation.write_pairs(scenes.generator(1), truth(), tmp_path / "other", **settings)
    with pytest.raises(CheckpointError, match="no pairs"):
        representation.read_pairs(tmp_path / "empty")


def test_each_unit_follows_its_factor(tmp_path):
    G = scenes.generator()
    representation.write_pairs(G, truth(), tmp_path, count=1000, shard_size=500, side=32, batch=50)
    pairs = representation.read_pairs(tmp_path)
    config = representation.Config(widths=(16, 32, 32), steps=300, batch=32, learning_rate=3e-3)
    told = []
    variables, found = representation.train(pairs, config, progress=lambda step, terms: told.append(step))
    assert told == [100, 200, 300]
    assert found["accuracy"] > 0.97
    assert found["share"] > 0.8
    # On pictures that were in no pair: unit k follows factor k, and it alone.
    images = G.synthesize(scenes.codes(200, seed=9))
    units = np.asarray(representation.encode(variables, images, config.widths))
    follows = np.abs(np.corrcoef(units.T, np.asarray(scenes.factors(images)).T)[:5, 5:])
    assert np.diag(follows).min() > 0.9
    assert (follows - np.diag(np.diag(follows))).max() < 0.3
    with pytest.raises(ConfigError, match="at least 10"):
        representation.train(representation.Pairs(*(x[:5] for x in pairs[:3]), pairs.names), config)
