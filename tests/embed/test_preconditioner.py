"""The coordinates that Adam works in: a linear map and its transpose, fitted to the curvature of the loss."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.embed import optimize, preconditioner
from lsap_jax.embed.optimize import Method, Stage
from lsap_jax.embed.preconditioner import Preconditioner
from lsap_jax.errors import ConfigError
from lsap_jax.networks import lpips
from lsap_jax.pretrained import load_generator

STAGE = Stage(12, (("l2", 1.0),), learning_rate=0.1, b1=0.7, b2=0.8, preconditioned=True)
METHOD = Method("w+", (STAGE,), resolution=16)


def some(num_ws=3, w_dim=8, count=3, seed=0):
    random = np.random.RandomState(seed)
    roots = random.randn(num_ws, w_dim, w_dim) * np.logspace(0, -2, w_dim)
    tree = preconditioner.decompose(jnp.asarray(np.einsum("lij,lkj->lik", roots, roots), jnp.float32), count)
    return preconditioner._unpacked(tree)


def dense(P: Preconditioner, row: int) -> np.ndarray:
    """What the map of one row does to a code when a gradient goes through it and back, as a matrix."""
    eye = np.zeros((P.axes.shape[2], *P.axes.shape[::2]), np.float32)
    eye[:, row] = np.eye(P.axes.shape[2])
    return np.asarray(jax.vmap(lambda g: P.code(P.coordinates(g)))(eye))[:, row]


@pytest.mark.fast
def test_coordinates_are_the_transpose_of_code():
    P = some()
    u = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), P.coordinates(jnp.ones((3, 8))))
    g = jax.random.normal(jax.random.key(1), (3, 8))
    (pulled,) = jax.linear_transpose(P.code, u)(g)
    jax.tree.map(lambda a, b: golden.assert_close(a, b, 1e-5), pulled, P.coordinates(g))


@pytest.mark.fast
def test_steep_axes_have_reach_and_flat_ones_little():
    """The map there and back is V h / (h + d) V^T, of the eigenvalues in units of their mean, `rest` averaged."""
    random = np.random.RandomState(3)
    basis = np.linalg.qr(random.randn(2, 6, 6))[0]
    h = np.array([[5, 2, 1, 0.2, 0.2, 0.2], [9, 1, 0.5, 1e-3, 1e-3, 1e-3]])
    matrix = np.einsum("lik,lk,ljk->lij", basis, h, basis)
    P = preconditioner._unpacked(preconditioner.decompose(jnp.asarray(matrix, jnp.float32), 3))
    h = h / h.mean()
    want = np.einsum("lik,lk,ljk->lij", basis, h / (h + preconditioner.DAMPING), basis)
    for row in range(2):
        np.testing.assert_allclose(dense(P, row), want[row], atol=1e-5)
    assert ((P.reach > 0) & (P.reach <= 1)).all()


@pytest.mark.fast
def test_all_axes_of_reach_one_change_nothing_but_the_basis():
    """With the axes of W+ itself and reach 1 a preconditioned stage is plain Adam."""
    G = tiny.shallow()
    same = Preconditioner(jnp.tile(jnp.eye(8)[None, :7], (3, 1, 1)), jnp.ones((3, 7)), jnp.ones(3))
    photos = tiny.photos(G, 2)
    plain = dataclasses.replace(METHOD, stages=(dataclasses.replace(STAGE, preconditioned=False),))
    golden.assert_close(optimize.run(METHOD, G, photos, P=same).ws, optimize.run(plain, G, photos).ws, 1e-5)
    assert float(jnp.abs(optimize.run(METHOD, G, photos, P=some()).ws - optimize.run(plain, G, photos).ws).max()) > 0.01


@pytest.mark.fast
def test_a_batch_equals_the_single_runs_and_stages_follow():
    G, P = tiny.shallow(), some()
    photos = tiny.photos(G, 3)
    method = dataclasses.replace(METHOD, stages=(Stage(3, (("l2", 1.0),)), STAGE))
    together = optimize.run(method, G, photos, P=P)
    assert together.history["loss"].shape == (15, 3)
    for i in range(3):
        alone = optimize.run(method, G, photos[i : i + 1], P=P)
        golden.assert_close(together.ws[i : i + 1], alone.ws, 1e-5)
    golden.assert_close(optimize.run(method, G, photos, P=P, steps_per_call=5).ws, together.ws, 1e-5)


@pytest.mark.fast
def test_it_is_refused_where_it_cannot_be():
    with pytest.raises(ConfigError, match=r"space='w\+'"):
        Method("w", (STAGE,))
    with pytest.raises(ConfigError, match="optimises the code"):
        Method("w+", (dataclasses.replace(STAGE, variables=("noise",)),), noise="random")
    with pytest.raises(ConfigError, match=r"preconditioner.fit\(G\)"):
        optimize.enter(STAGE, {"code": jnp.zeros((3, 8)), "noise": ()})


@pytest.mark.weights("lpips-vgg")
def test_features_are_the_loss():
    judge = lpips.load("vgg")
    a, b = jax.random.uniform(jax.random.key(0), (2, 1, 40, 40, 3), minval=-1)
    squares = [
        jnp.square(x - y).sum() for x, y in zip(*(preconditioner.features(judge, x) for x in (a, b)), strict=True)
    ]
    want = judge(a, b)[0] + 0.5 * jnp.square(a - b).mean()
    np.testing.assert_allclose(sum(squares), want, rtol=1e-4)


@pytest.mark.weights("lpips-vgg")
def test_probes_find_the_gauss_newton_matrix():
    """At one code, the average over probes is f'^T f' of the exact Jacobian."""
    G, judge = tiny.shallow(), lpips.load("vgg")
    code = jnp.broadcast_to(G.w_avg, (3, 8)) + 0.1
    total = jnp.zeros((3, 8, 8))
    for i in range(100):
        total = preconditioner._add_probe(total, G, judge, code, jax.random.key(i))

    @jax.jit
    def column(direction):
        def flat(code):
            small = G.synthesize(code[None])
            return jnp.concatenate([f.ravel() for f in preconditioner.features(judge, small)])

        return jax.jvp(flat, (code,), (direction,))[1]

    columns = jnp.stack([column(d) for d in jnp.eye(24).reshape(24, 3, 8)]).reshape(3, 8, -1)
    exact = jnp.einsum("lif,ljf->lij", columns, columns)
    assert float(jnp.linalg.norm(total / 100 - exact) / jnp.linalg.norm(exact)) < 0.3


@pytest.mark.weights("lpips-vgg")
def test_a_generator_of_ones_own_is_fitted_once(own_cache):
    G = tiny.shallow()
    first = preconditioner.fit(G, num_probes=6)
    (kept,) = (own_cache / "statistics").glob("*-preconditioner-6-0.npz")
    written = kept.stat().st_mtime_ns
    again = preconditioner.fit(G, num_probes=6)
    assert kept.stat().st_mtime_ns == written
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = preconditioner.fit(tiny.shallow(1), num_probes=6)
    assert not np.array_equal(first.axes, other.axes)


@pytest.mark.fast
def test_files_belong_to_one_generator(tmp_path):
    G = tiny.shallow()
    tree = preconditioner.decompose(jnp.asarray(np.eye(8, dtype=np.float32) * np.arange(1, 4).reshape(3, 1, 1)), 4)
    preconditioner.save(tmp_path / "p.npz", G, jax.device_get(tree), {"command": "none"})
    golden.assert_close(preconditioner.read(tmp_path / "p.npz", G).reach, preconditioner._unpacked(tree).reach, 1e-6)
    for other in (tiny.shallow(1), tiny.generator()):
        assert preconditioner.read(tmp_path / "p.npz", other) is None


@pytest.mark.weights("ffhq-mobile")
def test_the_shipped_one():
    P = preconditioner.read(preconditioner.SHIPPED, load_generator("ffhq-mobile"))
    assert P.axes.shape == (16, 64, 512)
    products = np.einsum("lkw,ljw->lkj", P.axes, P.axes)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(64), products.shape), atol=2e-3)
    assert (np.diff(P.reach, axis=1) <= 0).all()
    assert (P.rest <= P.reach[:, -1]).all()
