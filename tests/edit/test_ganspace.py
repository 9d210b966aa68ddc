"""GANSpace: incremental PCA against one PCA, axes of activations in a linear generator, what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scenes
import tiny

from lsap_jax.edit import ganspace
from lsap_jax.edit.directions import record, w_pca
from lsap_jax.errors import ConfigError, DirectionError
from lsap_jax.generators.base import Features

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("module_cache")]


@dataclasses.dataclass(frozen=True)
class Linear(scenes.Scenes):
    """Block l adds the first four coordinates of row l times fixed gains: activations are linear in w."""

    def run_block(self, params, index, features, styles, noise):
        gains = jnp.asarray([[4.0, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 9.0]])[index]
        change = styles[index][:, :4] * gains[None]
        mixed = change @ jnp.asarray(np.linalg.qr(np.random.RandomState(2).randn(5, 4))[0].T, jnp.float32)
        return Features(features.x + mixed[:, None, None])


def linear():
    return dataclasses.replace(scenes.generator(), arch=Linear())


def test_incremental_pca_is_one_pca():
    random = np.random.RandomState(0)
    data = (random.randn(90, 6) * [9, 5, 3, 1, 0.5, 0.1]) @ random.randn(6, 300) + 5 * random.randn(300)
    found = None
    for part in np.split(data, [40, 41, 60]):
        found = ganspace.update(found, part, 8)
    values, vectors = np.linalg.eigh(np.cov(data.T))
    assert found.seen == 90
    np.testing.assert_allclose(found.mean, data.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.stddev, np.sqrt(values[::-1][: len(found.stddev)]), rtol=1e-3, atol=1e-3)
    assert found.total == pytest.approx(values.sum(), rel=1e-5)
    np.testing.assert_allclose(np.abs(found.rows[:6] @ vectors[:, ::-1][:, :6]), np.eye(6), atol=2e-3)
    np.testing.assert_allclose(found.rows[:6] @ found.rows[:6].T, np.eye(6), atol=1e-3)


def test_axes_of_activations_are_the_axes_of_w_that_make_them():
    # sigma times gain of coordinates 0, 2, 1: 4.8, 1.4, 0.1 after block 2.
    G = linear()
    found = ganspace.from_activations(G, 2, 3, "0-2", num_samples=1000, batch=250, extra=2)
    for index, coordinate in enumerate((0, 2, 1)):
        d, axis = found[index], np.asarray(G.params["axes"][coordinate])
        assert abs(float(np.asarray(d.vector) @ axis)) > 0.98
        assert float(d.scale) == pytest.approx(scenes.SIGMAS[coordinate], rel=0.05)
        assert float(d.statistics["r2"]) == pytest.approx(1, abs=1e-3)
        assert np.asarray(d.vector)[np.abs(d.vector).argmax()] > 0
        np.testing.assert_array_equal(d.layer_weights, [1, 1, 1, 0])
    variances = np.square([4.8, 1.4, 0.1])
    assert float(found[0].statistics["share"]) == pytest.approx(variances[0] / variances.sum(), rel=0.05)


def test_same_seed_same_directions_and_progress():
    told = []
    first = ganspace.from_activations(linear(), 0, 1, num_samples=30, batch=20, progress=lambda *at: told.append(at))
    assert told == [(20, 60), (30, 60), (50, 60), (60, 60)]
    again = ganspace.from_activations(linear(), 0, 1, num_samples=30, batch=20)
    assert record(first[0]) == record(again[0])


def test_principal_axes_of_w_are_the_strongest_factors():
    found = ganspace.from_w(scenes.generator(), 3, "0-1")
    assert [record(d) for d in found] == [record(w_pca(scenes.generator(), i, "0-1")) for i in range(3)]
    for d, name in zip(found, ("hue", "position", "size"), strict=True):
        assert abs(float(d.vector @ scenes.axis(name))) > 0.98


def test_bad_requests_are_refused():
    G = linear()
    with pytest.raises(ConfigError, match="block 4: those of scenes-0 are 0 to 3"):
        ganspace.from_activations(G, 4, 1)
    with pytest.raises(ConfigError, match="more samples"):
        ganspace.from_activations(G, 0, 30, num_samples=20)
    with pytest.raises(DirectionError, match="vary along 1 components only"):
        ganspace.from_activations(G, 0, 3, num_samples=20, batch=20)
    with pytest.raises(DirectionError, match="pca0 to pca15"):
        ganspace.from_w(tiny.generator(), 17)
