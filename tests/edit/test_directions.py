"""The edit law, units, readers of published formats, banks, and what the command line may write."""

import pathlib
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.checkpoints import store
from lsap_jax.edit import direction_files
from lsap_jax.edit.directions import (
    Direction,
    apply_direction,
    coordinate,
    in_unit,
    load_bank,
    load_direction,
    record,
    save_bank,
    sweep,
    toward,
    w_pca,
)
from lsap_jax.errors import CheckpointError, DirectionError
from lsap_jax.latent import spaces

FILES = pathlib.Path(__file__).parents[1] / "fixtures" / "directions"  # written by torch 2.13
pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("module_cache")]


@pytest.fixture(scope="module")
def G():
    return tiny.generator()


@pytest.fixture(scope="module")
def ws(G):
    return np.random.RandomState(0).randn(3, G.num_ws, G.w_dim).astype(np.float32)


def direction(vector, weights=None, scale=1.0, unit="w", space="w", **known):
    weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    return Direction("d", jnp.asarray(vector, jnp.float32), weights, scale, unit, space, "", "a test", known)


def unit_rows(count, seed=1, w_dim=16):
    rows = np.random.RandomState(seed).randn(count, w_dim)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def read(path, *args, **kwargs):
    """`load_direction` of a published file, and its one warning."""
    with pytest.warns(UserWarning, match="does not say which generator") as caught:
        d = load_direction(path, *args, **kwargs)
    assert len(caught) == 1
    return d


def bits(array):
    return np.asarray(array).view(np.uint32)


# The law


@pytest.mark.parametrize("compile_it", [False, True])
def test_strength_zero_returns_the_same_bits(ws, compile_it):
    ws = ws.copy()
    ws[0, 0, :2] = -0.0, 1e-42  # a sum would lose the sign of zero
    d = direction(unit_rows(1)[0], scale=2.0)
    apply = jax.jit(apply_direction) if compile_it else apply_direction
    np.testing.assert_array_equal(bits(apply(ws, d, 0.0)), bits(ws))


def test_law_with_soft_weights_and_scale(ws, G):
    vector, weights = unit_rows(1)[0], np.linspace(0, 1, G.num_ws)
    out = apply_direction(ws, direction(vector, weights, scale=2.5), -1.5)
    np.testing.assert_allclose(out, ws - 1.5 * 2.5 * weights[:, None] * vector, atol=1e-6)
    np.testing.assert_array_equal(bits(out[:, 0]), bits(ws[:, 0]))  # weight 0


def test_law_with_a_vector_for_each_layer(ws, G):
    rows = unit_rows(G.num_ws)
    out = apply_direction(ws, direction(rows, np.ones(G.num_ws), space="w+"), 2)
    np.testing.assert_allclose(out, ws + 2 * rows, atol=1e-6)


def test_strengths_one_for_each_image_and_swept(ws):
    d = direction(unit_rows(1)[0])
    each = apply_direction(ws, d, jnp.asarray([0.0, 1.0, -2.0]))
    swept = sweep(ws, d, [-2, 0, 1])
    assert swept.shape == (3, *ws.shape)
    np.testing.assert_array_equal(bits(swept[1]), bits(ws))
    for image, at in enumerate((1, 2, 0)):
        np.testing.assert_array_equal(each[image], swept[at, image])


def test_there_and_back(ws, G):
    d = w_pca(G, 0)
    np.testing.assert_allclose(apply_direction(apply_direction(ws, d, 3), d, -3), ws, atol=1e-4)


@pytest.mark.parametrize(
    ("d", "shape", "strength", "message"),
    [
        (direction(np.ones(8)), (3, 8, 16), 1.0, "does not fit codes of shape"),
        (direction(np.ones((18, 16)), space="w+"), (3, 8, 16), 1.0, r"load_direction\(path, G\)"),
        (direction(np.ones(16), np.ones(9)), (3, 8, 16), 1.0, "does not fit"),
        (direction(np.ones(16), space="s"), (3, 8, 16), 1.0, "space 's'"),
        (direction(np.ones(16)), (3, 16), 1.0, "num_ws, w_dim"),
        (direction(np.ones(16)), (3, 8, 16), np.ones(2), "`sweep` takes several"),
    ],
)
def test_misfits_are_refused(d, shape, strength, message):
    with pytest.raises(DirectionError, match=message):
        apply_direction(jnp.zeros(shape), d, strength)


# Units


def test_one_sigma_is_the_standard_deviation_of_w(G):
    d = read(FILES / "smile.pt", G)
    assert d.unit == "sigma"
    w = G.map(jnp.asarray(np.random.RandomState(5).randn(20_000, G.z_dim), jnp.float32))
    assert float(d.scale) == pytest.approx(float((w @ d.vector).std()), rel=0.03)
    moved = apply_direction(G.broadcast(w[:4]), d, 1.0)
    np.testing.assert_allclose(coordinate(moved, d) - coordinate(G.broadcast(w[:4]), d), 1, atol=1e-4)


def test_sigma_does_not_depend_on_the_length_of_the_vector(G, ws):
    v = unit_rows(1)[0]
    short, long = (in_unit(direction(c * v), "sigma", G) for c in (1, 7))
    np.testing.assert_allclose(apply_direction(ws, short, 2), apply_direction(ws, long, 2), rtol=1e-4, atol=1e-4)
    rows = in_unit(direction(np.tile(v, (G.num_ws, 1)), np.ones(G.num_ws), space="w+"), "sigma", G)
    assert rows.scale == pytest.approx(short.scale, rel=1e-5)


def test_published_unit_is_kept_without_a_generator_or_on_request(G, ws):
    v = np.load(FILES / "smile.npy")
    for d in (read(FILES / "smile.pt"), read(FILES / "smile.pt", G, unit="w")):
        assert (d.unit, d.scale) == ("w", 1.0)
        np.testing.assert_allclose(apply_direction(ws, d, 3), ws + 3 * v, atol=1e-6)
    back = in_unit(read(FILES / "smile.pt", G), "w")
    assert (back.unit, back.scale) == ("w", 1.0)


def test_unknown_units_and_unknown_sigma_are_refused(G):
    with pytest.raises(DirectionError, match="use 'sigma' or 'w'"):
        in_unit(direction(np.ones(16)), "metres", G)
    with pytest.raises(DirectionError, match="give the generator"):
        in_unit(direction(np.ones(16)), "sigma")
    with pytest.raises(DirectionError, match="does not vary"):
        in_unit(direction(np.ones(16), sigma=jnp.float32(0)), "sigma")


def test_toward_reaches_a_coordinate_measured_on_row_0(G, ws):
    # The published GANSpace edit (e4e), row by row, in numpy.
    d = read(FILES / "pca.pt", G, layers="2-4", component=1)
    mean, v, std = np.asarray(d.statistics["mean"]), np.asarray(d.vector), 2.0
    wanted = np.array(ws)
    for code in wanted:
        code[2:5] += (20 - (code[0] - mean) @ v / std) * v * std
    np.testing.assert_allclose(toward(ws, d, 20), wanted, rtol=1e-4, atol=1e-4)
    everywhere = read(FILES / "pca.pt", G, component=1)
    np.testing.assert_allclose(coordinate(toward(ws, everywhere, -3), everywhere), -3, atol=1e-4)
    with pytest.raises(DirectionError, match="known mean"):
        toward(ws, direction(np.ones(16)), 1)


# Published files


@pytest.mark.parametrize("name", ["smile.pt", "smile_legacy.pt", "pose.pt"])
def test_torch_files(G, name):
    d = read(FILES / name, G)
    np.testing.assert_array_equal(d.vector, np.load(FILES / "smile.npy"))
    assert d.name == name[:-3]
    assert d.layer_weights.shape == (G.num_ws,)
    assert "published as" in d.origin
    assert d.fingerprint == ""


@pytest.mark.parametrize("shape", [(16,), (1, 16), (8, 16), (1, 8, 16)])
def test_plain_arrays(tmp_path, G, ws, shape):
    array = unit_rows(8 if 8 in shape else 1).reshape(shape)  # float64, as LowRankGAN's
    np.save(tmp_path / "d.npy", array)
    out = apply_direction(ws, read(tmp_path / "d.npy", G, unit="w"), 2)
    np.testing.assert_allclose(out, ws + 2 * array.reshape(-1, 16), atol=1e-5)


def test_rows_beyond_the_generator(tmp_path, G, ws):
    rows = unit_rows(18)
    np.save(tmp_path / "long.npy", rows)
    d = read(tmp_path / "long.npy", G, unit="w")
    assert d.vector.shape == (8, 16)
    assert "of its 18 rows the first 8 are used" in d.origin
    np.testing.assert_allclose(apply_direction(ws, d, 1), ws + rows[:8], atol=1e-6)
    with pytest.warns(UserWarning, match="of its 18 rows the first 8 are used"):
        load_direction(tmp_path / "long.npy", G)


def test_fewer_rows_need_layers(tmp_path, G, ws):
    rows = unit_rows(5)
    np.save(tmp_path / "short.npy", rows)
    with pytest.raises(DirectionError, match=r"5 rows, and tiny-0 has 8: say which .* layers, such as 0-4"):
        load_direction(tmp_path / "short.npy", G)
    out = apply_direction(ws, read(tmp_path / "short.npy", G, layers="1-3", unit="w"), 1)
    np.testing.assert_allclose(out[:, 1:4], ws[:, 1:4] + rows[1:4], atol=1e-6)
    np.testing.assert_array_equal(out[:, [0, 4, 5, 6, 7]], ws[:, [0, 4, 5, 6, 7]])
    with pytest.raises(DirectionError, match="layer 6 is asked for; this direction has layers 0 to 4"):
        load_direction(tmp_path / "short.npy", G, layers="6")


@pytest.mark.parametrize("layers", ["2-5", [2, 3, 4, 5]])
def test_idinvert_boundary(tmp_path, G, ws, layers):
    # An .npy of a pickled dict, written without allow_pickle's writer: header, then the pickle of a 0-d object array.
    boundary = unit_rows(14)[None].astype(np.float32)
    about = {"boundary": boundary, "meta_data": {"manipulate_layers": layers, "attribute": "pose"}}
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "pose.npy").write_bytes(data + pickle.dumps(np.array(about, object), protocol=2))
    d = read(tmp_path / "pose.npy", G, unit="w")
    np.testing.assert_array_equal(d.layer_weights, [0, 0, 1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(apply_direction(ws, d, 1)[:, 2:6], ws[:, 2:6] + boundary[:, 2:6], atol=1e-6)
    chosen = read(tmp_path / "pose.npy", G, layers="0-1")
    np.testing.assert_array_equal(np.flatnonzero(chosen.layer_weights), [0, 1])


@pytest.mark.parametrize("kind", ["pt", "npz", "pkl"])
def test_ganspace_files(tmp_path, G, kind):
    components, stddev, mean = unit_rows(5), np.asarray([3, 2, 1, 0.5, 0.25]), np.zeros(16)
    if kind == "npz":
        path = tmp_path / "pca.npz"
        np.savez(path, lat_comp=components[:, None], lat_stdev=stddev, lat_mean=mean[None, None], act_comp=components)
    elif kind == "pkl":
        path = tmp_path / "pca.pkl"
        path.write_bytes(pickle.dumps({"mean": mean[None], "comp": components[:, None], "std": stddev}))
    else:
        path = FILES / "pca.pt"
    d = read(path, component=2)
    assert (d.name, d.unit, d.scale) == ("pca2", "sigma", 1.0)
    assert read(path, G, component=3).scale == 0.5
    if kind != "pt":
        np.testing.assert_allclose(d.vector, components[2], atol=1e-7)
    with pytest.raises(DirectionError, match=r"holds 5 directions; name one by component=.*#0"):
        load_direction(path, G)
    with pytest.raises(DirectionError, match="no component 5; there are 0 to 4"):
        load_direction(path, G, component=5)
    with pytest.raises(DirectionError, match="have no names"):
        load_direction(path, G, component="smile")


def test_force_reads_without_a_warning(G):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_direction(FILES / "smile.pt", G, force=True).name == "smile"


def test_bad_files_are_refused(tmp_path, G):
    cases = {
        "wide": (np.ones(512), "vectors of length 512, and W of tiny-0 has 16"),
        "zero": (np.zeros(16), "zero or has NaN"),
        "nan": (np.full(16, np.nan), "zero or has NaN"),
        "image": (np.ones((2, 3, 16)), r"shape \(2, 3, 16\)"),
        "text": (np.asarray(["a"] * 16), "type <U1"),
    }
    for name, (array, message) in cases.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(DirectionError, match=message):
            load_direction(tmp_path / f"{name}.npy", G)
    np.savez(tmp_path / "other.npz", a=np.ones(16))
    with pytest.raises(DirectionError, match=r"a dict of \['a'\], no known form"):
        load_direction(tmp_path / "other.npz", G)
    np.savez(tmp_path / "uneven.npz", mean=np.ones(16), comp=np.ones((4, 1, 16)), std=np.ones(3))
    with pytest.raises(DirectionError, match="do not fit together"):
        load_direction(tmp_path / "uneven.npz", G, component=0)
    with pytest.raises(DirectionError, match=r"nowhere\.pt: no such file"):
        load_direction(tmp_path / "nowhere.pt", G)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, G):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="print"):
        load_direction(tmp_path / "evil.pkl", G)


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ("0-5", (0, 1, 2, 3, 4, 5)),
        ("7", (7,)),
        ("0,2,4-6", (0, 2, 4, 5, 6)),
        ([3, 1], (1, 3)),
        ("all", None),
        (None, None),
    ],
)
def test_layers(layers, found):
    assert direction_files.parse_layers(layers) == found


@pytest.mark.parametrize("layers", ["a", "5-3", "1-", "-1", [1.5], [1, 1], [], 3, "1,,2"])
def test_bad_layers_are_refused(layers):
    with pytest.raises(DirectionError, match="write them as 0-5"):
        direction_files.parse_layers(layers)


# W-PCA, banks, the command line's names


def test_w_pca_is_the_statistics_of_w(G):
    statistics = spaces.w_statistics(G)
    d = w_pca(G, 3, "0-2")
    np.testing.assert_array_equal(d.vector, statistics.components[3])
    np.testing.assert_array_equal(d.layer_weights, [1, 1, 1, 0, 0, 0, 0, 0])
    assert d.scale == pytest.approx(float(statistics.stddev[3]))
    assert (d.unit, d.fingerprint) == ("sigma", G.fingerprint)
    with pytest.raises(DirectionError, match="pca0 to pca15"):
        w_pca(G, 16)
    with pytest.raises(DirectionError, match="layers of tiny-0 are 0 to 7"):
        w_pca(G, 0, "7-9")


def test_bank_round_trip(tmp_path, G, ws):
    soft = w_pca(G, 1).replace(layer_weights=jnp.linspace(0, 1, 8), name="soft / smile")
    bank = [w_pca(G, 0), soft, direction(unit_rows(1)[0])]
    save_bank(tmp_path / "bank.npz", bank, {"licence": "CC0"})
    assert store.load(tmp_path / "bank.npz")[1]["licence"] == "CC0"
    for loaded, saved in zip(load_bank(tmp_path / "bank.npz"), bank, strict=True):
        assert record(loaded) == record(saved)
        assert loaded.statistics.keys() == saved.statistics.keys()
        np.testing.assert_array_equal(apply_direction(ws, loaded, 2), apply_direction(ws, saved, 2))
    assert load_direction(tmp_path / "bank.npz", G, component="soft / smile").name == "soft / smile"
    assert load_direction(tmp_path / "bank.npz", component=2).unit == "w"  # keeps its own
    assert load_direction(tmp_path / "bank.npz", G, component=2, unit="sigma").unit == "sigma"
    with pytest.raises(DirectionError, match="no direction is named 'age'; there are pca0"):
        load_direction(tmp_path / "bank.npz", G, component="age")
    store.save(tmp_path / "other.npz", {"a": np.ones(2)}, {"kind": "generator"})
    with pytest.raises(CheckpointError, match="holds a 'generator', not directions"):
        load_direction(tmp_path / "other.npz", G)


def test_direction_of_another_generator_is_refused(tmp_path, G):
    save_bank(tmp_path / "bank.npz", [w_pca(tiny.generator(1), 0)])
    with pytest.raises(DirectionError, match=r"pca0 .*was found in generator [0-9a-f]{16}, and tiny-0 is .*--force"):
        load_direction(tmp_path / "bank.npz", G)
    assert load_direction(tmp_path / "bank.npz", G, force=True).name == "pca0"


def test_record_tells_directions_apart(G):
    records = [record(d) for d in (w_pca(G, 0), w_pca(G, 1), w_pca(G, 0, "0-3"))]
    assert records[0] == record(w_pca(G, 0))
    assert all(a != b for i, a in enumerate(records) for b in records[:i])
