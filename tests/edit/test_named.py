"""Directions by name: shipped ones, axes of W, files."""

import pathlib

import numpy as np
import pytest
import tiny

from lsap_jax.edit import named
from lsap_jax.edit.directions import load_bank, record, restrict, save_bank, w_pca
from lsap_jax.edit.named import resolve
from lsap_jax.errors import DirectionError

FILES = pathlib.Path(__file__).parents[1] / "fixtures" / "directions"  # written by torch 2.13
pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("module_cache")]


@pytest.fixture(scope="module")
def G():
    return tiny.generator()


@pytest.fixture
def bank(G, tmp_path, monkeypatch):
    """A bank that is shipped for G."""
    path = tmp_path / "bank.npz"
    d = w_pca(G, 1, "0-3").replace(name="smile", origin="found")
    save_bank(path, [d], {"found_by": {"smile": {"settings": {}, "measures": {"ID at ±2": {"mean": 0.9}}}}})
    monkeypatch.setattr(named, "_SHIPPED", {G.fingerprint: str(path)})
    return d


def test_resolve(tmp_path, G):
    assert record(resolve("pca3", G)) == record(w_pca(G, 3))
    ranged = resolve("pca3:0-2", G)
    assert (ranged.name, ranged.unit) == ("pca3:0-2", "sigma")
    np.testing.assert_array_equal(np.flatnonzero(ranged.layer_weights), [0, 1, 2])
    assert resolve("pca3", G, unit="w").scale == 1.0
    with pytest.warns(UserWarning, match="does not say"):
        d = resolve(f"{FILES / 'pca.pt'}#4:5-6", G)
    assert (d.name, d.scale) == ("pca4:5-6", 0.25)
    np.testing.assert_array_equal(np.flatnonzero(d.layer_weights), [5, 6])
    save_bank(tmp_path / "bank.npz", [w_pca(G, 0), w_pca(G, 1)])
    assert resolve(f"{tmp_path / 'bank.npz'}#pca1", G).name == "pca1"
    np.save(tmp_path / "odd#name:1.npy", np.ones(16))
    assert resolve(str(tmp_path / "odd#name:1.npy"), G, force=True).name == "odd#name:1"
    for spec in ("smiel", "pca99", "nothing.pt#3", ""):
        with pytest.raises(DirectionError, match="pca0 to pca15"):
            resolve(spec, G)


def test_shipped_directions_go_by_name(G, bank):
    assert list(named.shipped(G)) == ["smile"]
    assert record(resolve("smile", G)) == record(bank)
    assert record(resolve("smile:2-3", G)) == record(restrict(bank, "2-3", G).replace(name="smile:2-3"))
    assert resolve("smile", G, unit="w").scale == 1.0
    assert named.found_by(G)["smile"]["measures"]["ID at ±2"]["mean"] == 0.9
    with pytest.raises(DirectionError, match=r"smiel: .*use smile, pca0 to pca15"):
        resolve("smiel", G)


def test_a_file_wins_over_a_shipped_name(G, bank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("smile", np.ones(16))
    pathlib.Path("smile.npy").rename("smile")
    with pytest.warns(UserWarning, match="does not say"):
        assert record(resolve("smile", G)) != record(bank)


def test_other_generators_have_no_shipped_directions(bank):
    other = tiny.generator(1)
    assert not named.shipped(other)
    assert not named.found_by(other)
    with pytest.raises(DirectionError, match="smile: no such direction"):
        resolve("smile", other)


def test_shipped_banks_are_whole():
    """Every bank in the package: of one generator, in sigma, with how it was found and what it measures."""
    for fingerprint, name in named._SHIPPED.items():
        path = pathlib.Path(named.__file__).parent / name
        found = load_bank(path)
        known = named._description(path)["found_by"]
        assert sorted(d.name for d in found) == sorted(known)
        assert {(d.fingerprint, d.unit) for d in found} == {(fingerprint, "sigma")}
        for d in found:
            assert np.isfinite(d.vector).all()
            assert np.asarray(d.layer_weights).any()
            assert known[d.name]["settings"]["method"]
            assert known[d.name]["measures"]
