"""Samples of the generator: what is drawn, and that a set on disk is the same however it was written."""

import importlib.util
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.data import samples
from lsap_jax.data.resize import area
from lsap_jax.errors import ConfigError, ImageError, ResultError

DEFAULT = samples.Settings()
PLAIN = samples.Settings(truncation=(1.0, 1.0), mixing=0.0)


def write(G, out, count, *, seed=0, settings=DEFAULT, batch=4, shard=5, resolution=16):
    return list(samples.write(G, out, count, resolution, seed, settings, batch, shard=shard))


def stack(folder):
    S = samples.Samples(folder)
    items = [S[i] for i in range(len(S))]
    return np.stack([i["image"] for i in items]), np.stack([i["ws"] for i in items])


def test_plain_draws_are_codes_of_w():
    G = tiny.shallow()
    ws = samples.draw(G, jax.random.key(0), 2000, (1.0, 1.0), 0.0)
    chex.assert_trees_all_equal(ws, G.broadcast(ws[:, 0]))
    w = G.map(jax.random.normal(jax.random.key(1), (2000, G.z_dim)))
    np.testing.assert_allclose(ws[:, 0].mean(0), w.mean(0), atol=0.1)
    np.testing.assert_allclose(ws[:, 0].std(0), w.std(0), atol=0.1)


def test_truncation_is_drawn_for_every_image():
    G = tiny.shallow()
    key = jax.random.key(0)
    full = samples.draw(G, key, 500, (1.0, 1.0), 0.0) - G.w_avg[None, None]
    some = samples.draw(G, key, 500, (0.25, 0.75), 0.0) - G.w_avg[None, None]
    psi = (some * full).sum((1, 2)) / (full * full).sum((1, 2))
    np.testing.assert_allclose(some, psi[:, None, None] * full, atol=1e-5)
    assert 0.25 <= psi.min() < 0.27
    assert 0.73 < psi.max() <= 0.75
    np.testing.assert_allclose(psi.mean(), 0.5, atol=0.03)


def test_mixing_takes_later_rows_from_a_second_w():
    G = tiny.shallow()
    plain = samples.draw(G, jax.random.key(0), 600, (1.0, 1.0), 0.0)
    mixed = samples.draw(G, jax.random.key(0), 600, (1.0, 1.0), 0.5)
    same = np.asarray((plain == mixed).all(-1))
    assert same[:, 0].all()  # the first row is never mixed
    crossover = same.sum(1)
    share = [(crossover == n).mean() for n in (1, 2, 3)]
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.07)
    first_of_second = np.take_along_axis(np.asarray(mixed), crossover.clip(max=2)[:, None, None], axis=1)[:, 0]
    np.testing.assert_array_equal(np.asarray(mixed)[crossover == 1, 2], first_of_second[crossover == 1])


def test_conditional_generators_are_sampled_over_their_classes():
    G = tiny.generator(label_dim=3)
    assert samples.draw(G, jax.random.key(0), 2).shape == (2, G.num_ws, G.w_dim)


def test_fresh_is_jittable_and_renders_its_codes():
    G = tiny.shallow()
    made = jax.jit(samples.fresh, static_argnums=(2, 3, 4))(G, jax.random.key(3), 4, 16, DEFAULT)
    assert made["image"].shape == (4, 16, 16, 3)
    expected = jnp.clip(area(G.synthesize(made["ws"]), 16), -1, 1)
    np.testing.assert_allclose(made["image"], expected, atol=1e-6)


def test_render_exact_is_the_area_mean_of_the_full_image():
    G = tiny.generator()
    ws = samples.draw(G, jax.random.key(0), 2)
    expected = jnp.clip(area(G.synthesize(ws), 8), -1, 1)
    np.testing.assert_allclose(samples.render(G, ws, 8, exact=True), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="renders at most 32"):
        samples.render(G, ws, 64)


def test_set_does_not_depend_on_batch_interruption_or_shards(tmp_path):
    G = tiny.shallow()
    assert write(G, tmp_path / "a", 12) == [0, 4, 5, 9, 10, 12]
    whole = stack(tmp_path / "a")
    assert len(whole[0]) == 12

    write(G, tmp_path / "b", 12, batch=3, shard=100)
    other = stack(tmp_path / "b")
    assert np.abs(whole[0].astype(int) - other[0]).max() <= 1  # float32 rounding of other matrix sizes
    np.testing.assert_allclose(whole[1], other[1], atol=2e-3)

    progress = samples.write(G, tmp_path / "c", 12, 16, 0, DEFAULT, 4, shard=5)
    assert [next(progress) for _ in range(4)] == [0, 4, 5, 9]
    progress.close()  # killed in the second shard
    assert [p.name for p in samples.shards(tmp_path / "c")] == ["samples-00000.npz"]
    assert write(G, tmp_path / "c", 12)[0] == 5
    chex.assert_trees_all_equal(whole, stack(tmp_path / "c"))

    assert write(G, tmp_path / "a", 14)[0] == 10  # the short last shard is made anew, longer
    chex.assert_trees_all_equal(whole, tuple(x[:12] for x in stack(tmp_path / "a")))
    assert write(G, tmp_path / "a", 12) == [12]


def test_seeds_differ(tmp_path):
    G = tiny.shallow()
    write(G, tmp_path / "a", 4)
    write(G, tmp_path / "b", 4, seed=1)
    assert np.abs(stack(tmp_path / "a")[1] - stack(tmp_path / "b")[1]).max() > 0.1


def test_stored_codes_render_the_stored_images(tmp_path):
    G = tiny.shallow()
    write(G, tmp_path, 7)
    images, ws = stack(tmp_path)
    rendered = samples.render(G, jnp.asarray(ws), 16)
    np.testing.assert_allclose(images / 127.5 - 1, rendered, atol=0.01)
    with pytest.raises(IndexError):
        samples.Samples(tmp_path)[7]


def test_other_settings_in_one_folder_are_refused(tmp_path):
    G = tiny.shallow()
    write(G, tmp_path, 4)
    with pytest.raises(ResultError, match="truncation="):
        write(G, tmp_path, 8, settings=PLAIN)
    with pytest.raises(ResultError, match="fingerprint"):
        write(tiny.shallow(1), tmp_path, 8)


def test_reading_refuses_what_does_not_fit(tmp_path):
    G = tiny.shallow()
    with pytest.raises(ImageError, match="render_samples"):
        samples.Samples(tmp_path / "none")
    write(G, tmp_path, 14)
    assert len(samples.Samples(tmp_path, G.fingerprint)) == 14
    with pytest.raises(ConfigError, match="not of the one in use"):
        samples.Samples(tmp_path, tiny.shallow(1).fingerprint)
    middle = tmp_path / "samples-00001.npz"
    data = middle.read_bytes()
    middle.unlink()
    with pytest.raises(ImageError, match="shard 1 is missing"):
        samples.Samples(tmp_path)
    middle.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"samples-00001.npz: a damaged shard"):
        samples.Samples(tmp_path)


@pytest.mark.parametrize("bad", [{"truncation": (0.9, 0.1)}, {"truncation": (-1, 1)}, {"mixing": 1.5}])
def test_impossible_settings(bad):
    with pytest.raises(ConfigError):
        samples.Settings(**bad)


def test_command_says_what_is_wrong(tmp_path, capsys):
    path = pathlib.Path(__file__).parents[2] / "tools/render_samples.py"
    spec = importlib.util.spec_from_file_location("render_samples", path)
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    assert command.main(["--generator", "none.npz", "--out", str(tmp_path), "--count", "3"]) == 1
    assert "none.npz" in capsys.readouterr().err
