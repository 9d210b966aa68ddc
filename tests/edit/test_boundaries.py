"""Boundaries: the solver against known and brute-force solutions, accuracies, scores from files, measuring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scenes

from lsap_jax.edit import boundaries, filters, scored_samples
from lsap_jax.edit.support_vectors import support_vector_machine
from lsap_jax.errors import ConfigError, DirectionError, ResultError

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("module_cache")]


class Factors:
    """Reads the scenes' factors back from their pixels."""

    names = scenes.NAMES

    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        return np.asarray(_factors(images))


_factors = jax.jit(scenes.factors)


def test_known_margin():
    # Support vectors (0, *) and (2, *): the widest street is 0 < x < 2, so w = (1, 0), b = -1.
    x = np.array([[0, 0], [0, 1], [2, 0], [2, 1.0], [3, 5], [-4, 0.5]])
    w, b = support_vector_machine(x, np.array([-1, -1, 1, 1, 1, -1]), C=1e8)
    np.testing.assert_allclose([*w, b], [1, 0, -1], atol=1e-6)


def test_one_sample_each_by_hand():
    # Two samples at +-1: minimise w^2 / 2 + 2 C (1 - w)^2, so w = 4 C / (1 + 4 C).
    w, b = support_vector_machine(np.array([[1.0], [-1]]), np.array([1, -1]), C=0.5)
    np.testing.assert_allclose([w[0], b], [2 / 3, 0], atol=1e-12)


@pytest.mark.parametrize(("n", "d", "C"), [(60, 4, 1.0), (60, 4, 1000.0), (12, 30, 10.0)])
def test_against_a_brute_force_reference(n, d, C):
    # Noisy labels. The reference is plain gradient descent with momentum, run until it stops moving.
    random = np.random.RandomState(1)
    x, y = random.randn(n, d), np.sign(random.randn(n))
    w, b = support_vector_machine(x, y, C)

    def objective(w, b):
        return w @ w / 2 + C * np.square(np.maximum(0, 1 - y * (x @ w + b))).sum()

    wide, penalty = np.c_[x, np.ones(n)], np.r_[np.ones(d), 0]
    rate = 1 / (1 + 2 * C * np.linalg.eigvalsh(wide.T @ wide)[-1])
    at, before = np.zeros(d + 1), np.zeros(d + 1)
    for step in range(20_000):
        ahead = at + step / (step + 3) * (at - before)
        slope = penalty * ahead - 2 * C * wide.T @ (y * np.maximum(0, 1 - y * (wide @ ahead)))
        before, at = at, ahead - rate * slope
    best = objective(at[:-1], at[-1])
    assert objective(w, b) <= best * (1 + 1e-9)
    np.testing.assert_allclose(np.r_[w, b], at, atol=2e-3 * np.abs(at).max())
    gradient = np.r_[w, 0] - 2 * C * wide.T @ (y * np.maximum(0, 1 - y * (x @ w + b)))
    assert np.abs(gradient).max() < 1e-6 * C


def test_one_class_is_refused():
    with pytest.raises(DirectionError, match="two classes"):
        support_vector_machine(np.ones((3, 2)), np.ones(3))
    codes = np.random.RandomState(0).randn(100, 4)
    with pytest.raises(DirectionError, match="one class only"):
        boundaries.separate(codes, np.ones(100), share=0.1)
    with pytest.raises(DirectionError, match="one class only"):
        boundaries.separate(codes, np.r_[np.zeros(97), np.ones(3)], share=0.1)
    with pytest.raises(DirectionError, match="is none: measure more"):
        boundaries.separate(codes[:20], np.arange(20), share=0.02)
    with pytest.raises(DirectionError, match="all codes are the same"):
        boundaries.separate(np.ones((50, 4)), np.arange(50), share=0.2)


def test_bad_input_is_refused():
    codes, scores = np.random.RandomState(0).randn(100, 4), np.arange(100.0)
    scores[17] = np.nan
    with pytest.raises(ConfigError, match=r"score of row 17 is not a number \(1 such rows\)"):
        boundaries.separate(codes, scores, share=0.1)
    codes[3, 2] = np.inf
    with pytest.raises(ConfigError, match="code of row 3"):
        boundaries.separate(codes, np.arange(100), share=0.1)
    with pytest.raises(ConfigError, match=r"\(100, 4\) and scores \(99,\)"):
        boundaries.separate(codes, np.arange(99))
    with pytest.raises(ConfigError, match=r"share 0\.6"):
        boundaries.separate(codes, np.arange(100), share=0.6)
    with pytest.raises(ConfigError, match="3 names"):
        boundaries.from_measures(scenes.generator(), np.ones((5, 16)), np.ones((5, 2)), ("a", "b", "c"))


def test_a_linear_score_is_found_wherever_w_lies():
    random = np.random.RandomState(0)
    normal = np.array([3.0, 0, -4, 0]) / 5
    codes = random.randn(2000, 4)
    found = boundaries.separate(codes, codes @ normal, share=0.1)
    assert found.normal @ normal > 0.99
    assert (found.train, found.held_out) == (1.0, 1.0)
    assert found.rest > 0.97
    assert found.count == 200
    assert np.linalg.norm(found.normal) == pytest.approx(1)
    moved = boundaries.separate(100 * codes + 7, codes @ normal, share=0.1)
    np.testing.assert_allclose(moved.normal, found.normal, atol=1e-9)
    assert moved.offset == pytest.approx(100 * found.offset - 7 * found.normal.sum(), abs=1e-6)
    opposite = boundaries.separate(codes, -codes @ normal, share=0.1)
    assert opposite.normal @ normal < -0.99
    chance = boundaries.separate(codes, random.randn(2000), share=0.1)
    assert 0.35 < chance.held_out < 0.65
    assert np.isnan(boundaries.separate(codes, codes @ normal, share=0.5, split=1).rest)


def test_directions_of_known_factors():
    G = scenes.generator()
    codes = np.asarray(scenes.codes(1500)[:, 0])
    scores = np.array(scenes.factors(scenes.codes(1500)))
    scores[:100, 1] = np.nan
    found = boundaries.from_measures(G, codes, scores, scenes.NAMES, share=0.1, layers="0-2")
    for d, name in zip(found, scenes.NAMES, strict=True):
        assert float(d.vector @ scenes.axis(name)) > 0.9
        assert float(d.statistics["accuracy_held_out"]) > 0.95
        assert float(d.statistics["left_out"]) == (100 if name == "size" else 0)
        np.testing.assert_array_equal(d.layer_weights, [1, 1, 1, 0])
        assert (d.unit, d.fingerprint) == ("sigma", G.fingerprint)
    pure = filters.conditional(found[0], found[1:], G)
    assert all(abs(float(pure.vector @ d.vector)) < 1e-5 for d in found[1:])
    assert float(pure.vector @ scenes.axis("position")) > 0.9


def test_scores_from_files(tmp_path):
    def write(text):
        (tmp_path / "s.csv").write_text(text)
        return tmp_path / "s.csv"

    np.testing.assert_array_equal(scored_samples.read_scores(write("index,score\n1,0.5\n0,-2\n")), [-2, 0.5])
    by_name = write("Score, name\n1,b.png\n2,a.png\n\n")
    np.testing.assert_array_equal(scored_samples.read_scores(by_name), [1, 2])
    np.testing.assert_array_equal(scored_samples.read_scores(by_name, ["a.png"]), [2])
    cases = {
        "index,score\n0,1\n1,nan\n": r"row 3: the score 'nan' of '1' is not a number",
        "index,score\n0,\n": "row 2",
        "index,score\n0,inf\n": "row 2",
        "index,score\n0,1\n0,2\n": "occurs twice",
        "index,score\n0,1\n2,2\n": "no score for index '1'",
        "index,score\n-1,1\n": "no whole number",
        "a,b\n0,1\n": "name the columns",
        "": "name the columns",
        "name,score\n": "no scores",
    }
    for text, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            scored_samples.read_scores(write(text))
    with pytest.raises(ConfigError, match="no score for name 'z'"):
        scored_samples.read_scores(write("name,score\na,1\n"), ["z"])
    with pytest.raises(ConfigError, match="cannot be read"):
        scored_samples.read_scores(tmp_path / "none.csv")


def test_measuring_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(scored_samples, "_SHARD", 8)
    G, told = scenes.generator(), []
    codes, scores = scored_samples.measure(G, Factors(), 10, seed=3, batch=4)
    np.testing.assert_allclose(scores, scenes.factors(G.broadcast(jnp.asarray(codes))), atol=0.5)
    first = Factors()
    kept = scored_samples.measure(G, first, 6, seed=3, batch=4, folder=tmp_path, progress=lambda *at: told.append(at))
    assert first.calls == 2
    np.testing.assert_allclose(kept[1], scores[:6], rtol=1e-5, atol=1e-5)
    again = Factors()
    longer = scored_samples.measure(
        G, again, 10, seed=3, batch=8, folder=tmp_path, progress=lambda *at: told.append(at)
    )
    assert again.calls == 1  # the second shard only
    np.testing.assert_allclose(longer[0], codes, rtol=1e-5, atol=1e-5)
    assert told == [(6, 6), (8, 10), (10, 10)]
    with pytest.raises(ResultError, match="other measurements"):
        scored_samples.measure(G, Factors(), 10, seed=4, folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        scored_samples.measure(G, Factors(), 2, folder=tmp_path / "file")


def test_truncation_and_resolution_of_samples():
    G = scenes.generator()
    codes, _ = scored_samples.measure(G, Factors(), 4, truncation=0.0, batch=4, resolution=16)
    np.testing.assert_allclose(codes, np.tile(G.w_avg, (4, 1)), atol=1e-6)
    with pytest.raises(ConfigError, match="at most 32"):
        scored_samples.measure(G, Factors(), 1, resolution=64)

    class Wrong(Factors):
        def __call__(self, images):
            return jax.numpy.ones((len(images), 2))

    with pytest.raises(ConfigError, match="5 names"):
        scored_samples.measure(G, Wrong(), 1)
