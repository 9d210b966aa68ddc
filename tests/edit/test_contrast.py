import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from lsap_jax.checkpoints import store
from lsap_jax.edit import contrast, contrast_training, duplicates, navigator
from lsap_jax.edit.contrast import Config
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import CheckpointError, ConfigError, DirectionError
from lsap_jax.metrics import disentanglement
from lsap_jax.networks import alexnet

SWITCHES = [
    {"mask": mask, "mask_after_square": after, "absolute": absolute, "mask_over_depth": depth}
    for mask, after, absolute, depth in itertools.product(
        ("product", "union", "none"), (False, True), (False, True), (False, True)
    )
]
# A small run on the scenes.
SMALL = {"resolution": 32, "count": 3, "att_layers": 4, "smoothing": 0, "axes": 8, "batch": 4}


def coarse(images):
    """A sensor of two layers: pixels, and means over 4 x 4 of them."""
    return images, images.reshape(images.shape[0], 8, 4, 8, 4, 3).mean((2, 4))


SENSOR = jax.tree_util.Partial(coarse)


def _numpy_cosine(a, b):
    return (a * b).sum(-1) / np.maximum(np.sqrt((a * a).sum(-1) * (b * b).sum(-1)), 1e-16)


def _numpy_masks(config, layers):
    """Min-max normalised lengths of one sample's changes, layer by layer."""
    lengths = [np.sqrt((layer * layer).sum(-1)) for layer in layers]
    low, high = [x.min() for x in lengths], [x.max() for x in lengths]
    if config.mask_over_depth:
        low, high = [min(low)] * len(low), [max(high)] * len(high)
    return [(x - a) / (b - a + 1e-6) for x, a, b in zip(lengths, low, high, strict=True)]


def _numpy_likeness(config, layers_a, layers_b):
    """The similarity of two changes of one sample, summed over layers, as the paper's code has it."""
    total = 0.0
    masks = zip(_numpy_masks(config, layers_a), _numpy_masks(config, layers_b), strict=True)
    for a, b, (mask_a, mask_b) in zip(layers_a, layers_b, masks, strict=True):
        c = _numpy_cosine(a, b)
        power = np.abs if config.absolute else np.square
        mask = mask_a * mask_b if config.mask == "product" else mask_a + mask_b
        if config.mask == "none":
            total += power(c).mean()
        elif config.mask_after_square:
            total += (power(c) * mask).sum() / (mask.sum() + 1e-6)
        else:
            total += power(c * mask).sum() / (mask.sum() + 1e-6)
    return total


def _layers(seed, batch):
    random = np.random.RandomState(seed)
    return [random.randn(batch, 6, 6, 5).astype(np.float32), random.randn(batch, 3, 3, 7).astype(np.float32) * 2]


@pytest.mark.fast
def test_likeness_under_every_switch():
    for switches in SWITCHES:
        config = Config(**switches)
        a, b = _layers(0, 2), _layers(1, 2)
        found = sum(
            contrast.masked_likeness(config, contrast.cosine(x, y), m, n)
            for x, y, m, n in zip(a, b, contrast.focus(config, a), contrast.focus(config, b), strict=True)
        )
        one = [_numpy_likeness(config, [x[i] for x in a], [x[i] for x in b]) for i in range(2)]
        np.testing.assert_allclose(found, one, rtol=2e-5, err_msg=str(switches))
        turned = [-x for x in a]
        blind = sum(
            contrast.masked_likeness(config, contrast.cosine(x, y), m, n)
            for x, y, m, n in zip(turned, b, contrast.focus(config, turned), contrast.focus(config, b), strict=True)
        )
        np.testing.assert_allclose(blind, found, rtol=1e-6)


def _prepared(config):
    G = scenes.generator()
    nav = config.navigator(G)
    params = navigator.init(nav, jax.random.key(1))
    ws = scenes.codes(config.batch)
    basis = jnp.eye(16)[: nav.axes]
    return G, ws, navigator.apply(nav, params, basis, ws)


def test_the_binary_loss_is_the_papers():
    config = Config(**SMALL, var_scale=0.5)
    G, ws, steps = _prepared(config)
    key = jax.random.key(3)
    found = contrast.binary(config, G, SENSOR, ws, steps, SENSOR(G.synthesize(ws)), key)
    # The draws, written out; the rest is the formula, pair by pair.
    key_which, key_walk = jax.random.split(key)
    first = jax.random.randint(key_which, (2,), 0, 3)
    second = (first + jax.random.randint(jax.random.fold_in(key_which, 1), (2,), 1, 3)) % 3
    same, other = 0.5 * jax.random.uniform(key_walk, (2, 2, 1, 1), minval=-1.0)
    assert (first != second).all()

    def change(code, step):
        pair = G.synthesize(jnp.stack([code + step, code]))
        return [np.asarray(f[0] - f[1], np.float64) for f in coarse(pair)]

    for i in range(2):
        query = change(ws[i], same[i] * steps[i, first[i]])
        alike = change(ws[2 + i], same[i] * steps[2 + i, first[i]])
        unlike = change(ws[2 + i], other[i] * steps[2 + i, second[i]])
        np.testing.assert_allclose(found.positive[i], _numpy_likeness(config, query, alike), rtol=1e-3)
        np.testing.assert_allclose(found.negative[i], _numpy_likeness(config, query, unlike), rtol=1e-3, atol=1e-5)


def test_the_prototype_loss_is_the_papers():
    config = Config(**SMALL, variant="pt", mirror=False)
    G, ws, steps = _prepared(config)
    prototypes = jax.random.normal(jax.random.key(5), (3, 16, 16, 3))
    key = jax.random.key(3)
    sensor = jax.tree_util.Partial(lambda x: (x, 2 * x[:, ::2, ::2]))  # any side, so the patterns have to be resized
    found = contrast.prototypical(config, G, sensor, ws, steps, prototypes, key)
    key_which, key_walk, _ = jax.random.split(key, 3)
    which = jax.random.randint(key_which, (4,), 0, 3)
    s = jax.random.uniform(key_walk, (4, 1, 1), minval=-1.0)
    patterns = [
        np.asarray(jax.image.resize(p, (3, side, side, 3), "linear"), np.float64)
        for p, side in zip(sensor(jnp.tanh(prototypes)), (32, 16), strict=True)
    ]
    for i in range(4):
        step = s[i] * steps[i, which[i]]
        pair = G.synthesize(jnp.stack([ws[i] + 0.5 * step, ws[i] - 0.5 * step]))
        query = [np.asarray(f[0] - f[1], np.float64) for f in sensor(pair)]
        each = [_numpy_likeness(config, query, [p[j] for p in patterns]) for j in range(3)]
        np.testing.assert_allclose(found.positive[i], each[which[i]], rtol=1e-3)
        rest = [x for j, x in enumerate(each) if j != which[i]]
        np.testing.assert_allclose(found.negative[i], np.mean(rest), rtol=1e-3)


@pytest.mark.fast
def test_diversity_is_the_sum_of_squared_cosines():
    steps = np.random.RandomState(0).randn(2, 3, 4, 5).astype(np.float32)
    flat = steps.reshape(2, 3, 20)
    expected = [
        sum(
            (a @ b / np.linalg.norm(a) / np.linalg.norm(b)) ** 2
            for (i, a), (j, b) in itertools.product(enumerate(one), enumerate(one))
            if i != j
        )
        for one in flat
    ]
    np.testing.assert_allclose(contrast.between_directions(jnp.asarray(steps)), expected, rtol=1e-5)
    alike = jnp.broadcast_to(jnp.asarray(steps[:1, :1]), (1, 3, 4, 5))
    np.testing.assert_allclose(contrast.between_directions(alike), [6.0], rtol=1e-5)


@pytest.mark.fast
def test_codes_are_mixed_from_even_stretches():
    G = scenes.generator()
    ws = contrast.sample_codes(G, jax.random.key(0), 3, mixing=2)
    assert ws.shape == (3, 4, 16)
    np.testing.assert_array_equal(ws[:, 0], ws[:, 1])
    np.testing.assert_array_equal(ws[:, 2], ws[:, 3])
    assert (ws[:, 1] != ws[:, 2]).any(-1).all()
    same = contrast.sample_codes(G, jax.random.key(0), 3, mixing=1)
    np.testing.assert_array_equal(same[:, 0], same[:, 3])


@pytest.mark.fast
def test_what_does_not_change_has_a_finite_gradient():
    config = Config()

    def likeness(x):
        mask = contrast.focus(config, [x])[0]
        return contrast.masked_likeness(config, contrast.cosine(x, x), mask, mask).sum()

    gradient = jax.grad(likeness)(jnp.zeros((1, 3, 3, 2)))
    np.testing.assert_array_equal(gradient, 0)


def test_prototypes_learn_and_are_pictures(own_cache):
    config = Config(**SMALL, variant="pt", prototype_diversity=0.1)
    G = scenes.generator()
    basis = navigator.frozen_basis(config.navigator(G), G)
    state = contrast.init(config, G)
    before = contrast.pictures(state.params)
    assert before.shape == (3, 32, 32, 3)
    assert jnp.abs(before).max() < 0.1
    state, terms = jax.jit(functools.partial(contrast.step, config))(G, SENSOR, basis, state)
    after = contrast.pictures(state.params)
    assert np.isfinite(list(jax.device_get(terms).values())).all()
    assert jnp.abs(after - before).max() > 0.01
    assert jnp.abs(after).max() <= 1
    with pytest.raises(ConfigError, match="no prototypes"):
        contrast.pictures(contrast.init(Config(**SMALL), G).params)


def test_a_resumed_run_is_a_straight_run(own_cache, tmp_path):
    G = scenes.generator()
    config = Config(**SMALL, steps=4)
    run = functools.partial(contrast_training.train, G, sensor=SENSOR, every=2)
    told = []
    straight = run(config, tmp_path / "a", progress=lambda *report: told.append(report))
    assert [step for step, _, _ in told] == [2, 4]
    run(Config(**SMALL, steps=3), tmp_path / "b")
    resumed = run(config, tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, straight.state, resumed.state)
    assert [entry["step"] for entry in resumed.history] == [2, 3, 4]
    loaded = contrast_training.load(tmp_path / "b", G)
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, straight.state, loaded.state)
    bank = loaded.directions(G)
    assert len(bank) == 3
    assert "4 steps" in bank[0].origin
    with pytest.raises(ConfigError, match="another config"):
        run(Config(**SMALL, steps=4, seed=1), tmp_path / "b")
    sensor = jax.tree_util.Partial(coarse, jnp.ones(1))
    with pytest.raises(ConfigError, match="sensor"):
        contrast_training.train(G, config, tmp_path / "b", sensor=sensor)
    with pytest.raises(DirectionError, match="trained on"):
        contrast_training.load(tmp_path / "b", scenes.generator(1))
    file = tmp_path / "b" / contrast_training.FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="readable"):
        contrast_training.load(tmp_path / "b", G)
    store.save(file, {}, {"kind": "something"})
    with pytest.raises(CheckpointError, match="not a run"):
        contrast_training.load(tmp_path / "b", G)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "xx"}, "variant"),
        ({"mask": "half"}, "mask"),
        ({"batch": 3}, "batch 3"),
        ({"count": 1}, "count 1"),
        ({"mixing": 0}, "mixing 0"),
    ],
)
def test_impossible_runs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)


@pytest.mark.weights("lpips-alex")
def test_the_sensor_is_alexnet_without_normalisation():
    images = jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (1, 64, 64, 3)), jnp.float32)
    sensor = contrast.alexnet_sensor()
    layers = sensor(images)
    assert [layer.shape[-1] for layer in layers] == [64, 192, 384, 256, 256]
    np.testing.assert_array_equal(layers[0], alexnet.features(sensor.args[0], images)[0])


def _direction(name, *factors, sign=1.0):
    vector = sign * sum(scenes.axis(factor) for factor in factors)
    return Direction(name, vector, None, 1.0, "w", "w", scenes.generator().fingerprint, "", {})


def test_duplicates_are_told_by_what_they_do():
    nothing = scenes.generator().params["axes"][10]
    bank = [_direction("hue", "hue"), _direction("size", "size"), _direction("-hue", "hue", sign=-1.0)]
    bank += [bank[1].replace(name="size and nothing", vector=bank[1].vector + nothing), _direction("bar", "length")]
    bank[1] = bank[1].replace(layer_weights=jnp.asarray([0.0, 1.0]))
    changes = duplicates.portraits(scenes.generator(), bank, SENSOR, samples=32, batch=16, resolution=32)
    assert [layer.shape for layer in changes] == [(5, 32, 32, 3), (5, 8, 8, 3)]
    alike = duplicates.likeness(changes)
    np.testing.assert_allclose(np.diag(alike), 1, rtol=1e-4)
    np.testing.assert_allclose(alike, alike.T, rtol=1e-4)
    assert alike[0, 2] > 0.99
    assert alike[1, 3] > 0.99
    assert duplicates.distinct(alike) == [0, 1, 4]
    assert duplicates.distinct(alike, threshold=1.1) == [0, 1, 2, 3, 4]
    with pytest.raises(DirectionError, match="0 directions"):
        duplicates.portraits(scenes.generator(), [], SENSOR)


def test_all_known_factors_are_found_on_most_seeds(own_cache):
    """Twelve directions, 200 steps of 16 codes: S_Div is 5, the number of factors."""
    G = scenes.generator()
    config = Config(resolution=32, count=12, att_layers=4, smoothing=0, axes=8, batch=16)
    nav = config.navigator(G)
    basis = navigator.frozen_basis(nav, G)
    update = jax.jit(functools.partial(contrast.step, config))
    ws = scenes.codes(64, seed=3)
    spans = jnp.asarray(scenes.HIGH) - jnp.asarray(scenes.LOW)

    @jax.jit
    def response(params):
        steps = 0.25 * navigator.apply(nav, params, basis, ws[:1])[0]
        up, down = (jax.vmap(lambda step, t=t: scenes.factors(ws + t * step[None]))(steps) for t in (1, -1))
        return jnp.abs((up - down).mean(1)) / spans[None]

    found, before = [], []
    for seed in range(5):
        state = contrast.init(dataclasses.replace(config, seed=seed), G)
        before.append(disentanglement.s_disen(response(state.params["navigator"])))
        for _ in range(200):
            state, _ = update(G, SENSOR, basis, state)
        matrix = response(state.params["navigator"])
        found.append((disentanglement.s_div(matrix), disentanglement.s_disen(matrix)))
    counts = [count for count, _ in found]
    assert counts.count(5) >= 4, found
    assert min(counts) >= 4, found
    assert min(purity for _, purity in found) > 0.85, found
    assert max(before) < 0.7, before
