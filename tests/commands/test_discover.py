"""The discover command on a tiny generator: bank, page, and what it refuses."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lsap_jax.commands import discover, discover_methods
from lsap_jax.edit import directions
from lsap_jax.errors import ConfigError, RegionError, ResultError
from lsap_jax.generators import files as generator_files


class Judge:
    def __call__(self, a, b):
        return 1 - jnp.abs(a - b).mean((1, 2, 3))


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSAP_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(discover.identity, "identity", Judge)
        patch.setattr(discover_methods, "_landmarks", lambda G, ws, grid: None)  # no face in noise
        yield


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    path = tmp_path_factory.mktemp("generator") / "G.npz"
    generator_files.save(path, tiny.generator())
    return path


def run(generator, out, *flags):
    argv = ["discover", f"--generator={generator}", f"--out={out}", "--strength=-1,0,1", "--measured=1", *flags]
    discover.discover(discover.parse(argv))
    record = json.loads((out / "bank.json").read_text())
    return directions.load_bank(out / "directions.npz", tiny.generator()), record, (out / "index.html").read_text()


@pytest.mark.parametrize("method", ["lowrank", "resefa"])
def test_directions_of_a_region(generator, tmp_path, method):
    flags = [f"--method={method}", "--region=box:128,128,80,80", "--grid=16", "--layers=1-3", "--count=2"]
    bank, record, page = run(generator, tmp_path, *flags, "--outside_rank=4", "--name=middle", "--c=1")
    assert [d.name for d in bank] == ["middle0", "middle1"]
    assert all(np.flatnonzero(d.layer_weights).tolist() == [1, 2, 3] for d in bank)
    measures = record["directions"][0]["measures"]
    assert measures["R, change outside / inside"]["count"] == 2
    assert 0 < measures["kept"]["mean"] <= 1
    for entry in record["directions"]:
        for row in entry["rows"]:
            assert all((tmp_path / file).is_file() for file in row["files"])
            assert all(f"src='{file.replace('+', '%2B')}'" in page for file in row["files"])
    assert "middle1" in page


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--method=ganspace", "--count=2", "--layers=0-1"], ["pca0", "pca1"]),
        (["--method=sefa", "--count=2"], ["sefa0", "sefa1"]),
    ],
)
def test_directions_of_the_generator(generator, tmp_path, flags, names):
    bank, record, _ = run(generator, tmp_path, *flags)
    assert [d.name for d in bank] == names
    assert record["settings"]["method"] in flags[0]


def test_a_boundary_of_given_scores(generator, tmp_path):
    G = tiny.generator()
    codes = np.asarray(G.map(jnp.asarray(np.random.RandomState(0).randn(400, G.z_dim), jnp.float32)))
    np.save(tmp_path / "codes.npy", codes)
    scores = "\n".join(f"{i},{value}" for i, value in enumerate(codes[:, 3]))
    (tmp_path / "third.csv").write_text(f"index,score\n{scores}\n")
    given = [f"--codes={tmp_path / 'codes.npy'}", f"--scores={tmp_path / 'third.csv'}", "--share=0.1"]
    (d,), record, _ = run(generator, tmp_path / "out", "--method=interfacegan", *given)
    assert d.name == "third"
    assert np.argmax(np.abs(d.vector)) == 3
    assert record["directions"][0]["measures"]["accuracy_held_out"]["mean"] > 0.9


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--method=lowrank"], ConfigError, "needs --region"),
        (["--method=lowrank", "--region=box:0,0,0,0"], RegionError, "."),
        (["--method=sefa", "--image=a"], ConfigError, "--inversions"),
        (["--method=sefa", "--inversions=/nowhere"], ResultError, "no finished image"),
        (["--method=interfacegan", "--codes=a.npy"], ConfigError, "belong together"),
    ],
)
def test_bad_input_is_refused(generator, tmp_path, flags, error, message):
    with pytest.raises(error, match=message):
        run(generator, tmp_path, *flags)
