import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from lsap_jax.edit import directions, navigator
from lsap_jax.edit.navigator import Navigator
from lsap_jax.errors import ConfigError, DirectionError
from lsap_jax.generators.base import Generator

SIZES = {"num_ws": 4, "w_dim": 16, "count": 3, "att_layers": 4, "smoothing": 0, "axes": 6}


def navigate(key=0, **fields):
    """A navigator with parameters and an orthonormal basis of 16 rows."""
    nav = Navigator(**{**SIZES, **fields})
    basis = jnp.asarray(np.linalg.qr(np.random.RandomState(1).randn(16, 16))[0].T, jnp.float32)
    rows = nav.count if nav.direction in ("pca", "sefa") else nav.axes
    return nav, navigator.init(nav, jax.random.key(key)), basis[:rows]


def some_codes(count=2, seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(count, 4, 16), jnp.float32)


@pytest.mark.fast
@pytest.mark.parametrize("variant", ["none", "fixed", "fixedT", "ada1w", "adaALLw"])
def test_attention_adds_up_to_one_over_the_first_layers(variant):
    nav, params, _ = navigate(attention=variant, att_layers=3, temperature=0.3)
    weights = navigator.attention(nav, params, some_codes())
    assert weights.shape == (2, 3, 4)
    assert (weights[..., 3] == 0).all()
    assert (weights[..., :3] > 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    if variant.startswith("ada"):
        assert jnp.abs(weights[0] - weights[1]).max() > 1e-3
    else:
        np.testing.assert_array_equal(weights[0], weights[1])


@pytest.mark.fast
def test_temperature_and_interval_are_the_papers():
    nav, params, _ = navigate(attention="fixedT", temperature=0.5)
    logits = np.asarray(params["attention"]["logits"], np.float64)
    expected = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)
    np.testing.assert_allclose(navigator.attention(nav, params, some_codes())[0], expected, rtol=1e-5)
    nav, params, _ = navigate(attention="fixedCM")
    rise, fall = (np.exp(np.asarray(params["attention"][name], np.float64)) for name in ("rise", "fall"))
    rise, fall = (np.cumsum(x / x.sum(1, keepdims=True), axis=1) for x in (rise, fall))
    np.testing.assert_allclose(navigator.attention(nav, params, some_codes())[0], rise * (1 - fall), atol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("variant", ["fixed", "ada1w"])
def test_smoothing_is_a_reflected_gaussian(variant):
    plain, params, _ = navigate(attention=variant)
    smooth, _, _ = navigate(attention=variant, smoothing=3, smoothing_std=1.0)
    sharp = np.asarray(navigator.attention(plain, params, some_codes()), np.float64)
    kernel = np.exp([-0.5, 0, -0.5]) / np.exp([-0.5, 0, -0.5]).sum()
    padded = np.concatenate([sharp[..., 1:2], sharp, sharp[..., -2:-1]], -1)  # reflected without the end itself
    expected = np.stack([(padded[..., i : i + 3] * kernel).sum(-1) for i in range(4)], -1)
    np.testing.assert_allclose(navigator.attention(smooth, params, some_codes()), expected, atol=1e-6)
    shorter, params, _ = navigate(attention=variant, smoothing=3, att_layers=3)
    assert (navigator.attention(shorter, params, some_codes())[..., 3] == 0).all()


@pytest.mark.fast
@pytest.mark.parametrize("variant", navigator.DIRECTIONS)
def test_directions_have_unit_second_moment_and_lie_where_they_may(variant):
    groups = ((1, 0, 2), (2, 2, 6))
    nav, params, basis = navigate(direction=variant, groups=groups)
    ws = some_codes()
    found = navigator.vectors(nav, params, basis, ws)
    assert found.shape == (2, 3, 16)
    np.testing.assert_allclose(jnp.square(found).sum(-1), 16, rtol=1e-4)
    assert nav.depends_on_code == variant.startswith("ada")
    assert (jnp.abs(found[0] - found[1]).max() > 1e-3) == variant.startswith("ada")
    inside = jnp.einsum("bnd,md->bnm", found, basis)
    if "E" in variant:
        np.testing.assert_allclose(jnp.square(inside).sum(-1), 16, rtol=1e-4)
    if variant == "fixedES":
        assert jnp.abs(inside[:, 0, 2:]).max() < 1e-5
        assert jnp.abs(inside[:, 1:, :2]).max() < 1e-5
    if variant in ("pca", "sefa"):
        assert "direction" not in params
        np.testing.assert_allclose(found[0], 4 * basis, atol=1e-4)
    whole = navigator.apply(nav, params, basis, ws)
    expected = navigator.attention(nav, params, ws)[..., None] * found[:, :, None]
    np.testing.assert_array_equal(whole, expected)


def test_frozen_rows_come_from_the_generator(own_cache):
    G = scenes.generator()
    axes = navigator.frozen_basis(Navigator(**SIZES), G)
    assert axes.shape == (6, 16)
    strongest = jnp.abs(axes[0] @ scenes.axis("hue"))
    assert strongest > 0.99
    first = navigator.frozen_basis(Navigator(**{**SIZES, "direction": "pca"}), G)
    np.testing.assert_array_equal(first, axes[:3])
    given = jnp.eye(16)[:5]
    kept = navigator.frozen_basis(Navigator(**{**SIZES, "direction": "sefa"}), G, given)
    np.testing.assert_array_equal(kept, given[:3])
    with pytest.raises(ConfigError, match="needs"):
        navigator.frozen_basis(Navigator(**{**SIZES, "direction": "sefa"}), G)
    assert navigator.frozen_basis(Navigator(**{**SIZES, "direction": "fixed"}), G).shape == (0, 16)


def test_records_of_the_bank_edit_as_the_navigator_does(own_cache, tmp_path):
    G = scenes.generator()
    nav, params, basis = navigate(smoothing=3)
    bank = navigator.to_directions(nav, params, basis, G, origin="a test")
    ws = scenes.codes(2)
    for index, d in enumerate(bank):
        assert d.unit == "sigma"
        assert d.fingerprint == G.fingerprint
        np.testing.assert_allclose(jnp.linalg.norm(d.vector), 1, rtol=1e-5)
        np.testing.assert_allclose(d.layer_weights.max(), 1, rtol=1e-6)
        assert d.vector[jnp.abs(d.vector).argmax()] > 0
        sigma = jnp.std(G.map(jax.random.normal(jax.random.key(0), (4000, 16))) @ d.vector)
        np.testing.assert_allclose(d.scale, sigma, rtol=0.05)
        walked = navigator.walk(nav, params, basis, ws, index, 0.3) - ws
        edited = directions.apply_direction(ws, d, 0.3 * d.statistics["walk"]) - ws
        sign = jnp.sign((walked * edited).sum())
        np.testing.assert_allclose(edited * sign, walked, atol=2e-5)
    directions.save_bank(tmp_path / "bank.npz", bank)
    assert [d.name for d in directions.load_bank(tmp_path / "bank.npz", G)] == [f"contrafeat{i}" for i in range(3)]
    other: Generator = scenes.generator(1)
    with pytest.raises(DirectionError, match="found in generator"):
        directions.load_bank(tmp_path / "bank.npz", other)


@pytest.mark.fast
def test_a_walk_asks_again_at_every_step():
    nav, params, basis = navigate(attention="adaALLw", direction="ada1wE")
    ws = some_codes()
    half = ws + 0.5 * navigator.apply(nav, params, basis, ws)[:, 1]
    expected = half + 0.5 * navigator.apply(nav, params, basis, half)[:, 1]
    np.testing.assert_allclose(navigator.walk(nav, params, basis, ws, 1, 1.0, steps=2), expected, atol=1e-6)
    assert jnp.abs(expected - navigator.walk(nav, params, basis, ws, 1, 1.0)).max() > 1e-3
    with pytest.raises(ConfigError, match="depend on the code"):
        navigator.to_directions(nav, params, basis, scenes.generator())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "sharp"}, "attention 'sharp'"),
        ({"direction": "free"}, "direction 'free'"),
        ({"att_layers": 5}, "att_layers 5"),
        ({"count": 0}, "count 0"),
        ({"smoothing": 2}, "smoothing 2"),
        ({"smoothing": 9}, "smoothing 9"),
        ({"axes": 17}, "axes 17"),
        ({"direction": "fixedES", "groups": ((2, 0, 6),)}, "groups"),
        ({"direction": "fixedES", "groups": ((3, 4, 9),)}, "groups"),
    ],
)
def test_impossible_navigators_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Navigator(**{**SIZES, **fields})
