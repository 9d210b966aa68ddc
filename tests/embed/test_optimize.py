"""The engine: parity with StyleGAN2's projector, and the promises of `optimize.run`."""

import dataclasses
import logging

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax import objectives
from lsap_jax.checkpoints import convert_stylegan2
from lsap_jax.embed import optimize, presets
from lsap_jax.embed.optimize import Method, Stage
from lsap_jax.errors import ConfigError
from lsap_jax.latent import alignment

STAGE = Stage(6, (("l2", 1.0), ("delta", 1e-4)), learning_rate=0.1, jitter=0.05)
METHOD = Method("w+", (STAGE,), resolution=16)
NOISY = Method("w+", (Stage(6, (("l2", 1.0), ("noise", 10.0)), ("code", "noise")),), noise="random")


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("space", ["w", "w+"])
def test_six_steps_of_the_projector_are_the_references(space):
    want = golden.expected("a_projector64")
    G = convert_stylegan2.generator_from_checkpoint(
        {"g_ema": golden.state_dict("a_gen64"), "latent_avg": golden.normal("input:latent_mean", (512,), 0.3)}, "golden"
    )
    method = presets.preset(f"projector-{space}", steps=6)
    stage = dataclasses.replace(method.stages[0], terms=(("l2", 1.0), ("noise", 1e5)))
    noise = tuple(
        jnp.asarray(golden.normal(f"input:noise_explicit_{i}", (1, 1, *s))[0, 0])
        for i, s in enumerate(G.arch.noise_shapes)
    )
    code = G.w_avg if space == "w" else jnp.broadcast_to(G.w_avg, (10, 512))
    state = optimize.enter(stage, {"code": code, "noise": noise})
    judges = objectives.Judges()
    target = objectives.targets(stage.terms, judges, jnp.asarray(golden.to_float(want["in_x_u8"])[0]), 64)
    step = jax.jit(lambda state, jitter: optimize.update(method, stage, G, judges, state, target, jitter))
    trace = []
    for i in range(6):
        rate, strength = optimize.learning_rate(stage, i), optimize.jitter_strength(stage, i, jnp.float32(3.0))
        shape = (1, 512) if space == "w" else (1, 10, 512)
        state, terms = step(state, strength * golden.normal(f"input:latent_noise_{i}", shape)[0])
        trace.append([rate, strength, terms["noise"], terms["l2"], terms["loss"]])
    name = "w" if space == "w" else "wplus"
    # Adam divides by the gradient's size, so elements with gradients near zero turn rounding into steps of the full
    # rate: a start changed by one part in a million moves the final code by 5e-4 of its length. Hence 3e-3 at the end.
    got, recorded = np.array(trace, np.float64), want[f"trace_{name}"]
    np.testing.assert_allclose(got[:4], recorded[:4], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(got, recorded, rtol=1e-3, atol=1e-7)
    for value, recorded in (
        (state.variables["code"], want[f"final_latent_{name}"]),
        (state.variables["noise"][2], want[f"final_noise_2_{name}"]),
        (state.variables["noise"][-1], want[f"final_noise_last_{name}"]),
    ):
        golden.assert_close_l2(value, recorded.reshape(value.shape), 3e-3)


def test_noise_regulariser_and_schedule_are_the_references():
    want = golden.expected("a_projector64")
    shapes = [(4, 4), *[(r, r) for r in (8, 16, 32, 64) for _ in range(2)]]
    noise = tuple(
        jnp.asarray(golden.normal(f"input:noise_explicit_{i}", (1, 1, *s))[0, 0]) for i, s in enumerate(shapes)
    )
    value, gradient = jax.value_and_grad(objectives.noise_regularizer)(noise)
    golden.assert_close(value, want["noise_regularize"], 1e-5)
    for i, name in ((0, "0"), (1, "1"), (-1, "last")):
        golden.assert_close(gradient[i][None, None], want[f"noise_regularize_grad_{name}"], 1e-4)
    stage = presets.preset("projector-w").stages[0]
    rates = [optimize.learning_rate(stage, int(i)) for i in want["lr_steps"]]
    np.testing.assert_allclose(rates, want["lr_t_step_over_1000_initial_0.1"], atol=1e-7)


@pytest.mark.parametrize(
    "method", [pytest.param(METHOD, id="jitter", marks=pytest.mark.fast), pytest.param(NOISY, id="noise")]
)
def test_a_batch_equals_the_single_runs(own_cache, method):
    G = tiny.shallow()
    photos = tiny.photos(G, 3)
    together = optimize.run(method, G, photos)
    for i in range(3):
        alone = optimize.run(method, G, photos[i : i + 1])
        golden.assert_close(together.ws[i : i + 1], alone.ws, 1e-5)
        golden.assert_close(together.history["loss"][:, i], alone.history["loss"][:, 0], 1e-5)
        if method.noise == "random":
            golden.assert_close(together.noise[-1][i : i + 1], alone.noise[-1], 1e-4)


@pytest.mark.fast
def test_equal_seeds_give_equal_bits_and_others_do_not(own_cache):
    G = tiny.shallow()
    photos = tiny.photos(G, 1)
    first = optimize.run(METHOD, G, photos, seed=3)
    equal(first, optimize.run(METHOD, G, photos, seed=3))
    assert not np.array_equal(first.ws, optimize.run(METHOD, G, photos, seed=4).ws)


def test_steps_in_one_compiled_call_change_nothing(own_cache):
    G = tiny.shallow()
    photos = tiny.photos(G, 2)
    one, four = (optimize.run(METHOD, G, photos, steps_per_call=n) for n in (1, 4))
    golden.assert_close(one.ws, four.ws, 1e-5)
    golden.assert_close(one.history["loss"], four.history["loss"], 1e-5)


@pytest.mark.fast
def test_the_best_code_is_kept_and_the_loss_falls(own_cache):
    G = tiny.shallow()
    photos = tiny.photos(G, 2)
    method = Method("w", (Stage(60, (("l2", 1.0),), learning_rate=0.3),), resolution=32)
    found = optimize.run(method, G, photos)
    loss = found.history["loss"]
    assert (loss.min(0) < 0.3 * loss[0]).all()
    reached = np.square(np.asarray(G.synthesize(found.ws) - photos)).mean((1, 2, 3))
    np.testing.assert_allclose(reached, loss.min(0), rtol=1e-4)
    np.testing.assert_array_equal(found.ws, np.broadcast_to(found.ws[:, :1], found.ws.shape))


@pytest.mark.fast
def test_patience_stops_each_image_by_itself(own_cache):
    G = tiny.shallow()
    photos = jnp.concatenate([G.synthesize(G.broadcast(G.w_avg[None])), tiny.photos(G, 1)])
    # The first photo is the start itself: nothing can improve on it.
    method = Method("w+", (Stage(40, (("l2", 1.0),), ramp_up=0.0, learning_rate=0.02, patience=3),), resolution=32)
    found = optimize.run(method, G, photos)
    stopped = np.isnan(found.history["loss"]).argmax(0)
    assert stopped[0] == 4
    assert stopped[1] == 0 or stopped[1] > 4
    np.testing.assert_allclose(found.ws[0], jnp.broadcast_to(G.w_avg, found.ws[0].shape), atol=1e-6)
    alone = optimize.run(method, G, photos[1:])
    golden.assert_close(found.ws[1:], alone.ws, 1e-5)


@pytest.mark.fast
def test_an_image_whose_loss_is_not_finite_stops_and_leaves_the_others_alone(own_cache):
    G = tiny.shallow()
    photos = tiny.photos(G, 2)
    found = optimize.run(METHOD, G, photos.at[0, 0, 0, 0].set(jnp.nan))
    assert np.isfinite(found.ws).all()
    golden.assert_close(found.ws[1:], optimize.run(METHOD, G, photos[1:]).ws, 1e-5)


@pytest.mark.fast
def test_stages_run_one_after_another_on_their_own_variables(own_cache):
    G = tiny.shallow()
    photos = tiny.photos(G, 1)
    code = Stage(5, (("l2", 1.0),))
    noise = Stage(5, (("l2_full", 1.0),), variables=("noise",))
    both = optimize.run(Method("w+", (code, noise), noise="random"), G, photos)
    first = optimize.run(Method("w+", (code,), noise="random"), G, photos)
    equal(both.ws, first.ws)
    assert not np.allclose(both.noise[-1], first.noise[-1])
    assert both.history["loss"].shape == (10, 1)
    assert np.isnan(both.history["l2_full"][:5]).all()
    assert np.isfinite(both.history["l2_full"][5:]).all()
    for n in both.noise[1:]:
        np.testing.assert_allclose([n.mean(), n.std(ddof=1)], [0, 1], atol=1e-5)


@pytest.mark.fast
def test_the_second_run_compiles_nothing(own_cache, caplog):
    G = tiny.shallow()
    optimize.run(METHOD, G, tiny.photos(G, 2))
    photos = tiny.photos(G, 2, seed=8)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        optimize.run(METHOD, G, photos, seed=9)
    compiled = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert not compiled


def test_alignment_terms_bring_styles_back(own_cache):
    G = tiny.shallow()
    A = alignment.fit(G, num_samples=20_000)
    photos = jnp.flip(tiny.photos(G, 2), 1)  # upside down, so that codes have to leave the distribution
    judges = objectives.Judges(alignment=A)

    def worst(*terms):
        method = Method("w+", (Stage(40, (("l2", 1.0), *terms), learning_rate=0.3),), resolution=32)
        ws = optimize.run(method, G, photos, judges=judges).ws
        return float(alignment.calibrated(G, A, ws).max()), float(alignment.sncd(G, A, ws).sum(1).mean())

    plain, calibrated, raw = worst(), worst(("sncd_calibrated", 10.0)), worst(("sncd", 10.0))
    assert calibrated[0] < 2 < plain[0]
    assert raw[1] < plain[1]


@pytest.mark.fast
def test_every_preset_is_a_valid_method_and_scales():
    for name in presets.PRESETS:
        steps = 0 if name in presets.ENCODER_ONLY else 17
        assert sum(s.steps for s in presets.preset(name, steps=17).stages) == steps
    still = presets.preset("projector-w+", noise="const")
    assert still.noise == "const"
    assert still.terms == (("lpips_vgg", 1.0),)
    assert still.stages[0].variables == ("code",)


@pytest.mark.fast
def test_errors_name_the_field_and_the_choices(own_cache):
    G = tiny.shallow()
    with pytest.raises(ConfigError, match="no preset is named 'psp'"):
        presets.preset("psp")
    with pytest.raises(ConfigError, match="steps=0"):
        presets.preset("lsap", steps=0)
    with pytest.raises(ConfigError, match="no loss term is named 'l3'"):
        Method("w", (Stage(1, (("l3", 1.0),)),))
    with pytest.raises(ConfigError, match="space='x'"):
        Method("x", (STAGE,))
    with pytest.raises(ConfigError, match="noise='random'"):
        Method("w", (dataclasses.replace(STAGE, variables=("noise",)),))
    with pytest.raises(ConfigError, match="align or resize the photos first"):
        optimize.run(METHOD, G, jnp.zeros((1, 64, 64, 3)))
