"""SeFa against explicit stacked weights, which style reads which row, and what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scenes
import tiny

from lsap_jax.edit import sefa
from lsap_jax.edit.directions import apply_direction
from lsap_jax.errors import DirectionError

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("module_cache")]


def stacked(G, rows):
    """(channels, w_dim) of the tiny StyleGAN2 by the names of its weights: convolutions, then the last toRGB."""
    layers = [layer for layer in G.arch.layers if layer.name != "torgb"] + [G.arch.layers[-1]]
    return np.concatenate(
        [
            np.asarray(G.params["synthesis"][block][name]["affine"]["weight"]).T
            for block, name, row in layers
            if row in rows
        ]
    )


@pytest.mark.parametrize(("layers", "rows"), [(None, range(8)), ("0-2", (0, 1, 2)), ("5,7", (5, 7))])
def test_weights_are_those_that_read_the_rows(layers, rows):
    G = tiny.generator()
    found, explicit = sefa.style_weights(G, layers), stacked(G, rows)
    gain = np.sqrt(
        np.square(found).sum() / np.square(explicit).sum()
    )  # equalised weights are scaled when they are used
    np.testing.assert_allclose(found, gain * explicit, rtol=1e-5, atol=1e-5)


def test_directions_are_the_eigenvectors():
    G = tiny.generator()
    weights = stacked(G, (0, 1, 2)).astype(np.float64)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(weights.T @ weights)
    found = sefa.sefa(G, 3, "0-2")
    for index, d in enumerate(found):
        expected = vectors[:, -1 - index]
        np.testing.assert_allclose(d.vector, expected * np.sign(expected[np.abs(expected).argmax()]), atol=1e-5)
        assert float(d.statistics["eigenvalue"]) == pytest.approx(values[-1 - index], rel=1e-5)
        assert float(d.statistics["share"]) == pytest.approx(values[-1 - index] / len(weights), rel=1e-5)
        assert (d.name, d.unit, d.fingerprint) == (f"sefa{index}", "sigma", G.fingerprint)
        np.testing.assert_array_equal(d.layer_weights, [1, 1, 1, 0, 0, 0, 0, 0])


def test_rows_of_unit_length_and_zeros():
    weights = np.array([[100.0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 0]])
    values, vectors = sefa.factorise(weights)
    np.testing.assert_allclose(values, [2, 1, 0])
    np.testing.assert_allclose(vectors[:2], [[0, 1, 0], [1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(sefa.factorise(weights, normalise=False)[0], [10000, 5, 0])


def test_a_generator_of_another_family():
    G = scenes.generator()
    assert sefa.style_weights(G, "1").shape == (16, 16)
    np.testing.assert_allclose(sefa.style_weights(G, "1"), G.params["axes"], atol=1e-6)
    moved = apply_direction(jnp.zeros((1, 4, 16)), sefa.sefa(G, 1, "1")[0], 1.0)[0]
    assert np.abs(moved[1]).max() > 0
    assert not np.asarray(moved)[[0, 2, 3]].any()


def test_bad_requests_are_refused():
    G = tiny.generator()
    with pytest.raises(DirectionError, match="layers of tiny-0 are 0 to 7"):
        sefa.sefa(G, 1, "8")
    with pytest.raises(DirectionError, match="1 to 16"):
        sefa.sefa(G, 17)

    @dataclasses.dataclass(frozen=True)
    class Curved(scenes.Scenes):
        def styles(self, params, ws):
            return tuple(jnp.square(ws[:, l]) for l in range(4))

    @dataclasses.dataclass(frozen=True)
    class Deaf(scenes.Scenes):
        def styles(self, params, ws):
            return (ws[:, 0],)

    with pytest.raises(DirectionError, match="not affine"):
        sefa.style_weights(dataclasses.replace(scenes.generator(), arch=Curved()))
    with pytest.raises(DirectionError, match=r"no style .* reads layers \[2\]"):
        sefa.style_weights(dataclasses.replace(scenes.generator(), arch=Deaf()), "2")
